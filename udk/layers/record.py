"""The record of a tree: owners, true modes, devices and extended attributes that the disk does not show.

Format version 1 (see docs/architecture.md), little-endian and mmap-able. The run path reads it, so this
module imports nothing but ``mmap`` and ``struct``.
"""

from __future__ import annotations

import mmap
import os
import struct

TYPE_CHECKING = False  # importing typing would cost more than this module
if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"UDKREC\0\1"
HEADER = struct.Struct("<8sIIQQ")  # magic, count, reserved, offset of entries, offset of strings
ENTRY = struct.Struct("<QIIIIIIQII")  # path offset and length, mode, uid, gid, major, minor, xattrs, flags
XATTR = struct.Struct("<HI")  # length of the name, length of the value

_COPY = 1 << 20


class RecordEntry:
    """What one path really is. ``mode`` is a whole ``st_mode``; ``xattrs`` maps names to values (bytes)."""

    __slots__ = ("gid", "major", "minor", "mode", "path", "raw_xattrs", "uid")

    def __init__(
        self,
        path: bytes,
        mode: int,
        uid: int,
        gid: int,
        major: int = 0,
        minor: int = 0,
        raw_xattrs: bytes = b"",
    ) -> None:
        self.path = path
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.major = major
        self.minor = minor
        self.raw_xattrs = raw_xattrs

    @property
    def xattrs(self) -> dict[bytes, bytes]:
        return decode_xattrs(self.raw_xattrs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecordEntry) and all(
            getattr(self, k) == getattr(other, k) for k in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RecordEntry({', '.join(f'{k}={getattr(self, k)!r}' for k in self.__slots__)})"


def encode_xattrs(xattrs: dict[bytes, bytes]) -> bytes:
    """The record's form of extended attributes, sorted by name."""
    return b"".join(XATTR.pack(len(n), len(v)) + n + v for n, v in sorted(xattrs.items()))


def decode_xattrs(raw: bytes) -> dict[bytes, bytes]:
    """The attributes that :func:`encode_xattrs` wrote. Raises ValueError when ``raw`` is damaged."""
    out: dict[bytes, bytes] = {}
    at = 0
    while at < len(raw):
        if at + XATTR.size > len(raw):
            raise ValueError("damaged extended attributes in a record")
        n, v = XATTR.unpack_from(raw, at)
        at += XATTR.size
        if at + n + v > len(raw):
            raise ValueError("damaged extended attributes in a record")
        out[raw[at : at + n]] = raw[at + n : at + n + v]
        at += n + v
    return out


class RecordWriter:
    """Writes a record file. Entries come in ascending bytewise order of their paths; constant memory."""

    def __init__(self, path: str) -> None:
        self._out = open(path, "wb+")
        try:
            self._entries = open(f"{path}.entries", "wb+")
        except OSError:
            self._out.close()
            raise
        os.unlink(f"{path}.entries")  # lives as long as it is open
        self._out.write(bytes(HEADER.size))
        self._last: bytes | None = None
        self._strings = 0
        self.count = 0

    def add(
        self,
        path: bytes,
        mode: int,
        uid: int,
        gid: int,
        major: int = 0,
        minor: int = 0,
        raw_xattrs: bytes = b"",
    ) -> None:
        """Appends one entry. Raises ValueError when ``path`` does not come after the one before."""
        if self._last is not None and path <= self._last:
            raise ValueError(f"record entries out of order: {path!r} after {self._last!r}")
        self._last = path
        at = self._strings
        self._out.write(path)
        self._out.write(raw_xattrs)
        self._strings += len(path) + len(raw_xattrs)
        self._entries.write(
            ENTRY.pack(at, len(path), mode, uid, gid, major, minor, at + len(path), len(raw_xattrs), 0)
        )
        self.count += 1

    def close(self) -> None:
        """Completes the file: the header is written last, so a file cut short has no valid magic."""
        try:
            pad = -(HEADER.size + self._strings) % 16
            self._out.write(bytes(pad))
            entries_at = self._out.tell()
            self._entries.seek(0)
            while chunk := self._entries.read(_COPY):
                self._out.write(chunk)
            self._out.seek(0)
            self._out.write(HEADER.pack(MAGIC, self.count, 0, entries_at, HEADER.size))
            self._out.flush()
        finally:
            self.abort()

    def abort(self) -> None:
        """Closes the files without completing them."""
        self._entries.close()
        self._out.close()


class RecordReader:
    """Looks paths up in a record file by bisection over an mmap. Safe to share between threads."""

    def __init__(self, path: str) -> None:
        """Raises OSError, or ValueError when the file is not a record of version 1."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            if size < HEADER.size:
                raise ValueError(f"{path}: not a record: too short")
            self._map = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        magic, self._count, _, self._entries, self._strings = HEADER.unpack_from(self._map)
        if magic != MAGIC or self._entries + self._count * ENTRY.size > size or self._strings > size:
            self._map.close()
            raise ValueError(f"{path}: not a record of version 1")

    def __len__(self) -> int:
        return int(self._count)

    def __iter__(self) -> Iterator[RecordEntry]:
        return (self._entry(i) for i in range(self._count))

    def get(self, path: bytes | str) -> RecordEntry | None:
        """The entry of ``path`` (relative to the root, ``""`` the root itself), or None when there is
        none."""
        key = os.fsencode(path)
        at = self._bisect(key)
        if at < self._count and self._path(at) == key:
            return self._entry(at)
        return None

    def below(self, directory: bytes | str) -> Iterator[RecordEntry]:
        """The entries of all paths under ``directory`` (itself left out), sorted."""
        prefix = os.fsencode(directory)
        prefix = prefix + b"/" if prefix else b""
        at = self._bisect(prefix)
        while at < self._count:
            entry = self._entry(at)
            if not entry.path.startswith(prefix):
                return
            if entry.path:
                yield entry
            at += 1

    def close(self) -> None:
        self._map.close()

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _bisect(self, key: bytes) -> int:
        low, high = 0, self._count
        while low < high:
            mid = (low + high) // 2
            if self._path(mid) < key:
                low = mid + 1
            else:
                high = mid
        return int(low)

    def _path(self, i: int) -> bytes:
        offset, length = struct.unpack_from("<QI", self._map, self._entries + i * ENTRY.size)
        at = self._strings + offset
        return self._map[at : at + length]

    def _entry(self, i: int) -> RecordEntry:
        p_at, p_len, mode, uid, gid, major, minor, x_at, x_len, _ = ENTRY.unpack_from(
            self._map, self._entries + i * ENTRY.size
        )
        p_at += self._strings
        x_at += self._strings
        return RecordEntry(
            self._map[p_at : p_at + p_len], mode, uid, gid, major, minor, self._map[x_at : x_at + x_len]
        )
