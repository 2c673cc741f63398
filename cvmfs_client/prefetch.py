"""Fetching ahead: what is read together is fetched together, in parallel, within a budget of bytes.

Nothing is planned while everything is in the cache. The first miss wakes a planner thread, which looks at
what was opened lately and at the contents that arrive, and names files that will be read next:

- for sure, or nearly so: what a `.cvmfsbundle-<file>` lists, what an earlier run with the same beginning has
read, the
  modules that a Python file imports, the libraries that an ELF file needs, the other pieces of a library;
- as a guess: the files that follow in a directory which is being read one after the other, and the
sub-packages of a
  package of which several were asked for.

Sure ones run ahead of the reader by a bounded number of bytes; guesses must not cost more than a share of
what was used.
"""

from __future__ import annotations

import collections
import os
import threading
from typing import Any, Optional

from .cache_pool import Pool
from .errors import CvmfsError
from .forksafe import ForkSafe
from .interfaces import Config, Request, Source, Store
from .prefetch_bundle import BUNDLE_PREFIX, parse_bundle
from .prefetch_elf import LibraryPlanner
from .prefetch_listing import Listings
from .prefetch_python import PythonPlanner
from .prefetch_trace import Trace
from .prefetch_walk import WalkPlanner
from .prefetch_window import Window

_THREADS = 48  # fewer than the connections, so that the reader never waits for one
_WORTH = 0.002  # s that a small object must take for fetching ahead to pay
_REMEMBERED = 200_000  # paths
_LINGER = 0.5  # s that closing may take for downloads to finish
_RECENT = 512  # opens remembered for the planner
_IDLE = 3.0  # s without events after which the planner thread ends
_READ = 16 << 20  # bytes of a file that is analysed as a whole
_AHEAD = 48 << 20  # bytes that sure predictions may be ahead of the reader
_GUESS = 512 << 10  # bytes that guesses may be ahead, in any case
_GUESS_SHARE = 0.25  # and this share of what predictions were worth so far
_PASSED_OVER = 4  # files that are too large for the budget now, before no further are looked at
_FILE_LIMIT = 256 << 20  # a file larger than this is never fetched ahead

_MISS, _ARRIVED, _WANTED = "miss", "arrived", "wanted"


class Predictor(ForkSafe):
    """The :class:`~cvmfs_client.interfaces.Prefetcher` of one open repository. Thread-safe, fork-safe."""

    def __init__(self, config: Config, source: Source, store: Store) -> None:
        super().__init__()
        self._config = config
        self._source = source
        self._store = store
        mount = os.fsencode(config.get("CVMFS_MOUNT_DIR", "/cvmfs"))
        name = os.fsencode(source.fqrn)
        self._mountpoints = tuple(dict.fromkeys((mount + b"/" + name, b"/cvmfs/" + name)))
        # where answers come at once, planning costs more than it saves
        self._worth = 0.0 if config.get("CVMFS_PREFETCH").strip().lower() == "always" else _WORTH
        self._bundles = config.boolean("CVMFS_PREFETCH_FILEBUNDLES", True)
        self._trace = Trace(store, source.fqrn)
        self._pool = Pool(_THREADS, "cvmfs-prefetch")
        self.counters = dict.fromkeys(("predicted", "predicted_bytes", "used", "used_bytes", "failed"), 0)
        self._renew()

    def _renew(self) -> None:
        self._condition = threading.Condition()
        self._events: collections.deque[tuple[str, bytes]] = collections.deque()
        self._arrivals: collections.deque[tuple[str, bytes]] = (
            collections.deque()
        )  # these take time: others go first
        self._recent: collections.deque[bytes] = collections.deque(maxlen=_RECENT)
        self._running = False
        self._closed = False
        self._ahead: dict[bytes, int] = {}  # path -> bytes, of what was predicted and not used yet
        self._wanted: set[bytes] = set()  # what was predicted, ever
        self._followed: set[bytes] = set()  # what was looked into
        self._seen: set[bytes] = set()  # what the reader has opened
        self._mine: set[bytes] = set()  # digests that prefetching itself downloads
        self._sure: collections.deque[bytes] = collections.deque()  # waiting for the budget
        self._unsure: collections.deque[bytes] = collections.deque()
        self._guesses: set[bytes] = set()
        self._unfollowed: set[bytes] = set()  # guesses that are not looked into before they are used
        self._lock = threading.Lock()
        self._window = Window(_AHEAD, _GUESS, _GUESS_SHARE)
        listings = Listings(self._source)
        self._listings = listings
        self._python = PythonPlanner(listings)
        self._libraries = LibraryPlanner(listings, self._mountpoints)
        self._walk = WalkPlanner(listings)

    def _after_fork(self) -> None:
        self._renew()

    # --- what the library and the store tell

    def opened(self, path: bytes, entry: Any) -> None:
        """A file is about to be read by the payload. Cheap while nothing is missing."""
        self._recent.append(path)
        self._seen.add(path)
        self._trace.opened(path)
        if self._ahead and self._ahead.pop(path, None) is not None:
            self._tell(_WANTED, path)

    def missed(self, request: Request) -> None:
        """The store has to download something."""
        if getattr(self._store, "wait", self._worth) < self._worth:
            return
        if request.path and request.hash.suffix in ("", "P") and request.hash.digest not in self._mine:
            self._tell(_MISS, request.path)

    def stored(self, request: Request) -> None:
        """The store has downloaded something."""
        if getattr(self._store, "wait", self._worth) < self._worth:
            return
        if request.path and request.hash.suffix in ("", "P") and request.hash.digest not in self._mine:
            self._tell(_ARRIVED, request.path)

    def close(self) -> None:
        """Forgets what is not under way, and keeps the trace of this run."""
        with self._condition:
            self._closed = True
            self._events.clear()
            self._arrivals.clear()
            self._condition.notify()
        self._pool.cancel()
        # what is under way would be downloaded again by others, who wait for it now
        self._pool.finish(_LINGER)
        watchers = getattr(self._store, "watchers", None)
        if watchers is not None and self in watchers:
            watchers.remove(self)
        self._trace.save()

    def status(self) -> dict[str, Any]:
        """Counters, JSON-able."""
        return {
            **self.counters,
            "waiting": len(self._sure) + len(self._unsure),
            "ahead_bytes": self._window.ahead,
        }

    def _was_opened(self, path: bytes) -> bool:
        return path in self._seen

    # --- the planner thread

    def _tell(self, kind: str, path: bytes) -> None:
        with self._condition:
            if self._closed:
                return
            (self._arrivals if kind == _ARRIVED else self._events).append((kind, path))
            if not self._running:
                self._running = True
                threading.Thread(target=self._plan, name="cvmfs-planner", daemon=True).start()
            else:
                self._condition.notify()

    def _plan(self) -> None:
        while True:
            with self._condition:
                if not self._events and not self._arrivals:
                    self._condition.wait(_IDLE)
                if not self._events and not self._arrivals:
                    self._running = False
                    return
                kind, path = (self._events or self._arrivals).popleft()
            try:
                self._handle(kind, path)
            except Exception:
                self.counters["failed"] += 1

    def _handle(self, kind: str, path: bytes) -> None:
        while self._recent:
            opened = self._recent.popleft()
            self._python.saw(opened)
            self._libraries.saw(opened)
            explained = opened in self._wanted and opened not in self._guesses
            for guess in self._walk.saw(opened, explained=explained):
                self._want(guess, sure=False)
        if kind == _MISS:
            for expected in self._trace.expected():
                self._want(expected, sure=True)
            self._look_for_bundle(path)
            self._guess_package(path)
            if self._is_library(path):
                self._want(path, sure=True)  # the loader maps all of it: the other pieces too
        elif kind == _ARRIVED:
            self._follow(path, sure=path not in self._guesses or self._was_opened(path))
        elif kind == _WANTED:
            self.counters["used"] += 1
            self._window.used(path)
            if path in self._guesses:
                self._ascertain(path)
                self._guess_package(path)
        self._pump()
        for grown in (self._wanted, self._followed, self._seen):
            if len(grown) > _REMEMBERED:
                grown.clear()

    def _guess_package(self, path: bytes) -> None:
        for guess, follow in self._walk.package(path):
            self._want(guess, sure=False, follow=follow)

    def _is_library(self, path: bytes) -> bool:
        return b".so" in path.rpartition(b"/")[2]

    def _look_for_bundle(self, path: bytes) -> None:
        directory, _, name = path.rpartition(b"/")
        bundle = directory + b"/" + BUNDLE_PREFIX + name
        if self._bundles and bundle not in self._followed and self._listings.file(bundle):
            self._followed.add(bundle)
            data = self._read(bundle)
            for listed in parse_bundle(data) if data is not None else ():
                self._want(listed, sure=True)

    def _follow(self, path: bytes, *, sure: bool) -> None:
        """Looks into a file that is here and wants what it leads to; once, and once more when it was a
        guess only.
        """
        entry = self._listings.file(path)
        if entry is None or not self._is_interesting(path, entry):
            return
        mark = path if sure else b"?" + path
        if mark in self._followed or path in self._followed:
            return
        pieces = self._pieces(path, entry)
        if pieces is None:
            return
        self._followed.add(mark)
        try:
            if pieces[0:4] == b"\x7fELF":
                for library in self._libraries.follow(path, pieces):
                    self._want(library, sure=sure)
                    for guess in self._libraries.companions(library) if sure else ():
                        self._want(guess, sure=False)
                self._pump()
            if PythonPlanner.concerns(path) and entry.size <= _READ:
                for module in self._python.follow(path, pieces, entry.size):
                    self._want(module, sure=sure)
        finally:
            pieces.close()

    def _is_interesting(self, path: bytes, entry: Any) -> bool:
        return PythonPlanner.concerns(path) or self._is_library(path) or bool(entry.mode & 0o111)

    def _want(self, path: bytes, *, sure: bool, follow: bool = True) -> None:
        if path in self._wanted:
            if sure and path in self._guesses:
                self._ascertain(path)
            elif follow and path in self._unfollowed:
                self._unfollowed.discard(path)
                self._tell(_ARRIVED, path)
            return
        self._wanted.add(path)
        if not sure:
            self._guesses.add(path)
            if not follow:
                self._unfollowed.add(path)
        (self._sure if sure else self._unsure).append(path)

    def _ascertain(self, path: bytes) -> None:
        """A guess turns out to be right: what it leads to is no guess any more."""
        self._guesses.discard(path)
        self._unfollowed.discard(path)
        self._window.ascertained(path)
        if path in self._unsure:
            self._sure.append(path)
        self._tell(_ARRIVED, path)

    def _pump(self) -> None:
        """Starts as many downloads as the budget allows, sure ones first."""
        for queue in (self._sure, self._unsure):
            later: list[bytes] = []
            while queue and len(later) < _PASSED_OVER:
                path = queue.popleft()
                guess = path in self._guesses
                if guess is (queue is self._unsure) and not self._start(path, guess=guess):
                    later.append(path)  # when more was used
            queue.extendleft(reversed(later))

    def _start(self, path: bytes, *, guess: bool) -> bool:
        """Starts to download what is missing of a file; False where the budget does not allow it now."""
        entry = self._listings.file(path)
        if entry is None or entry.size > _FILE_LIMIT:
            return True
        if not self._window.admits(entry.size, guess=guess):
            return False
        try:
            missing = [r for r in self._source.requests(path, entry) if not self._store.has(r)]
        except CvmfsError:
            return True
        if not missing:
            if path not in self._unfollowed:
                self._tell(_ARRIVED, path)  # what is here already leads further, too
            return True
        if not self._was_opened(path):
            self._window.started(path, entry.size, guess=guess)
            self._ahead[path] = entry.size
            self.counters["predicted"] += 1
            self.counters["predicted_bytes"] += entry.size
        elif len(missing) == 1:
            return True  # the reader itself is at it
        self._fetch(path, missing)
        return True

    def _fetch(self, path: bytes, requests: list[Request]) -> None:
        left = len(requests)

        def bring(request: Request) -> None:
            nonlocal left
            self._mine.add(request.hash.digest)
            good = True
            try:
                bring_one = getattr(self._store, "bring", None)
                if bring_one is not None:
                    bring_one(request)
                else:
                    good = not self._store.ensure([request])
            except Exception:
                # the reader will get the error, if it comes to that
                good = False
                self.counters["failed"] += 1
            finally:
                self._mine.discard(request.hash.digest)
            with self._lock:
                left -= 1
                last = left == 0
            if last and good and not self._closed and path not in self._unfollowed:
                self._tell(_ARRIVED, path)

        urgent = path not in self._guesses
        for request in requests:
            self._pool.submit(lambda request=request: bring(request), urgent=urgent)  # type: ignore[misc]

    # --- contents

    def _pieces(self, path: bytes, entry: Any) -> Optional[_Pieces]:
        try:
            requests = list(self._source.requests(path, entry))
            if not requests or not all(self._store.has(r) for r in requests):
                return None
            return _Pieces(self._store, requests)
        except (CvmfsError, OSError):
            return None

    def _read(self, path: bytes) -> Optional[bytes]:
        """A small file, downloaded if need be."""
        entry = self._listings.file(path)
        if entry is None or entry.size > _READ:
            return None
        try:
            requests = list(self._source.requests(path, entry))
            for request in requests:
                self._mine.add(request.hash.digest)
            pieces = _Pieces(self._store, requests)
        except (CvmfsError, OSError):
            return None
        try:
            return pieces[0 : entry.size]
        finally:
            pieces.close()


class _Pieces:
    """A file of the cache, whole or in chunks, read where it is sliced."""

    def __init__(self, store: Store, requests: list[Request]) -> None:
        self._store = store
        self._requests = requests
        self._fds: dict[int, int] = {}

    def __getitem__(self, part: slice) -> bytes:
        start, stop = part.start or 0, part.stop or 0
        found = []
        at = 0
        for index, request in enumerate(self._requests):
            size = request.size or 0
            if at + size > start and at < stop:
                fd = self._fds.get(index)
                if fd is None:
                    fd = self._fds[index] = self._store.open(request)
                low = max(0, start - at)
                found.append(os.pread(fd, min(size, stop - at) - low, low))
            at += size
        return b"".join(found)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}


def make_prefetcher(config: Config, source: Source, store: Store) -> Predictor:
    """A predictor that the store tells about misses."""
    predictor = Predictor(config, source, store)
    watchers = getattr(store, "watchers", None)
    if watchers is not None:
        watchers.append(predictor)
    return predictor
