"""Content descriptors (image-spec, descriptor.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from udk.errors import InvalidDigestError, InvalidImageError
from udk.oci.digest import Digest
from udk.oci.platform import Platform
from udk.oci.record import Record
from udk.oci.strictjson import member, string_map, strings
from udk.oci.text import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

MAX_SIZE = (1 << 63) - 1
_TYPE_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$&-^_.+")
# BuildKit puts provenance next to the images of an index, for a platform that nothing runs on.
_ATTESTATION = "vnd.docker.reference.type"


class Descriptor(Record):
    """A typed, sized, digested pointer to a blob. ``size`` is in bytes; ``data`` its bytes if embedded."""

    __slots__ = ("annotations", "artifact_type", "data", "digest", "media_type", "platform", "size", "urls")
    media_type: str
    digest: Digest
    size: int
    platform: Platform | None
    annotations: Mapping[str, str]
    urls: tuple[str, ...]
    data: bytes | None
    artifact_type: str

    def __init__(
        self,
        media_type: str,
        digest: Digest,
        size: int,
        platform: Platform | None = None,
        annotations: Mapping[str, str] | None = None,
        urls: Sequence[str] = (),
        data: bytes | None = None,
        artifact_type: str = "",
    ) -> None:
        self._init(
            media_type=media_type, digest=digest, size=size, platform=platform,
            annotations=dict(annotations or {}), urls=tuple(urls), data=data, artifact_type=artifact_type,
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.digest, self.size))

    @property
    def is_attestation(self) -> bool:
        """Whether this index entry describes another entry instead of being an image."""
        if self.annotations.get(_ATTESTATION):
            return True
        return self.platform is not None and "unknown" in (self.platform.architecture, self.platform.os)

    def as_dict(self) -> dict[str, Any]:
        """The descriptor as image-spec JSON."""
        made: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.artifact_type:
            made["artifactType"] = self.artifact_type
        if self.urls:
            made["urls"] = list(self.urls)
        if self.annotations:
            made["annotations"] = dict(self.annotations)
        if self.platform:
            p = self.platform
            fields = (
                ("architecture", p.architecture), ("os", p.os), ("variant", p.variant),
                ("os.version", p.os_version), ("os.features", list(p.os_features)),
            )  # fmt: skip
            made["platform"] = {k: v for k, v in fields if v}
        return made


def parse_descriptor(value: Any, what: str) -> Descriptor:
    """The descriptor in a decoded JSON ``value``. Raises InvalidImageError, naming ``what``."""
    if not isinstance(value, dict):
        raise InvalidImageError(f"{what}: a descriptor must be an object")
    media_type = member(value, "mediaType", str, what)
    if not media_type:
        raise InvalidImageError(f"{what} has no mediaType")
    check_media_type(media_type, what)
    try:
        digest = Digest.parse(member(value, "digest", str, what, ""))
    except InvalidDigestError as e:
        raise InvalidImageError(f"{what}: {e.message}", e.remedy) from None
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE:
        raise InvalidImageError(
            f"{what} has the size {quoted(size, 40)}", "a size is a number from 0 to 2^63-1"
        )
    return Descriptor(
        media_type, digest, size,
        _platform(member(value, "platform", dict, what), what),
        string_map(value, "annotations", what),
        strings(value, "urls", what) or (),
        _data(member(value, "data", str, what), digest, size, what),
        member(value, "artifactType", str, what, ""),
    )  # fmt: skip


def check_media_type(text: str, what: str) -> None:
    """Raises InvalidImageError unless ``text`` has the form ``type/subtype`` (RFC 6838, section 4.2)."""
    kind, slash, subtype = text.partition("/")
    if not (slash and kind and subtype and len(text) <= 255 and _TYPE_CHARS.issuperset(kind + subtype)):
        raise InvalidImageError(f"{what}: {quoted(text)} is not a media type")


def _platform(value: dict[str, Any] | None, what: str) -> Platform | None:
    if not value:
        return None
    return Platform(
        member(value, "os", str, what, "") or "unknown",
        member(value, "architecture", str, what, "") or "unknown",
        member(value, "variant", str, what, ""),
        member(value, "os.version", str, what, ""),
        strings(value, "os.features", what) or (),
    )


def _data(text: str | None, digest: Digest, size: int, what: str) -> bytes | None:
    if text is None:
        return None
    import base64
    import binascii

    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise InvalidImageError(f"{what}: 'data' is not base64") from None
    if len(data) != size or not digest.matches(data):
        raise InvalidImageError(f"{what}: 'data' is not what the digest says")
    return data
