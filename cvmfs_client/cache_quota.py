"""How much the cache may hold, what goes first when it is more, and what stays (pins).

No manager process and no database: the time of last use is each file's own, the sum is kept in a small file
that every process adds to and every scan corrects. All of it is advice; the file system has the truth.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterable
from typing import Any

from .cache_layout import Directory, Item
from .forksafe import ForkSafe
from .hash import Hash

_DELTA = struct.Struct("<q")
_SMALLEST_REPORT = 4 << 20  # bytes that a process stores before it tells the others
_RESERVE = 64 << 20  # bytes of the file system that are left to others
_RESERVE_SHARE = 50  # but at most one part in this many
_RESCAN = 86400.0  # s after which the sum is counted anew


class Quota(ForkSafe):
    """Bounds one writable cache directory. ``limit`` in bytes; 0: none, nothing is ever evicted for it.

    Thread-safe, fork-safe."""

    def __init__(self, directory: Directory, limit: int) -> None:
        super().__init__()
        self.directory = directory
        self.limit = limit
        self.evicted = 0  # bytes, by this process
        self._lock = threading.Lock()
        self._pending = 0
        self._until_check = 0
        self._held: dict[str, int] = {}

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._pending = 0  # the parent's to report

    # --- the sum

    def used(self) -> int:
        """Bytes in the cache, about: exact after a scan."""
        total, _ = self._read()
        return max(0, total + self._pending)

    def _path(self, name: str) -> str:
        return f"{self.directory.path}/{name}"

    def _read(self) -> tuple[int, float]:
        """(bytes, time of the scan); counts where nothing was counted yet."""
        try:
            with open(self._path("usage"), "rb") as file:
                total, when = (int(part) for part in file.read(64).split())
        except (OSError, ValueError):
            return self.scan(), time.time()
        try:
            with open(self._path("usage.log"), "rb") as file:
                log = file.read()
            total += sum(delta for (delta,) in _DELTA.iter_unpack(log[: len(log) // 8 * 8]))
        except OSError:
            pass
        return total, float(when)

    def scan(self) -> int:
        """Counts all objects and writes the sum down."""
        total = sum(item.size for item in self.directory.items())
        self._write(total)
        return total

    def _write(self, total: int) -> None:
        path = self._path("usage")
        part = f"{path}.{os.getpid()}.{threading.get_ident():x}"
        try:
            with open(part, "wb") as file:
                file.write(b"%d %d\n" % (total, time.time()))
            # additions made between the two are lost until the next scan: a few megabytes
            try:
                os.unlink(self._path("usage.log"))
            except FileNotFoundError:
                pass
            os.rename(part, path)
        except OSError:
            pass

    def _report(self) -> None:
        """Adds what this process has stored to the common sum."""
        with self._lock:
            pending, self._pending = self._pending, 0
        if not pending:
            return
        try:
            fd = os.open(
                self._path("usage.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o660
            )
            try:
                os.write(fd, _DELTA.pack(pending))
            finally:
                os.close(fd)
        except OSError:
            pass

    def added(self, size: int) -> None:
        """An object was stored. Evicts when the limit is exceeded, down to half of it."""
        with self._lock:
            self._pending += size
            self._until_check -= size
            due = self._until_check <= 0
            if due:
                self._until_check = min(_SMALLEST_REPORT, max(1, self.limit // 16)) if self.limit else 1 << 40
        if not due:
            return
        self._report()
        if self.limit:
            total, scanned = self._read()
            if time.time() - scanned > _RESCAN:
                total = self.scan()
            if total > self.limit:
                self.evict_to(self.limit // 2)

    def close(self) -> None:
        """Reports what is still to report."""
        self._report()

    # --- what stays

    def hold(self, name: Hash) -> None:
        """Keeps an object from being evicted by this process, and makes it the last choice of others."""
        with self._lock:
            self._held[str(name)] = self._held.get(str(name), 0) + 1

    def pin(self, names: Iterable[Hash]) -> None:
        """Keeps objects until unpinned, across processes. Raises OSError."""
        os.makedirs(self._path("pins"), exist_ok=True)
        for name in names:
            os.close(os.open(f"{self._path('pins')}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o660))

    def unpin(self, names: Iterable[Hash]) -> None:
        for name in names:
            try:
                os.unlink(f"{self._path('pins')}/{name}")
            except OSError:
                pass

    def pinned(self) -> set[str]:
        """Text forms of the hashes that are pinned."""
        try:
            return set(os.listdir(self._path("pins")))
        except OSError:
            return set()

    # --- what goes

    def evict_to(self, goal: int) -> int:
        """Removes the least recently used objects, volatile ones first, until ``goal`` bytes are left;
        returns bytes freed."""
        keep = self.pinned() | set(self._held)
        items = sorted(self.directory.items(), key=_age)
        total = sum(item.size for item in items)
        freed = 0
        for item in items:
            if total - freed <= goal:
                break
            if item.name not in keep and self.directory.remove(item.name):
                freed += item.size
        self._write(total - freed)
        with self._lock:
            self._pending = 0
        self.evicted += freed
        return freed

    def make_room(self, size: int) -> bool:
        """Frees at least ``size`` bytes of a full disk, if that can be; one pass frees a quarter of the
        cache more, so that the next object does not need another."""
        if not self.limit:
            return False
        used = self.scan()
        freed = self.evict_to(max(0, used - size - used // 4))
        return freed >= min(size, 1)

    def keep_reserve(self) -> None:
        """Evicts when the disk is nearly full: others need some, and a full disk is slow."""
        if not self.limit:
            return
        try:
            status = os.statvfs(self.directory.path)
        except OSError:
            return
        reserve = min(_RESERVE, status.f_blocks * status.f_frsize // _RESERVE_SHARE)
        free = status.f_bavail * status.f_frsize
        if free < reserve:
            self.evict_to(max(0, self.used() - 2 * (reserve - free) - self.used() // 8))

    def status(self) -> dict[str, Any]:
        pinned = self.pinned() | set(self._held)
        return {
            "bytes": self.used(),
            "limit": self.limit or None,
            "pinned": len(pinned),
            "evicted": self.evicted,
        }


def _age(item: Item) -> float:
    return item.used
