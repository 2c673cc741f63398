"""One download per object: threads of a process and processes of a host wait for each other. Only to save
work.

Between processes it is a byte-range lock per object in one file, at an offset taken from the hash; a killed
holder's locks are gone with it. Where the cache is on a network file system, the lock file is in local
memory instead, and hosts do not wait for each other. Nothing depends on it: whoever waits too long, or
cannot lock, downloads on its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
import time
from types import TracebackType
from typing import Callable, Optional

from .forksafe import ForkSafe
from .hash import Hash

_LOCAL = frozenset(
    (
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "tmpfs",
        "ramfs",
        "zfs",
        "f2fs",
        "jfs",
        "reiserfs",
        "overlay",
        "bcachefs",
    )
)
_PATIENCE = (
    20.0  # s to wait for another process; a holder that was stopped must not stop the rest of the node
)
_IMPATIENCE = 1.0  # s, when somebody was waited for in vain lately
_LATELY = 300.0
_LONGEST_NAP = 0.02


class Flight(ForkSafe):
    """The locks of one cache directory. Thread-safe, fork-safe."""

    def __init__(self, directory: str, *, patience: float = _PATIENCE) -> None:
        super().__init__()
        self._directory = directory
        self._patience = patience
        self._mutex = threading.Lock()
        self._inside: dict[bytes, threading.Event] = {}
        self._fd = -2  # -2: not opened yet, -1: no locks here
        self._disappointed = -_LATELY

    def _after_fork(self) -> None:
        # the descriptor is shared with the parent, and so would its locks be
        fd, self._fd = self._fd, -2
        if fd >= 0:
            os.close(fd)
        self._mutex = threading.Lock()
        self._inside = {}

    def close(self) -> None:
        """Gives all locks up."""
        with self._mutex:
            fd, self._fd = self._fd, -2
        if fd >= 0:
            os.close(fd)

    def claim(self, name: Hash, present: Callable[[], bool]) -> Optional[Claim]:
        """The right to fetch an object; None when somebody else did while we waited (``present`` says so)."""
        while True:
            with self._mutex:
                event = self._inside.get(name.digest)
                if event is None:
                    self._inside[name.digest] = event = threading.Event()
                    break
            event.wait()
            if present():
                return None
        try:
            locked = self._lock(name, present)
        except BaseException:
            self._land(name)
            raise
        if locked is None:
            self._land(name)
            return None
        return Claim(self, name, locked=locked)

    def _land(self, name: Hash) -> None:
        with self._mutex:
            event = self._inside.pop(name.digest, None)
        if event is not None:
            event.set()

    def _lock(self, name: Hash, present: Callable[[], bool]) -> Optional[bool]:
        """True: locked; False: not locked, go on without; None: present."""
        fd = self._open()
        if fd < 0:
            return None if present() else False
        now = time.monotonic()
        lately = now - self._disappointed < _LATELY
        deadline = now + (min(_IMPATIENCE, self._patience) if lately else self._patience)
        nap = 0.001
        while True:
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _range(fcntl.F_WRLCK, name))
                if not present():
                    return True
                self._unlock(fd, name)
                return None
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    return False
            if present():
                return None
            if time.monotonic() > deadline:
                self._disappointed = time.monotonic()
                return False
            time.sleep(nap)
            nap = min(nap * 1.5, _LONGEST_NAP)

    def _unlock(self, fd: int, name: Hash) -> None:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _range(fcntl.F_UNLCK, name))
        except OSError:
            pass

    def _open(self) -> int:
        with self._mutex:
            if self._fd == -2:
                self._fd = _open_lock_file(self._directory)
            return self._fd


class Claim:
    """Held while an object is fetched; a context manager."""

    def __init__(self, flight: Flight, name: Hash, *, locked: bool) -> None:
        self._flight = flight
        self._name = name
        self._locked = locked

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._locked and self._flight._fd >= 0:
            self._flight._unlock(self._flight._fd, self._name)
        self._flight._land(self._name)


def _range(kind: int, name: Hash) -> bytes:
    """struct flock of one byte; 7 bytes of hash make an offset, and two objects at one offset only wait in
    vain.
    """
    offset = int.from_bytes(name.digest[:7], "big")
    return struct.pack("@hhqqi4x", kind, os.SEEK_SET, offset, 1, 0)


def _open_lock_file(directory: str) -> int:
    """A descriptor to lock on; -1 where there is no place for it."""
    try:
        status = os.stat(directory)
        path = f"{directory}/txn/.locks"
        if file_system(status.st_dev) not in _LOCAL:
            home = f"/dev/shm/udk-{os.getuid()}"
            try:
                os.mkdir(home, 0o700)
            except FileExistsError:
                pass
            owner = os.lstat(home)
            if owner.st_uid != os.getuid() or owner.st_mode & 0o077 or not stat.S_ISDIR(owner.st_mode):
                return -1
            path = f"{home}/cvmfs-{status.st_dev:x}-{status.st_ino:x}.locks"
        mode = 0o660 if status.st_mode & 0o020 else 0o600
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    except OSError:
        return -1


def file_system(device: int) -> str:
    """Type of the mounted file system with this st_dev, as /proc/self/mountinfo has it; "" if unknown."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.split(" ")
                if fields[2] == wanted:
                    return line.partition(" - ")[2].split(" ")[0]
    except (OSError, IndexError):
        pass
    return ""
