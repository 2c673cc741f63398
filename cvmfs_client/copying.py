"""Copies out of a repository, as cp makes them."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .bulk import walk_entries
from .entry import Entry
from .errors import CvmfsError, show
from .materialise import (
    LocalError,
    copy_contents,
    local_error,
    make_directory,
    make_link,
    make_special,
    part_name,
    put,
    set_metadata,
)

if TYPE_CHECKING:
    from .repository import Repository

_INLINE = 4 << 20  # bytes; what is cached and no larger is copied by the thread that walks
_SLOW_DISK = 0.004  # s per such file, beyond which waiting for the disk is better shared


class Copier:
    """Copies files and trees; ``errors`` has the (path, error) pairs of what failed."""

    def __init__(
        self,
        repository: Repository,
        *,
        jobs: int = 8,
        preserve: bool = False,
        dereference: bool = False,
        progress: Callable[[int], Any] | None = None,
    ) -> None:
        self._repository = repository
        self._jobs = max(1, jobs)
        self._preserve = preserve
        self._dereference = dereference
        self._progress = progress
        self._lock = threading.Lock()
        self._groups: dict[int, bytes] = {}  # inode number -> local path, for hard links
        self._turns: dict[int, threading.Lock] = {}
        self._umask = _umask()
        self._inline_time = 0.0  # s that a cached file took lately
        self.errors: list[tuple[str, CvmfsError]] = []

    def copy(self, real: bytes, entry: Entry, target: str) -> None:
        """Copies one entry, with all below, to the local path ``target``; what is there is replaced."""
        local = os.fsencode(target)
        if not entry.is_dir:
            self._try(real, entry, local)
            return
        self._guard(local, lambda: make_directory(local))
        if self.errors:
            return
        directories = [(local, entry)]
        turns = threading.Semaphore(8 * self._jobs)
        with ThreadPoolExecutor(self._jobs, "cvmfs-copy") as pool:

            def work(path: bytes, found: Entry, place: bytes) -> None:
                try:
                    self._try(path, found, place)
                finally:
                    turns.release()

            try:
                for path, found in walk_entries(self._repository, real):
                    place = local + path[len(real) :]
                    if found.is_dir:
                        self._guard(path, lambda p=place: make_directory(p))  # type: ignore[misc]
                        directories.append((place, found))
                        continue
                    if self._at_hand(path, found):
                        start = time.monotonic()
                        self._try(path, found, place)
                        taken = time.monotonic() - start
                        self._inline_time += (taken - self._inline_time) / 16
                        continue
                    self._fetch_ahead(path, found)
                    turns.acquire()
                    pool.submit(work, path, found, place)
            except CvmfsError as e:
                self.errors.append((show(real), e))
        for place, found in reversed(directories):
            self._guard(place, lambda p=place, e=found: self._finish(p, e))  # type: ignore[misc]

    def _at_hand(self, path: bytes, entry: Entry) -> bool:
        """Whether handing it to another thread costs more than copying it: it is in the cache, and the disk
        that is written to is not slow."""
        if self._jobs > 1 and self._inline_time > _SLOW_DISK:
            return False
        if not entry.is_file:
            return not (entry.is_link and self._dereference)
        if entry.size > _INLINE:
            return False
        try:
            return all(map(self._repository.store.has, self._repository.tree.requests(path, entry)))
        except CvmfsError:
            return False

    def _fetch_ahead(self, path: bytes, entry: Entry) -> None:
        """Downloads wait for the network, copies for the disk: more of the former are under way."""
        ahead = getattr(self._repository.store, "ahead", None)
        if ahead is not None and entry.is_file:
            try:
                ahead(self._repository.tree.requests(path, entry))
            except CvmfsError:
                pass  # the copy will tell

    def _guard(self, path: bytes, action: Callable[[], Any]) -> None:
        try:
            action()
        except CvmfsError as e:
            with self._lock:
                self.errors.append((show(path), e))
        except OSError as e:
            with self._lock:
                self.errors.append((show(path), local_error(path, e)))

    def _try(self, path: bytes, entry: Entry, local: bytes) -> None:
        self._guard(path, lambda: self._make(path, entry, local))

    def _finish(self, local: bytes, entry: Entry) -> None:
        set_metadata(local, entry, preserve=self._preserve)
        if not self._preserve:
            os.chmod(local, stat.S_IMODE(os.lstat(local).st_mode) & ~self._umask)

    def _make(self, path: bytes, entry: Entry, local: bytes) -> None:
        if entry.is_link:
            if not self._dereference:
                make_link(local, self._repository.view.target(entry))
                if self._preserve:
                    set_metadata(local, entry)
                return
            path, entry = self._repository.view.resolve(path)
            if entry.is_dir:
                raise LocalError(f"{show(path)} is a directory that a link leads to: not copied")
        if not entry.is_file:
            if not make_special(local, entry):
                raise LocalError(f"{show(path)} is a special file that only root can make")
            self._finish(local, entry)
            return
        if not (self._preserve and entry.group):
            self._file(path, entry, local)
            return
        with self._lock:
            turn = self._turns.setdefault(entry.ino, threading.Lock())
        with turn:  # the first of a group is written, the others are linked to it
            if not self._link(entry, local):
                self._file(path, entry, local)
                self._groups[entry.ino] = local

    def _file(self, path: bytes, entry: Entry, local: bytes) -> None:
        part = part_name(os.path.dirname(local) or b".")
        requests = self._repository.tree.requests(path, entry)
        copy_contents(self._repository.store, requests, entry.size, part, self._progress)
        try:
            self._finish(part, entry)
            put(part, local)
        except BaseException:
            os.unlink(part)
            raise

    def _link(self, entry: Entry, local: bytes) -> bool:
        first = self._groups.get(entry.ino)
        if first is None:
            return False
        part = part_name(os.path.dirname(local) or b".")
        try:
            os.link(first, part)
        except OSError:
            return False
        put(part, local)
        return True


def _umask() -> int:
    """Read without changing it where the system tells; the call that changes it is not thread-safe."""
    try:
        with open("/proc/self/status") as f:
            for line in f:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except (OSError, ValueError):
        pass
    value = os.umask(0o22)
    os.umask(value)
    return value
