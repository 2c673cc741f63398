"""Listing: what os.scandir and os.walk give, for a repository."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable

from .entry import Entry
from .errors import CvmfsError, PathNotADirectoryError
from .view import View, to_bytes

if TYPE_CHECKING:
    from .repository import Repository


class DirEntry:
    """As os.DirEntry; ``name`` and ``path`` are of the type that the directory was given in."""

    __slots__ = ("_real", "_view", "entry", "name", "path")

    def __init__(self, view: View, real: bytes, entry: Entry, name: Any, path: Any) -> None:
        self._view = view
        self._real = real  # of the directory
        self.entry = entry
        self.name = name
        self.path = path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"

    def __fspath__(self) -> Any:
        return self.path

    def inode(self) -> int:
        return self.entry.ino

    def is_symlink(self) -> bool:
        return self.entry.is_link

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return stat.S_ISDIR(self._mode(follow_symlinks))

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return stat.S_ISREG(self._mode(follow_symlinks))

    def _mode(self, follow: bool) -> int:
        if not (follow and self.entry.is_link):
            return self.entry.mode
        try:
            return self.stat().st_mode
        except OSError:
            return 0

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        entry = self.entry
        if follow_symlinks and entry.is_link:
            entry = self._view.resolve(self._real + b"/" + entry.name)[1]
        return self._view.stat(entry)


class ScandirIterator:
    """The entries of a directory, one by one."""

    def __init__(self, view: View, real: bytes, shown: str | bytes) -> None:
        self._view = view
        self._real = real
        self._bytes = isinstance(shown, bytes)
        separator: Any = b"/" if isinstance(shown, bytes) else "/"
        self._prefix: Any = shown if not shown or shown.endswith(separator) else shown + separator
        self._entries: Iterator[Entry] | None = view.entries(real)

    def __iter__(self) -> ScandirIterator:
        return self

    def __next__(self) -> DirEntry:
        if self._entries is None:
            raise StopIteration
        entry = next(self._entries)
        name: Any = entry.name if self._bytes else os.fsdecode(entry.name)
        return DirEntry(self._view, self._real, entry, name, self._prefix + name)

    def close(self) -> None:
        self._entries = None

    def __enter__(self) -> ScandirIterator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CatalogsAhead:
    """Fetches the catalogs mounted below what is being walked, so that the walk does not wait for each."""

    def __init__(self, repository: Repository) -> None:
        self._tree = repository.tree
        self._store = repository.store
        self._seen: set[bytes] = set()
        self._thread: threading.Thread | None = None

    def entering(self, path: bytes, top: bytes) -> None:
        """The walk is about to list the directory ``path``."""
        if path != top and path not in self._seen:  # neither the beginning nor a transition point
            return
        catalog = self._tree.catalog_of(path, enter=True)
        below = [n for p, n in catalog.nested().items() if p.startswith(path + b"/") and n.hash is not None]
        fresh = [n for n in below if n.path not in self._seen]
        self._seen.update(n.path for n in fresh)
        requests = [r for r in map(self._tree.nested_request, fresh) if not self._store.has(r)]
        if len(requests) > 1:
            threading.Thread(target=self._fetch, args=(requests,), name="cvmfs-catalogs", daemon=True).start()

    def _fetch(self, requests: list[Any]) -> None:
        try:
            self._store.ensure(requests)
        except Exception:
            pass  # the walk itself meets the error


def walk(
    repository: Repository,
    top: Any,
    *,
    topdown: bool,
    onerror: Callable[[CvmfsError], Any] | None,
    followlinks: bool,
) -> Iterator[tuple[Any, list[Any], list[Any]]]:
    """See Repository.walk. Iterative, so that depth costs no stack."""
    view = repository.view
    shown = top if isinstance(top, bytes) else os.fspath(top)
    as_bytes = isinstance(shown, bytes)
    decode: Callable[[bytes], Any] = (lambda name: name) if as_bytes else os.fsdecode
    separator: Any = b"/" if as_bytes else "/"
    ahead = CatalogsAhead(repository)
    try:
        real, entry = view.resolve(to_bytes(shown))
        if not entry.is_dir:
            raise PathNotADirectoryError(to_bytes(shown))
    except CvmfsError as e:
        if onerror is not None:
            onerror(e)
        return
    first = real
    # (real path, shown path, result to give on the way up)
    stack: list[tuple[bytes, Any, tuple[Any, list[Any], list[Any]] | None]] = [(real, shown, None)]
    while stack:
        real, shown, finished = stack.pop()
        if finished is not None:
            yield finished
            continue
        dirs: list[Any] = []
        files: list[Any] = []
        links: set[Any] = set()
        try:
            ahead.entering(real, first)
            for entry in view.listing(real):
                name = decode(entry.name)
                if entry.is_dir:
                    dirs.append(name)
                elif entry.is_link and _leads_to_directory(view, real, entry):
                    dirs.append(name)
                    links.add(name)
                else:
                    files.append(name)
        except CvmfsError as e:
            if onerror is not None:
                onerror(e)
            continue
        result = (shown, dirs, files)
        if topdown:
            yield result
        else:
            stack.append((real, shown, result))
        prefix = shown if shown.endswith(separator) else shown + separator
        for name in reversed(dirs):
            if name in links and not followlinks:
                continue
            below = real + b"/" + os.fsencode(name)
            if name in links:
                below = view.resolve(below)[0]
            stack.append((below, prefix + name, None))


def _leads_to_directory(view: View, real: bytes, entry: Entry) -> bool:
    try:
        return view.resolve(real + b"/" + entry.name)[1].is_dir
    except CvmfsError:
        return False
