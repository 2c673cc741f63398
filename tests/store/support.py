"""A store with images in it, without any pulling."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Optional

from tests.support.images import Image, Layout, compress, sha256, tar_of
from udk.layers.tree import TreeBuilder
from udk.oci.digest import Digest
from udk.oci.manifest import Manifest, chain_ids, parse_manifest
from udk.oci.reference import Reference
from udk.store import Store, StoredImage


def add_image(
    store: Store, name: str, files: Optional[dict[str, str]] = None, *, platform: str = "linux/amd64"
) -> StoredImage:
    """Puts a real image of one layer into ``store`` under ``name``, by the store's own means."""
    reference = Reference.parse(name)
    tar = tar_of(files or {"hello": name})
    layer = compress(tar, "gzip")
    config = json.dumps(
        {
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar)]},
        }
    ).encode()  # fmt: skip
    manifest = json.dumps(
        {
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _row(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [_row(layer, "application/vnd.oci.image.layer.v1.tar+gzip")],
        }
    ).encode()  # fmt: skip
    for blob in (config, layer, manifest):
        store.put_blob(sha256(blob), blob)
    key = store.tree_key(chain_ids([Digest.parse(sha256(tar))])[-1])
    if not store.has_tree(key):
        staging, lease = store.staging("test")
        with lease, TreeBuilder(staging) as builder:
            builder.apply(store.blob_path(sha256(layer)), "", sha256(tar))
            builder.finish()
            store.publish_tree(key, staging)
    parsed = parse_manifest(manifest)
    assert isinstance(parsed, Manifest)
    return store.set_ref(
        reference,
        StoredImage(
            config_digest=sha256(config), digest=sha256(manifest), familiar="", media_type=parsed.media_type,
            path=platform.replace("/", "-") + ".json", platform=platform, pulled=time.time(), reference="",
            root=store.path, size=len(config) + len(layer), top_digest=sha256(manifest),
            top_media_type=parsed.media_type, tree=key, variant="",
        ),
    )  # fmt: skip


def _row(data: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


def snapshot(root: Path) -> set[str]:
    """Every path below ``root``, without what is of no meaning: locks and leases."""
    return {
        str(p.relative_to(root))
        for p in root.rglob("*")
        if p.relative_to(root).parts[0] not in ("locks", "leases")
    }


__all__ = ["Image", "Layout", "add_image", "snapshot"]
