"""Building the tree of an image, once however many processes want it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from udk.base.locks import Lock
from udk.errors import UdkError
from udk.runtime.downloads import Restarted

if TYPE_CHECKING:
    from collections.abc import Callable

    from udk.base.progress import Progress
    from udk.layers.caps import Caps
    from udk.oci.config import ImageConfig
    from udk.oci.descriptor import Descriptor
    from udk.oci.manifest import Manifest
    from udk.runtime.downloads import Downloads
    from udk.store import Store


def make_tree(
    store: Store,
    key: str,
    manifest: Manifest,
    config: ImageConfig,
    downloads: Downloads,
    progress: Progress,
    caps: Caps | None = None,
) -> None:
    """Makes the tree ``key`` unless it is there. Layers are applied while they and the later ones arrive;
    nothing is published before all of them have been verified. Hold a lease on the tree. Raises UdkError."""
    if store.has_tree(key):
        _add_index(f"{store.path}/trees/{key}")
        return
    lock = Lock(store.lock_path("tree", key))
    if not lock.acquire(lambda: store.has_tree(key)):
        return
    try:
        for attempt in range(2):
            if store.has_tree(key):
                return
            try:
                _build(store, key, manifest, config, downloads, progress, caps)
                return
            except Restarted:
                if attempt:
                    raise
                downloads.wait()
    finally:
        lock.release()


def _add_index(tree: str) -> None:
    """To a tree that was made before there was one of this version, or that is a copy without it."""
    from udk.layers.index import is_indexed, write_index

    try:
        if not is_indexed(tree):
            write_index(tree)
    except (OSError, ValueError):
        pass  # somebody else's store, or a full disk: the tree is as good without


def _build(
    store: Store,
    key: str,
    manifest: Manifest,
    config: ImageConfig,
    downloads: Downloads,
    progress: Progress,
    caps: Caps | None,
) -> None:
    from udk.layers.tree import TreeBuilder

    staging, lease = store.staging(f"tree-{key[:16]}")
    task = progress.task("unpacking", sum(d.size for d in manifest.layers))
    done = 0
    try:
        with TreeBuilder(staging, caps=caps) as builder:
            for layer, diff_id in zip(manifest.layers, config.diff_ids):
                with downloads.open(layer) as reader:
                    try:
                        builder.apply(_Counted(reader.read, task.set, done), layer.media_type, diff_id)
                    except UdkError:
                        reader.verdict()  # whether it was the right bytes that could not be unpacked
                        raise
                done += layer.size
            downloads.wait()
            builder.finish()
        store.publish_tree(key, staging)
        task.finish()
    finally:
        if os.path.lexists(staging):
            store.discard(staging)
        lease.release()


class _Counted:
    """A stream that tells how far it has been read."""

    def __init__(self, read: Callable[[int], bytes], tell: Callable[[int], None], start: int) -> None:
        self._read = read
        self._tell = tell
        self._count = start

    def read(self, size: int, /) -> bytes:
        data = self._read(size)
        self._count += len(data)
        self._tell(self._count)
        return data


def layers_of(manifest: Manifest) -> tuple[Descriptor, ...]:
    """Each layer once, in the order in which they are needed."""
    return tuple({d.digest: d for d in manifest.layers}.values())
