"""RIPEMD-160 for interpreters whose OpenSSL does not have it (Dobbertin, Bosselaers, Preneel 1996)."""

from __future__ import annotations

import struct

_MASK = 0xFFFFFFFF

_RHO = (7, 4, 13, 1, 10, 6, 15, 3, 12, 0, 9, 5, 2, 14, 11, 8)


def _orders() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Message word orders of the left and right lines, from the permutations rho and pi of the paper."""
    left, right = list(range(16)), [(9 * i + 5) % 16 for i in range(16)]
    lefts: list[int] = []
    rights: list[int] = []
    for _ in range(5):
        lefts += left
        rights += right
        left = [_RHO[i] for i in left]
        right = [_RHO[i] for i in right]
    return tuple(lefts), tuple(rights)


_LEFT, _RIGHT = _orders()

# shift of word i in round r, the same for both lines
_SHIFTS = (
    (11, 14, 15, 12, 5, 8, 7, 9, 11, 13, 14, 15, 6, 7, 9, 8),
    (12, 13, 11, 15, 6, 9, 9, 7, 12, 15, 11, 13, 7, 8, 7, 7),
    (13, 15, 14, 11, 7, 7, 6, 8, 13, 14, 13, 12, 5, 5, 6, 9),
    (14, 11, 12, 14, 8, 6, 5, 5, 15, 12, 15, 14, 9, 9, 8, 6),
    (15, 12, 13, 13, 9, 5, 8, 6, 14, 11, 12, 11, 8, 6, 5, 5),
)
_LEFT_K = (0, 0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xA953FD4E)
_RIGHT_K = (0x50A28BE6, 0x5C4DD124, 0x6D703EF3, 0x7A6D76E9, 0)


def _f(r: int, x: int, y: int, z: int) -> int:
    if r == 0:
        return x ^ y ^ z
    if r == 1:
        return (x & y) | (~x & z)
    if r == 2:
        return (x | ~y) ^ z
    if r == 3:
        return (x & z) | (y & ~z)
    return x ^ (y | ~z)


def _line(words: tuple[int, ...], state: tuple[int, ...], right: bool) -> tuple[int, ...]:
    order, constants = (_RIGHT, _RIGHT_K) if right else (_LEFT, _LEFT_K)
    a, b, c, d, e = state
    for r in range(5):
        shifts, k, function = _SHIFTS[r], constants[r], 4 - r if right else r
        for i in order[16 * r : 16 * r + 16]:
            t = (a + _f(function, b, c, d) + words[i] + k) & _MASK
            s = shifts[i]
            t = (((t << s) | (t >> (32 - s))) + e) & _MASK
            a, e, d, c, b = e, d, ((c << 10) | (c >> 22)) & _MASK, b, t
    return a, b, c, d, e


class Ripemd160:
    """Incremental RIPEMD-160 with the shape of a hashlib object."""

    digest_size = 20

    def __init__(self, data: bytes = b"") -> None:
        self._state: tuple[int, ...] = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
        self._pending = b""
        self._length = 0
        self.update(data)

    def update(self, data: bytes, /) -> None:
        """Add ``data``."""
        self._length += len(data)
        data = self._pending + data
        end = len(data) & ~63
        for offset in range(0, end, 64):
            self._state = self._compress(self._state, data, offset)
        self._pending = data[end:]

    def digest(self) -> bytes:
        """The 20 bytes of the hash of all data so far."""
        bits = struct.pack("<Q", (8 * self._length) & 0xFFFFFFFFFFFFFFFF)
        tail = self._pending + b"\x80" + b"\0" * ((55 - len(self._pending)) % 64) + bits
        state = self._state
        for offset in range(0, len(tail), 64):
            state = self._compress(state, tail, offset)
        return struct.pack("<5I", *state)

    @staticmethod
    def _compress(state: tuple[int, ...], data: bytes, offset: int) -> tuple[int, ...]:
        words = struct.unpack_from("<16I", data, offset)
        left = _line(words, state, False)
        right = _line(words, state, True)
        return tuple((state[(i + 1) % 5] + left[(i + 2) % 5] + right[(i + 3) % 5]) & _MASK for i in range(5))
