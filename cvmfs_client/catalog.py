"""One catalog: rows of SQLite in, entries out (formats reference 6)."""

from __future__ import annotations

import itertools
import os
import stat
import struct
import threading
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

from .database import Database
from .entry import (
    FLAG_CHUNKED,
    FLAG_DIRECTORY,
    FLAG_FILE,
    FLAG_HIDDEN,
    FLAG_LINK,
    FLAG_SPECIAL,
    Chunk,
    Entry,
)
from .errors import CatalogError, FormatError, show
from .hash import SUFFIX_CATALOG, SUFFIX_PARTIAL, Hash, md5_path

MAX_SCHEMA = 2.5
_MASK63 = (1 << 63) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # spreads group numbers over the inode space
MAX_NAME = 255
MAX_CHUNKS = 10_000_000

_COLUMNS = ("name", "flags", "mode", "size", "mtime", "mtimens", "uid", "gid", "hardlinks", "hash", "symlink")
_REQUIRED = {"md5path_1", "md5path_2", "parent_1", "parent_2", "name", "flags", "mode", "size", "mtime"}

# the types of a row's columns that need no further look
_NONE = type(None)
_USUAL_TYPES = frozenset(
    (bytes, int, int, int, int, ns, int, int, int, digest, bytes, xattr, int, int)
    for ns, digest, xattr in itertools.product((int, _NONE), (bytes, _NONE), (bytes, _NONE))
)
_TYPE_FLAGS = FLAG_DIRECTORY | FLAG_FILE | FLAG_LINK | FLAG_SPECIAL
_FORMATS = {
    FLAG_DIRECTORY: stat.S_IFDIR,
    FLAG_FILE: stat.S_IFREG,
    FLAG_FILE | FLAG_LINK: stat.S_IFLNK,
    FLAG_LINK: stat.S_IFLNK,
}
_SPECIAL_FORMATS = {stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK}
_BAD_NAMES = {b"", b".", b".."}
_KEY = struct.Struct("<qq")
_ROOT_KEY = int.from_bytes(md5_path(b"")[:8], "little", signed=True)  # the only row without a name

# databases opened before a fork: closing them in the child is not safe, so they are kept
_abandoned: list[Database] = []
_fork_lock = threading.Lock()


def _renew_lock() -> None:
    global _fork_lock
    _fork_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class Nested(NamedTuple):
    """A catalog that another one refers to. ``path`` is where it appears in the repository."""

    path: bytes
    hash: Hash | None  # None: schema 0.9, which does not say
    size: int  # bytes uncompressed, 0: unknown
    bind: bool  # the root catalog of another revision


class Catalog:
    """An open catalog. Paths are full paths in the repository ("" is the root). Thread-safe, fork-safe.

    ``open_file`` gives the database, also again after a fork. Raises CatalogError."""

    def __init__(self, open_file: Callable[[], Database], mountpoint: bytes, identity: Hash) -> None:
        self.mountpoint = mountpoint
        self.hash = identity
        self._open_file = open_file
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._db = open_file()
        self._read_properties()
        self._strip = self._find_strip()
        self._select = self._make_select()
        self._nested: dict[bytes, Nested] | None = None
        # inner paths of several bind mounts are alike: their inode numbers must not be
        prefix = mountpoint[: self._strip]
        self._salt = int.from_bytes(md5_path(prefix)[:8], "little") if prefix else 0
        self._group_base = int.from_bytes(identity.digest[:8], "little")
        root = self.find(mountpoint)
        if root is None or not root.is_dir:
            raise self._broken("it does not hold its own root directory")

    def __del__(self) -> None:
        db: Database | None = getattr(self, "_db", None)
        if db is not None and self._pid == os.getpid():
            db.close()

    # --- opening
    def _read_properties(self) -> None:
        found = self._db.properties()
        try:
            self.schema = float(found.get("schema", "1.0"))
            self.schema_revision = int(found.get("schema_revision", "0"))
            self.revision = int(found.get("revision", "0"))
            self.ttl = int(found.get("TTL", "0") or 0)
            self.last_modified = int(found.get("last_modified", "0") or 0)
            previous = found.get("previous_revision", "")
            self.previous = Hash.parse(previous, SUFFIX_CATALOG) if previous else None
        except (ValueError, FormatError) as e:
            raise self._broken("its properties are malformed") from e
        if not 0.9 - 1e-6 <= self.schema <= MAX_SCHEMA + 1e-6:
            raise CatalogError(
                f"{self._db.label} has schema {self.schema}, which this version cannot read",
                "update the client",
            )
        self.root_prefix = found.get("root_prefix", "").encode("latin-1")
        self.volatile = found.get("volatile") == "1"
        self.authz = found.get("voms_authz", "")

    def _find_strip(self) -> int:
        """How many bytes of a full path lie before what this catalog was made for (not 0 below bind
        mounts)."""
        if not self.mountpoint.endswith(self.root_prefix) or self.root_prefix == b"/":
            raise self._broken(f"it was made for {show(self.root_prefix)}")
        return len(self.mountpoint) - len(self.root_prefix)

    def _make_select(self) -> str:
        have = self._db.tables.get("catalog", set())
        if not have >= _REQUIRED:
            raise self._broken("its table `catalog` lacks columns")
        columns = [name if name in have else "0" for name in _COLUMNS[:-1]]
        columns[8] = "hardlinks" if "hardlinks" in have else "1"
        columns[9] = "hash" if "hash" in have else "NULL"
        columns.append("symlink" if "symlink" in have else "NULL")
        columns.append("xattr" if "xattr" in have else "NULL")
        return f"SELECT {', '.join(columns)}, md5path_1, md5path_2 FROM catalog "

    def _broken(self, reason: str) -> CatalogError:
        return self._db._broken(reason)

    def _database(self) -> Database:
        """The database, opened anew in a child process; call it before taking the lock."""
        if self._pid != os.getpid():
            with _fork_lock:
                if self._pid != os.getpid():
                    _abandoned.append(self._db)
                    self._db = self._open_file()
                    self._lock = threading.Lock()
                    self._pid = os.getpid()
        return self._db

    # --- reading
    def _key(self, path: bytes) -> tuple[int, int]:
        first, second = _KEY.unpack(md5_path(path[self._strip :]))
        return first, second

    def find(self, path: bytes) -> Entry | None:
        """The entry of ``path``, or None."""
        db = self._database()
        with self._lock:
            row = db.row(self._select + "WHERE md5path_1=? AND md5path_2=?", self._key(path))
        if row is None:
            return None
        wanted = path[path.rfind(b"/") + 1 :]
        if path == self.mountpoint:  # the root row of a bound catalog has no name
            row = (wanted, *row[1:])
        elif row[0] != wanted:
            raise self._broken(f"the entry of {show(path)} has another name")
        return self._entry(row)

    def entries(self, path: bytes, *, hidden: bool = False) -> Iterator[Entry]:
        """The entries of the directory ``path``, in no order. Bounded memory, whatever its size."""
        db = self._database()
        query = self._select + "WHERE parent_1=? AND parent_2=?"
        batches = db.batches(query, self._key(path))
        lock, make, pack = self._lock, self._entry, _KEY.pack
        prefix = path[self._strip :] + b"/"
        while True:
            with lock:
                batch = next(batches, None)
            if batch is None:
                return
            for row in batch:
                entry = make(row)
                # each name leads to this very row: so no directory has a name twice
                if md5_path(prefix + entry.name) != pack(row[12], row[13]):
                    raise self._broken(
                        f"the entry {show(entry.name)} of {show(path)} is not where its name says"
                    )
                if not entry.flags & FLAG_HIDDEN or hidden:
                    yield entry

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        if tuple(map(type, row)) not in _USUAL_TYPES:
            row = self._normalise(row)
        name, flags, mode, size, mtime, ns, uid, gid, links, digest, symlink, xattrs, key, _ = row
        bad = name in _BAD_NAMES or b"/" in name or b"\0" in name or len(name) > MAX_NAME
        if bad and (name or key != _ROOT_KEY):
            raise self._broken(f"it has an entry with the name {show(name[:300])!r}")
        kind = flags & _TYPE_FLAGS
        wanted = _FORMATS.get(kind)
        if wanted is None:
            if not flags & FLAG_SPECIAL or stat.S_IFMT(mode) not in _SPECIAL_FORMATS:
                raise self._broken(f"the entry {show(name)} is of no known type")
        elif mode & 0o170000 != wanted:
            mode = mode & 0o7777 | wanted
        if size < 0 or (kind & FLAG_LINK and (not symlink or b"\0" in symlink)):
            raise self._broken(f"the entry {show(name)} has an impossible size or target")
        group = links >> 32 & 0xFFFFFFFF
        if group:
            ino = (self._group_base + group * _GOLDEN) & _MASK63
        else:
            ino = (key ^ self._salt) & _MASK63
        return Entry(
            name,
            flags,
            mode & 0o177777,
            size,
            mtime,
            ns if ns and 0 <= ns < 1_000_000_000 else 0,
            uid & 0xFFFFFFFF,
            gid & 0xFFFFFFFF,
            links & 0xFFFFFFFF or 1,
            group,
            digest or b"",
            symlink,
            xattrs or b"",
            ino or 1,
        )

    def _normalise(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """A row with NULLs where old writers leave them; what is of a wrong type altogether is refused."""
        values = list(row)
        for at in (6, 7, 8):
            values[at] = values[at] if values[at] is not None else int(at == 8)
        if values[10] is None:
            values[10] = b""
        if tuple(map(type, values)) not in _USUAL_TYPES:
            raise self._broken("it has a row with values of wrong types")
        return tuple(values)

    def chunks(self, path: bytes, entry: Entry) -> list[Chunk]:
        """The pieces of a chunked file in order; they cover it without a gap. Empty for other files."""
        if not entry.flags & FLAG_CHUNKED:
            return []
        algorithm = entry.algorithm
        db = self._database()
        if algorithm is None or "chunks" not in db.tables:
            raise self._broken(f"the chunks of {show(path)} cannot be read")
        found: list[Chunk] = []
        at = 0
        query = (
            "SELECT offset, size, hash FROM chunks WHERE md5path_1=? AND md5path_2=? ORDER BY offset LIMIT ?"
        )
        with self._lock:
            rows = db.rows(query, (*self._key(path), MAX_CHUNKS))
        for offset, size, digest in rows:
            if (
                offset != at
                or type(size) is not int
                or size <= 0
                or type(digest) is not bytes
                or len(digest) != 20
            ):
                raise self._broken(f"the chunks of {show(path)} do not fit together")
            found.append(Chunk(offset, size, Hash(algorithm, digest, SUFFIX_PARTIAL)))
            at += size
        if at != entry.size:
            raise self._broken(f"the chunks of {show(path)} have {at} of {entry.size} bytes")
        return found

    def nested(self) -> dict[bytes, Nested]:
        """The catalogs mounted in this one, by the path where they appear."""
        if self._nested is None:
            db = self._database()
            with self._lock:
                found: dict[bytes, Nested] = {}
                for table in ("nested_catalogs", "bind_mountpoints"):
                    self._read_nested(db, table, found)
            self._nested = found
        return self._nested

    def _read_nested(self, db: Database, table: str, found: dict[bytes, Nested]) -> None:
        have = db.tables.get(table, set())
        if "path" not in have:
            return
        sha1, size = ("sha1" if "sha1" in have else "NULL"), ("size" if "size" in have else "0")
        prefix = self.mountpoint[: self._strip]
        for path, text, length in db.rows(f"SELECT path, {sha1}, {size} FROM {table}"):
            full = prefix + path if isinstance(path, bytes) else b""
            components = full.split(b"/")[1:]
            if not full.startswith(self.mountpoint + b"/") or not _BAD_NAMES.isdisjoint(components):
                raise self._broken("it mounts another catalog outside itself")
            try:
                identity = Hash.parse(text.decode("latin-1"), SUFFIX_CATALOG) if text else None
            except (FormatError, AttributeError) as e:
                raise self._broken(f"the catalog at {show(full)} has a malformed hash") from e
            if identity is not None and len(identity.digest) != 20:
                raise self._broken(f"the catalog at {show(full)} has a malformed hash")
            known = length if isinstance(length, int) and length > 0 else 0
            found[full] = Nested(full, identity, known, table == "bind_mountpoints")

    def statistics(self) -> dict[str, int]:
        """The counters, `self_...` and `subtree_...`; empty for schemas that have none."""
        db = self._database()
        if not {"counter", "value"} <= db.tables.get("statistics", set()):
            return {}
        with self._lock:
            rows = db.rows("SELECT counter, value FROM statistics LIMIT 1000")
        return {k.decode("latin-1"): v for k, v in rows if isinstance(k, bytes) and isinstance(v, int)}

    def count(self) -> int:
        """Number of rows."""
        db = self._database()
        with self._lock:
            total = 0
            for batch in db.batches("SELECT 1 FROM catalog"):
                total += len(batch)
        return total
