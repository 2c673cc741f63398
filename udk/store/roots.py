"""What in a store is needed, and by whom: the roots of collection and checking."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from udk.base.files import read_file
from udk.base.process import FOREIGN_SECONDS
from udk.errors import StoreError
from udk.store import leases
from udk.store.layout import digest_of, oci_form
from udk.store.refs import all_ref_files, read_ref

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from udk.store.refs import StoredImage

_DIGEST = re.compile(rb"(sha256|sha512):([0-9a-f]{64,128})")
_KEY = re.compile(rb"[0-9a-f]{64}(?:[0-9a-f]{64})?-[0-9]+")


class Roots:
    """Blobs (``alg:hex``) and tree keys that references, containers and live leases need.

    ``unreadable`` are reference and container files that cannot be understood, or whose manifest is missing:
    while there is one, nothing is known not to be needed.
    """

    def __init__(self) -> None:
        self.blobs: set[str] = set()
        self.trees: set[str] = set()
        self.unreadable: list[str] = []


def find_roots(root: str, foreign_seconds: float = FOREIGN_SECONDS) -> Roots:
    """The roots of the store ``root``. Raises OSError."""
    roots = Roots()
    # Leases first: a pull gives its lease up only after its reference is there, so one of them is seen.
    for _, data, age in leases.all_leases(root):
        if data and leases.lease_alive(data, age, foreign_seconds):
            roots.blobs.update(d for d in data.get("blobs", ()) if isinstance(d, str))
            if data.get("kind") == "tree":
                roots.trees.add(str(data.get("target")))
    for path, raw in containers(root):
        if raw is None:
            roots.unreadable.append(path)
            continue
        # Whatever else the file says: what it names, it needs.
        roots.blobs.update(m.group().decode() for m in _DIGEST.finditer(raw))
        roots.trees.update(m.group().decode() for m in _KEY.finditer(raw))
    # What a container names may be a manifest: what that names is needed too.
    named = set(roots.blobs)
    for path in all_ref_files(root):
        try:
            image = read_ref(root, path)
        except Exception:
            roots.unreadable.append(path)
            continue
        if image is not None:
            roots.trees.add(image.tree)
            named.update((image.digest, image.top_digest, image.config_digest))
            try:
                view = oci_form(read_file(f"{root}/oci/blobs/{image.digest.replace(':', '/')}", 4 << 20))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, StoreError):
                roots.unreadable.append(path)  # which layers it needs is not known
                continue
            if view:
                roots.blobs.add(digest_of(view))
    roots.blobs.update(named)
    for digest in named:
        roots.blobs.update(children(root, digest))
    return roots


def containers(root: str) -> Iterator[tuple[str, bytes | None]]:
    """(path, content) of every container's files that name what it is made of; None for one that cannot be
    read."""
    try:
        names = os.listdir(f"{root}/containers")
    except FileNotFoundError:
        return
    for name in names:
        path = f"{root}/containers/{name}/container.json"
        try:
            yield path, read_file(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            yield path, None


def children(root: str, digest: str) -> set[str]:
    """The blobs that the manifest ``digest`` of the store names: its config and layers. Empty for what is
    not a manifest, or not there; an index's images are needed only where a reference says so."""
    document = load_manifest(root, digest)
    rows = [document.get("config"), *_list(document.get("layers"))]
    return {str(r["digest"]) for r in rows if isinstance(r, dict) and isinstance(r.get("digest"), str)}


def load_manifest(root: str, digest: str) -> dict[str, Any]:
    """The JSON object in a blob of at most 4 MiB; empty for anything else."""
    algorithm, _, encoded = digest.partition(":")
    path = f"{root}/oci/blobs/{algorithm}/{encoded}"
    try:
        if os.stat(path).st_size > 4 << 20:
            return {}
        data = read_file(path)
        if not data.lstrip().startswith(b"{"):
            return {}
        document = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def image_blobs(image: StoredImage) -> dict[str, int]:
    """digest -> size (-1: not known) of every blob that an image needs."""
    blobs = {image.digest: -1, image.top_digest: -1, image.config_digest: -1}
    document = load_manifest(image.root, image.digest)
    for row in [document.get("config"), *_list(document.get("layers"))]:
        if isinstance(row, dict) and isinstance(row.get("digest"), str):
            size = row.get("size")
            blobs[row["digest"]] = size if isinstance(size, int) else -1
    return blobs
