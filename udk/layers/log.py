"""What is known about the paths of a tree while it is made: a small log-structured map that spills to disk.

The newest value of a path wins. Memory stays bounded whatever the number of paths; what does not fit goes
to sorted runs in unlinked temporary files, which are merged at the end.
"""

from __future__ import annotations

import heapq
import os
import struct
from bisect import bisect_right
from typing import TYPE_CHECKING

from udk.layers.paths import PathSet

if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTHS = struct.Struct("<II")  # of the path and of the value
_FIXED = struct.Struct("<BIIIIIq")  # flags, mode, uid, gid, major, minor, mtime in nanoseconds
_OVERHEAD = 300  # bytes that Python takes for one pair beyond its contents, about
_STRIDE = 64  # entries of a run between two that its index knows
_MAX_RUNS = 32

RECORDED = 1  # the disk does not show it: the record must
TIMED = 2  # a directory: its mtime is set when all is written


def pack(
    flags: int, mode: int, uid: int, gid: int, major: int, minor: int, mtime: int, raw_xattrs: bytes
) -> bytes:
    return _FIXED.pack(flags, mode, uid, gid, major, minor, mtime) + raw_xattrs


def unpack(value: bytes) -> tuple[int, int, int, int, int, int, int, bytes]:
    flags, mode, uid, gid, major, minor, mtime = _FIXED.unpack_from(value)
    return flags, mode, uid, gid, major, minor, mtime, value[_FIXED.size :]


class _Run:
    """Pairs sorted by path in a file; an index in memory knows every 64th."""

    def __init__(self, directory: str, pairs: Iterator[tuple[bytes, bytes]]) -> None:
        name = os.path.join(directory, f".log-{os.urandom(6).hex()}")
        self._file = open(name, "xb+", buffering=64 * 1024)
        os.unlink(name)
        self._keys: list[bytes] = []
        self._offsets: list[int] = []
        at = 0
        for i, (path, value) in enumerate(pairs):
            if i % _STRIDE == 0:
                self._keys.append(path)
                self._offsets.append(at)
            at += self._file.write(_LENGTHS.pack(len(path), len(value)) + path + value)
        self._offsets.append(at)
        self._file.flush()

    def get(self, path: bytes) -> bytes | None:
        slot = bisect_right(self._keys, path) - 1
        if slot < 0:
            return None
        start, end = self._offsets[slot], self._offsets[slot + 1]
        data = os.pread(self._file.fileno(), end - start, start)
        at = 0
        while at < len(data):
            p, v = _LENGTHS.unpack_from(data, at)
            at += _LENGTHS.size
            if data[at : at + p] == path:
                return data[at + p : at + p + v]
            at += p + v
        return None

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        self._file.seek(0)
        read = self._file.read
        while head := read(_LENGTHS.size):
            p, v = _LENGTHS.unpack(head)
            yield read(p), read(v)

    def close(self) -> None:
        self._file.close()


class TreeLog:
    """Maps paths to packed values. ``directory`` is where runs are spilled, ``budget`` bytes of memory for
    pairs."""

    def __init__(self, directory: str, budget: int = 8 << 20) -> None:
        self._directory = directory
        self._budget = budget
        self._new: dict[bytes, bytes] = {}  # newest values; b"" for a path that is gone
        self._spent = 0
        self._runs: list[_Run] = []  # oldest first
        self._spilled = PathSet(32)

    def put(self, path: bytes, value: bytes) -> None:
        self._new[path] = value
        self._spent += len(path) + len(value) + _OVERHEAD
        if self._spent > self._budget:
            self._spill()

    def discard(self, path: bytes) -> None:
        """The path is gone, or is now what the disk shows."""
        self._new.pop(path, None)
        if self._runs and path in self._spilled:
            self.put(path, b"")

    def get(self, path: bytes) -> bytes | None:
        value = self._new.get(path)
        if value is None and self._runs and path in self._spilled:
            for run in reversed(self._runs):
                value = run.get(path)
                if value is not None:
                    break
        return value or None

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All pairs in ascending bytewise order of their paths."""
        return ((path, value) for path, value in self._merged() if value)

    def close(self) -> None:
        for run in self._runs:
            run.close()
        self._runs = []
        self._new = {}

    def _sorted(self) -> Iterator[tuple[bytes, bytes]]:
        for path in sorted(self._new):
            yield path, self._new[path]

    def _merged(self) -> Iterator[tuple[bytes, bytes]]:
        if not self._runs:
            yield from self._sorted()
            return
        sources = [*reversed(self._runs)]  # newest first: of equal paths the first one counts
        streams = [_ranked(0, self._sorted()), *(_ranked(i + 1, iter(run)) for i, run in enumerate(sources))]
        last: bytes | None = None
        for path, _, value in heapq.merge(*streams):
            if path != last:
                last = path
                yield path, value

    def _spill(self) -> None:
        if len(self._runs) >= _MAX_RUNS:
            merged = _Run(self._directory, self._merged())
            for run in self._runs:
                run.close()
            self._runs = [merged]
        else:
            self._runs.append(_Run(self._directory, self._sorted()))
        for path in self._new:
            self._spilled.add(path)
        self._new = {}
        self._spent = 0


def _ranked(rank: int, pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, int, bytes]]:
    for path, value in pairs:
        yield path, rank, value
