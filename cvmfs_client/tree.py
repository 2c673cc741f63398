"""The tree of catalogs of one revision: which catalog knows a path, and what it says.

Lookups stop at the parent's row of a transition point, so that listing a directory does not download the
catalogs below it; listing or going below a transition point does.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from .catalog import Catalog, Nested
from .database import Database, open_database
from .entry import COMPRESSION_NONE, COMPRESSION_ZLIB, Chunk, Entry
from .errors import CatalogError, PathNotADirectoryError, PathNotFoundError, UnsupportedError, show
from .hash import SUFFIX_CATALOG, Hash
from .interfaces import LIMIT_CATALOG, External, Request, Store

MAX_PATH = 16384  # bytes
MAX_OPEN = 64  # catalogs


class CatalogTree:
    """One revision, by the hash of its root catalog. Paths are bytes: "" is the root, else "/a/b".
    Thread-safe.

    ``size`` is that of the root catalog in bytes if known, ``alternative`` whether the server has it as
    .cvmfsalt too.
    Raises CatalogError and what the store raises."""

    def __init__(
        self,
        store: Store,
        fqrn: str,
        root_hash: Hash,
        *,
        size: int | None = None,
        alternative: bool = False,
        max_open: int = MAX_OPEN,
    ) -> None:
        self.store = store
        self.fqrn = fqrn
        self.root_hash = root_hash.with_suffix(SUFFIX_CATALOG)
        self._max_open = max_open
        self._open: OrderedDict[bytes, Catalog] = OrderedDict()
        self._lock = threading.Lock()
        self._loading: dict[bytes, threading.Lock] = {}
        other = f".cvmfsalt-{self.root_hash.name}" if alternative else ""
        self.root = self._load(self._request(self.root_hash, size or 0, b"", other), b"")

    def after_fork(self) -> None:
        """To be called in a child process before anything else."""
        self._lock = threading.Lock()
        self._loading = {}

    # --- catalogs
    def _request(self, identity: Hash, size: int, mountpoint: bytes, alternative: str = "") -> Request:
        return Request(
            identity,
            size=size or None,
            limit=LIMIT_CATALOG,
            path=mountpoint or b"/",
            pin=True,
            alternative=alternative,
        )

    def nested_request(self, nested: Nested) -> Request:
        """What to ask the store for to have a nested catalog. Raises UnsupportedError for schema 0.9."""
        if nested.hash is None:
            raise UnsupportedError(
                f"the catalog of {show(nested.path)} is of a schema that does not say its hash"
            )
        return self._request(nested.hash, nested.size, nested.path)

    def _load(self, request: Request, mountpoint: bytes) -> Catalog:
        label = f"the catalog {request.hash} of {self.fqrn} at {show(mountpoint) or '/'}"

        def open_file() -> Database:
            return open_database(self.store, request, label)

        return Catalog(open_file, mountpoint, request.hash)

    def _child(self, parent: Catalog, nested: Nested) -> Catalog:
        with self._lock:
            found = self._open.get(nested.path)
            if found is not None:
                self._open.move_to_end(nested.path)
                return found
            turn = self._loading.setdefault(nested.path, threading.Lock())
        with turn:
            with self._lock:
                found = self._open.get(nested.path)
            if found is not None:
                return found
            found = self._load(self.nested_request(nested), nested.path)
            if nested.bind and found.root_prefix:
                raise CatalogError(
                    f"the catalog mounted at {show(nested.path)} is not the root of a revision"
                )
            with self._lock:
                self._open[nested.path] = found
                self._loading.pop(nested.path, None)
                while len(self._open) > self._max_open:
                    self._open.popitem(last=False)
        return found

    def catalog_of(self, path: bytes, *, enter: bool = False) -> Catalog:
        """The catalog that has the row of ``path``; with ``enter`` the one that lists it as a directory."""
        if len(path) > MAX_PATH:
            raise PathNotFoundError(path, "File name too long")
        catalog = self.root
        at = 0
        while True:
            nested = catalog.nested()
            if not nested:
                return catalog
            found: Nested | None = None
            while found is None:
                at = path.find(b"/", at + 1)
                if at < 0:
                    break
                found = nested.get(path[:at])
            if found is None:
                found = nested.get(path) if enter else None
                if found is None or path == catalog.mountpoint:
                    return catalog
                return self._child(catalog, found)
            catalog = self._child(catalog, found)

    def nested_below(self, path: bytes) -> list[Nested]:
        """The catalogs mounted directly in the one that lists ``path``."""
        return list(self.catalog_of(path, enter=True).nested().values())

    @property
    def open_catalogs(self) -> list[Catalog]:
        """The root's and those loaded now."""
        with self._lock:
            return [self.root, *self._open.values()]

    # --- entries
    def find(self, path: bytes) -> Entry | None:
        """The entry of ``path``, or None. Follows no links and knows no "." or ".."."""
        return self.catalog_of(path).find(path)

    def entries(self, path: bytes, *, hidden: bool = False) -> Iterator[Entry]:
        """The entries of a directory, in no order."""
        return self.catalog_of(path, enter=True).entries(path, hidden=hidden)

    def lookup(self, path: bytes) -> Entry:
        """The entry of ``path``. Raises PathNotFoundError, PathNotADirectoryError."""
        entry = self.find(path)
        if entry is None:
            parent = path[: path.rfind(b"/")] if path else b""
            above = self.find(parent)
            if above is not None and not above.is_dir:
                raise PathNotADirectoryError(path)
            raise PathNotFoundError(path)
        return entry

    def chunks(self, path: bytes, entry: Entry) -> list[Chunk]:
        """The pieces of a chunked file."""
        return self.catalog_of(path).chunks(path, entry)

    def requests(self, path: bytes, entry: Entry) -> list[Request]:
        """The objects that hold a regular file, in order; empty for what is none, and for empty files.

        Raises UnsupportedError, CatalogError."""
        if not entry.is_file or entry.size == 0:
            return []
        if entry.compression not in (COMPRESSION_ZLIB, COMPRESSION_NONE):
            raise UnsupportedError(
                f"{show(path)} is compressed with method {entry.compression}", "update the client"
            )
        catalog = self.catalog_of(path)
        compressed = entry.compression == COMPRESSION_ZLIB
        if not entry.is_chunked:
            identity = entry.hash
            if identity is None or len(identity.digest) != 20:
                raise CatalogError(f"{show(path)} has no content hash")
            external = External(path, 0, entry.size, True) if entry.is_external else None
            return [
                Request(
                    identity, compressed, entry.size, path=path, volatile=catalog.volatile, external=external
                )
            ]
        return [
            Request(
                chunk.hash,
                compressed,
                chunk.size,
                path=path,
                volatile=catalog.volatile,
                external=External(path, chunk.offset, chunk.size, False) if entry.is_external else None,
            )
            for chunk in catalog.chunks(path, entry)
        ]
