"""Shared libraries: what the dynamic loader will open next, read from the ELF file itself (System V gABI,
chapter 5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Optional, Protocol

from .prefetch_listing import Listings

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_RPATH, _DT_RUNPATH = 1, 5, 10, 15, 29
_ENTRIES = 10_000
_NAMES = 500
_STRINGS = 16 << 20
_SMALL = 4 << 20  # bytes


class Dynamic(NamedTuple):
    """What an ELF file asks of the loader: names of libraries, directories to search, the interpreter's
    path.
    """

    needed: tuple[bytes, ...]
    runpath: tuple[bytes, ...]
    interpreter: bytes


class Readable(Protocol):
    """Bytes, or what gives a slice of a file without holding all of it."""

    def __getitem__(self, part: slice, /) -> bytes: ...


def parse(data: Readable) -> Optional[Dynamic]:
    """None for what is no ELF file or is damaged."""
    try:
        return _parse(data)
    except (struct.error, IndexError, ValueError):
        return None


def _parse(data: Readable) -> Optional[Dynamic]:
    head = data[0:64]
    if head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    wide = head[4] == 2
    order = "<" if head[5] == 1 else ">"
    if wide:
        offset, size, count = struct.unpack_from(order + "Q14xHH", head, 32)
        layout, fields, pair = order + "IIQQQQQQ", (0, 2, 3, 5), order + "qQ"
    else:
        offset, size, count = struct.unpack_from(order + "I10xHH", head, 28)
        layout, fields, pair = order + "IIIIIIII", (0, 1, 2, 4), order + "iI"
    if size < struct.calcsize(layout) or count > 200:
        return None
    loads: list[tuple[int, int, int]] = []
    dynamic: Optional[tuple[int, int]] = None
    interpreter = b""
    headers = data[offset : offset + count * size]
    for i in range(count):
        header = struct.unpack_from(layout, headers, i * size)
        kind, start, address, length = (header[f] for f in fields)
        if kind == _PT_LOAD:
            loads.append((address, length, start))
        elif kind == _PT_DYNAMIC:
            dynamic = (start, length)
        elif kind == _PT_INTERP:
            interpreter = data[start : start + min(length, 4096)].rstrip(b"\0")
    if dynamic is None:
        return Dynamic((), (), interpreter)
    return _read_dynamic(data, dynamic, loads, pair, interpreter)


def _read_dynamic(
    data: Readable, where: tuple[int, int], loads: list[tuple[int, int, int]], pair: str, interpreter: bytes
) -> Optional[Dynamic]:
    start, length = where
    step = struct.calcsize(pair)
    needed: list[int] = []
    paths: dict[int, int] = {}
    table = table_size = 0
    entries = data[start : start + min(length, _ENTRIES * step)]
    for i in range(len(entries) // step):
        tag, value = struct.unpack_from(pair, entries, i * step)
        if tag == 0:
            break
        if tag == _DT_NEEDED and len(needed) < _NAMES:
            needed.append(value)
        elif tag in (_DT_RPATH, _DT_RUNPATH):
            paths[tag] = value
        elif tag == _DT_STRTAB:
            table = value
        elif tag == _DT_STRSZ:
            table_size = value
    offset = next((s + table - a for a, n, s in loads if a <= table < a + n), -1)
    if offset < 0 or table_size > _STRINGS:
        return None
    strings = data[offset : offset + table_size]

    def text(at: int) -> bytes:
        end = strings.index(b"\0", at)
        return strings[at:end]

    run = text(paths.get(_DT_RUNPATH, paths.get(_DT_RPATH, 0))) if paths else b""
    return Dynamic(tuple(text(n) for n in needed), tuple(p for p in run.split(b":") if p), interpreter)


class LibraryPlanner:
    """Finds the files that the loader will take, within the repository. Not thread-safe.

    ``mountpoints``: where the repository is mounted, for absolute paths in files."""

    def __init__(self, listings: Listings, mountpoints: tuple[bytes, ...]) -> None:
        self._listings = listings
        self._mountpoints = mountpoints
        self._loaded: dict[bytes, bytes] = {}
        self._found_in: dict[bytes, int] = {}  # directories in which libraries were, and how often

    def saw(self, path: bytes) -> None:
        """A library was opened: others may come from the same place."""
        directory, _, name = path.rpartition(b"/")
        if b".so" in name:
            self._found_in[directory] = self._found_in.get(directory, 0) + 1
            self._loaded.setdefault(name, path)

    def follow(self, path: bytes, data: Readable) -> Iterator[bytes]:
        """Files that loading this one makes the loader open."""
        dynamic = parse(data)
        if dynamic is None:
            return
        origin = path.rpartition(b"/")[0]
        if dynamic.interpreter:
            inside = self._inside(dynamic.interpreter)
            if inside and self._listings.file(inside):
                yield inside
        places = [p for p in (self._expand(r, origin) for r in dynamic.runpath) if p is not None]
        # an old-style RPATH holds for what is loaded by who has it: most often its own directory
        places.append(origin)
        places += sorted(self._found_in, key=lambda d: -self._found_in[d])[:8]
        base = origin.rpartition(b"/")[0]
        places += [base + b"/lib", base + b"/lib64"]  # bin/program beside lib/
        for name in dynamic.needed:
            if b"/" in name or name in self._loaded:  # what is loaded already is not looked for again
                continue
            for place in dict.fromkeys(places):
                if name in self._listings.names(place):
                    real = self._listings.resolve(place + b"/" + name)
                    if real and self._listings.file(real):
                        self._loaded[name] = real
                        yield real
                    break

    def companions(self, path: bytes) -> Iterator[bytes]:
        """Small libraries beside one in a private directory `<package>.libs`: it is likely to need them in
        turn.
        """
        directory = path.rpartition(b"/")[0]
        if directory.endswith(b".libs"):
            for name, entry in self._listings.names(directory).items():
                if entry.is_file and entry.size <= _SMALL and b".so" in name:
                    yield directory + b"/" + name

    def _expand(self, directory: bytes, origin: bytes) -> Optional[bytes]:
        """A search directory as a path of the repository; None for one outside."""
        for word in (b"$ORIGIN", b"${ORIGIN}"):
            if directory.startswith(word):
                return self._normal(origin + directory[len(word) :])
        return self._inside(directory)

    def _inside(self, path: bytes) -> Optional[bytes]:
        for mountpoint in self._mountpoints:
            if path.startswith(mountpoint + b"/"):
                return self._normal(path[len(mountpoint) :])
        return None

    @staticmethod
    def _normal(path: bytes) -> bytes:
        parts: list[bytes] = []
        for part in path.split(b"/"):
            if part == b"..":
                del parts[-1:]
            elif part not in (b"", b"."):
                parts.append(part)
        return b"".join(b"/" + p for p in parts)
