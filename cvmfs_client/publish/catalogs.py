"""Catalogs: where the tree is split, and the SQLite file of each part (formats reference 6)."""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..entry import (
    COMPRESSION_NONE,
    COMPRESSION_ZLIB,
    FLAG_CHUNKED,
    FLAG_COMPRESSION_SHIFT,
    FLAG_HASH_SHIFT,
    FLAG_HIDDEN,
    FLAG_LINK,
    FLAG_NESTED_ROOT,
    FLAG_SPECIAL,
    FLAG_TRANSITION,
)
from ..hash import CATALOG_ALGORITHMS, Hash, md5_path
from .objects import Stored
from .tree import MARKER, Node, Tree

_KINDS = (
    "chunked", "chunked_size", "chunks", "dir", "external", "external_file_size", "file_size", "nested",
    "regular", "special", "symlink", "xattr",
)  # fmt: skip
NO_HASH = "0" * 40

_SCHEMA = (
    "CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key))",
    "CREATE TABLE catalog (md5path_1 INTEGER, md5path_2 INTEGER, parent_1 INTEGER, parent_2 INTEGER, "
    "hardlinks INTEGER, hash BLOB, size INTEGER, mode INTEGER, mtime INTEGER, mtimens INTEGER, "
    "flags INTEGER, name TEXT, symlink TEXT, uid INTEGER, gid INTEGER, xattr BLOB, "
    "CONSTRAINT pk_catalog PRIMARY KEY (md5path_1, md5path_2))",
    "CREATE TABLE chunks (md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER, hash BLOB, "
    "CONSTRAINT pk_chunks PRIMARY KEY (md5path_1, md5path_2, offset, size), "
    "FOREIGN KEY (md5path_1, md5path_2) REFERENCES catalog(md5path_1, md5path_2))",
    "CREATE TABLE nested_catalogs (path TEXT, sha1 TEXT, size INTEGER, "
    "CONSTRAINT pk_nested_catalogs PRIMARY KEY (path))",
    "CREATE TABLE bind_mountpoints (path TEXT, sha1 TEXT, size INTEGER, "
    "CONSTRAINT pk_bind_mountpoints PRIMARY KEY (path))",
    "CREATE TABLE statistics (counter TEXT, value INTEGER, CONSTRAINT pk_statistics PRIMARY KEY (counter))",
)

CatalogRow = tuple[Any, ...]
ChunkRow = tuple[int, int, int, int, bytes]


class CatalogRef(NamedTuple):
    """A stored catalog: its mountpoint, hash, uncompressed size (bytes), counters of it and all below."""

    path: bytes
    hash: Hash
    size: int
    totals: dict[str, int]


class CatalogContent(NamedTuple):
    """What one catalog holds, each list sorted by key: the identity of a catalog, apart from its revision."""

    rows: list[CatalogRow]
    chunks: list[ChunkRow]
    nested: list[tuple[bytes, bytes, int]]
    properties: dict[str, str]  # TTL and others that do not change with each revision


def split(tree: Tree, *, limit: int, least: int, keep: frozenset[bytes], empty: Stored | None) -> None:
    """Marks the directories where a catalog of its own starts.

    A regular file `.cvmfscatalog` marks its directory. Where a catalog would hold more than ``limit``
    entries (0: no limit), the largest subtrees of at least ``least`` entries get their own, with a hidden
    marker, which the official tools demand; those of the last revision (``keep``) stay so while they have
    half of that, so that a small change does not move the seams. ``empty`` is the stored empty file.
    """
    by_path = {node.path: node for node in tree.directories}
    weights: dict[bytes, int] = {}
    for directory in reversed(tree.directories):
        weight = 1 + sum(1 if not n.is_dir or n.nested else weights[n.path] for n in directory.children)
        marked = any(n.name == MARKER and n.is_file for n in directory.children)
        if limit and empty is not None:
            candidates = sorted(
                (
                    (n.path in keep, weights[n.path], n.path)
                    for n in directory.children
                    if n.is_dir and not n.nested
                ),
                reverse=True,
            )
            for kept, candidate, path in candidates:
                if (kept and candidate >= least // 2) or (candidate >= least and weight > limit):
                    node = by_path[path]
                    node.children.insert(0, _hidden_marker(node, empty))
                    node.nested = True
                    weight -= candidate - 1
        if marked and directory.path:
            directory.nested = True
        weights[directory.path] = weight


def _hidden_marker(directory: Node, empty: Stored) -> Node:
    node = Node(directory.path + b"/" + MARKER, os.stat_result((0o100444, 0, 0, 1, 0, 0, 0, 0, 0, 0)))
    node.uid, node.gid, node.mtime_ns = directory.uid, directory.gid, directory.mtime_ns
    node.flags |= FLAG_HIDDEN
    node.hash = empty.hash
    return node


def compose(
    root: Node, below: Sequence[CatalogRef], *, compressed: bool, properties: dict[str, str]
) -> CatalogContent:
    """The content of the catalog that starts at ``root``; ``below`` are the catalogs nested directly in
    it.
    """
    rows: list[CatalogRow] = []
    chunks: list[ChunkRow] = []
    groups: dict[tuple[bytes, tuple[int, int]], int] = {}
    parent = _key(root.path.rpartition(b"/")[0]) if root.path else (0, 0)
    rows.append(_row(root, parent, root.flags | (FLAG_NESTED_ROOT if root.path else 0), compressed))
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        parent = _key(directory.path)
        for node in directory.children:
            flags = node.flags | (FLAG_TRANSITION if node.nested else 0)
            if node.nlink > 1 and node.inode is not None and not node.is_dir:
                node.group = groups.setdefault((directory.path, node.inode), len(groups) + 1)
            row = _row(node, parent, flags, compressed)
            rows.append(row)
            chunks.extend((row[0], row[1], c.offset, c.size, c.hash.digest) for c in node.chunks)
            if node.is_dir and not node.nested:
                waiting.append(node)
    nested = sorted((ref.path, str(ref.hash).encode(), ref.size) for ref in below)
    return CatalogContent(rows, sorted(chunks), nested, properties)


def _key(path: bytes) -> tuple[int, int]:
    first, second = struct.unpack("<qq", md5_path(path))
    return first, second


def _row(node: Node, parent: tuple[int, int], flags: int, compressed: bool) -> CatalogRow:
    first, second = _key(node.path)
    if node.is_file:
        algorithm = node.hash.algorithm if node.hash else node.chunks[0].hash.algorithm
        flags |= CATALOG_ALGORITHMS.index(algorithm) << FLAG_HASH_SHIFT
        plain = not compressed and not flags & FLAG_HIDDEN
        flags |= (COMPRESSION_NONE if plain else COMPRESSION_ZLIB) << FLAG_COMPRESSION_SHIFT
        flags |= FLAG_CHUNKED if node.chunks else 0
    seconds, nanoseconds = divmod(node.mtime_ns, 1_000_000_000)
    return (
        first, second, *parent, node.group << 32 | node.nlink, node.hash.digest if node.hash else None,
        node.rdev or node.size, node.mode, seconds, nanoseconds, flags, node.name, node.symlink,
        node.uid, node.gid, node.xattrs,
    )  # fmt: skip


def count(content: CatalogContent, below: Iterable[CatalogRef]) -> tuple[dict[str, int], dict[str, int]]:
    """The counters (self, subtree) of a catalog: self counts its rows, subtree all catalogs below."""
    own = dict.fromkeys(_KINDS, 0)
    own["chunks"] = len(content.chunks)
    own["nested"] = len(content.nested)
    for row in content.rows:
        size, flags = row[6], row[10]
        if row[15]:
            own["xattr"] += 1
        if flags & 1:
            own["dir"] += 1
        elif flags & FLAG_LINK:
            own["symlink"] += 1
        elif flags & FLAG_SPECIAL:
            own["special"] += 1
        else:
            own["regular"] += 1
            own["file_size"] += size
            if flags & FLAG_CHUNKED:
                own["chunked"] += 1
                own["chunked_size"] += size
    subtree = dict.fromkeys(_KINDS, 0)
    for ref in below:
        for kind in _KINDS:
            subtree[kind] += ref.totals[kind]
    return own, subtree


def write_database(
    path: str, content: CatalogContent, own: dict[str, int], subtree: dict[str, int], stamps: dict[str, str]
) -> None:
    """Writes the SQLite file. Rows lie directory by directory, so that a listing touches few pages."""
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=OFF")
        database.execute("PRAGMA synchronous=OFF")
        database.execute("BEGIN")
        for statement in _SCHEMA:
            database.execute(statement)
        properties = {"schema": "2.5", "schema_revision": "7", **content.properties, **stamps}
        # names are text of any bytes: SQLite does not look into what is cast
        database.executemany(
            "INSERT INTO properties VALUES (?, CAST(? AS TEXT))",
            [(k, v.encode("utf-8", "surrogateescape")) for k, v in properties.items()],
        )
        database.executemany(
            "INSERT INTO catalog VALUES (?,?,?,?,?,?,?,?,?,?,?,CAST(? AS TEXT),CAST(? AS TEXT),?,?,?)",
            content.rows,
        )
        database.executemany("INSERT INTO chunks VALUES (?,?,?,?,?)", content.chunks)
        database.executemany(
            "INSERT INTO nested_catalogs VALUES (CAST(? AS TEXT), CAST(? AS TEXT), ?)", content.nested
        )
        counters = [
            (f"{scope}_{k}", v) for scope, c in (("self", own), ("subtree", subtree)) for k, v in c.items()
        ]
        database.executemany("INSERT INTO statistics VALUES (?, ?)", counters)
        database.execute("CREATE INDEX idx_catalog_parent ON catalog (parent_1, parent_2)")
        database.execute("COMMIT")
    finally:
        database.close()
