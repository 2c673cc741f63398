"""``oci/index.json``: the store as other tools see it, a view derived from the references.

Every reference appears under its canonical and its familiar name (annotation
``org.opencontainers.image.ref.name``), so that ``skopeo inspect oci:<store>/oci:debian:12`` finds it. A name
that stands for several platforms is this machine's; the others' names end in ``+linux-arm64``.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from udk.base.files import atomic_write, read_file
from udk.base.locks import Lock
from udk.store.refs import StoredImage, all_ref_files, platform_file, read_ref

if TYPE_CHECKING:
    from typing import Any

    from udk.store.store import Store

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
EMPTY_INDEX = b'{\n "schemaVersion": 2,\n "mediaType": "%s",\n "manifests": []\n}\n' % INDEX_TYPE.encode()


def write_index(store: Store) -> None:
    """Brings index.json up to date with the references. Raises OSError."""
    with Lock(store.lock_path("index", "json")):
        path = f"{store.path}/oci/index.json"
        data = make_index(store)
        try:
            if read_file(path) == data:
                return
        except OSError:
            pass
        atomic_write(
            path, data, durable=False, part_dir=f"{store.path}/staging"
        )  # derived: whatever a crash leaves of it is made anew


def make_index(store: Store) -> bytes:
    """What index.json should hold."""
    manifests: dict[str, dict[str, Any]] = {}
    own = platform_file(None)
    for path in all_ref_files(store.path):
        try:
            image = read_ref(store.path, path)
            descriptor = _descriptor(store, image) if image else None
        except Exception:
            continue
        if image is None or descriptor is None:
            continue
        for name in dict.fromkeys((image.reference, image.familiar)):
            if os.path.basename(path) != own:
                name += "+" + image.platform.replace("/", "-")
            manifests[name] = {**descriptor, "annotations": {REF_NAME: name}}
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": [manifests[n] for n in sorted(manifests)],
    }
    return (json.dumps(index, indent=1) + "\n").encode()


def _descriptor(store: Store, image: StoredImage) -> dict[str, Any] | None:
    # What was asked for by digest is listed under exactly that digest, an index's included.
    by_digest = "@" in image.reference and image.top_digest
    digest, media_type = (
        (image.top_digest, image.top_media_type) if by_digest else (image.digest, image.media_type)
    )
    try:
        size = os.stat(store.blob_path(digest)).st_size
    except OSError:
        return None
    architecture = image.platform.split("/")
    descriptor: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": size}
    if digest == image.digest and len(architecture) >= 2:
        descriptor["platform"] = {"architecture": architecture[1], "os": architecture[0]}
    return descriptor
