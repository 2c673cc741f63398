"""Locks between processes that save work, on which correctness never depends.

A lock is ``flock`` on a small file: a killed holder frees it at once. A holder that is stopped keeps it, so
a holder shows by a heartbeat (the file's mtime) that it is being scheduled, and a waiter that sees none for
``patience`` seconds goes on to the next generation of the lock, ``<path>.1``, then ``.2``: it becomes a
second holder beside the stopped one, and those that wait after it wait for it. What is done under a lock
must therefore be harmless when done twice; :attr:`Lock.generation` tells the holders apart.

Where the file system has no flock (Lustre without ``-o flock``), a file naming its owner stands in for it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from errno import EACCES, EAGAIN, EINVAL, ENOLCK, ENOSYS, ENOTSUP

from udk.base import jsonlite
from udk.base.files import atomic_write, read_file, unique
from udk.base.process import is_alive, own_identity
from udk.base.retry import delays

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

PATIENCE = 120.0  # seconds without a heartbeat before a holder is passed over
HEARTBEAT = 5.0  # seconds between heartbeats
_UNSUPPORTED = (ENOSYS, ENOLCK, ENOTSUP, EINVAL)
_MAX_GENERATIONS = 100

_held: dict[int, Lock] = {}
_held_guard = threading.Lock()
_pulse: threading.Thread | None = None


class Lock:
    """An exclusive lock named by the file ``path``.

    ``with Lock(path) as lock:`` waits for it. It also excludes the other threads of this process. The file
    is left in place unless :attr:`remove` is set; whoever opened it before it was removed notices and opens
    anew."""

    def __init__(self, path: str, patience: float = PATIENCE, remove: bool = False) -> None:
        self.path = path
        self.patience = patience
        self.remove = remove
        self.generation = 0
        self._fd = -1
        self._owner = ""  # path of the stand-in

    @property
    def held(self) -> bool:
        return self._fd >= 0

    def acquire(self, enough: Callable[[], bool] | None = None) -> bool:
        """Waits for the lock; True when it is held. ``enough`` is asked now and then, and ends the wait
        with False when it says that what the lock is wanted for has been done. Raises OSError."""
        beat, idle, last = -1, 0.0, time.monotonic()
        # A quarter of a second is nothing beside a download, and 64 waiters polling that often cost no load.
        for delay in delays(0.01, 1.5, 0.25):
            if self._try():
                return True
            if enough and enough():
                return False
            now = time.monotonic()
            # A waiter that was itself stopped has seen nothing meanwhile: its absence does not count.
            idle += min(now - last, 1.0)
            current, last = self._beat(), now
            if current != beat:
                beat, idle = current, 0.0
            elif idle > self.patience and self.generation < _MAX_GENERATIONS:
                self.generation += 1
                beat, idle = -1, 0.0
                continue
            time.sleep(delay)
        raise AssertionError  # delays() is endless

    def try_acquire(self) -> bool:
        """Takes the lock if nobody holds it."""
        return self._try()

    def release(self) -> None:
        """Gives the lock up. Idempotent."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        with _held_guard:
            _held.pop(fd, None)
        for path in (*((self._owner,) if self._owner else ()), *((self._file(),) if self.remove else ())):
            try:
                os.unlink(path)
            except OSError:
                pass
        self._owner = ""
        os.close(fd)

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _file(self) -> str:
        return f"{self.path}.{self.generation}" if self.generation else self.path

    def _beat(self) -> int:
        try:
            return os.stat(self._file()).st_mtime_ns
        except OSError:
            return 0

    def _try(self) -> bool:
        while True:
            path = self._file()
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                fd = os.open(path, flags, 0o666)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                fd = os.open(path, flags, 0o666)
            try:
                if not self._lock(fd, path):
                    os.close(fd)
                    return False
                try:
                    there = os.stat(path)
                except FileNotFoundError:
                    there = None
                mine = os.fstat(fd)
            except BaseException:
                os.close(fd)
                raise
            if there is not None and (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                self._fd = fd
                _start_pulse(self)
                return True
            os.close(fd)  # a holder before us removed the file: the lock is on one that nobody else will find

    def _lock(self, fd: int, path: str) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as e:
            if e.errno in (EAGAIN, EACCES):
                return False
            if e.errno not in _UNSUPPORTED:
                raise
        return self._lock_by_file(path + ".owner")

    def _lock_by_file(self, owner: str) -> bool:
        try:
            atomic_write(owner, jsonlite.dumps(own_identity()).encode(), durable=False, exclusive=True)
        except FileExistsError:
            try:
                age = time.time() - os.stat(owner).st_mtime
                holder = jsonlite.loads(read_file(owner))
            except FileNotFoundError:
                return False
            except ValueError:
                holder, age = {}, 0.0
            if holder and not is_alive(holder, age):
                # Removed by rename: of several that judge it dead one succeeds.
                gone = f"{owner}.{unique()}"
                try:
                    os.rename(owner, gone)
                    os.unlink(gone)
                except OSError:
                    pass
            return False
        self._owner = owner
        return True


def _start_pulse(lock: Lock) -> None:
    global _pulse
    try:
        os.utime(lock._fd)
    except OSError:
        pass
    with _held_guard:
        _held[lock._fd] = lock
        if _pulse is None or not _pulse.is_alive():
            _pulse = threading.Thread(target=_beat_all, name="udk-locks", daemon=True)
            _pulse.start()


def _beat_all() -> None:
    global _pulse
    while True:
        time.sleep(HEARTBEAT)
        with _held_guard:
            if not _held:
                _pulse = None
                return
            for fd in _held:
                try:
                    os.utime(fd)
                except OSError:
                    pass
