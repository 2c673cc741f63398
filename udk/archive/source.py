"""Where images come from: one shape for registries, OCI layouts and archives.

A source belongs to one reference. ``manifest(None)`` is what the reference names, ``manifest(digest)`` a
child of it; ``blob`` yields the bytes of a blob from an offset, unverified: they enter the store through
VerifiedReader only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from udk.errors import InvalidReferenceError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from udk.oci.descriptor import Descriptor
    from udk.oci.digest import Digest
    from udk.oci.reference import Reference
    from udk.registry.client import RegistryClient


class ImageSource:
    """One image of some source."""

    reference: Reference

    def manifest(self, digest: Digest | None = None) -> tuple[bytes, str, Digest]:
        """Bytes, media type (``""`` if the source does not say) and digest of the manifest or index."""
        raise NotImplementedError

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterable[bytes]:
        """The bytes of a blob from ``offset`` on, in chunks, unverified."""
        raise NotImplementedError

    def close(self) -> None:
        """Gives up connections and files."""

    def __enter__(self) -> ImageSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class RegistrySource(ImageSource):
    """An image in a registry."""

    def __init__(self, reference: Reference, client: RegistryClient) -> None:
        self.reference = reference
        self.client = client

    def manifest(self, digest: Digest | None = None) -> tuple[bytes, str, Digest]:
        return self.client.manifest(self.reference.with_digest(digest) if digest else self.reference)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterable[bytes]:
        return self.client.blob(self.reference, descriptor, offset)


def open_source(reference: Reference, client: RegistryClient | None = None) -> ImageSource:
    """The source of ``reference``."""
    if reference.is_local:
        raise InvalidReferenceError(f"{reference.transport}: is not supported yet")
    from udk.registry.client import RegistryClient

    return RegistrySource(reference, client or RegistryClient())
