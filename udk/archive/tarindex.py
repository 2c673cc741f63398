"""Where the members of a tar archive are: one pass over the headers, no content read, nothing unpacked.

A reader of its own because archives come from anywhere: every number is bounded, nothing seeks backwards, and
links are only names to look up. Understands ustar, GNU long names, base-256 numbers and PAX records.
"""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

from udk.errors import InvalidImageError
from udk.oci.text import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
MAX_MEMBERS = 100_000
MAX_EXTENSION = 1 << 20  # bytes of a long name or of PAX records
MAX_HOPS = 8
_FILE, _LINKS = b"0\x007", b"12"


class TarIndex:
    """Name -> place of the regular files in the tar on descriptor ``fd``; the last member of a name
    counts."""

    def __init__(self, fd: int, what: str) -> None:
        self.what = what
        self.places: dict[str, tuple[int, int]] = {}  # name -> offset, size
        self.links: dict[str, str] = {}
        self._length = os.fstat(fd).st_size
        for kind, name, target, offset, size in self._members(fd):
            self.places.pop(name, None)
            self.links.pop(name, None)
            if kind in _FILE:
                self.places[name] = (offset, size)
            elif kind in _LINKS:
                base = posixpath.dirname(name) if kind == b"2" else ""
                self.links[name] = _clean_name(posixpath.join(base, target))

    def find(self, name: str) -> tuple[int, int] | None:
        """Offset and size of a file, links followed; None if there is none."""
        name = _clean_name(name)
        for _ in range(MAX_HOPS):
            if name in self.places:
                return self.places[name]
            if name not in self.links:
                return None
            name = self.links[name]
        raise InvalidImageError(f"{self.what}: the links of {quoted(name)} lead nowhere")

    def _members(self, fd: int) -> Iterator[tuple[bytes, str, str, int, int]]:
        at, count, empty = 0, 0, 0
        long_name = long_link = ""
        pax: dict[str, str] = {}
        while at + BLOCK <= self._length and empty < 2:
            header = os.pread(fd, BLOCK, at)
            at += BLOCK
            if header.count(0) == BLOCK:
                empty += 1
                continue
            empty = 0
            self._check(header, at - BLOCK)
            count += 1
            if count > MAX_MEMBERS:
                raise InvalidImageError(f"{self.what} has more than {MAX_MEMBERS} members")
            kind, size = header[156:157], self._number(header[124:136])
            if kind in (b"L", b"K", b"x", b"g"):
                if size > MAX_EXTENSION or at + size > self._length:
                    raise InvalidImageError(f"{self.what} has a header of {size} bytes")
                data = os.pread(fd, size, at)
                at += _padded(size)
                if kind == b"L":
                    long_name = _text(data)
                elif kind == b"K":
                    long_link = _text(data)
                elif kind == b"x":
                    pax = self._records(data)
                continue
            prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
            name = _text(header[:100])
            name = pax.get("path") or long_name or (f"{prefix}/{name}" if prefix else name)
            target = pax.get("linkpath") or long_link or _text(header[157:257])
            if "size" in pax:
                size = self._decimal(pax["size"])
            if kind not in (*(bytes((k,)) for k in _FILE), b"S"):
                size = 0 if kind in (b"1", b"2", b"3", b"4", b"5", b"6") else size
            if at + size > self._length:
                raise InvalidImageError(f"{self.what} is truncated: {quoted(name, 80)} goes beyond its end")
            yield kind, _clean_name(name), target, at, size
            at += _padded(size)
            long_name, long_link, pax = "", "", {}
        if not count:
            raise InvalidImageError(f"{self.what} is not a tar archive, or an empty one")

    def _check(self, header: bytes, at: int) -> None:
        stated = header[148:156].strip(b"\0 ")
        actual = sum(header) - sum(header[148:156]) + 8 * 32
        if not stated or any(c not in b"01234567" for c in stated) or int(stated, 8) != actual:
            raise InvalidImageError(f"{self.what} is not a tar archive, or damaged at byte {at}")

    def _number(self, field: bytes) -> int:
        if field[0] & 0x80:
            value = int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
            if field[0] & 0x40 or value >= 1 << 62:
                raise InvalidImageError(f"{self.what} has a member of impossible size")
            return value
        digits = field.strip(b"\0 ")
        if any(c not in b"01234567" for c in digits):
            raise InvalidImageError(f"{self.what} has a member of impossible size")
        return int(digits or b"0", 8)

    def _decimal(self, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise InvalidImageError(f"{self.what} has a member of the size {quoted(text, 40)}")
        return int(text)

    def _records(self, data: bytes) -> dict[str, str]:
        found: dict[str, str] = {}
        at = 0
        while at < len(data) and data[at] != 0:
            space = data.find(b" ", at, at + 12)
            digits = data[at:space] if space > 0 else b""
            length = int(digits) if digits.isdigit() else 0
            record = data[at : at + length]
            key, equals, value = record[space - at + 1 : -1].partition(b"=")
            if length < 5 or len(record) < length or record[-1:] != b"\n" or not equals:
                raise InvalidImageError(f"{self.what} has malformed PAX records")
            found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
            at += length
        return found


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _clean_name(name: str) -> str:
    """The name as looked up: without ``./`` and surplus slashes. Nothing is opened by it, so ``..`` is
    harmless."""
    return posixpath.normpath("/" + name).lstrip("/")
