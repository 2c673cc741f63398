"""From the body of an answer to verified, decompressed bytes, within bounds known beforehand."""

from __future__ import annotations

import zlib
from typing import Any, Callable

from .download_http import Response
from .hash import new_hasher
from .interfaces import Request

_inflate: Any = zlib
try:
    from isal import isal_zlib as _inflate  # twice as fast, same format
except ImportError:
    pass

_SMALL = 256 << 10  # bodies up to this size are verified before anything is passed on
_PIECE = 256 << 10
_ERRORS = (zlib.error, getattr(_inflate, "error", zlib.error))


class BadDataError(Exception):
    """What was received is not the object: wrong hash, wrong size, not a zlib stream, more than can be."""


def receive(response: Response, request: Request, sink: Callable[[bytes], Any]) -> int:
    """Passes the object's decompressed bytes to ``sink`` and returns the bytes received.

    Returns normally only when hash and size are right. Raises BadDataError, TransferError."""
    limit = request.limit if request.size is None else request.size
    # deflate grows what it cannot compress by 5 bytes in 16 KiB at most; other implementations a bit more
    allowed = limit + (limit >> 8) + 1024 if request.compressed else limit
    if response.length is not None and response.length > allowed:
        raise BadDataError(f"{response.length} bytes announced where at most {allowed} can be")
    if response.length is not None and response.length <= _SMALL:
        return _receive_small(response, request, sink, limit)
    hasher = new_hasher(request.hash.algorithm)
    outlet = _Outlet(request, sink, limit)
    received = 0
    for piece in response.pieces():
        received += len(piece)
        if received > allowed:
            raise BadDataError(f"more than the {allowed} bytes that can be")
        hasher.update(piece)
        outlet.put(piece)
    if hasher.digest() != request.hash.digest:
        raise BadDataError("its hash differs")
    outlet.finish()
    return received


def _receive_small(response: Response, request: Request, sink: Callable[[bytes], Any], limit: int) -> int:
    body = b"".join(response.pieces())
    hasher = new_hasher(request.hash.algorithm)
    hasher.update(body)
    if hasher.digest() != request.hash.digest:
        raise BadDataError("its hash differs")
    outlet = _Outlet(request, sink, limit)
    outlet.put(body)
    outlet.finish()
    return len(body)


class _Outlet:
    """Decompresses in pieces of bounded size and counts."""

    def __init__(self, request: Request, sink: Callable[[bytes], Any], limit: int) -> None:
        self._request = request
        self._sink = sink
        self._limit = limit
        self._size = 0
        self._stream: Any = _inflate.decompressobj() if request.compressed else None

    def put(self, data: bytes) -> None:
        if self._stream is None:
            self._pass_on(data)
            return
        stream = self._stream
        try:
            while data and not stream.eof:
                self._pass_on(stream.decompress(data, _PIECE))
                data = stream.unconsumed_tail
        except _ERRORS as error:
            raise BadDataError(f"it cannot be decompressed: {error}") from error

    def finish(self) -> None:
        if self._stream is not None:
            try:
                while not self._stream.eof:
                    data = self._stream.decompress(b"", _PIECE)
                    if not data:
                        raise BadDataError("its compressed stream is cut off")
                    self._pass_on(data)
            except _ERRORS as error:
                raise BadDataError(f"it cannot be decompressed: {error}") from error
        if self._request.size is not None and self._size != self._request.size:
            raise BadDataError(f"{self._size} bytes instead of {self._request.size}")

    def _pass_on(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise BadDataError(f"more than {self._limit} bytes when decompressed")
        if data:
            self._sink(data)
