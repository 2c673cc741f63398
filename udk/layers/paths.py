"""A set of paths in 8 to 20 bytes each, for layers with a million entries."""

from __future__ import annotations

from array import array

_MASK64 = (1 << 64) - 1


class PathSet:
    """Remembers 64-bit hashes of byte strings (Python's keyed SipHash) in an open-addressing table.

    A false positive needs a collision of 64-bit keyed hashes; what it would cost is one whiteout not
    applied."""

    __slots__ = ("_count", "_mask", "_table")

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 * 1024))
        self._mask = 1023
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, path: bytes) -> None:
        key = (hash(path) & _MASK64) or 1
        table = self._table
        mask = self._mask
        at = key & mask
        while found := table[at]:
            if found == key:
                return
            at = (at + 1) & mask
        table[at] = key
        self._count += 1
        if self._count * 3 > mask * 2:
            self._grow()

    def __contains__(self, path: bytes) -> bool:
        key = (hash(path) & _MASK64) or 1
        table = self._table
        at = key & self._mask
        while found := table[at]:
            if found == key:
                return True
            at = (at + 1) & self._mask
        return False

    def _grow(self) -> None:
        old = self._table
        mask = self._mask * 2 + 1
        table = array("Q", bytes(8 * (mask + 1)))
        for key in old:
            if key:
                at = key & mask
                while table[at]:
                    at = (at + 1) & mask
                table[at] = key
        self._table = table
        self._mask = mask
