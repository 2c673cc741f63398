"""What differs between two revisions. Catalogs that are the same object are not looked into."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .entry import Entry
from .tree import CatalogTree


class Change(NamedTuple):
    """One difference. ``kind``: "added", "removed", "modified"; ``what``: of a modification, the attributes
    concerned (type, content, size, mode, owner, time, target, xattrs, links)."""

    kind: str
    path: bytes
    old: Entry | None
    new: Entry | None
    what: tuple[str, ...] = ()


def compare(old: CatalogTree, new: CatalogTree, top: bytes = b"") -> Iterator[Change]:
    """The changes below the directory ``top``, parents before children, names in order."""
    if old.root_hash == new.root_hash:
        return
    a, b = old.find(top), new.find(top)
    if a is None or b is None:
        yield from _single(old, new, top, a, b)
        return
    yield from _entry(top, a, b)
    stack = [top] if a.is_dir and b.is_dir else []
    while stack:
        path = stack.pop()
        if path and _same_catalog(old, new, path):
            continue
        left = {e.name: e for e in old.entries(path)}
        right = {e.name: e for e in new.entries(path)}
        below: list[bytes] = []
        for name in sorted(left.keys() | right.keys()):
            child = path + b"/" + name
            before, after = left.get(name), right.get(name)
            if before is None or after is None or before.is_dir != after.is_dir:
                yield from _single(old, new, child, before, after)
                continue
            yield from _entry(child, before, after)
            if before.is_dir:
                below.append(child)
        stack.extend(reversed(below))


def _same_catalog(old: CatalogTree, new: CatalogTree, path: bytes) -> bool:
    a = old.catalog_of(path).nested().get(path)
    b = new.catalog_of(path).nested().get(path)
    return a is not None and b is not None and a.hash is not None and a.hash == b.hash


def _single(
    old: CatalogTree, new: CatalogTree, path: bytes, a: Entry | None, b: Entry | None
) -> Iterator[Change]:
    """What is only in one of them, or a directory in one only, with all below."""
    if a is not None:
        if a.is_dir:
            yield from _all(old, path, "removed")
        yield Change("removed", path, a, None)
    if b is not None:
        yield Change("added", path, None, b)
        if b.is_dir:
            yield from _all(new, path, "added")


def _all(tree: CatalogTree, path: bytes, kind: str) -> Iterator[Change]:
    stack = [path]
    while stack:
        at = stack.pop()
        for entry in sorted(tree.entries(at), key=lambda e: e.name):
            child = at + b"/" + entry.name
            yield Change(
                kind, child, entry if kind == "removed" else None, entry if kind == "added" else None
            )
            if entry.is_dir:
                stack.append(child)


def _entry(path: bytes, a: Entry, b: Entry) -> Iterator[Change]:
    what: list[str] = []
    if a.mode & 0o170000 != b.mode & 0o170000:
        what.append("type")
    if a.is_file and b.is_file and (a.digest != b.digest or a.is_chunked != b.is_chunked):
        what.append("content")
    if not a.is_dir and not b.is_dir and a.size != b.size:
        what.append("content" if a.is_chunked and "content" not in what else "size")
    if a.mode & 0o7777 != b.mode & 0o7777:
        what.append("mode")
    if (a.uid, a.gid) != (b.uid, b.gid):
        what.append("owner")
    if (a.mtime, a.mtime_ns) != (b.mtime, b.mtime_ns):
        what.append("time")
    if a.symlink != b.symlink:
        what.append("target")
    if a.xattrs != b.xattrs:
        what.append("xattrs")
    if a.nlink != b.nlink and not a.is_dir:
        what.append("links")
    if what:
        yield Change("modified", path, a, b, tuple(what))
