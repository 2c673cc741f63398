"""What one process does to pull one image, once it is its turn (:mod:`udk.runtime.pull`)."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from udk.base.files import fsync_dir, store_error
from udk.base.locks import Lock
from udk.errors import InvalidImageError, PlatformError
from udk.oci.manifest import MAX_NESTING, Index, Manifest, check_runnable, parse_config, parse_manifest
from udk.oci.platform import Platform, select
from udk.store.refs import StoredImage, platform_file, ref_dir

if TYPE_CHECKING:
    from typing import Any

    from udk.archive.source import ImageSource
    from udk.oci.config import ImageConfig
    from udk.oci.descriptor import Descriptor
    from udk.oci.reference import Reference
    from udk.store import Store


class Fetch:
    """One pull; see :func:`udk.runtime.pull.pull` for the arguments."""

    def __init__(
        self,
        store: Store,
        reference: Reference,
        platform: Platform | None,
        config: Any,
        progress: Any,
        source: ImageSource | None,
    ) -> None:
        self._store = store
        self._reference = reference
        self._platform = platform
        self._config = config
        self._progress = progress
        self._source = source
        self._variant = ""

    def run(self) -> StoredImage:
        if self._source is None:
            from udk.archive.source import open_source

            with open_source(self._reference) as source:
                self._source = source
                return self._run(source)
        return self._run(self._source)

    def _run(self, source: ImageSource) -> StoredImage:
        store = self._store
        top, manifest = self._resolve(source)
        check_runnable(manifest, self._reference.familiar)
        blobs = {str(d.digest): d for d in (manifest.config, *manifest.layers)}
        digests = [str(top.digest), str(manifest.digest), *blobs]
        with store.lease("pull", manifest.digest.hex, {"blobs": digests}):
            for document in dict.fromkeys((top.raw, manifest.raw)):
                digest = top.digest if document == top.raw else manifest.digest
                store.put_blob(digest, document)
            self._get(source, manifest.config)
            with open(store.blob_path(manifest.config.digest), "rb") as f:
                config = parse_config(f.read(), manifest, f"the config of {self._reference.familiar}")
            self._check_platform(config)
            for layer in manifest.layers:
                self._get(source, layer)
            try:
                for algorithm in {d.digest.algorithm for d in blobs.values()}:
                    fsync_dir(f"{store.path}/oci/blobs/{algorithm}")
            except OSError as e:
                raise store_error(e, store.path) from e
            key = store.tree_key(config.chain_id)
            self._make_tree(key, manifest, config)
            image = StoredImage(
                config_digest=str(manifest.config.digest),
                digest=str(manifest.digest),
                familiar="",
                media_type=manifest.media_type,
                path=f"{ref_dir(self._reference)}/{platform_file(self._platform)}",
                platform=str(self._platform or Platform.host()),
                pulled=time.time(),
                reference="",
                root=store.path,
                size=sum(d.size for d in blobs.values()),
                top_digest=str(top.digest),
                top_media_type=top.media_type,
                tree=key,
                variant=self._variant,
            )
            return store.set_ref(self._reference, image)

    def _resolve(self, source: ImageSource) -> tuple[Manifest | Index, Manifest]:
        """What the name stands for, and the image manifest in it that suits the platform."""
        data, media_type, _ = source.manifest(None)
        what = self._reference.familiar
        top = found = parse_manifest(data, media_type, what)
        for _ in range(MAX_NESTING):
            if isinstance(found, Manifest):
                return top, found
            entry = select(found, self._platform or Platform.host())
            if self._platform is None and entry.platform:
                self._variant = entry.platform.variant
            if self._store.has_blob(entry.digest, entry.size):
                with open(self._store.blob_path(entry.digest), "rb") as f:
                    data, media_type = f.read(), entry.media_type
            else:
                data, media_type, _ = source.manifest(entry.digest)
            found = parse_manifest(data, media_type or entry.media_type, f"{what} ({entry.digest.short})")
        raise InvalidImageError(f"{what}: indexes within indexes, {MAX_NESTING} deep")

    def _check_platform(self, config: ImageConfig) -> None:
        if self._platform and config.platform.architecture and self._platform.rank(config.platform) < 0:
            raise PlatformError(
                f"{self._reference.familiar} is for {config.platform}, not for {self._platform}",
                f"leave --platform out, or use --platform {config.platform}",
            )

    def _get(self, source: ImageSource, descriptor: Descriptor) -> None:
        with self._store.ingest(descriptor, str(self._reference)) as ingest:
            if not ingest.done:
                ingest.fill(lambda offset: source.blob(descriptor, offset))

    def _make_tree(self, key: str, manifest: Manifest, config: ImageConfig) -> None:
        store = self._store
        if store.has_tree(key):
            return
        from udk.layers.tree import TreeBuilder

        with Lock(store.lock_path("tree", key)):
            if store.has_tree(key):
                return
            staging, lease = store.staging(key)
            with lease:
                try:
                    builder = TreeBuilder(staging)
                    for layer, diff_id in zip(manifest.layers, config.diff_ids):
                        with open(store.blob_path(layer.digest), "rb") as f:
                            builder.apply(f, layer.media_type, diff_id)
                    builder.finish()
                    store.publish_tree(key, staging)
                finally:
                    if os.path.lexists(staging):
                        store.discard(staging)
