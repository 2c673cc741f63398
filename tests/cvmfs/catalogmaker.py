"""Makes catalogs row by row, in any schema and with any nonsense, and a store that holds them."""

from __future__ import annotations

import os
import sqlite3
import stat
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

from cvmfs_client.errors import ObjectNotFoundError
from cvmfs_client.hash import SHA1, SUFFIX_CATALOG, Hash, md5_path
from cvmfs_client.interfaces import Request


def key(path: bytes) -> tuple[int, int]:
    """The pair of columns that stands for a path."""
    return struct.unpack("<qq", md5_path(path))  # type: ignore[return-value]


class Row(dict[str, Any]):
    """A row of the table `catalog`; keywords replace its columns."""


def row(path: bytes, mode: int = 0o100644, **columns: Any) -> Row:
    """A plausible row for a path; the kind follows from the mode."""
    kind = stat.S_IFMT(mode)
    flags = {stat.S_IFDIR: 1, stat.S_IFLNK: 12, stat.S_IFREG: 4}.get(kind, 20)
    parent = path[: path.rfind(b"/")] if path else None
    found = Row(
        md5path_1=key(path)[0],
        md5path_2=key(path)[1],
        parent_1=key(parent)[0] if parent is not None else 0,
        parent_2=key(parent)[1] if parent is not None else 0,
        hardlinks=1,
        hash=b"\x11" * 20 if kind == stat.S_IFREG else None,
        size=4096 if kind == stat.S_IFDIR else 5,
        mode=mode,
        mtime=1_700_000_000,
        mtimens=None,
        flags=flags,
        name=path[path.rfind(b"/") + 1 :],
        symlink=b"",
        uid=7,
        gid=8,
        xattr=None,
    )
    found.update(columns)
    return found


def directory(path: bytes, **columns: Any) -> Row:
    return row(path, 0o040755, **columns)


_DECLARED = {
    "md5path_1": "INTEGER",
    "md5path_2": "INTEGER",
    "parent_1": "INTEGER",
    "parent_2": "INTEGER",
    "hardlinks": "INTEGER",
    "hash": "BLOB",
    "size": "INTEGER",
    "mode": "INTEGER",
    "mtime": "INTEGER",
    "mtimens": "INTEGER",
    "flags": "INTEGER",
    "name": "TEXT",
    "symlink": "TEXT",
    "uid": "INTEGER",
    "gid": "INTEGER",
    "xattr": "BLOB",
}


def make(
    rows: list[Row],
    *,
    schema: str = "2.5",
    revision: int = 7,
    properties: dict[str, str] | None = None,
    nested: list[tuple[Any, ...]] = (),  # type: ignore[assignment]
    bind: list[tuple[Any, ...]] = (),  # type: ignore[assignment]
    chunks: list[tuple[Any, ...]] = (),  # type: ignore[assignment]
    statistics: dict[str, int] | None = None,
    sql: list[str] = (),  # type: ignore[assignment]
    drop: tuple[str, ...] = (),
) -> bytes:
    """The bytes of a catalog. ``drop``: columns left out; ``sql``: statements run at the end."""
    number = float(schema)
    left_out = set(drop)
    if number < 2.5 or revision < 7:
        left_out.add("mtimens")
    if number < 2.5 or revision < 2:
        left_out.add("xattr")
    if number < 2.1:
        left_out |= {"uid", "gid"}
    columns = [c for c in _DECLARED if c not in left_out]
    renamed = {"hardlinks": "inode"} if number < 2.1 else {}
    fd, path = tempfile.mkstemp(suffix=".catalog")
    os.close(fd)
    db = sqlite3.connect(path, isolation_level=None)
    try:
        # names are bytes in text columns: written through a cast, as a C client binds them
        db.execute("PRAGMA journal_mode=OFF")
        declared = ", ".join(f"{renamed.get(c, c)} {_DECLARED[c]}" for c in columns)
        db.execute(f"CREATE TABLE catalog ({declared}, PRIMARY KEY (md5path_1, md5path_2))")
        db.execute("CREATE INDEX idx_catalog_parent ON catalog (parent_1, parent_2)")
        db.execute("CREATE TABLE properties (key TEXT PRIMARY KEY, value TEXT)")
        values = {"schema": schema, "schema_revision": str(revision), "revision": "3", "TTL": "240"}
        for item in {**values, **(properties or {})}.items():
            db.execute("INSERT INTO properties VALUES (?, ?)", item)
        db.execute("BEGIN")
        places = ", ".join("CAST(? AS TEXT)" if c in ("name", "symlink") else "?" for c in columns)
        for r in rows:
            db.execute(f"INSERT OR REPLACE INTO catalog VALUES ({places})", [r[c] for c in columns])
        db.execute("COMMIT")
        if number < 1:
            db.execute("CREATE TABLE nested_catalogs (path TEXT PRIMARY KEY)")
        elif number < 2.5 or revision < 1:
            db.execute("CREATE TABLE nested_catalogs (path TEXT PRIMARY KEY, sha1 TEXT)")
        else:
            db.execute("CREATE TABLE nested_catalogs (path TEXT PRIMARY KEY, sha1 TEXT, size INTEGER)")
        for item in nested:
            db.execute(f"INSERT INTO nested_catalogs VALUES ({', '.join('?' * len(item))})", item)
        if number >= 2.5 and revision >= 4:
            db.execute("CREATE TABLE bind_mountpoints (path TEXT PRIMARY KEY, sha1 TEXT, size INTEGER)")
            for item in bind:
                db.execute("INSERT INTO bind_mountpoints VALUES (?, ?, ?)", item)
        if number >= 2.1:
            columns_of_chunks = (
                "md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER, hash BLOB"
            )
            db.execute(f"CREATE TABLE chunks ({columns_of_chunks})")
            for item in chunks:
                db.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?)", item)
            db.execute("CREATE TABLE statistics (counter TEXT PRIMARY KEY, value INTEGER)")
            for pair in (statistics or {}).items():
                db.execute("INSERT INTO statistics VALUES (?, ?)", pair)
        for statement in sql:
            db.execute(statement)
        db.close()
        return Path(path).read_bytes()
    finally:
        db.close()
        os.unlink(path)


class DictStore:
    """A store of objects in a directory; counts what is asked for. ``missing``: hashes that fail."""

    fetcher = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.opened: list[str] = []
        self.missing: set[Hash] = set()
        self.named = True

    def add(self, data: bytes, suffix: str = SUFFIX_CATALOG) -> Hash:
        identity = Hash.of(SHA1, zlib.compress(data), suffix)
        (self.directory / str(identity)).write_bytes(data)
        return identity

    def _place(self, request: Request) -> Path:
        return self.directory / str(request.hash)

    def open(self, request: Request) -> int:
        self.opened.append(request.hash.name)
        if request.hash in self.missing or not self._place(request).exists():
            raise ObjectNotFoundError(f"{request.hash} is missing")
        return os.open(self._place(request), os.O_RDONLY)

    def path(self, request: Request) -> str | None:
        return str(self._place(request)) if self.named else None

    def has(self, request: Request) -> bool:
        return self._place(request).exists()

    def ensure(self, requests: Any, *, progress: Any = None) -> list[Any]:
        return []
