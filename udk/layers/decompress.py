"""Decompressors with bounded memory: compressed bytes in, chunks of at most :data:`CHUNK` bytes out.

The kind is sniffed from the first bytes, because media types in the wild lie. gzip goes through ISA-L
where the ``isal`` package is installed. RFC 1952 (gzip), RFC 8878 (zstd).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, cast

from udk.errors import UnsupportedImageError
from udk.layers.caps import Caps, over_cap, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 256 * 1024
READ = 64 * 1024
LONG = 26  # log2 of the zstd window from which on it is not kept in memory

_MAGICS = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
)


def sniff(head: bytes) -> str:
    """``gzip``, ``zstd``, ``bzip2``, ``xz`` or ``""`` (not compressed) for the first bytes of a layer."""
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:
        return "zstd"  # a skippable frame may come first
    return ""


def announced(media_type: str) -> str | None:
    """The kind of compression that a layer's media type promises; None when it promises nothing.

    Raises UnsupportedImageError for encrypted layers."""
    base = media_type.split(";", 1)[0].strip().lower()
    if base.endswith("+encrypted"):
        raise UnsupportedImageError(
            "the layer is encrypted", "decrypt the image first (skopeo copy --decryption-key)"
        )
    if base.endswith(("+gzip", ".tar.gzip", ".tar.gz")):
        return "gzip"
    if base.endswith(("+zstd", "+zstd:chunked", ".tar.zstd")):
        return "zstd"
    return "" if base.endswith(".tar") else None


def decompress(
    read: Callable[[int], bytes], caps: Caps, media_type: str = "", strict: bool = False, spool: str = ""
) -> Iterator[bytes]:
    """The uncompressed bytes of what ``read(size)`` yields until ``b""``.

    ``spool`` is a directory that may hold the window of a zstd frame that has a long one (else memory does).
    With ``strict`` a media type that contradicts the contents is an error. Raises LayerError for damaged
    or truncated data, and for a zstd or xz window beyond ``caps.window_bytes``."""
    head = b""
    while len(head) < 18:  # as much as tells the kind, and of zstd the window
        more = read(READ)
        if not more:
            break
        head += more
    kind = sniff(head)
    promised = announced(media_type)
    if strict and promised is not None and promised != kind:
        raise refusal(f"the layer says it is {promised or 'plain tar'} but is {kind or 'not compressed'}")
    rest = _Rest(head, read)
    if kind == "gzip":
        return _members(rest.read, _new_gunzip(), "gzip", b"\x1f\x8b")
    if kind == "zstd":
        return _long_zstd(rest, head, caps, spool) or _zstd(rest, caps)
    if kind == "bzip2":
        return _members(rest.read, _new_bunzip2(), "bzip2", b"BZh")
    if kind == "xz":
        return _members(rest.read, _new_unxz(caps), "xz", b"\xfd7zXZ\0")
    return iter(lambda: rest.read(CHUNK), b"")


class _Rest:
    """A reader with some bytes pushed back in front."""

    def __init__(self, head: bytes, read: Callable[[int], bytes]) -> None:
        self._head = head
        self._read = read

    def read(self, size: int) -> bytes:
        if self._head:
            out, self._head = self._head[:size], self._head[size:]
            return out
        return self._read(size)


def _new_gunzip() -> tuple[Callable[[], Any], tuple[type[BaseException], ...]]:
    import zlib

    try:
        from isal import isal_zlib
    except ImportError:
        return (lambda: zlib.decompressobj(31)), (zlib.error,)
    return (lambda: isal_zlib.decompressobj(31)), cast(Any, (isal_zlib.error, zlib.error))


def _new_bunzip2() -> tuple[Callable[[], Any], tuple[type[BaseException], ...]]:
    try:
        import bz2
    except ImportError:
        raise UnsupportedImageError(
            "the layer is bzip2-compressed", "use a Python that has the bz2 module"
        ) from None
    return bz2.BZ2Decompressor, (OSError, EOFError)


def _new_unxz(caps: Caps) -> tuple[Callable[[], Any], tuple[type[BaseException], ...]]:
    try:
        import lzma
    except ImportError:
        raise UnsupportedImageError(
            "the layer is xz-compressed", "use a Python that has the lzma module"
        ) from None
    limit = caps.window_bytes + (8 << 20)
    return (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limit)), (lzma.LZMAError, EOFError)


def _members(
    read: Callable[[int], bytes],
    made: tuple[Callable[[], Any], tuple[type[BaseException], ...]],
    kind: str,
    magic: bytes,
) -> Iterator[bytes]:
    """Concatenated members through one of the standard library's two shapes of decompressor object."""
    new, errors = made
    zlib_like = kind == "gzip"
    pending = read(READ)
    while pending:
        engine = new()
        while not engine.eof:
            starved = not pending
            try:
                out = engine.decompress(pending, CHUNK)
            except errors as e:
                if "emory" in str(e):
                    raise over_cap(f"the layer's {kind} window is beyond the limit", "window") from None
                raise refusal(f"the layer's {kind} stream is damaged ({e})") from None
            if out:
                yield out
            if engine.eof:
                break
            pending = engine.unconsumed_tail if zlib_like else b""
            if not pending and (zlib_like or engine.needs_input):
                pending = read(READ)
                if not pending and (starved or not out):
                    raise refusal(f"the layer's {kind} stream is truncated")
        pending = engine.unused_data or read(READ)
        while pending and not pending.startswith(magic):
            # Zeros are padding, as from a tape; short reads may split the magic of the next member.
            pending = pending.lstrip(b"\0")
            if pending and len(pending) >= len(magic):
                if not pending.startswith(magic):
                    raise refusal(f"the layer has garbage after its {kind} stream")
                break
            more = read(READ)
            if not more:
                if pending:
                    raise refusal(f"the layer has garbage after its {kind} stream")
                break
            pending += more


def zstd_window(head: bytes) -> int:
    """The bytes of window that the zstd frame at the start of ``head`` (18 bytes or more) asks for; 0 where
    that cannot be told."""
    if head[:4] != b"\x28\xb5\x2f\xfd" or len(head) < 18:
        return 0
    descriptor = head[4]
    if not descriptor & 0x20:
        base = 1 << (10 + (head[5] >> 3))
        return base + (base >> 3) * (head[5] & 7)
    # A single segment: the window is the contents' size, which comes after the dictionary's id.
    at = 5 + (0, 1, 2, 4)[descriptor & 3]
    kind = descriptor >> 6
    if kind == 1:
        return int(struct.unpack_from("<H", head, at)[0]) + 256
    return int(struct.unpack_from(("<B", "", "<I", "<Q")[kind], head, at)[0])


def _long_zstd(rest: _Rest, head: bytes, caps: Caps, spool: str) -> Iterator[bytes] | None:
    if not spool or not 1 << LONG <= zstd_window(head) <= caps.window_bytes:
        return None
    from udk.layers import longzstd

    lib = longzstd.library()
    return longzstd.decode(lib, rest.read, READ, CHUNK, caps.window_bytes, spool) if lib else None


def _zstd(rest: _Rest, caps: Caps) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise UnsupportedImageError("the layer is zstd-compressed", "pip install zstandard") from None
    engine = zstandard.ZstdDecompressor(max_window_size=caps.window_bytes)
    # read_across_frames: concatenated frames are one stream; output stays bounded, unlike decompressobj's
    with engine.stream_reader(cast(Any, rest), read_size=READ, read_across_frames=True) as reader:
        while True:
            try:
                out = reader.read(CHUNK)
            except zstandard.ZstdError as e:
                if "memory" in str(e):
                    raise over_cap("the layer's zstd window is beyond the limit", "window") from None
                raise refusal(f"the layer's zstd stream is damaged ({e})") from None
            if not out:
                return
            yield out
