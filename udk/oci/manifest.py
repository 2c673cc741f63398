"""Image manifests and indexes, OCI 1.1 and Docker v2 schema 2; parsing is strict.

The digest of a manifest is over its bytes as received, so they are kept (``raw``) and never written anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from udk.errors import InvalidImageError, UnsupportedImageError
from udk.oci import mediatypes
from udk.oci.config import ImageConfig, chain_ids, parse_config
from udk.oci.descriptor import Descriptor, check_media_type, parse_descriptor
from udk.oci.digest import Digest, digest_of
from udk.oci.record import Record
from udk.oci.strictjson import MAX_BYTES, load_object, member, string_map
from udk.oci.text import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = [
    "ImageConfig",
    "Index",
    "Manifest",
    "chain_ids",
    "check_runnable",
    "parse_config",
    "parse_manifest",
]

MAX_LAYERS = 1000
MAX_ENTRIES = 1000
MAX_NESTING = 4  # of indexes in indexes

_MANIFEST_ONLY = ("config", "layers", "fsLayers", "history", "blobs")
_SCHEMA1_REMEDY = "schema 1 has been withdrawn: pull it with an older tool and push it again as schema 2"


class Manifest(Record):
    """One image: its config and its layers, base first. ``raw`` are the bytes the digest is over."""

    __slots__ = ("annotations", "artifact_type", "config", "layers", "media_type", "raw", "subject")
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    artifact_type: str
    subject: Descriptor | None
    raw: bytes

    def __init__(
        self,
        media_type: str,
        config: Descriptor,
        layers: tuple[Descriptor, ...],
        annotations: Mapping[str, str],
        artifact_type: str,
        subject: Descriptor | None,
        raw: bytes,
    ) -> None:
        self._init(
            media_type=media_type, config=config, layers=layers, annotations=annotations,
            artifact_type=artifact_type, subject=subject, raw=raw,
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash(self.raw)

    @property
    def digest(self) -> Digest:
        """SHA-256 of the bytes as received."""
        return digest_of(self.raw)


class Index(Record):
    """Several images, usually one a platform. ``raw`` are the bytes the digest is over."""

    __slots__ = ("annotations", "artifact_type", "manifests", "media_type", "raw", "subject")
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    artifact_type: str
    subject: Descriptor | None
    raw: bytes

    def __init__(
        self,
        media_type: str,
        manifests: tuple[Descriptor, ...],
        annotations: Mapping[str, str],
        artifact_type: str,
        subject: Descriptor | None,
        raw: bytes,
    ) -> None:
        self._init(
            media_type=media_type, manifests=manifests, annotations=annotations,
            artifact_type=artifact_type, subject=subject, raw=raw,
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash(self.raw)

    @property
    def digest(self) -> Digest:
        """SHA-256 of the bytes as received."""
        return digest_of(self.raw)


def parse_manifest(data: bytes, media_type: str = "", what: str = "the manifest") -> Manifest | Index:
    """The manifest or index in ``data``.

    ``media_type`` is what the registry or the descriptor says it is (parameters are ignored; ``""`` or a
    generic type leaves it to the document). Raises InvalidImageError for what is malformed or could be read
    in two ways, UnsupportedImageError for schema 1 and for types that are not images."""
    announced = media_type.partition(";")[0].strip().lower()
    if announced in mediatypes.SCHEMA1:
        raise UnsupportedImageError(f"{what} is a Docker schema 1 manifest", _SCHEMA1_REMEDY)
    obj = load_object(data, what)
    version = obj.get("schemaVersion")
    if version == 1 and type(version) is int:
        raise UnsupportedImageError(f"{what} is a Docker schema 1 manifest", _SCHEMA1_REMEDY)
    if version != 2 or type(version) is not int:
        raise InvalidImageError(f"{what} has schemaVersion {quoted(version, 40)}, not 2")
    kind = _media_type(obj, announced, what)
    artifact_type = member(obj, "artifactType", str, what, "")
    subject = obj.get("subject")
    common = (
        string_map(obj, "annotations", what),
        artifact_type,
        parse_descriptor(subject, f"the subject of {what}") if subject is not None else None,
        data,
    )
    if kind in mediatypes.INDEXES:
        return Index(kind, _entries(obj, what), *common)
    config, layers = _image(obj, what)
    return Manifest(kind, config, layers, *common)


def _media_type(obj: dict[str, Any], announced: str, what: str) -> str:
    """The one type that the document, its announcement and its members agree on (CVE-2021-41190)."""
    is_index = "manifests" in obj
    odd = [name for name in _MANIFEST_ONLY if name in obj]
    if is_index and odd:
        raise InvalidImageError(f"{what} has both 'manifests' and {quoted(odd[0])}: it is ambiguous")
    if "fsLayers" in obj or "signatures" in obj:
        raise InvalidImageError(f"{what} mixes schema 1 members into schema 2: it is ambiguous")
    stated = member(obj, "mediaType", str, what, "")
    if stated:
        check_media_type(stated, what)
    known = (*mediatypes.INDEXES, *mediatypes.MANIFESTS)
    if announced in known:
        if stated and stated != announced:
            raise InvalidImageError(
                f"{what} was announced as {quoted(announced)} but says {quoted(stated)}: it is ambiguous"
            )
        kind = announced
    elif stated:
        kind = stated
        if announced and announced != stated and not _is_generic(announced):
            raise InvalidImageError(
                f"{what} was announced as {quoted(announced)} but says it is {quoted(stated)}"
            )
    elif announced and not _is_generic(announced):
        kind = announced
    else:
        kind = mediatypes.OCI_INDEX if is_index else mediatypes.OCI_MANIFEST
    if kind not in known:
        raise UnsupportedImageError(f"{what} is of type {quoted(kind)}, not an image")
    if (kind in mediatypes.INDEXES) != is_index:
        needed = "manifests" if kind in mediatypes.INDEXES else "layers"
        raise InvalidImageError(f"{what} says it is {quoted(kind)} but has no {quoted(needed)}")
    return kind


def _is_generic(media_type: str) -> bool:
    return media_type in (
        "application/json",
        "application/octet-stream",
        "text/plain",
        "text/html",
        "binary/octet-stream",
    )


def _entries(obj: dict[str, Any], what: str) -> tuple[Descriptor, ...]:
    rows = member(obj, "manifests", list, what, [])
    if len(rows) > MAX_ENTRIES:
        raise InvalidImageError(f"{what} lists {len(rows)} images, more than {MAX_ENTRIES}")
    entries = tuple(parse_descriptor(row, f"entry {n} of {what}") for n, row in enumerate(rows, 1))
    for n, entry in enumerate(entries, 1):
        # A manifest beyond the limit could not be read anyway; attestations are not read at all.
        if entry.size > MAX_BYTES and not entry.is_attestation:
            raise InvalidImageError(f"entry {n} of {what} has {entry.size} bytes, more than {MAX_BYTES}")
    return entries


def _image(obj: dict[str, Any], what: str) -> tuple[Descriptor, tuple[Descriptor, ...]]:
    if obj.get("config") is None:
        raise InvalidImageError(f"{what} has no config")
    config = parse_descriptor(obj["config"], f"the config of {what}")
    if config.size > MAX_BYTES:
        raise InvalidImageError(f"the config of {what} has {config.size} bytes, more than {MAX_BYTES}")
    rows = member(obj, "layers", list, what)
    if rows is None:
        raise InvalidImageError(f"{what} has no layers")
    if len(rows) > MAX_LAYERS:
        raise InvalidImageError(f"{what} has {len(rows)} layers, more than {MAX_LAYERS}")
    layers = tuple(parse_descriptor(row, f"layer {n} of {what}") for n, row in enumerate(rows, 1))
    sizes: dict[Digest, int] = {}
    for n, layer in enumerate(layers, 1):
        # A repeated layer is legitimate (builders write the same empty layer many times); a contradiction is
        # not.
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise InvalidImageError(f"{what} gives layer {n} another size than before for the same digest")
    return config, layers


def check_runnable(manifest: Manifest, what: str = "the image") -> None:
    """Raises UnsupportedImageError or InvalidImageError unless every part is of a kind that can be run."""
    config = manifest.config
    if config.media_type == mediatypes.OCI_EMPTY or (
        manifest.artifact_type and config.media_type not in mediatypes.CONFIGS
    ):
        kind = manifest.artifact_type or (
            manifest.layers[0].media_type if manifest.layers else config.media_type
        )
        raise UnsupportedImageError(f"{what} is an artifact of type {quoted(kind)}, not a container image")
    if config.media_type not in mediatypes.CONFIGS:
        raise UnsupportedImageError(
            f"{what} has a config of type {quoted(config.media_type)}: it is not a container image"
        )
    for n, layer in enumerate(manifest.layers, 1):
        if layer.digest == config.digest:
            raise InvalidImageError(f"{what} uses one blob both as its config and as layer {n}")
        if "+encrypted" in layer.media_type:
            raise UnsupportedImageError(
                f"layer {n} of {what} is encrypted",
                "encrypted images are not supported: use a decrypted copy",
            )
        if mediatypes.layer_compression(layer.media_type) is None:
            raise UnsupportedImageError(
                f"layer {n} of {what} is of type {quoted(layer.media_type)}, not a layer"
            )
        if layer.size == 0:
            raise InvalidImageError(f"layer {n} of {what} has the size 0: not even an empty layer has that")
