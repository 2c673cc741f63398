"""The distribution-spec client: manifests, blobs and tags of a registry.

``requests`` is imported on first use only. Redirects are followed by our own code and never with credentials
to another origin; blob bytes are handed on exactly as sent, whatever Content-Encoding claims.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from udk.errors import IntegrityError, NetworkError, NotFoundError, ProtocolError, RegistryError
from udk.oci import mediatypes
from udk.oci.digest import Digest, digest_of
from udk.oci.strictjson import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from udk.oci.descriptor import Descriptor
    from udk.oci.reference import Reference

CHUNK = 1 << 18


class RegistryClient:
    """Talks to registries. One client may be used by several threads."""

    def __init__(self) -> None:
        import requests

        self._session = requests.Session()
        self._session.trust_env = False

    def close(self) -> None:
        self._session.close()

    def manifest(self, ref: Reference) -> tuple[bytes, str, Digest]:
        """The bytes, media type and digest of what ``ref`` names; verified when ``ref`` has a digest."""
        with self._get(
            ref, f"manifests/{ref.selector}", {"Accept": ", ".join(mediatypes.ACCEPTED)}
        ) as answer:
            data = b"".join(self._chunks(answer, MAX_BYTES))
            media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        digest = digest_of(data, ref.digest.algorithm if ref.digest else "sha256")
        if ref.digest and digest != ref.digest:
            raise IntegrityError(f"the registry answered {ref} with another manifest: {digest}")
        return data, media_type, digest

    def blob(self, ref: Reference, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from ``offset`` on, unverified: read them through VerifiedReader."""
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with self._get(ref, f"blobs/{descriptor.digest}", headers) as answer:
            skip = offset if answer.status_code != 206 else 0
            for chunk in self._chunks(answer, descriptor.size + 1):
                yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    def tags(self, ref: Reference) -> list[str]:
        """The tags of the repository of ``ref``."""
        with self._get(ref, "tags/list", {}) as answer:
            return list(answer.json().get("tags") or [])

    def _get(self, ref: Reference, path: str, headers: dict[str, str]) -> requests.Response:
        import requests

        host = ref.api_host
        scheme = "http" if host.partition(":")[0] in ("localhost", "127.0.0.1") else "https"
        url = f"{scheme}://{host}/v2/{ref.repository}/{path}"
        try:
            answer = self._session.get(url, headers=headers, stream=True, timeout=(10, 60))
        except requests.RequestException as e:
            raise NetworkError(f"{host}: {type(e).__name__}") from None
        if answer.status_code == 404:
            raise NotFoundError(f"{host} does not have {ref.repository} {path}")
        if answer.status_code not in (200, 206):
            raise RegistryError(f"{host} answered {answer.status_code}")
        return answer

    def _chunks(self, answer: requests.Response, limit: int) -> Iterator[bytes]:
        total = 0
        while chunk := answer.raw.read(CHUNK, decode_content=False):
            total += len(chunk)
            if total > limit:
                raise ProtocolError(f"the answer is longer than {limit} bytes")
            yield chunk
