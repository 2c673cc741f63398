"""SQLite files from strangers, opened so that they can do no harm.

A catalog is written by whoever runs the repository. It is opened read-only and immutable, without extensions,
with a schema that may not run anything (no views, virtual tables or generated columns), with limits and a
bound on work; and whatever SQLite then finds wrong becomes one error.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from .errors import CatalogError, CvmfsError
from .interfaces import Request, Store

# virtual machine steps between two looks at the bound, and the bound for one statement
_STEPS = 100_000
_MAX_STEPS = 2_000_000_000
_MAX_LENGTH = 1 << 20  # bytes of one value
_BATCH = 1000

# what Python's module raises for files with nonsense in them; messages may quote bytes that are no text
_FAILURES = (sqlite3.Error, OverflowError, MemoryError, UnicodeError)

# SQLite's allocator has a lock of its own: a child forked while another thread holds it would wait for ever
_gate = threading.RLock()  # reentrant: a garbage collection under it may close other databases
os.register_at_fork(before=_gate.acquire, after_in_parent=_gate.release, after_in_child=_gate.release)

_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ}
# page cache per database, KiB: the kernel's page cache is behind it
_CACHE_KIB = 512


class Database:
    """One opened file. Not locked: the owner serialises. Every failure is a CatalogError that names
    ``label``."""

    def __init__(self, location: str, label: str, *, content: bytes | None = None) -> None:
        self.label = label
        self._work = 0
        try:
            with _gate:
                self._connection = self._connect(location, content)
        except _FAILURES as e:
            raise self._error(e) from e
        try:
            with _gate:
                self._harden()
                self.tables = self._inspect()
        except _FAILURES as e:
            self._connection.close()
            raise self._error(e) from e
        except CatalogError:
            self._connection.close()
            raise

    def _connect(self, location: str, content: bytes | None) -> sqlite3.Connection:
        if content is not None:
            connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
            connection.deserialize(content)  # type: ignore[attr-defined,unused-ignore]
            return connection
        uri = f"file:{quote(os.path.abspath(location))}?mode=ro&immutable=1"
        return sqlite3.connect(
            uri, uri=True, check_same_thread=False, isolation_level=None, cached_statements=16
        )

    def _harden(self) -> None:
        connection = self._connection
        connection.text_factory = bytes
        for pragma in (
            "trusted_schema=OFF",
            "cell_size_check=ON",
            "mmap_size=0",  # a file that shrinks under us must be an error, not SIGBUS
            "query_only=ON",
            f"cache_size=-{_CACHE_KIB}",
        ):
            connection.execute(f"PRAGMA {pragma}").close()
        if sys.version_info >= (3, 11):
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_LENGTH)
            connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 10_000)
            connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 20)
            connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)

    def _inspect(self) -> dict[str, set[str]]:
        """Columns of each table; refuses schemas that hold more than tables and indices."""
        connection = self._connection
        tables: dict[str, set[str]] = {}
        rows = connection.execute("SELECT type, name, sql FROM sqlite_master LIMIT 200").fetchall()
        for kind, name, sql in rows:
            text = sql.lstrip().upper() if isinstance(sql, bytes) else b""
            if kind == b"index":
                continue
            if kind != b"table" or not isinstance(name, bytes) or not text.startswith(b"CREATE TABLE"):
                raise self._broken("its schema has more than tables")
            label = name.decode("latin-1")
            if not label.replace("_", "").isalnum() or not label.isascii():
                raise self._broken("its schema has a table with a strange name")
            columns = connection.execute(f"PRAGMA table_xinfo({label})").fetchall()
            if any(column[6] for column in columns):
                raise self._broken("its schema has generated columns")
            tables[label] = {column[1].decode("latin-1") for column in columns}
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(self._progress, _STEPS)
        return tables

    def _progress(self) -> int:
        self._work += _STEPS
        return self._work > _MAX_STEPS

    def _broken(self, reason: str) -> CatalogError:
        return CatalogError(
            f"{self.label} is damaged or hostile: {reason}", "the repository's owner has to publish it anew"
        )

    def _error(self, e: Exception) -> CatalogError:
        return self._broken(f"SQLite says {e}")

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a SELECT. Raises CatalogError."""
        self._work = 0
        try:
            with _gate:
                return self._connection.execute(sql, parameters).fetchall()
        except _FAILURES as e:
            raise self._error(e) from e

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row of a SELECT, or None. Raises CatalogError."""
        self._work = 0
        try:
            with _gate:
                cursor = self._connection.execute(sql, parameters)
                found: tuple[Any, ...] | None = cursor.fetchone()
                cursor.close()
            return found
        except _FAILURES as e:
            raise self._error(e) from e

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a SELECT in bounded lists. Raises CatalogError."""
        self._work = 0
        try:
            with _gate:
                cursor = self._connection.cursor()
                cursor.execute(sql, parameters)
            while True:
                with _gate:
                    found = cursor.fetchmany(_BATCH)
                if found:
                    yield found
                if len(found) < _BATCH:
                    return
        except _FAILURES as e:
            raise self._error(e) from e

    def properties(self) -> dict[str, str]:
        """The table `properties`; values as text."""
        if not {"key", "value"} <= self.tables.get("properties", set()):
            raise self._broken("it has no properties")
        found: dict[str, str] = {}
        for key, value in self.rows("SELECT key, value FROM properties LIMIT 1000"):
            if isinstance(key, bytes):
                text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
                found[key.decode("latin-1")] = text
        return found

    def close(self) -> None:
        """Idempotent."""
        with _gate:
            self._connection.close()


def _authorize(action: int, first: str | None, second: str | None, *_: Any) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def open_database(store: Store, request: Request, label: str) -> Database:
    """The database that is the object ``request``, from the cache or downloaded.

    Raises CatalogError, and what the store raises."""
    for _ in range(3):
        fd = store.open(request)
        try:
            path = store.path(request)
            if path is not None and _same(path, fd):
                try:
                    return Database(path, label)
                except CatalogError:
                    if _same(path, fd):
                        raise
                    continue  # evicted between the look and the opening
            if path is None:
                return _from_descriptor(fd, label)
        finally:
            os.close(fd)
    raise CvmfsError(f"{label} is evicted from the cache again and again", "raise CVMFS_QUOTA_LIMIT")


def _same(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False


def _from_descriptor(fd: int, label: str) -> Database:
    """For objects without a name in any cache. SQLite resolves /proc/self/fd, so an unlinked file needs a
    copy."""
    with open(fd, "rb", closefd=False) as f:
        content = f.read()
    if hasattr(sqlite3.Connection, "deserialize"):
        return Database(":memory:", label, content=content)
    import tempfile

    with tempfile.NamedTemporaryFile(prefix="cvmfs-catalog-") as copy:
        copy.write(content)
        copy.flush()
        return Database(copy.name, label)
