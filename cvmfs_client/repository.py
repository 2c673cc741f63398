"""The library: a repository, read like a directory tree.

with Repository("name.example.org", server="http://...", keys="name.pub") as repo:
    for path, dirs, files in repo.walk("/sw"):
        ...
    with repo.open("/README") as f:
        print(f.read())
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Callable, Union, overload

from .config import Configuration
from .database import open_database
from .directory import DirEntry, ScandirIterator, walk
from .entry import Entry
from .errors import (
    AttributeMissingError,
    CvmfsError,
    NetworkError,
    PathInvalidError,
    PathIsADirectoryError,
    PathNotADirectoryError,
    ReadOnlyError,
    TagError,
    UsageError,
)
from .files import BUFFER, ChunkedFile, open_empty, open_object
from .forksafe import ForkSafe
from .hash import SUFFIX_HISTORY, Hash
from .history import Tag, read_tags, tag_by_date, tag_by_name, tag_by_revision
from .interfaces import LIMIT_CATALOG, LIMIT_SMALL, Fetcher, Prefetcher, Request, Store
from .manifest import Manifest
from .opening import Opened, Opener
from .parts import Parts, build
from .tree import CatalogTree
from .view import View, to_bytes

AnyPath = Union[str, bytes, "os.PathLike[str]"]
Keys = Union[str, bytes, Sequence[Union[str, bytes]], None]


class Repository(ForkSafe):
    """One revision of a repository, opened and verified. Thread-safe, usable after fork, a context manager.

    ``server``: base URL of the repository, or several (a list, or separated by `;`); ``keys``: master keys: a
    file, a directory, PEM bytes, or a list; ``proxy``: as CVMFS_HTTP_PROXY; ``cache``: directory; ``tag``: a
    tag's name, a date (2026-01-31T12:00:00Z) or a revision number; ``root_hash``: of a root catalog;
    ``config``: a mapping of parameters, a path of a configuration file (only it is read), a list of such, or
    a Configuration. What is not given is taken from the configuration.

    Paths are str or bytes from the root of the repository; results are of the type of the path. Every error
    is a CvmfsError; those about paths are also the OSError that a local path would give.
    """

    def __init__(
        self,
        fqrn: str,
        *,
        server: str | Sequence[str] | None = None,
        keys: Keys = None,
        proxy: str | None = None,
        cache: str | os.PathLike[str] | None = None,
        tag: str | int | None = None,
        root_hash: str | Hash | None = None,
        config: Configuration | Mapping[str, str] | str | Sequence[str] | None = None,
        offline: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._environ: Mapping[str, str] = os.environ if environ is None else dict(environ)
        self._parts: Parts = build(
            fqrn,
            server=server,
            keys=keys,
            proxy=proxy,
            cache=os.fspath(cache) if cache is not None else None,
            tag=tag,
            root_hash=root_hash,
            config=config,
            offline=offline,
            environ=self._environ,
        )
        self.config: Configuration = self._parts.config
        self.fqrn: str = self.config.fqrn
        self.store: Store = self._parts.store
        self._opener = Opener(self.store, self._parts.trust)
        self._opened: Opened | None = None
        self._tags: list[Tag] | None = None
        self._prefetcher: Prefetcher | None = None
        self._lock = threading.Lock()
        self.tag: Tag | None = None
        self._closed = False
        try:
            self._view = self._open()
        except BaseException:
            self._parts.close()
            raise
        self.opened_at: float = time.time()
        super().__init__()

    # --- opening and closing
    def _open(self) -> View:
        wanted = self._parts.root_hash
        if wanted is None:
            self._opened = self._opener.open()
            if self._parts.tag or self._parts.date:
                self.tag = self._find_tag(self._parts.tag, self._parts.date)
                wanted = self.tag.hash
        size: int | None = None
        alternative = False
        if wanted is None:
            assert self._opened is not None
            wanted = self._opened.root_hash
            manifest = self._opened.manifest
            if manifest is not None:
                size, alternative = manifest.catalog_size, manifest.alternative_paths
        try:
            tree = CatalogTree(self.store, self.fqrn, wanted, size=size, alternative=alternative)
        except NetworkError as e:
            if self._opened is not None and self._opened.reason:
                raise NetworkError(f"{e.message} ({self._opened.reason})", e.remedy) from e
            raise
        if tree.root.authz:
            from .authz import authorize

            authorize(tree.root.authz, self.config, self.store, self._environ)
        if self._opened is not None:
            self._opener.commit(self._opened)
        return View(tree, self.config, self._environ)

    def refresh(self) -> bool:
        """Looks for a newer revision and goes over to it; whether there was one. Open files keep their
        contents.

        A revision fixed by tag, date or hash stays."""
        if self._parts.fixed:
            return False
        opened = self._opener.open()
        with self._lock:
            if opened.root_hash == self.root_hash:
                self._opened = opened
                return False
            manifest = opened.manifest
            tree = CatalogTree(
                self.store,
                self.fqrn,
                opened.root_hash,
                size=manifest.catalog_size if manifest is not None else None,
                alternative=manifest is not None and manifest.alternative_paths,
            )
            self._opener.commit(opened)
            self._opened, self._tags, self._view = opened, None, View(tree, self.config, self._environ)
        return True

    def close(self) -> None:
        """Releases connections and pins; idempotent. Files that are open stay usable, except chunked ones."""
        if not self._closed:
            self._closed = True
            if self._prefetcher is not None:
                self._prefetcher.close()
            self._parts.close()

    def __enter__(self) -> Repository:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Repository {self.fqrn} revision {self.revision} {self.root_hash}>"

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._view.tree.after_fork()

    # --- what is open
    @property
    def tree(self) -> CatalogTree:
        """The catalogs of the open revision."""
        return self._view.tree

    @property
    def view(self) -> View:
        """The open revision as shown to callers."""
        return self._view

    @property
    def root_hash(self) -> Hash:
        """Of the root catalog."""
        return self._view.tree.root_hash

    @property
    def revision(self) -> int:
        """Number of the open revision."""
        return self._view.tree.root.revision

    @property
    def manifest(self) -> Manifest | None:
        """The verified manifest; None where the revision was fixed by hash or comes from a breadcrumb."""
        return self._opened.manifest if self._opened is not None else None

    @property
    def opened(self) -> Opened | None:
        """Where the revision came from, and why it is not the server's newest."""
        return self._opened

    def _need_manifest(self) -> Manifest:
        with self._lock:
            if self._opened is None:
                self._opened = self._opener.open()
            manifest = self._opened.manifest
        if manifest is None:
            raise NetworkError(f"there is no manifest of {self.fqrn}", "it needs the network")
        return manifest

    def _signed_object(self, identity: Hash, manifest: Manifest, what: str, limit: int) -> Request:
        alternative = f".cvmfsalt-{identity.name}" if manifest.alternative_paths else ""
        return Request(identity, limit=limit, path=what.encode(), alternative=alternative)

    def tags(self) -> list[Tag]:
        """The named revisions, newest first."""
        if self._tags is None:
            manifest = self._need_manifest()
            if manifest.history is None:
                return []
            identity = manifest.history.with_suffix(SUFFIX_HISTORY)
            request = self._signed_object(identity, manifest, "the history", LIMIT_CATALOG)
            database = open_database(self.store, request, f"the history {identity} of {self.fqrn}")
            try:
                self._tags = read_tags(database)
            finally:
                database.close()
        return list(self._tags)

    def _find_tag(self, name: str, date: str) -> Tag:
        tags = self.tags()
        if not name:
            return tag_by_date(tags, date)
        try:
            return tag_by_name(tags, name)
        except TagError:
            if name.isdigit() and len(name) < 19:
                return tag_by_revision(tags, int(name))
            if name[:4].isdigit() and "-" in name:
                return tag_by_date(tags, name)
            raise

    def metainfo(self) -> bytes:
        """The repository's description, JSON as its owner wrote it; empty where there is none."""
        manifest = self._need_manifest()
        if manifest.metainfo is None:
            return b""
        request = self._signed_object(manifest.metainfo, manifest, "the meta information", LIMIT_SMALL)
        with open(self.store.open(request), "rb") as f:
            return f.read()

    def statistics(self) -> dict[str, int]:
        """Counters of the whole revision: regular, symlink, special, dir, nested, chunked, file_size (bytes),
        ...; and `entries`, all of them."""
        found: dict[str, int] = {}
        for name, value in self.tree.root.statistics().items():
            _, _, counter = name.partition("_")
            found[counter] = found.get(counter, 0) + value
        if found:
            # a transition point is counted in both of its catalogs
            kinds = sum(found.get(k, 0) for k in ("regular", "symlink", "special", "dir"))
            found["entries"] = kinds - found.get("nested", 0)
        return found

    # --- paths
    def _resolve(self, path: AnyPath, *, follow: bool = True) -> tuple[bytes, Entry]:
        return self._view.resolve(to_bytes(path), follow=follow)

    def _directory(self, path: AnyPath) -> bytes:
        real, entry = self._resolve(path)
        if not entry.is_dir:
            raise PathNotADirectoryError(to_bytes(path))
        return real

    def _file(self, path: AnyPath) -> tuple[bytes, Entry]:
        real, entry = self._resolve(path)
        if entry.is_dir:
            raise PathIsADirectoryError(to_bytes(path))
        if not entry.is_file:
            raise PathInvalidError(to_bytes(path), "is not a regular file")
        return real, entry

    def stat(self, path: AnyPath, *, follow_symlinks: bool = True) -> os.stat_result:
        """As os.stat."""
        return self._view.stat(self._resolve(path, follow=follow_symlinks)[1])

    def lstat(self, path: AnyPath) -> os.stat_result:
        """As os.lstat."""
        return self.stat(path, follow_symlinks=False)

    def exists(self, path: AnyPath) -> bool:
        """Whether the path leads to something inside the repository."""
        try:
            self._resolve(path)
        except (FileNotFoundError, NotADirectoryError, PathInvalidError):
            return False
        return True

    def realpath(self, path: AnyPath) -> AnyPath:
        """The path without links, from the root of the repository."""
        real = self._resolve(path)[0] or b"/"
        return real if isinstance(path, bytes) else os.fsdecode(real)

    def readlink(self, path: AnyPath) -> Any:
        """The target of a link, variables put in; str or bytes as the path is."""
        _, entry = self._resolve(path, follow=False)
        if not entry.is_link:
            raise PathInvalidError(to_bytes(path))
        target = self._view.target(entry)
        return target if isinstance(path, bytes) else os.fsdecode(target)

    @overload
    def listdir(self, path: bytes) -> list[bytes]: ...
    @overload
    def listdir(self, path: str | os.PathLike[str] = "/") -> list[str]: ...
    def listdir(self, path: AnyPath = "/") -> list[Any]:
        """Names in a directory, in no order."""
        names = (entry.name for entry in self._view.listing(self._directory(path)))
        return list(names) if isinstance(path, bytes) else list(map(os.fsdecode, names))

    def scandir(self, path: AnyPath = "/") -> ScandirIterator:
        """As os.scandir: an iterator of DirEntry, and a context manager. Memory is bounded in huge
        directories."""
        shown = path if isinstance(path, bytes) else os.fspath(path)
        return ScandirIterator(self._view, self._directory(path), shown)

    def walk(
        self,
        top: AnyPath = "/",
        topdown: bool = True,
        onerror: Callable[[CvmfsError], Any] | None = None,
        followlinks: bool = False,
    ) -> Iterator[tuple[Any, list[Any], list[Any]]]:
        """As os.walk. Catalogs further down are fetched ahead."""
        return walk(self, top, topdown=topdown, onerror=onerror, followlinks=followlinks)

    # --- contents
    def open(
        self,
        path: AnyPath,
        mode: str = "rb",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """A file to read, "rb" (default) or "r". The whole of it is verified before the first byte is given;
        of chunked files each chunk.

        Raises IntegrityError, ObjectNotFoundError, NetworkError ..., ReadOnlyError for other modes."""
        text = "b" not in mode
        if (
            set(mode) - set("rbt")
            or "r" not in mode
            or len(set(mode)) != len(mode)
            or ("t" in mode and not text)
        ):
            if set(mode) <= set("rwaxbt+U"):
                raise ReadOnlyError(to_bytes(path))
            raise UsageError(f"invalid mode {mode!r}")
        binary = self.open_entry(*self._file(path), buffering=-1 if text else buffering)
        if text:
            return io.TextIOWrapper(binary, encoding, errors, newline)
        return binary

    def open_entry(self, path: bytes, entry: Entry, *, buffering: int = -1) -> IO[bytes]:
        """A regular file whose real path and entry are known, binary."""
        requests = self.tree.requests(path, entry)
        prefetcher = self._prefetcher
        if prefetcher is None:
            prefetcher = self._start_prefetcher()
        if prefetcher is not None:
            prefetcher.opened(path, entry)
        if not requests:
            return open_object(open_empty(), path, buffering)
        if not entry.is_chunked:
            return open_object(self.store.open(requests[0]), path, buffering)
        raw: Any = ChunkedFile(self.store, requests, path)
        return raw if buffering == 0 else io.BufferedReader(raw, BUFFER)

    def read(self, path: AnyPath, offset: int = 0, size: int = -1) -> bytes:
        """Bytes of a file; all from ``offset`` on by default."""
        with self.open_entry(*self._file(path)) as f:
            if offset:
                f.seek(offset)
            return f.read(size)

    def _start_prefetcher(self) -> Prefetcher | None:
        make = self._parts.make_prefetcher
        if make is None:
            return None
        with self._lock:
            if self._prefetcher is None:
                self._prefetcher = make(self)
        return self._prefetcher

    # --- extended attributes
    def listxattr(self, path: AnyPath, *, follow_symlinks: bool = True) -> list[str]:
        """Names of the stored attributes; the synthetic `user.*` ones are given where the configuration lists
        them."""
        from .magic import listed, stored

        real, entry = self._resolve(path, follow=follow_symlinks)
        names = [os.fsdecode(k) for k in stored(entry)]
        return names + [n for n in listed(self, real, entry) if n not in names]

    def getxattr(self, path: AnyPath, name: str | bytes, *, follow_symlinks: bool = True) -> bytes:
        """The value of an attribute, stored or synthetic (`user.fqrn`, `user.revision`, `user.hash`, ...).

        Raises AttributeMissingError."""
        from .magic import stored, synthetic

        real, entry = self._resolve(path, follow=follow_symlinks)
        key = os.fsencode(name)
        value = stored(entry).get(key)
        if value is None:
            value = synthetic(self, real, entry, os.fsdecode(key))
        if value is None:
            raise AttributeMissingError(to_bytes(path), f"has no attribute {os.fsdecode(key)}")
        return value

    # --- for prefetching (interfaces.Source)
    def lookup(self, path: bytes) -> Entry:
        """The entry of a real path; follows no links. Raises PathNotFoundError."""
        return self.tree.lookup(path)

    def list_entries(self, path: bytes) -> list[Entry]:
        """The entries of a directory by its real path."""
        return list(self.tree.entries(path))

    def requests(self, path: bytes, entry: Entry) -> list[Request]:
        """The objects that hold a file."""
        return self.tree.requests(path, entry)

    def prefetch(
        self,
        paths: AnyPath | Iterable[AnyPath] = "/",
        *,
        recursive: bool = True,
        progress: Callable[[int], Any] | None = None,
    ) -> dict[str, int]:
        """Brings files, or all below directories, into the cache.

        Returns {files, objects, bytes}; raises the first error once all else was tried."""
        from .bulk import prefetch

        many = [paths] if isinstance(paths, (str, bytes, os.PathLike)) else list(paths)
        return prefetch(self, many, recursive=recursive, progress=progress)

    @property
    def fetcher(self) -> Fetcher | None:
        """Who downloads; None when offline by configuration."""
        return self.store.fetcher

    @property
    def fixed(self) -> bool:
        """Whether the revision was fixed by tag, date or hash."""
        return self._parts.fixed

    def network_status(self) -> dict[str, Any]:
        """Hosts, proxies, switches and counters of the fetcher."""
        fetcher = self.store.fetcher
        return fetcher.status() if fetcher is not None else {"online": False}

    def status(self) -> dict[str, Any]:
        """State for people and monitoring, JSON-able: revision, origin, network, cache."""
        opened = self._opened
        manifest = self.manifest
        return {
            "fqrn": self.fqrn,
            "revision": self.revision,
            "root_hash": str(self.root_hash),
            "tag": self.tag.name if self.tag is not None else None,
            "fixed": self._parts.fixed,
            "published": manifest.timestamp if manifest is not None else self.tree.root.last_modified,
            "ttl": self.tree.root.ttl,
            "origin": opened.origin if opened is not None else "fixed",
            "reason": opened.reason if opened is not None else "",
            "catalogs_open": len(self.tree.open_catalogs),
            "network": self.network_status(),
            "cache": self.store.status(),
            "warnings": list(self.config.warnings),
        }


__all__ = ["DirEntry", "Repository"]
