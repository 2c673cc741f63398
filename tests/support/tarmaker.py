"""Makes tar streams byte by byte, valid or not, and layers and image layouts out of them.

The standard library's tarfile cannot write what hostile layers hold, so headers are made here by hand.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from typing import Any

BLOCK = 512
END = bytes(2 * BLOCK)


def octal(value: int, width: int) -> bytes:
    """A numeric field: octal, or base-256 where octal does not suffice."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return (value & ((1 << (8 * width - 1)) - 1) | 1 << (8 * width - 1)).to_bytes(width, "big")


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def seal(block: bytes) -> bytes:
    """The header with its checksum put right."""
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def header(
    name: bytes,
    *,
    type: bytes = b"0",
    size: int | bytes = 0,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int | bytes = 1_600_000_000,
    linkname: bytes = b"",
    major: int = 0,
    minor: int = 0,
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """One header block. ``size`` and ``mtime`` given as bytes are taken as the raw field; ``tail``
    replaces what comes after the device numbers."""
    block = (
        name[:100].ljust(100, b"\0")
        + octal(mode, 8)
        + octal(uid, 8)
        + octal(gid, 8)
        + (size.ljust(12, b"\0") if isinstance(size, bytes) else octal(size, 12))
        + (mtime.ljust(12, b"\0") if isinstance(mtime, bytes) else octal(mtime, 12))
        + b" " * 8
        + type
        + linkname[:100].ljust(100, b"\0")
        + magic
        + bytes(64)
        + octal(major, 8)
        + octal(minor, 8)
        + (tail or prefix).ljust(167, b"\0")
    )
    assert len(block) == BLOCK, len(block)
    return seal(block)


def pax_record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    if len(str(total)) != len(str(length)):
        total += 1
    return b"%d %s=%s\n" % (total, key, value)


def pax(records: dict[bytes, bytes] | list[tuple[bytes, bytes]], type: bytes = b"x") -> bytes:
    """An extended header (``x``) or a global one (``g``) with its data."""
    pairs = records.items() if isinstance(records, dict) else records
    data = b"".join(pax_record(k, v) for k, v in pairs)
    return header(b"PaxHeaders/x", type=type, size=len(data)) + pad(data)


def gnu_long(name: bytes, type: bytes = b"L") -> bytes:
    data = name + b"\0"
    return header(b"././@LongLink", type=type, size=len(data), magic=b"ustar  \0") + pad(data)


def entry(name: bytes, linkname: bytes = b"", **kw: Any) -> bytes:
    """A header, with a PAX one before it for what does not fit."""
    long = {}
    if len(name) > 100:
        long[b"path"] = name
    if len(linkname) > 100:
        long[b"linkpath"] = linkname
    return (pax(long) if long else b"") + header(name, linkname=linkname, **kw)


def file(name: bytes, data: bytes = b"", **kw: Any) -> bytes:
    return entry(name, size=len(data), **kw) + pad(data)


def directory(name: bytes, mode: int = 0o755, **kw: Any) -> bytes:
    return entry(name, type=b"5", mode=mode, **kw)


def symlink(name: bytes, target: bytes, **kw: Any) -> bytes:
    return entry(name, target, type=b"2", mode=0o777, **kw)


def hardlink(name: bytes, target: bytes, **kw: Any) -> bytes:
    return entry(name, target, type=b"1", **kw)


def device(name: bytes, type: bytes, major: int, minor: int, mode: int = 0o660, **kw: Any) -> bytes:
    return entry(name, type=type, major=major, minor=minor, mode=mode, **kw)


def fifo(name: bytes, mode: int = 0o644, **kw: Any) -> bytes:
    return entry(name, type=b"6", mode=mode, **kw)


def tar(*entries: bytes, end: bytes = END) -> bytes:
    return b"".join(entries) + end


def diff_id(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


def zst(data: bytes, **kw: int) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(**kw).compress(data)  # type: ignore[arg-type]


def raw_gzip_zeros(total: int) -> bytes:
    """A gzip stream of ``total`` zero bytes (a multiple of 1 MiB), made without holding them."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    crc = 0
    zeros = bytes(1 << 20)
    out = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff"]
    for _ in range(total >> 20):
        crc = zlib.crc32(zeros, crc)
        out.append(engine.compress(zeros))
    out.append(engine.flush())
    return b"".join(out) + struct.pack("<II", crc, total & 0xFFFFFFFF)
