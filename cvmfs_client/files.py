"""Open files: those that are one object are plain files of the cache; chunked ones fetch the pieces they
touch."""

from __future__ import annotations

import bisect
import io
import os
import threading
from collections.abc import Sequence
from typing import Any

from .errors import IntegrityError, PathLike, show
from .interfaces import Request, Store

BUFFER = 1 << 17
_OPEN_CHUNKS = 2  # descriptors kept: of the chunk read now and the one before


class _Whole(io.FileIO):
    """An object of the cache, named by its path in the repository."""

    def __init__(self, fd: int, path: PathLike) -> None:
        super().__init__(fd, "rb")
        self.name = path  # type: ignore[assignment,misc,unused-ignore]


def open_object(fd: int, path: PathLike, buffering: int = -1) -> io.BufferedReader | io.FileIO:
    """A binary file on a descriptor of the cache, which it owns."""
    raw = _Whole(fd, path)
    return raw if buffering == 0 else io.BufferedReader(raw, BUFFER if buffering < 2 else buffering)


def open_empty() -> int:
    """A descriptor on no bytes."""
    try:
        return os.memfd_create("empty", os.MFD_CLOEXEC)
    except (OSError, AttributeError):
        return os.open(os.devnull, os.O_RDONLY)


class ChunkedFile(io.RawIOBase):
    """A file of several objects. ``requests`` are contiguous; each must know its size in bytes. Thread-safe
    reads.

    Raises what the store raises."""

    def __init__(self, store: Store, requests: Sequence[Request], path: PathLike) -> None:
        super().__init__()
        self.name = path
        self.mode = "rb"
        self._store = store
        self._requests = requests
        self._starts: list[int] = []
        at = 0
        for request in requests:
            self._starts.append(at)
            at += request.size or 0
        self.size = at
        self._at = 0
        self._lock = threading.Lock()
        self._fds: dict[int, int] = {}
        self._last = -1
        self._ahead: threading.Thread | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check()
        return self._at

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}.get(whence)
        if base is None or base + offset < 0:
            raise ValueError("bad seek")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._check()
        with self._lock:
            count = self._read_at(self._at, memoryview(buffer).cast("B"))
            self._at += count
            return count

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset``, without moving the position."""
        self._check()
        wanted = max(0, min(size, self.size - offset))
        out = bytearray(wanted)
        with self._lock:
            done = 0
            while done < wanted:
                done += self._read_at(offset + done, memoryview(out)[done:])
        return bytes(out)

    def _read_at(self, offset: int, view: memoryview) -> int:
        if offset >= self.size or not len(view):
            return 0
        index = bisect.bisect_right(self._starts, offset) - 1
        inside = offset - self._starts[index]
        length = min(len(view), (self._requests[index].size or 0) - inside)
        fd = self._chunk(index)
        count = os.preadv(fd, [view[:length]], inside)
        if count == 0:
            raise IntegrityError(f"a chunk of {show(self.name)} is shorter than its catalog says")
        return count

    def _chunk(self, index: int) -> int:
        fd = self._fds.pop(index, None)
        if fd is None:
            fd = self._store.open(self._requests[index])
            if index == self._last + 1:
                self._read_ahead(index + 1)
            self._last = index
        self._fds[index] = fd  # the newest last
        while len(self._fds) > _OPEN_CHUNKS:
            os.close(self._fds.pop(next(iter(self._fds))))
        return fd

    def _read_ahead(self, index: int) -> None:
        """A reader that goes on will find the next chunk there, or on its way."""
        if index >= len(self._requests) or (self._ahead is not None and self._ahead.is_alive()):
            return
        request = self._requests[index]
        self._ahead = threading.Thread(
            target=self._fetch, args=(request,), name="cvmfs-readahead", daemon=True
        )
        self._ahead.start()

    def _fetch(self, request: Request) -> None:
        try:
            if not self._store.has(request):
                self._store.ensure([request])
        except Exception:
            pass  # the reader gets the error if it comes that far

    def close(self) -> None:
        if not self.closed:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()
        super().close()
