"""What one process does to pull one image, once it is its turn (:mod:`udk.runtime.pull`)."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from udk.archive.embedded import is_embedded
from udk.archive.source import ImageSource, ResolvedImage, check_platform, open_source, resolve_image
from udk.base.files import fsync_dir, read_file, store_error
from udk.base.process import FOREIGN_SECONDS
from udk.base.progress import Progress
from udk.errors import CorruptStoreError, InvalidImageError, StoreError
from udk.layers.caps import Caps
from udk.oci.manifest import Index, Manifest, check_runnable, parse_config, parse_manifest
from udk.oci.platform import Platform
from udk.oci.strictjson import MAX_BYTES
from udk.runtime.downloads import PARALLEL, Downloads, Restarted
from udk.runtime.trees import make_tree
from udk.store.refs import StoredImage, platform_file, read_ref, ref_dir
from udk.store.settle import settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from udk.config import Config
    from udk.oci.config import ImageConfig
    from udk.oci.descriptor import Descriptor
    from udk.oci.digest import Digest
    from udk.oci.reference import Reference
    from udk.store import Store

_ATTEMPTS = 3  # against a collector that took a blob between looking and using


class Fetch:
    """One pull; see :func:`udk.runtime.pull.pull` for the arguments."""

    def __init__(
        self,
        store: Store,
        reference: Reference,
        platform: Platform | None,
        config: Config | None,
        progress: Progress | None,
        admit: Callable[[Reference, bytes, str], None] | None,
    ) -> None:
        self._store = store
        self._reference = reference
        self._platform = platform
        self._config = config
        self._progress = progress or Progress()
        self._admit = admit
        self._variant = ""
        self._caps = Caps.from_config(config)

    def from_store(self) -> StoredImage | None:
        """The image by what is in the store alone: its blobs are there and its tree is, or is made again."""
        store = self._store
        path = f"{store.path}/refs/{ref_dir(self._reference)}/{platform_file(self._platform)}"
        try:
            image = read_ref(store.path, path)
            if image is None:
                return None
            data = read_file(store.blob_path(image.digest))
            manifest = parse_manifest(data, image.media_type, image.familiar)
        except (OSError, CorruptStoreError, InvalidImageError):
            return None
        if not isinstance(manifest, Manifest):
            return None
        blobs = (manifest.config, *manifest.layers)
        with store.lease("pull", manifest.digest.hex, {"blobs": [str(d.digest) for d in blobs]}):
            if not all(store.has_blob(d.digest, d.size) for d in blobs):
                return None
            config = self._read_config(manifest)
            there = Downloads(
                store, ImageSource(), "", blobs, self._progress
            )  # all are here: nothing is asked
            with store.use_tree(image.tree), there:
                make_tree(store, image.tree, manifest, config, there, self._progress, self._caps)
        return image

    def from_source(self, source: ImageSource | None) -> StoredImage:
        """The image as its source has it now."""
        if source is not None:
            return self._run(source)
        if self._reference.is_local or is_embedded(self._reference):
            with open_source(self._reference) as opened:
                return self._run(opened)
        from udk.registry.client import RegistryClient
        from udk.registry.options import RegistryOptions

        with RegistryClient(RegistryOptions.from_config(self._config)) as client:
            try:
                return self._run(open_source(self._reference, client))
            finally:
                for text in client.warnings:
                    self._progress.note(f"{self._reference.host} says: {text}")

    def _run(self, source: ImageSource) -> StoredImage:
        self._tidy()
        found = self._resolve(source)
        manifest = found.manifest
        check_runnable(manifest, self._reference.familiar)
        blobs = {str(d.digest): d for d in (manifest.config, *manifest.layers)}
        digests = [*(str(d) for d, _, _ in found.documents), *blobs]
        with self._store.lease("pull", found.digest.hex, {"blobs": digests}):
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    return self._fetch(source, found, list(blobs.values()))
                except (FileNotFoundError, Restarted):
                    if attempt == _ATTEMPTS:
                        raise StoreError(
                            f"parts of {self._reference.familiar} vanish from the store while it is pulled",
                            "is someone removing files by hand? Try again",
                        ) from None
        raise AssertionError

    def _fetch(self, source: ImageSource, found: ResolvedImage, blobs: list[Descriptor]) -> StoredImage:
        store, manifest = self._store, found.manifest
        for digest, _, document in found.documents:
            store.put_blob(digest, document)
        name = str(self._reference)
        with Downloads(store, source, name, blobs[:1], self._progress, 1) as first:
            first.wait()
        config = self._read_config(manifest)
        check_platform(config.platform, self._wanted)
        key = store.tree_key(config.chain_id)
        downloads = Downloads(store, source, name, blobs[1:], self._progress, self._parallel)
        with store.use_tree(key), downloads:
            make_tree(store, key, manifest, config, downloads, self._progress, self._caps)
            downloads.wait()
            self._flush(blobs)
            if not store.has_tree(key) or not all(store.has_blob(d.digest, d.size) for d in blobs):
                raise Restarted
            return self._file(found, blobs, key)

    def _tidy(self) -> None:
        """Removes what killed pulls left, beside this one: nobody waits for it, and what it does not get done
        before this process ends the next one does."""
        days = self._config.store_lease_days if self._config else FOREIGN_SECONDS / 86400

        def sweep() -> None:
            try:
                settle(self._store.path)
                self._store.sweep(days * 86400)
            except StoreError:
                pass

        threading.Thread(target=sweep, name="udk-sweep", daemon=True).start()

    @property
    def _parallel(self) -> int:
        return self._config.pull_parallel if self._config else PARALLEL

    def _file(self, found: ResolvedImage, blobs: list[Descriptor], key: str) -> StoredImage:
        image = StoredImage(
            config_digest=str(found.manifest.config.digest),
            digest=str(found.digest),
            familiar=self._reference.familiar,
            media_type=found.manifest.media_type,
            path=platform_file(self._platform),
            platform=str(self._wanted),
            pulled=time.time(),
            reference=str(self._reference),
            root=self._store.path,
            size=sum(d.size for d in blobs),
            top_digest=str(found.top_digest),
            top_media_type=found.documents[0][1],
            tree=key,
            variant=self._variant,
        )
        return self._store.set_ref(self._reference, image)

    def _flush(self, blobs: list[Descriptor]) -> None:
        """Makes the blobs' names durable before a reference to them is: once, not once a blob."""
        for algorithm in {d.digest.algorithm for d in blobs}:
            path = f"{self._store.path}/oci/blobs/{algorithm}"
            try:
                fsync_dir(path)
            except OSError as e:
                raise store_error(e, path) from e

    def _resolve(self, source: ImageSource) -> ResolvedImage:
        """What the name stands for, and the image manifest in it that suits the platform."""
        found = resolve_image(_Known(source, self._store, self._admit), self._wanted)
        if self._platform is None and len(found.documents) > 1:
            index = parse_manifest(found.documents[-2][2], found.documents[-2][1])
            if isinstance(index, Index):
                for entry in index.manifests:
                    if entry.digest == found.digest and entry.platform:
                        self._variant = entry.platform.variant
        return found

    @property
    def _wanted(self) -> Platform:
        return self._platform or Platform.host()

    def _read_config(self, manifest: Manifest) -> ImageConfig:
        data = read_file(self._store.blob_path(manifest.config.digest))
        return parse_config(data, manifest, f"the config of {self._reference.familiar}")


class _Known(ImageSource):
    """A source whose manifests are taken from the store where they are there, and admitted first."""

    def __init__(
        self, source: ImageSource, store: Store, admit: Callable[[Reference, bytes, str], None] | None
    ) -> None:
        self.reference = source.reference
        self._source = source
        self._store = store
        self._admit = admit

    def manifest(self, digest: Digest | None = None) -> tuple[bytes, str, Digest]:
        if digest is not None:
            try:
                data = read_file(self._store.blob_path(digest), MAX_BYTES)
                if digest.matches(data):
                    return data, "", digest
            except (OSError, StoreError):
                pass
            return self._source.manifest(digest)
        data, media_type, found = self._source.manifest()
        if self._admit:
            self._admit(self.reference, data, str(found))
        return data, media_type, found
