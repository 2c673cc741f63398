"""``oci/index.json``: the store as other tools see it, a view derived from the references.

Every reference appears under its canonical and its familiar name (annotation
``org.opencontainers.image.ref.name``), so that ``skopeo inspect oci:<store>/oci:debian:12`` finds it. A name
that stands for several platforms is this machine's; the others' names end in ``+linux-arm64``.

Images in Docker's format appear a second time under the same name, after the original, as the same image with
OCI's media types: many tools pass over Docker's types in a layout. That manifest is part of the view too.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

from udk.base.files import atomic_write, read_file
from udk.base.locks import Lock
from udk.oci import mediatypes as mt
from udk.store.refs import StoredImage, all_ref_files, platform_file, read_ref

if TYPE_CHECKING:
    from typing import Any

    from udk.store.store import Store

REF_NAME = "org.opencontainers.image.ref.name"
EMPTY_INDEX = b'{\n "schemaVersion": 2,\n "mediaType": "%s",\n "manifests": []\n}\n' % mt.OCI_INDEX.encode()


def write_index(store: Store) -> None:
    """Brings index.json up to date with the references. Raises OSError."""
    with Lock(store.lock_path("index", "json")):
        path = f"{store.path}/oci/index.json"
        data = make_index(store, complete=True)
        try:
            if read_file(path) == data:
                return
        except OSError:
            pass
        # Not flushed: it is derived, and whatever a crash leaves of it is made anew.
        atomic_write(path, data, durable=False, part_dir=f"{store.path}/staging")


def make_index(store: Store, complete: bool = False) -> bytes:
    """What index.json should hold. ``complete``: the manifests that are part of the view are stored, too."""
    rows: dict[str, list[dict[str, Any]]] = {}
    own = platform_file(None)
    for path in all_ref_files(store.path):
        try:
            image = read_ref(store.path, path)
            found = _descriptors(store, image, complete) if image else []
        except Exception:
            continue  # fsck says what is wrong with it
        for name in dict.fromkeys((image.reference, image.familiar)) if image else ():
            shown = name
            if image and os.path.basename(path) != own:
                shown += "+" + image.platform.replace("/", "-")
            rows[shown] = [{**row, "annotations": {REF_NAME: shown}} for row in found]
    manifests = [row for name in sorted(rows) for row in rows[name]]
    index = {"schemaVersion": 2, "mediaType": mt.OCI_INDEX, "manifests": manifests}
    return (json.dumps(index, indent=1) + "\n").encode()


def _descriptors(store: Store, image: StoredImage, complete: bool) -> list[dict[str, Any]]:
    # What was asked for by digest is listed under exactly that digest, an index's included.
    digest, media_type = image.digest, image.media_type
    if "@" in image.reference and image.top_digest:
        digest, media_type = image.top_digest, image.top_media_type
    rows = [{"mediaType": media_type, "digest": digest, "size": os.stat(store.blob_path(digest)).st_size}]
    converted = oci_form(read_file(store.blob_path(image.digest)))
    if converted:
        if complete:
            store.put_blob(digest_of(converted), converted)
        rows.append({"mediaType": mt.OCI_MANIFEST, "digest": digest_of(converted), "size": len(converted)})
    parts = image.platform.split("/")
    for row in rows:
        if row["mediaType"] not in mt.INDEXES:
            row["platform"] = {"architecture": parts[1], "os": parts[0]}
    return rows


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def oci_form(manifest: bytes) -> bytes:
    """A manifest in Docker's format (v2, schema 2) with OCI's media types, always the same bytes for the same
    manifest; empty for any other. Raises ValueError."""
    document = json.loads(manifest)
    if document.get("mediaType") != mt.DOCKER_MANIFEST:
        return b""
    made = {"schemaVersion": 2, "mediaType": mt.OCI_MANIFEST}
    made["config"] = {**document["config"], "mediaType": mt.OCI_CONFIG}
    made["layers"] = [{**row, "mediaType": _oci_layer(row["mediaType"])} for row in document["layers"]]
    return json.dumps(made, separators=(",", ":")).encode()


def _oci_layer(media_type: str) -> str:
    foreign = media_type in mt.FOREIGN_LAYERS
    kind = mt.layer_compression(media_type)
    return (mt.OCI_LAYER_FOREIGN if foreign else mt.OCI_LAYER) + (f"+{kind}" if kind else "")
