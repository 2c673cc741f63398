"""Images in the archives of ``docker save``: ``manifest.json``, a config and layer tars, one or several
images.

Such an archive has no image manifest (those of Docker 25 and later have one besides, which is then used as it
is). One is made: layers that are plain tars have the digests of the config's diff IDs, so nothing is hashed
beforehand; the reader of the blobs verifies them as any other.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from udk.archive.files import sniff
from udk.archive.layout import blob_name, canonical_name, read_index
from udk.archive.source import ImageSource
from udk.errors import InvalidImageError, InvalidReferenceError, NotFoundError, UdkError
from udk.oci import mediatypes
from udk.oci.config import parse_config
from udk.oci.descriptor import Descriptor
from udk.oci.digest import HEX_LENGTH, Digest, digest_of
from udk.oci.manifest import MAX_LAYERS, MAX_NESTING, Index, parse_manifest
from udk.oci.strictjson import MAX_BYTES, loads, member, strings
from udk.oci.text import clean, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from udk.archive.files import Files
    from udk.oci.reference import Reference

MANIFEST = "manifest.json"
_SUFFIX = {"": "", "gzip": "+gzip", "zstd": "+zstd"}


class SavedImage:
    """One element of manifest.json: names of its config and layer files, and its tags."""

    def __init__(self, config: str, layers: list[str], tags: list[str]) -> None:
        self.config, self.layers, self.tags = config, layers, tags


class DockerArchiveSource(ImageSource):
    """One image of a docker-archive, chosen by its tag or its number."""

    def __init__(self, reference: Reference, files: Files) -> None:
        self.reference = reference
        self.files = files
        self.images = read_images(files)
        self._names: dict[Digest, str] = {}  # blob -> file
        self._made: tuple[bytes, str, Digest] | None = None

    def close(self) -> None:
        self.files.close()

    def manifest(self, digest: Digest | None = None) -> tuple[bytes, str, Digest]:
        if self._made is None:
            image = self._choose()
            self._made = self._original(image) or self._make(image)
        if digest is not None and digest != self._made[2]:
            data = self.files.read(blob_name(digest), MAX_BYTES)
            if data is None or not digest.matches(data):
                raise NotFoundError(f"{self.files.what} lacks the manifest {digest}")
            return data, "", digest
        return self._made

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        name = self._names.get(descriptor.digest) or blob_name(descriptor.digest)
        return self.files.chunks(name, offset)

    def _choose(self) -> SavedImage:
        wanted = self.reference.tag
        if wanted.startswith("@"):
            if int(wanted[1:]) >= len(self.images):
                raise NotFoundError(
                    f"{self.files.what} has {len(self.images)} images, no number {wanted[1:]}"
                )
            return self.images[int(wanted[1:])]
        if not wanted and len(self.images) == 1:
            return self.images[0]
        known = [clean(t, 60) for i in self.images for t in i.tags]
        offer = (
            f"choose one with PATH:NAME: {', '.join(known[:10])}"
            if known
            else "choose one with PATH:@0, :@1 ..."
        )
        full = canonical_name(wanted)
        found = [i for i in self.images if wanted and any(canonical_name(t) == full for t in i.tags)]
        if not wanted:
            raise InvalidReferenceError(f"{self.files.what} has {len(self.images)} images", offer)
        if not found:
            raise NotFoundError(f"{self.files.what} has no image {quoted(wanted, 100)}", offer)
        return found[-1]

    def _original(self, image: SavedImage) -> tuple[bytes, str, Digest] | None:
        """The manifest that a Docker of today puts beside: the one with this image's config."""
        if self.files.size("oci-layout") is None or self.files.size("index.json") is None:
            return None
        config = self._config(image)
        pending = [(entry, 0) for entry in read_index(self.files)]
        for entry, depth in pending:
            data = self.files.read(blob_name(entry.digest), MAX_BYTES)
            if entry.is_attestation or data is None or not entry.digest.matches(data):
                continue
            try:
                parsed = parse_manifest(data, entry.media_type)
            except UdkError:
                continue  # something else than an image
            if isinstance(parsed, Index):
                if depth < MAX_NESTING and len(pending) < MAX_LAYERS:
                    pending += [(child, depth + 1) for child in parsed.manifests]
            elif parsed.config.digest.matches(config):
                complete = (d for d in parsed.layers if self.files.size(blob_name(d.digest)) != d.size)
                return None if any(complete) else (data, parsed.media_type, entry.digest)
        return None

    def _config(self, image: SavedImage) -> bytes:
        data = self.files.read(image.config, MAX_BYTES)
        if data is None:
            raise InvalidImageError(f"{self.files.what} lacks the config {quoted(image.config, 100)}")
        return data

    def _make(self, image: SavedImage) -> tuple[bytes, str, Digest]:
        raw = self._config(image)
        config = parse_config(raw, what=f"the image config in {self.files.what}")
        if len(config.diff_ids) != len(image.layers):
            raise InvalidImageError(
                f"{self.files.what} has {len(image.layers)} layers, its config lists {len(config.diff_ids)}"
            )
        digest = digest_of(raw)
        self._names[digest] = image.config
        layers = [self._layer(name, diff_id) for name, diff_id in zip(image.layers, config.diff_ids)]
        document = {
            "schemaVersion": 2,
            "mediaType": mediatypes.OCI_MANIFEST,
            "config": Descriptor(mediatypes.OCI_CONFIG, digest, len(raw)).as_dict(),
            "layers": [layer.as_dict() for layer in layers],
        }
        data = json.dumps(document, separators=(",", ":")).encode()
        return data, mediatypes.OCI_MANIFEST, digest_of(data)

    def _layer(self, name: str, diff_id: Digest) -> Descriptor:
        size = self.files.size(name)
        if size is None:
            raise InvalidImageError(f"{self.files.what} lacks the layer {quoted(name, 100)}")
        how = sniff(self.files.head(name, 8))
        if how not in _SUFFIX:
            raise InvalidImageError(f"{self.files.what}: layer {quoted(name, 100)} is compressed with {how}")
        digest = diff_id
        if how:
            algorithm, _, hexadecimal = name.removeprefix("blobs/").partition("/")
            if len(hexadecimal) == HEX_LENGTH.get(algorithm):
                digest = Digest.parse(f"{algorithm}:{hexadecimal}")
            else:
                hasher = hashlib.sha256()
                for chunk in self.files.chunks(name):
                    hasher.update(chunk)
                digest = Digest("sha256", hasher.hexdigest())
        self._names[digest] = name
        return Descriptor(mediatypes.OCI_LAYER + _SUFFIX[how], digest, size)


def read_images(files: Files) -> list[SavedImage]:
    """The images of a docker-archive. Raises InvalidImageError, NotFoundError."""
    data = files.read(MANIFEST, MAX_BYTES)
    what = f"{files.what}: {MANIFEST}"
    if data is None:
        raise NotFoundError(f"{files.what} is not a docker-archive: it has no {MANIFEST}", "check the path")
    rows = loads(data, what)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InvalidImageError(f"{what} is not a list of images")
    images = []
    for row in rows:
        config = member(row, "Config", str, what, "")
        layers = strings(row, "Layers", what) or []
        if not config:
            raise InvalidImageError(f"{what} names no config")
        if len(layers) > MAX_LAYERS:
            raise InvalidImageError(f"{what} lists {len(layers)} layers, more than {MAX_LAYERS}")
        images.append(SavedImage(config, layers, strings(row, "RepoTags", what) or []))
    return images
