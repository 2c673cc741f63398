"""zstd frames with a window of many megabytes, decoded without keeping the window in memory.

A decoder needs its last 64 or 128 MiB of output at hand, yet seldom looks far back. Here libzstd is given
a mapped file to keep them in, and every two megabytes the pages are let go of: what is referred to again
comes back from the page cache. It takes the system's libzstd, through ctypes: the zstandard package has no
way to say where memory comes from. Where there is none, that package decodes these frames too, at the
price of the memory. RFC 8878 section 3.1.1.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import TYPE_CHECKING, Any

from udk.layers.caps import over_cap, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LARGE = 1 << 20  # allocations from this size on are the window
_LET_GO = 2 << 20  # bytes of output until pages are let go of: less costs more faults, more costs memory

_Alloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Free = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


class _Memory(ctypes.Structure):
    _fields_ = [("alloc", _Alloc), ("free", _Free), ("opaque", ctypes.c_void_p)]


class _Buffer(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t)]


def library() -> Any:
    """The system's libzstd, or None where it lacks what is needed here."""
    try:
        lib = ctypes.CDLL("libzstd.so.1")
        lib.ZSTD_createDCtx_advanced.restype = ctypes.c_void_p
        lib.ZSTD_createDCtx_advanced.argtypes = [_Memory]
        lib.ZSTD_freeDCtx.argtypes = [ctypes.c_void_p]
        for name in ("ZSTD_DCtx_setMaxWindowSize", "ZSTD_decompressStream", "ZSTD_freeDCtx"):
            getattr(lib, name).restype = ctypes.c_size_t
        lib.ZSTD_DCtx_setMaxWindowSize.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        lib.ZSTD_decompressStream.argtypes = [
            ctypes.c_void_p, ctypes.POINTER(_Buffer), ctypes.POINTER(_Buffer)
        ]  # fmt: skip
        lib.ZSTD_isError.argtypes = [ctypes.c_size_t]
        lib.ZSTD_getErrorName.argtypes = [ctypes.c_size_t]
        lib.ZSTD_getErrorName.restype = ctypes.c_char_p
    except (OSError, AttributeError):
        return None
    return lib


class _Window:
    """The decoder's allocator: what is large comes from a file without a name in ``directory``."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._maps: dict[int, tuple[mmap.mmap, Any]] = {}
        self.failure: OSError | None = None
        # Kept for as long as the decoder lives: it calls them when it is freed, too.
        self.memory = _Memory(_Alloc(self._alloc), _Free(self._free), None)

    def _alloc(self, _: int | None, size: int) -> int | None:
        try:
            mapped = self._file(size) if size >= _LARGE else mmap.mmap(-1, size)
        except OSError as e:
            self.failure = e
            return None
        held = ctypes.c_char.from_buffer(mapped)
        address = ctypes.addressof(held)
        self._maps[address] = (mapped, held)
        return address

    def _file(self, size: int) -> mmap.mmap:
        name = os.path.join(self._directory, f".window-{os.urandom(6).hex()}")
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.unlink(name)
            os.posix_fallocate(fd, 0, size)  # a full disk is an error now, not a SIGBUS later
            mapped = mmap.mmap(fd, size)
            mapped.madvise(mmap.MADV_RANDOM)  # no read-ahead: it would map megabytes for every look back
            return mapped
        finally:
            os.close(fd)

    def _free(self, _: int | None, address: int | None) -> None:
        if address:
            self._maps.pop(address, None)

    def let_go(self) -> None:
        for mapped, _ in self._maps.values():
            if len(mapped) >= _LARGE:
                mapped.madvise(mmap.MADV_DONTNEED)


def decode(
    lib: Any, read: Callable[[int], bytes], size: int, chunk: int, limit: int, directory: str
) -> Iterator[bytes]:
    """The contents of all frames that ``read(size)`` yields, in pieces of at most ``chunk`` bytes.
    ``limit``: the largest window accepted. Raises LayerError, and OSError when ``directory`` cannot hold
    the window."""
    memory = _Window(directory)
    context = lib.ZSTD_createDCtx_advanced(memory.memory)
    if not context:
        raise MemoryError
    try:
        lib.ZSTD_DCtx_setMaxWindowSize(context, limit)
        out = ctypes.create_string_buffer(chunk)
        view = memoryview(out)
        target = _Buffer(ctypes.addressof(out), chunk, 0)
        since = left = 0
        while data := read(size):
            source = _Buffer(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data), 0)
            while True:
                target.pos = 0
                left = lib.ZSTD_decompressStream(context, ctypes.byref(target), ctypes.byref(source))
                if lib.ZSTD_isError(left):
                    _complain(lib.ZSTD_getErrorName(left).decode(), memory.failure)
                since += target.pos
                if since >= _LET_GO:
                    memory.let_go()
                    since = 0
                if target.pos:
                    yield bytes(view[: target.pos])
                if source.pos == source.size and target.pos < chunk:
                    break
        if left:
            raise refusal("the layer's zstd stream is truncated")
    finally:
        lib.ZSTD_freeDCtx(context)


def _complain(error: str, failure: OSError | None) -> None:
    if failure is not None:
        raise failure
    if "memory" in error:
        raise over_cap("the layer's zstd window is beyond the limit", "window")
    raise refusal(f"the layer's zstd stream is damaged ({error})")
