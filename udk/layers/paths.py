"""A set of paths in a dozen bytes each, for layers with a million entries."""

from __future__ import annotations

from array import array


class PathSet:
    """Remembers hashes of byte strings (Python's keyed SipHash, cut to ``bits``) in an open-addressing table.

    With 64 bits a false positive is out of reach; with 32 it is one in some thousands at a million paths,
    for callers to whom it only costs time."""

    __slots__ = ("_code", "_count", "_cut", "_mask", "_table")

    def __init__(self, bits: int = 64) -> None:
        self._code = {64: "Q", 32: "I"}[bits]
        self._cut = (1 << bits) - 1
        self._table = self._empty(1024)
        self._mask = 1023
        self._count = 0

    def _empty(self, slots: int) -> array[int]:
        return array(self._code, bytes(array(self._code).itemsize * slots))

    def __len__(self) -> int:
        return self._count

    def add(self, path: bytes) -> None:
        key = (hash(path) & self._cut) or 1
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
        key = (hash(path) & self._cut) or 1
        table = self._table
        at = key & self._mask
        while found := table[at]:
            if found == key:
                return True
            at = (at + 1) & self._mask
        return False

    def _grow(self) -> None:
        mask = self._mask * 2 + 1
        table = self._empty(mask + 1)
        for key in self._table:
            if key:
                at = key & mask
                while table[at]:
                    at = (at + 1) & mask
                table[at] = key
        self._table = table
        self._mask = mask
