"""The revision published before: what need not be read, compressed or written again."""

from __future__ import annotations

import os
import sqlite3
import struct
from typing import NamedTuple

from ..entry import FLAG_CHUNKED, FLAG_COMPRESSION_SHIFT, FLAG_EXTERNAL, FLAG_HASH_SHIFT, FLAG_HIDDEN, Chunk
from ..hash import CATALOG_ALGORITHMS, SUFFIX_CATALOG, SUFFIX_PARTIAL, Hash, md5_path
from .catalogs import CatalogContent
from .objects import ObjectStorage, PublishError
from .tree import MARKER, Node


def read_manifest(repository: str) -> dict[str, str] | None:
    """The lines of the repository's manifest, by letter; None where nothing was published yet."""
    try:
        with open(os.path.join(repository, ".cvmfspublished"), "rb") as file:
            body = file.read()
    except FileNotFoundError:
        return None
    lines = body.partition(b"\n--\n")[0].decode("ascii", "replace").split("\n")
    fields = {line[0]: line[1:] for line in lines if line}
    if "C" not in fields or not fields.get("S", "").isdigit():
        raise PublishError(
            f"{repository}/.cvmfspublished is not a manifest", "restore it or publish elsewhere"
        )
    return fields


class PreviousCatalog(NamedTuple):
    """One catalog of the revision before, open."""

    path: bytes
    hash: Hash
    size: int
    database: sqlite3.Connection


class PreviousRevision:
    """All catalogs of one revision of our own repository. Not thread-safe; close() removes the scratch
    files.
    """

    def __init__(self, storage: ObjectStorage, fields: dict[str, str]) -> None:
        self.revision = int(fields["S"])
        self.timestamp = int(fields.get("T", "0"))
        self.root = Hash.parse(fields["C"], SUFFIX_CATALOG)
        self.catalogs: dict[bytes, PreviousCatalog] = {}
        self._files: list[str] = []
        self._storage = storage
        try:
            self._load(b"", self.root)
        except BaseException:
            self.close()
            raise

    def _load(self, path: bytes, name: Hash) -> None:
        waiting = [(path, name)]
        while waiting:
            path, name = waiting.pop()
            data = self._storage.read(name)
            scratch = self._storage.scratch()
            self._files.append(scratch)
            with open(scratch, "wb") as file:
                file.write(data)
            database = sqlite3.connect(
                f"file:{scratch}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )
            database.text_factory = bytes
            self.catalogs[path] = PreviousCatalog(path, name, len(data), database)
            for below, text in database.execute("SELECT path, sha1 FROM nested_catalogs"):
                waiting.append((below, Hash.parse(text.decode("ascii"), SUFFIX_CATALOG)))

    def catalog_of(self, directory: bytes) -> PreviousCatalog:
        """The catalog that holds the entries of a directory."""
        while directory not in self.catalogs:
            directory = directory.rpartition(b"/")[0]
        return self.catalogs[directory]

    def automatic(self) -> frozenset[bytes]:
        """Mountpoints with a hidden marker: catalogs that were split off for size."""
        found = []
        for path, catalog in self.catalogs.items():
            key = struct.unpack("<qq", md5_path(path + b"/" + MARKER))
            query = "SELECT flags FROM catalog WHERE md5path_1=? AND md5path_2=?"
            for (flags,) in catalog.database.execute(query, key):
                if path and flags & FLAG_HIDDEN:
                    found.append(path)
        return frozenset(found)

    def reuse(self, node: Node, *, compressed: bool, algorithm: str) -> bool:
        """Takes the content of an unchanged regular file over; False: it must be read.

        Unchanged means equal size and time of modification, the latter before the last publication began:
        what was written in the same second could have been written after it was read.
        """
        seconds, nanoseconds = divmod(node.mtime_ns, 1_000_000_000)
        if seconds >= self.timestamp - 1:
            return False
        directory = node.path.rpartition(b"/")[0]
        catalog = self.catalog_of(directory)
        key = struct.unpack("<qq", md5_path(node.path))
        row = catalog.database.execute(
            "SELECT hash, size, mtime, mtimens, flags FROM catalog WHERE md5path_1=? AND md5path_2=?", key
        ).fetchone()
        if row is None:
            return False
        digest, size, mtime, mtimens, flags = row
        index = flags >> FLAG_HASH_SHIFT & 7
        if (
            (size, mtime, mtimens) != (node.size, seconds, nanoseconds)
            or flags & 0x1F != node.flags & 0x1F
            or flags & (FLAG_EXTERNAL | FLAG_HIDDEN)
            or index >= len(CATALOG_ALGORITHMS)
            or CATALOG_ALGORITHMS[index] != algorithm
            or (flags >> FLAG_COMPRESSION_SHIFT & 7 == 0) != compressed
        ):
            return False
        chunks: tuple[Chunk, ...] = ()
        if flags & FLAG_CHUNKED:
            rows = catalog.database.execute(
                "SELECT offset, size, hash FROM chunks WHERE md5path_1=? AND md5path_2=? ORDER BY offset", key
            )
            chunks = tuple(Chunk(o, s, Hash(algorithm, h, SUFFIX_PARTIAL)) for o, s, h in rows)
        names = [c.hash for c in chunks]
        if digest:
            names.append(Hash(algorithm, digest))
        if not names or not all(os.path.exists(os.path.join(self._storage.root, n.path)) for n in names):
            return False
        node.hash = Hash(algorithm, digest) if digest else None
        node.chunks = chunks
        return True

    def same(self, path: bytes, content: CatalogContent) -> PreviousCatalog | None:
        """The old catalog at ``path`` if it has just this content."""
        catalog = self.catalogs.get(path)
        if catalog is None:
            return None
        query = catalog.database.execute
        if query("SELECT count(*) FROM catalog").fetchone()[0] != len(content.rows):
            return None
        old = query(
            "SELECT md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, mtime, mtimens, "
            "flags, name, symlink, uid, gid, xattr FROM catalog ORDER BY rowid"
        )
        if any(row != new for row, new in zip(old, content.rows)):
            return None
        chunks = query(
            "SELECT md5path_1, md5path_2, offset, size, hash FROM chunks ORDER BY 1, 2, 3, 4, 5"
        ).fetchall()
        nested = query("SELECT path, sha1, size FROM nested_catalogs ORDER BY 1").fetchall()
        kept = {k.decode(): v for k, v in query("SELECT key, value FROM properties")}
        for key in ("schema", "schema_revision", "last_modified", "revision", "previous_revision"):
            kept.pop(key, None)
        wanted = {k: v.encode("utf-8", "surrogateescape") for k, v in content.properties.items()}
        return catalog if (chunks, nested, kept) == (content.chunks, content.nested, wanted) else None

    def revision_of(self, path: bytes) -> int:
        """The revision counter of the old catalog at ``path``; 0 for none."""
        catalog = self.catalogs.get(path)
        if catalog is None:
            return 0
        row = catalog.database.execute("SELECT value FROM properties WHERE key='revision'").fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        for catalog in self.catalogs.values():
            catalog.database.close()
        for path in self._files:
            try:
                os.unlink(path)
            except OSError:
                pass
        self._files = []
        self.catalogs = {}
