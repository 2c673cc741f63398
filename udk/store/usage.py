"""What takes how much disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from udk.store.roots import find_roots

if TYPE_CHECKING:
    from udk.store.store import Store

CATEGORIES = ("blobs", "trees", "containers", "ingest", "cvmfs", "staging", "trash", "other")


class Usage:
    """One line of :func:`usage`. ``bytes``: allocated on disk, a file with several names counted once;
    ``count``: of blobs, trees ...; ``reclaimable``: what a collection would free of it."""

    __slots__ = ("bytes", "category", "count", "reclaimable")

    def __init__(self, category: str) -> None:
        self.category = category
        self.bytes = 0
        self.count = 0
        self.reclaimable = 0

    def as_dict(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("category", "count", "bytes", "reclaimable")}


def disk_usage(path: str, seen: set[tuple[int, int]] | None = None) -> int:
    """Bytes allocated to ``path`` and all below it, in one pass without following links. What cannot be read
    counts for nothing. ``seen``: (device, inode) of files counted already."""
    seen = set() if seen is None else seen
    try:
        s = os.lstat(path)
    except OSError:
        return 0
    total = s.st_blocks * 512
    pending = [path] if (s.st_mode & 0o170000) == 0o040000 else []
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for e in entries:
                    try:
                        s = e.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    if (s.st_mode & 0o170000) == 0o040000:
                        pending.append(e.path)
                    elif s.st_nlink > 1:
                        if (s.st_dev, s.st_ino) in seen:
                            continue
                        seen.add((s.st_dev, s.st_ino))
                    total += s.st_blocks * 512
        except OSError:
            continue
    return total


def usage(store: Store) -> list[Usage]:
    """Disk use of ``store`` by category. Raises StoreError."""
    root = store.path
    roots = find_roots(root)
    lines = {name: Usage(name) for name in CATEGORIES}
    seen: set[tuple[int, int]] = set()
    for name in _names(root):
        path = f"{root}/{name}"
        if name == "oci":
            for algorithm in _names(f"{path}/blobs"):
                for encoded in _names(f"{path}/blobs/{algorithm}"):
                    needed = bool(roots.unreadable) or f"{algorithm}:{encoded}" in roots.blobs
                    _add(lines["blobs"], f"{path}/blobs/{algorithm}/{encoded}", seen, not needed)
        elif name == "trees":
            for key in _names(path):
                _add(lines["trees"], f"{path}/{key}", seen, not roots.unreadable and key not in roots.trees)
        elif name in lines:
            for entry in _names(path):
                _add(lines[name], f"{path}/{entry}", seen, name == "trash")
        else:
            lines["other"].bytes += disk_usage(path, seen)
    return list(lines.values())


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _add(line: Usage, path: str, seen: set[tuple[int, int]], reclaimable: bool) -> None:
    size = disk_usage(path, seen)
    line.count += 1
    line.bytes += size
    line.reclaimable += size if reclaimable else 0
