"""Images in OCI image layouts (image-spec, image-layout.md): a directory, or a tar of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from udk.archive.source import ImageSource
from udk.errors import InvalidImageError, InvalidReferenceError, NotFoundError
from udk.oci.descriptor import Descriptor
from udk.oci.digest import Digest
from udk.oci.manifest import Index, parse_manifest
from udk.oci.reference import Reference
from udk.oci.strictjson import MAX_BYTES, load_object
from udk.oci.text import clean, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from udk.archive.files import Files

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"


class LayoutSource(ImageSource):
    """One image of a layout, chosen by its name there, its number or its digest."""

    def __init__(self, reference: Reference, files: Files) -> None:
        self.reference = reference
        self.files = files
        self.entries = read_index(files)
        self._chosen: Descriptor | None = None

    def close(self) -> None:
        self.files.close()

    def manifest(self, digest: Digest | None = None) -> tuple[bytes, str, Digest]:
        if digest is None:
            if self._chosen is None:
                self._chosen = self._choose()
            entry = self._chosen
            media_type, digest, size = entry.media_type, entry.digest, entry.size
        else:
            media_type, size = "", -1
        data = self.files.read(blob_name(digest), MAX_BYTES)
        if data is None:
            raise NotFoundError(f"{self.files.what} lacks the manifest {digest}")
        if (size >= 0 and len(data) != size) or not digest.matches(data):
            raise InvalidImageError(f"{self.files.what}: the manifest {digest} is damaged")
        return data, media_type, digest

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        if descriptor.data is not None:
            yield descriptor.data[offset:]
            return
        name = blob_name(descriptor.digest)
        size = self.files.size(name)
        if size is None:
            raise NotFoundError(f"{self.files.what} lacks the blob {descriptor.digest}")
        if size != descriptor.size:
            raise InvalidImageError(
                f"{self.files.what}: blob {descriptor.digest} has {size} bytes,"
                f" the manifest says {descriptor.size}"
            )
        yield from self.files.chunks(name, offset)

    def _choose(self) -> Descriptor:
        wanted, entries = self.reference.tag, self.entries
        if self.reference.digest:
            for entry in entries:
                if entry.digest == self.reference.digest:
                    return entry
            # a child of one of the entries, or an image nobody named
            size = self.files.size(blob_name(self.reference.digest))
            if size is None:
                raise NotFoundError(f"{self.files.what} has no image {self.reference.digest}")
            return Descriptor("application/octet-stream", self.reference.digest, size)
        if wanted.startswith("@"):
            number = int(wanted[1:])
            if number >= len(entries):
                raise NotFoundError(f"{self.files.what} has {len(entries)} images, no number {number}")
            return entries[number]
        found = [e for e in entries if not wanted or wanted in entry_names(e)]
        if wanted and not found:
            full = canonical_name(wanted)
            found = [e for e in entries if any(canonical_name(n) == full for n in entry_names(e))]
        if not wanted and len({e.digest for e in found}) > 1:
            found = [e for e in found if "latest" in entry_names(e)] or found
        if not found:
            raise NotFoundError(f"{self.files.what} has no image {quoted(wanted, 100)}", _offer(entries))
        if len({e.digest for e in found}) > 1:
            named = f" named {quoted(wanted, 100)}" if wanted else ""
            raise InvalidReferenceError(f"{self.files.what} has {len(found)} images{named}", _offer(entries))
        return found[0]


def read_index(files: Files) -> list[Descriptor]:
    """The entries of a layout's index. Raises NotFoundError, InvalidImageError."""
    marker = files.read("oci-layout", 4096)
    data = files.read("index.json", MAX_BYTES)
    if marker is None or data is None:
        missing = "oci-layout" if marker is None else "index.json"
        raise NotFoundError(f"{files.what} is not an OCI image layout: it has no {missing}", "check the path")
    version = load_object(marker, f"{files.what}: oci-layout").get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise InvalidImageError(
            f"{files.what} is an OCI image layout of version {quoted(version, 40)}, not 1"
        )
    index = parse_manifest(data, "", f"{files.what}: index.json")
    if not isinstance(index, Index):
        raise InvalidImageError(f"{files.what}: index.json is not an index")
    return list(index.manifests)


def blob_name(digest: Digest) -> str:
    """The path of a blob in a layout."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def entry_names(entry: Descriptor) -> list[str]:
    """What an entry of a layout's index is called."""
    return [n for n in (entry.annotations.get(REF_NAME), entry.annotations.get(CONTAINERD_NAME)) if n]


def canonical_name(name: str) -> str:
    """``debian:12`` and ``docker.io/library/debian:12`` as one; other names as they are."""
    try:
        return str(Reference.parse("docker://" + name))
    except InvalidReferenceError:
        return name


def _offer(entries: list[Descriptor]) -> str:
    names = [clean((entry_names(e) or [f"@{n}"])[0], 60) for n, e in enumerate(entries)]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"choose one with PATH:NAME: {', '.join(names[:10])}{more}" if names else "it holds none"
