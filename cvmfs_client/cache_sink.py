"""Where downloaded bytes go: a file of the cache, or memory when there is no cache or its disk is full."""

from __future__ import annotations

import errno
import os
from typing import Callable, Optional

from .cache_layout import Directory, Record, new_digest
from .errors import CacheFullError
from .hash import Hash
from .interfaces import Request

MEMORY_LIMIT = 128 << 20  # bytes of one object that are held in memory
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Sink:
    """Collects one object. Then :meth:`finish` gives a read-only descriptor at offset 0 and says whether it
    is in the cache; :meth:`abandon` drops what is not finished. Not thread-safe.

    ``make_room`` is asked for bytes when the disk is full. With ``stored_only`` memory is no way out."""

    def __init__(
        self,
        directory: Optional[Directory],
        request: Request,
        make_room: Callable[[int], bool],
        *,
        stored_only: bool = False,
    ) -> None:
        self._directory = directory
        self._request = request
        self._make_room = make_room
        self._stored_only = stored_only
        self._part = ""
        self._fd = -1
        self._size = 0
        self._digest = new_digest()

    def put(self, data: bytes) -> None:
        """Takes the next bytes. Raises CacheFullError."""
        if self._fd < 0:
            self._begin()
        self._digest.update(data)
        self._size += len(data)
        view = memoryview(data)
        evicted = False
        while view:
            if not self._part and self._size > MEMORY_LIMIT:
                raise self._full()
            try:
                view = view[os.write(self._fd, view) :]
            except OSError as error:
                if error.errno not in _FULL or not self._part:
                    raise
                if not evicted and self._make_room(len(view) + (1 << 20)):
                    evicted = True
                    continue
                self._to_memory()

    def restart(self) -> None:
        """What was put was wrong: start over."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self._size = 0
        self._digest = new_digest()

    def finish(self, name: Hash) -> tuple[int, bool]:
        """(descriptor, in the cache). Raises CacheFullError, OSError."""
        if self._fd < 0:
            self._begin()
        if self._part and self._directory is not None:
            try:
                fd = os.open(self._part, os.O_RDONLY | os.O_CLOEXEC)
                record = Record(self._request.hash.suffix, self._size, self._digest.digest())
                try:
                    self._directory.commit(
                        self._part, self._fd, name, record, volatile=self._request.volatile
                    )
                except BaseException:
                    os.close(fd)
                    raise
                self._part = ""
                self._close()
                return fd, True
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._to_memory()
        # a writable descriptor must not get out: what is in memory is verified, and shall stay so
        fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        self._close()
        return fd, False

    @property
    def size(self) -> int:
        return self._size

    def abandon(self) -> None:
        """Removes what was not finished; does nothing after :meth:`finish`."""
        self._close()
        if self._part:
            try:
                os.unlink(self._part)
            except OSError:
                pass
            self._part = ""

    def _begin(self) -> None:
        if self._directory is not None:
            for _ in range(2):
                try:
                    self._part, self._fd = self._directory.create()
                    return
                except OSError as error:
                    # the directory may have been wiped, or made read-only, under a running process
                    if error.errno == errno.ENOENT:
                        self._directory.prepare()
                    elif error.errno in (errno.EROFS, errno.EACCES) or (
                        error.errno in _FULL and not self._make_room(1 << 20)
                    ):
                        break
                    elif error.errno not in _FULL:
                        raise
        if self._stored_only:
            raise self._full()
        self._fd = os.memfd_create("cvmfs-object", os.MFD_CLOEXEC)

    def _to_memory(self) -> None:
        """Moves what was written so far out of the way of the full disk."""
        if self._stored_only or self._size > MEMORY_LIMIT:
            raise self._full()
        old, part = self._fd, self._part
        self._fd = os.memfd_create("cvmfs-object", os.MFD_CLOEXEC)
        self._part = ""
        try:
            at = 0
            while True:
                piece = os.pread(old, 1 << 20, at)
                if not piece:
                    break
                os.write(self._fd, piece)
                at += len(piece)
        finally:
            os.close(old)
            os.unlink(part)

    def _full(self) -> CacheFullError:
        where = self._directory.path if self._directory is not None else "the cache"
        return CacheFullError(
            f"no space left for {self._request.hash} in {where}",
            "free some, or choose another CVMFS_CACHE_BASE",
        )

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
