"""One cache directory in the official layout (formats reference 12), and the record kept beside each object.

An object is the file ``XX/<rest of the hash>``, decompressed, put there by rename. What must be known to
check it without compressing it again is a record of its size and BLAKE2b digest: an extended attribute of
the file, or, where the file system has none, the target of a symbolic link beside it. Other clients take no
notice of either.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple, Optional

from .errors import CacheError
from .hash import Hash

XATTR = "user.udk"
SIDECAR = ".udk"
_RECORD = struct.Struct("<BcQ32s")  # version, kind, size, digest; small enough to stay inside an ext4 inode
_VERSION = 1
_HEX = frozenset("0123456789abcdef")
_PIECE = 1 << 20
_ABANDONED = 3600.0  # s after which an unfinished download is nobody's any more
_NO_XATTR = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENOSPC, errno.E2BIG, errno.ENOSYS, errno.EDQUOT)
# an object of a volatile repository gets a time this much earlier (s), so that it is evicted before all
# others
VOLATILE_SHIFT = 1 << 30


class Record(NamedTuple):
    """What is known of an object: kind is its suffix letter, "" for a file; size in bytes, decompressed."""

    kind: str
    size: int
    digest: bytes

    def pack(self) -> bytes:
        return _RECORD.pack(_VERSION, (self.kind or " ").encode("ascii"), self.size, self.digest)

    @classmethod
    def unpack(cls, data: bytes) -> Optional[Record]:
        if len(data) != _RECORD.size or data[0] != _VERSION:
            return None
        _, kind, size, digest = _RECORD.unpack(data)
        return cls(kind.decode("ascii", "replace").strip(), size, digest)


def new_digest() -> hashlib.blake2b:
    """The hasher of records."""
    return hashlib.blake2b(digest_size=32)


class Item(NamedTuple):
    """An object found by listing a cache."""

    name: str  # text form of its hash
    size: int
    used: float  # time of last use, s since the epoch; volatile ones are shifted
    inode: int


class Directory:
    """A cache directory. ``shared``: group-writable files, as alien caches have them."""

    def __init__(self, path: str, *, writable: bool, shared: bool = False) -> None:
        self.path = os.path.abspath(path)
        self.writable = writable
        self.shared = shared
        self._mode = 0o660 if shared else 0o600
        self._serial = 0
        self._with_xattr = True

    def prepare(self) -> None:
        """Makes what is missing. Raises CacheError where it cannot be used for writing, or must not be
        trusted.
        """
        mode = 0o770 if self.shared else 0o700
        try:
            os.makedirs(self.path, mode=mode, exist_ok=True)
            self.check_trust()
            if not os.path.isdir(f"{self.path}/quarantaine"):
                for name in [*(f"{i:02x}" for i in range(256)), "txn", "quarantaine"]:
                    try:
                        os.mkdir(f"{self.path}/{name}", mode)
                        if self.shared:
                            os.chmod(f"{self.path}/{name}", mode)  # whatever the umask
                    except FileExistsError:
                        pass
            if not os.access(f"{self.path}/txn", os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "not writable")
        except OSError as error:
            raise CacheError(
                f"the cache {self.path} cannot be used: {error.strerror or error}",
                "name another directory with CVMFS_CACHE_BASE or --cache",
            ) from error

    def check_trust(self) -> None:
        """Refuses a directory in which strangers could have put something. Raises CacheError, OSError."""
        status = os.stat(self.path)
        if not stat.S_ISDIR(status.st_mode):
            raise CacheError(f"{self.path} is not a directory")
        bad = stat.S_IWOTH if self.shared or not self.writable else stat.S_IWOTH | stat.S_IWGRP
        if status.st_mode & bad:
            raise CacheError(
                f"{self.path} can be written by others (mode {stat.S_IMODE(status.st_mode):04o})",
                f"chmod {'o-w' if bad == stat.S_IWOTH else 'go-w'} {self.path}"
                + ("" if self.shared else ", or use it as CVMFS_ALIEN_CACHE"),
            )

    def object_path(self, name: Hash) -> str:
        return f"{self.path}/{name.cache_path}"

    def open(self, name: Hash) -> int:
        """A read-only descriptor; -1 where the object is not there. Follows no link. Raises CacheError on
        I/O errors.
        """
        try:
            return os.open(self.object_path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return -1
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.ESTALE):
                return -1
            raise CacheError(f"the cache {self.path} cannot be read: {error.strerror}") from error

    def record(self, name: Hash, fd: int) -> Optional[Record]:
        """The record of an open object; None where there is none."""
        try:
            return Record.unpack(os.getxattr(fd, XATTR))
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.ENOSYS, errno.EPERM):
                return None
        try:
            return Record.unpack(bytes.fromhex(os.readlink(self.object_path(name) + SIDECAR)))
        except (OSError, ValueError):
            return None

    def create(self) -> tuple[str, int]:
        """A new file for a download: its path and a descriptor for writing. Raises OSError."""
        while True:
            self._serial += 1
            path = f"{self.path}/txn/fetch{os.getpid()}.{self._serial}.{time.monotonic_ns():x}"
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode)
            except FileExistsError:
                continue
            if self.shared:
                os.fchmod(fd, self._mode)
            return path, fd

    def commit(self, part: str, fd: int, name: Hash, record: Record, *, volatile: bool) -> None:
        """Gives the finished file its name. Raises OSError; the caller then removes ``part``."""
        target = self.object_path(name)
        packed = record.pack()
        if self._with_xattr:
            try:
                os.setxattr(fd, XATTR, packed)
            except OSError as error:
                if error.errno not in _NO_XATTR:
                    raise
                self._with_xattr = False
        if not self._with_xattr:
            self._write_sidecar(target, packed)
        if volatile:
            touch(fd, volatile=True)
        try:
            os.rename(part, target)
        except FileNotFoundError:
            # a directory of ours is gone (somebody wiped the cache): make it anew, once
            os.makedirs(os.path.dirname(target), mode=0o770 if self.shared else 0o700, exist_ok=True)
            os.rename(part, target)

    def _write_sidecar(self, target: str, packed: bytes) -> None:
        part = f"{target}{SIDECAR}.{os.getpid()}.{time.monotonic_ns():x}"
        os.symlink(packed.hex(), part)
        os.rename(part, target + SIDECAR)

    def remove(self, name: str) -> bool:
        """Removes an object by the text form of its hash; False where it is gone already."""
        path = f"{self.path}/{name[:2]}/{name[2:]}"
        try:
            os.unlink(path)
        except OSError:
            return False
        if not self._with_xattr or not name:
            try:
                os.unlink(path + SIDECAR)
            except OSError:
                pass
        return True

    def items(self) -> Iterator[Item]:
        """All objects, in no order. What vanishes meanwhile is left out."""
        for i in range(256):
            prefix = f"{i:02x}"
            try:
                with os.scandir(f"{self.path}/{prefix}") as entries:
                    for entry in entries:
                        if not is_object(entry.name):
                            continue
                        try:
                            status = entry.stat(follow_symlinks=False)
                        except OSError:
                            continue
                        if stat.S_ISREG(status.st_mode):
                            yield Item(prefix + entry.name, status.st_size, status.st_mtime, status.st_ino)
            except OSError:
                continue

    def sweep(self) -> int:
        """Removes what killed downloads and lost sidecars left; returns bytes freed."""
        freed = 0
        limit = time.time() - _ABANDONED
        try:
            with os.scandir(f"{self.path}/txn") as entries:
                for entry in entries:
                    if not entry.name.startswith("fetch"):
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                        if status.st_mtime < limit and stat.S_ISREG(status.st_mode):
                            os.unlink(entry.path)
                            freed += status.st_size
                    except OSError:
                        continue
        except OSError:
            pass
        return freed

    def free_bytes(self) -> int:
        """Bytes that the caller can still write on this file system."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize


def is_object(name: str) -> bool:
    """Whether ``name`` is that of an object within its directory ``XX``."""
    if len(name) == 38:
        return _HEX.issuperset(name)
    if len(name) in (45, 47):
        return name[38:] in ("-rmd160", "-shake128") and _HEX.issuperset(name[:38])
    return False


def touch(fd: int, *, volatile: bool) -> None:
    """Notes a use: the time of modification is what eviction goes by, since kernels do not keep times of
    access.
    """
    now = time.time_ns() - (VOLATILE_SHIFT * 10**9 if volatile else 0)
    try:
        os.utime(fd, ns=(now, now))
    except OSError:
        pass


def digest_of(fd: int) -> bytes:
    """BLAKE2b of everything from offset 0; the descriptor's offset does not move. Raises OSError."""
    hasher = new_digest()
    at = 0
    while True:
        piece = os.pread(fd, _PIECE, at)
        if not piece:
            return hasher.digest()
        hasher.update(piece)
        at += len(piece)
