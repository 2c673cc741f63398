"""Where images come from: one shape for registries, OCI layouts and archives.

A source belongs to one reference. ``manifest(None)`` is what the reference names, ``manifest(digest)`` a
child of it; ``blob`` yields the bytes of a blob from an offset, unverified: they enter the store through
VerifiedReader only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from udk.errors import IntegrityError, InvalidImageError, NotFoundError, PlatformError
from udk.oci.manifest import MAX_NESTING, Index, Manifest, parse_manifest
from udk.oci.platform import candidates, no_image
from udk.oci.text import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from udk.archive.files import Files
    from udk.oci.descriptor import Descriptor
    from udk.oci.digest import Digest
    from udk.oci.platform import Platform
    from udk.oci.reference import Reference
    from udk.registry.client import RegistryClient

MAX_DOCUMENTS = 32  # indexes and manifests looked at for one image


class ImageSource:
    """One image of some source. A context manager; ``blob`` may be called by several threads."""

    reference: Reference

    def manifest(self, digest: Digest | None = None) -> tuple[bytes, str, Digest]:
        """Bytes, media type (``""`` if the source does not say) and digest of the manifest or index,
        verified."""
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
    """An image in a registry. Closing it closes the client only if it was made for it."""

    def __init__(self, reference: Reference, client: RegistryClient, owned: bool = False) -> None:
        self.reference = reference
        self.client = client
        self._owned = owned

    def manifest(self, digest: Digest | None = None) -> tuple[bytes, str, Digest]:
        return self.client.manifest(self.reference.with_digest(digest) if digest else self.reference)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterable[bytes]:
        return self.client.blob(self.reference, descriptor, offset)

    def close(self) -> None:
        if self._owned:
            self.client.close()


def open_source(reference: Reference, client: RegistryClient | None = None) -> ImageSource:
    """The source of ``reference``: a registry, a local layout or archive, or the embedded image.

    Which kind of archive a file is, is seen from its content: both names work for both kinds, and so does a
    plain path. Raises NotFoundError, InvalidImageError, or what the registry configuration brings."""
    if reference.is_local:
        return _open_local(reference)
    from udk.archive.embedded import is_embedded, open_embedded

    if is_embedded(reference):
        return open_embedded(reference)
    from udk.registry.client import RegistryClient

    return RegistrySource(reference, client or RegistryClient(), owned=client is None)


def open_stream(reference: Reference, stream: BinaryIO) -> ImageSource:
    """The source of a local ``reference`` whose archive is read from ``stream`` (``udk load`` from a
    pipe)."""
    from udk.archive.files import TarFiles

    return _open_files(reference, TarFiles(reference.path, stream))


def _open_local(reference: Reference) -> ImageSource:
    from udk.archive.files import DirectoryFiles, TarFiles

    if os.path.isdir(reference.path):
        return _open_files(reference, DirectoryFiles(reference.path))
    return _open_files(reference, TarFiles(reference.path))


def _open_files(reference: Reference, files: Files) -> ImageSource:
    from udk.archive.docker import MANIFEST, DockerArchiveSource
    from udk.archive.layout import LayoutSource

    try:
        is_layout, is_saved = files.size("oci-layout") is not None, files.size(MANIFEST) is not None
        # Docker's archives of today are both; tags are in its own part, exact digests in the layout's.
        if is_saved and (not is_layout or (reference.transport == "docker-archive" and not reference.digest)):
            return DockerArchiveSource(reference, files)
        if not is_layout and files.size("repositories") is not None:
            raise InvalidImageError(
                f"{files.what} is a docker archive of the first version", "load and save it with docker again"
            )
        if not is_layout:
            raise NotFoundError(
                f"{files.what} is neither an OCI image layout nor a docker archive", "check the path"
            )
        return LayoutSource(reference, files)
    except BaseException:
        files.close()
        raise


def list_images(source: ImageSource) -> list[tuple[Reference, list[str]]]:
    """All images of a local source: the reference of each one, and its names there (``udk load`` loads
    them)."""
    from udk.archive.docker import DockerArchiveSource
    from udk.archive.layout import LayoutSource, entry_names

    names: list[list[str]] = []
    if isinstance(source, DockerArchiveSource):
        names = [image.tags for image in source.images]
    elif isinstance(source, LayoutSource):
        names = [entry_names(entry) for entry in source.entries]
    return [(source.reference.with_tag(f"@{n}"), found) for n, found in enumerate(names)]


class ResolvedImage:
    """One image found for a platform. ``documents`` are (digest, media type, bytes): indexes first, outermost
    first, the manifest last; all of them belong into the store, byte by byte."""

    def __init__(self, manifest: Manifest, documents: list[tuple[Digest, str, bytes]]) -> None:
        self.manifest = manifest
        self.documents = documents

    @property
    def digest(self) -> Digest:
        """The digest of the image's own manifest."""
        return self.documents[-1][0]

    @property
    def top_digest(self) -> Digest:
        """The digest of what the reference names: the index, if there is one. The repository digest."""
        return self.documents[0][0]


def resolve_image(source: ImageSource, platform: Platform) -> ResolvedImage:
    """The manifest of ``source`` for ``platform``, through (nested) indexes.

    An image without an index is taken as it is; its config says what it is for. Raises PlatformError,
    InvalidImageError, UnsupportedImageError, IntegrityError, and what the source raises."""
    data, media_type, digest = source.manifest()
    walk = _Walk(source, platform)
    found = walk.visit(data, media_type, digest, f"the manifest of {source.reference.familiar}", ())
    if found is None:
        raise no_image(platform, walk.seen)
    return found


class _Walk:
    def __init__(self, source: ImageSource, platform: Platform) -> None:
        self.source, self.platform = source, platform
        self.seen: list[Platform | None] = []
        self.count = 0

    def visit(
        self,
        data: bytes,
        media_type: str,
        digest: Digest,
        what: str,
        above: tuple[tuple[Digest, str, bytes], ...],
    ) -> ResolvedImage | None:
        parsed = parse_manifest(data, media_type, what)
        documents = (*above, (digest, parsed.media_type, data))
        if isinstance(parsed, Manifest):
            return ResolvedImage(parsed, list(documents))
        if len(documents) > MAX_NESTING:
            raise InvalidImageError(f"{what} nests more than {MAX_NESTING} indexes")
        self.seen += [entry.platform for entry in parsed.manifests if not entry.is_attestation]
        for entry in candidates(parsed, self.platform):
            self.count += 1
            if self.count > MAX_DOCUMENTS:
                raise InvalidImageError(
                    f"{what} leads through more than {MAX_DOCUMENTS} indexes and manifests"
                )
            child, kind, _ = self.source.manifest(entry.digest)
            name = f"the manifest {entry.digest.short} of {self.source.reference.familiar}"
            if len(child) != entry.size:
                raise IntegrityError(f"{name} has {len(child)} bytes, its index says {entry.size}")
            if kind and kind != entry.media_type and kind.startswith("application/vnd."):
                raise InvalidImageError(
                    f"{name} is {quoted(kind)}, its index says {quoted(entry.media_type)}"
                )
            found = self.visit(child, entry.media_type, entry.digest, name, documents)
            if found is not None:
                return found
        return None


def check_platform(image: Platform, wanted: Platform) -> None:
    """Raises PlatformError unless an image whose config says ``image`` suits ``wanted``."""
    # No level of x86-64 is refused: the config's is what it was built on, not always what it needs.
    level = "v4" if wanted.normalized.architecture == "amd64" else ""
    if image.architecture and wanted.rank(image, level) < 0:
        raise PlatformError(
            f"the image is for {image}, not for {wanted}",
            f"ask for it with --platform {image}, if it can run here",
        )


__all__ = [
    "ImageSource", "Index", "RegistrySource", "ResolvedImage", "check_platform", "list_images", "open_source",
    "open_stream", "resolve_image",
]  # fmt: skip
