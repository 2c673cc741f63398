"""The tag database (formats reference 8) and the log of references that garbage collection needs."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from ..hash import SUFFIX_HISTORY, Hash
from .objects import ObjectStorage, PublishError

NO_PREVIOUS = "0" * 40
TRUNK = "trunk"
TRUNK_PREVIOUS = "trunk-previous"

# types of references
REF_CATALOG, REF_CERTIFICATE, REF_HISTORY, REF_METAINFO = range(4)

_HISTORY_SCHEMA = (
    "CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key))",
    "CREATE TABLE branches (branch TEXT, parent TEXT, initial_revision INTEGER, "
    "CONSTRAINT pk_branch PRIMARY KEY (branch), FOREIGN KEY (parent) REFERENCES branches (branch), "
    "CHECK ((branch <> '') OR (parent IS NULL)), CHECK ((branch = '') OR (parent IS NOT NULL)))",
    "CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER, "
    "description TEXT, size INTEGER, branch TEXT, CONSTRAINT pk_tags PRIMARY KEY (name), "
    "FOREIGN KEY (branch) REFERENCES branches (branch))",
    "CREATE TABLE recycle_bin (hash TEXT, flags INTEGER, CONSTRAINT pk_hash PRIMARY KEY (hash))",
)
_REFLOG_SCHEMA = (
    "CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key))",
    "CREATE TABLE refs (hash TEXT, type INTEGER, timestamp INTEGER, CONSTRAINT pk_refs PRIMARY KEY (hash))",
)


class TagRow(NamedTuple):
    """One named revision; ``size`` of the uncompressed root catalog in bytes, ``timestamp`` in s since the
    epoch.
    """

    name: str
    hash: str
    revision: int
    timestamp: int
    description: str
    size: int


def read_tags(storage: ObjectStorage, name: str | None) -> list[TagRow]:
    """The tags of the history database ``name`` (hash text)."""
    if not name:
        return []
    data = storage.read(Hash.parse(name, SUFFIX_HISTORY))
    scratch = storage.scratch()
    with open(scratch, "wb") as file:
        file.write(data)
    database = sqlite3.connect(f"file:{scratch}?mode=ro&immutable=1", uri=True)
    try:
        rows = database.execute(
            "SELECT name, hash, revision, timestamp, description, size FROM tags ORDER BY revision, name"
        )
        return [TagRow(*row) for row in rows]
    except sqlite3.Error as error:
        raise PublishError(f"the tag database {name} cannot be read: {error}") from error
    finally:
        database.close()
        os.unlink(scratch)


def write_history(storage: ObjectStorage, fqrn: str, tags: Iterable[TagRow], previous: str) -> Hash:
    """Stores a tag database; ``previous`` is the hash text of the one before."""
    scratch = storage.scratch()
    database = sqlite3.connect(scratch, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=OFF")
        database.execute("PRAGMA synchronous=OFF")
        database.execute("BEGIN")
        for statement in _HISTORY_SCHEMA:
            database.execute(statement)
        properties = {"schema": "1.0", "schema_revision": "3", "fqrn": fqrn, "previous_revision": previous}
        database.executemany("INSERT INTO properties VALUES (?, ?)", properties.items())
        database.execute("INSERT INTO branches VALUES ('', NULL, 0)")
        database.executemany(
            "INSERT INTO tags VALUES (?, ?, ?, ?, 0, ?, ?, '')",
            [(t.name, t.hash, t.revision, t.timestamp, t.description, t.size) for t in tags],
        )
        database.execute("COMMIT")
        database.close()
        with open(scratch, "rb") as file:
            return storage.put(file.read(), SUFFIX_HISTORY).hash
    finally:
        database.close()
        os.unlink(scratch)


class Reflog:
    """``.cvmfsreflog``: every catalog, certificate, tag database and meta information that was ever
    signed.
    """

    def __init__(self, storage: ObjectStorage, fqrn: str) -> None:
        self._target = os.path.join(storage.root, ".cvmfsreflog")
        self._scratch = storage.scratch()
        self._algorithm = storage.algorithm
        try:
            with open(self._target, "rb") as source, open(self._scratch, "wb") as copy:
                copy.write(source.read())
            new = False
        except FileNotFoundError:
            new = True
        self._database = sqlite3.connect(self._scratch, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute("BEGIN")
        if new:
            for statement in _REFLOG_SCHEMA:
                self._database.execute(statement)
            properties = {"schema": "1.0", "schema_revision": "0", "fqrn": fqrn}
            self._database.executemany("INSERT INTO properties VALUES (?, ?)", properties.items())

    def add(self, name: Hash, kind: int, timestamp: int) -> None:
        self._database.execute("INSERT OR IGNORE INTO refs VALUES (?, ?, ?)", (str(name), kind, timestamp))

    def entries(self) -> list[tuple[str, int, int]]:
        """(hash text, type, unix time) of all references."""
        return self._database.execute("SELECT hash, type, timestamp FROM refs").fetchall()

    def remove(self, names: Iterable[str]) -> None:
        self._database.executemany("DELETE FROM refs WHERE hash=?", [(n,) for n in names])

    def save(self) -> Hash:
        """Puts the new log in place and returns the hash of its bytes, for the manifest."""
        self._database.execute("COMMIT")
        self._database.close()
        with open(self._scratch, "rb") as file:
            name = Hash.of(self._algorithm, file.read())
        os.chmod(self._scratch, 0o644)
        os.replace(self._scratch, self._target)
        return name

    def close(self) -> None:
        """Discards what was not saved."""
        self._database.close()
        try:
            os.unlink(self._scratch)
        except FileNotFoundError:
            pass
