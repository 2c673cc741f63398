"""Checking decompressed bytes against the hash of the compressed object, without having that object."""

from __future__ import annotations

import os
import zlib

from .hash import Hash, new_hasher

_PIECE = 1 << 20
_LEVELS = (-1, 9, 1)  # of zlib: the official publisher's, and others that are met


def matches_hash(fd: int, name: Hash) -> bool:
    """Whether the bytes, as they are or compressed again, have this hash. Raises OSError.

    A false "no" is possible for what another zlib has compressed; the object is then fetched anew."""
    plain = new_hasher(name.algorithm)
    packed = [(zlib.compressobj(level), new_hasher(name.algorithm)) for level in _LEVELS]
    at = 0
    while True:
        piece = os.pread(fd, _PIECE, at)
        if not piece:
            break
        at += len(piece)
        plain.update(piece)
        for stream, hasher in packed:
            hasher.update(stream.compress(piece))
    if plain.digest() == name.digest:
        return True
    for stream, hasher in packed:
        hasher.update(stream.flush())
        if hasher.digest() == name.digest:
            return True
    return False
