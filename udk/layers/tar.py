"""A tar parser for layers: one forward pass, bytes in, members out; no file is opened here.

Understands POSIX ustar and pax (extended and global headers), GNU (long names, base-256 numbers, all
sparse forms) and v7. Names are bytes throughout, so PAX's ``hdrcharset`` needs no decoding. Format:
POSIX.1-2018 ``pax``, and GNU tar's manual, "Basic Tar Format" and "Storing Sparse Files".
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import adler32

from udk.layers.caps import Caps, over_cap, refusal, show
from udk.layers.sparse import pax_sparse_map, read_gnu_map, read_pax1_map

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
ZEROS = bytes(BLOCK)
INT63 = (1 << 63) - 1

REG, LINK, SYMLINK, CHAR, BLK, DIR, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

_ADLER = 65521
_NS = 1_000_000_000


class ChunkReader:
    """Reads exact amounts from an iterator of byte chunks, without joining what lies within one chunk."""

    __slots__ = ("_chunk", "_chunks", "_pos", "_view")

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._view = memoryview(b"")
        self._pos = 0

    def _next(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._chunk = chunk
                self._view = memoryview(chunk)
                self._pos = 0
                return True
        return False

    def block(self) -> bytes:
        """The next 512 bytes; fewer only at the end of the stream."""
        pos = self._pos
        end = pos + BLOCK
        if end <= len(self._chunk):
            self._pos = end
            return self._chunk[pos:end]
        return self.read(BLOCK)

    def read(self, size: int) -> bytes:
        """``size`` bytes in one piece; fewer only at the end of the stream. For what is small and bounded."""
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The next ``size`` bytes as views of the chunks they lie in; fewer only at the end of the stream."""
        while size > 0:
            left = len(self._chunk) - self._pos
            if not left:
                if not self._next():
                    return
                continue
            n = left if left < size else size
            pos = self._pos
            self._pos = pos + n
            size -= n
            yield self._view[pos : pos + n]

    def skip(self, size: int) -> None:
        """Passes over ``size`` bytes. Raises LayerError when the stream ends before."""
        for piece in self.pieces(size):
            size -= len(piece)
        if size:
            raise refusal("the layer's tar stream ends in the middle of an entry")

    def drain(self) -> None:
        """Reads to the end of the stream."""
        self._chunk = b""
        self._view = memoryview(b"")
        self._pos = 0
        for _ in self._chunks:
            pass


class Member:
    """One entry. ``kind`` is one of the seven type constants; ``size`` the bytes of data stored in the
    archive.

    ``mtime`` is in nanoseconds. ``sparse`` is a list of (offset, length) of the stored data, or None for a
    plain file, and ``real_size`` the file's size. ``mode`` holds the twelve permission bits only.
    """

    __slots__ = (
        "gid", "kind", "linkname", "major", "minor", "mode", "mtime", "name", "real_size", "size", "sparse",
        "uid", "xattrs",
    )  # fmt: skip
    kind: bytes
    name: bytes
    linkname: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    major: int
    minor: int
    xattrs: dict[bytes, bytes] | None
    sparse: list[tuple[int, int]] | None
    real_size: int


def number(field: bytes, what: str) -> int:
    """A numeric header field: octal, padded by spaces or NULs, or GNU's base-256. Raises LayerError."""
    first = field[0] if field else 0
    if first & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (len(field) * 8 - 1)) - 1)
        if first & 0x40:
            value -= 1 << (len(field) * 8 - 1)
        if not -INT63 <= value <= INT63:
            raise refusal(f"a tar header's {what} is out of range")
        return value
    text = field.split(b"\0", 1)[0].strip(b" ")
    if not text:
        return 0
    try:
        if not text.isdigit():  # int() would take signs and underscores
            raise ValueError
        return int(text, 8)
    except ValueError:
        raise refusal(f"a tar header's {what} is not a number: {show(field)}") from None


def _decimal(value: bytes, what: str) -> int:
    if not value.isdigit() or len(value) > 20 or int(value) > INT63:
        raise refusal(f"a PAX header's {what} is not a valid number: {show(value)}")
    return int(value)


def _pax_time(value: bytes) -> int:
    """Seconds with an optional fraction, possibly negative, to nanoseconds."""
    sign = -1 if value[:1] == b"-" else 1
    whole, _, fraction = (value[1:] if value[:1] in {b"-", b"+"} else value).partition(b".")
    if not (whole or fraction) or not (whole + fraction + b"0").isdigit() or len(whole) > 30:
        raise refusal(f"a PAX header's mtime is not a time: {show(value)}")
    return sign * (int(whole or b"0") * _NS + int(fraction[:9].ljust(9, b"0") if fraction else 0))


def parse_pax(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records of a PAX header, in order. Raises LayerError for anything malformed."""
    records = []
    at = 0
    end = len(data)
    while at < end:
        space = data.find(b" ", at, at + 21)
        digits = data[at:space] if space > 0 else b""
        if not digits.isdigit():
            if data.count(b"\0", at) == end - at:
                break  # some writers count the padding in
            raise refusal("a PAX header's record has no length")
        stop = at + int(digits)
        equals = data.find(b"=", space, stop)
        if stop > end or stop <= space + 1 or equals <= space + 1 or data[stop - 1] != 0x0A:
            raise refusal("a PAX header's record is malformed")
        records.append((data[space + 1 : equals], data[equals + 1 : stop - 1]))
        at = stop
    return records


def _checksum_ok(block: bytes) -> bool:
    field = block[148:156]
    # adler32's low half is the sum of all bytes plus one: forty times cheaper than adding them up in Python.
    total = (adler32(block) & 0xFFFF) - 1 - sum(field) + 8 * 0x20
    text = field.split(b"\0", 1)[0].strip(b" ")
    if not text.isdigit() or b"8" in text or b"9" in text:
        return False
    stored = int(text, 8)
    if (total - stored) % _ADLER == 0:
        return True
    rest = block[:148] + block[156:]
    signed = sum(rest) + 8 * 0x20 - 256 * sum(b > 127 for b in rest)  # old Suns added signed characters
    return stored == signed


class TarReader:
    """Iterates over the members of a tar stream. Between two members the caller reads at most ``size``
    bytes of data through :meth:`data`; what it leaves is skipped. After the last one the stream is read to
    its end."""

    def __init__(self, source: ChunkReader, caps: Caps) -> None:
        self._source = source
        self._caps = caps
        self._global: dict[bytes, bytes] = {}
        self._left = 0  # data bytes of the current member not yet taken
        self._pad = 0

    def __iter__(self) -> Iterator[Member]:
        source = self._source
        while True:
            self._finish_member()
            member = self._next_member()
            if member is None:
                source.drain()
                return
            yield member

    def data(self) -> Iterator[memoryview]:
        """The current member's stored data in pieces. Raises LayerError when the stream ends before."""
        for piece in self._source.pieces(self._left):
            self._left -= len(piece)
            yield piece
        if self._left:
            raise refusal("the layer's tar stream ends in the middle of a file")

    def _finish_member(self) -> None:
        if self._left or self._pad:
            self._source.skip(self._left)
            self._left = 0
            # A last entry whose padding is missing is whole nevertheless.
            for _ in self._source.pieces(self._pad):
                pass
            self._pad = 0

    def _extended(self, size: int) -> bytes:
        if size > self._caps.header_bytes or size < 0:
            raise over_cap(f"a tar entry has an extended header of {size} bytes", "")
        data = self._source.read(size + -size % BLOCK)
        if len(data) < size:
            raise refusal("the layer's tar stream ends in the middle of an extended header")
        return data[:size]

    def _next_member(self) -> Member | None:
        source = self._source
        long_name: bytes | None = None
        long_link: bytes | None = None
        pax: list[tuple[bytes, bytes]] = []
        spent = 0  # bytes of extended headers in front of this member
        while True:
            block = source.block()
            if len(block) < BLOCK:
                if block or pax or long_name is not None or long_link is not None:
                    raise refusal("the layer's tar stream ends in the middle of a header")
                return None  # no end blocks: accepted by every peer
            if block == ZEROS:
                second = source.block()
                if second and second != ZEROS[: len(second)]:
                    raise refusal("the layer's tar stream has a lone zero block")
                if pax or long_name is not None or long_link is not None:
                    raise refusal("the layer's tar stream ends in the middle of a header")
                return None
            if not _checksum_ok(block):
                raise refusal("a tar header's checksum is wrong, or the layer is not a tar stream")
            flag = block[156:157]
            if flag in b"xXgLK":
                size = number(block[124:136], "size")
                spent += max(size, 0)
                if spent > self._caps.header_bytes:
                    raise over_cap(f"a tar entry has extended headers of {spent} bytes", "")
                data = self._extended(size)
                if flag == b"L":
                    long_name = data.split(b"\0", 1)[0]
                elif flag == b"K":
                    long_link = data.split(b"\0", 1)[0]
                elif flag == b"g":
                    self._add_global(parse_pax(data))
                else:
                    pax += parse_pax(data)
                continue
            if flag in b"VM":  # a volume's label, or the rest of a file from another volume
                size = number(block[124:136], "size")
                source.skip(size + -size % BLOCK)
                continue
            return self._member(block, flag, long_name, long_link, pax)

    def _add_global(self, records: list[tuple[bytes, bytes]]) -> None:
        for key, value in records:
            # A path, size or sparse map for every entry to come makes no sense and is left out.
            if key in {b"mtime", b"uid", b"gid"}:
                if value:
                    self._global[key] = value
                else:
                    self._global.pop(key, None)

    def _member(
        self,
        block: bytes,
        flag: bytes,
        long_name: bytes | None,
        long_link: bytes | None,
        records: list[tuple[bytes, bytes]],
    ) -> Member:
        m = Member()
        name = block[:100].split(b"\0", 1)[0]
        if block[257:263] == b"ustar\0" and block[345]:
            # Schily's star keeps times in the prefix's last 24 bytes.
            prefix = block[345:476] if block[508:] == b"tar\0" else block[345:500]
            name = prefix.split(b"\0", 1)[0] + b"/" + name
        m.name = name
        m.linkname = block[157:257].split(b"\0", 1)[0]
        m.mode = number(block[100:108], "mode") & 0o7777
        m.uid = number(block[108:116], "uid")
        m.gid = number(block[116:124], "gid")
        m.size = number(block[124:136], "size")
        m.mtime = number(block[136:148], "mtime") * _NS
        m.major = m.minor = 0
        m.xattrs = None
        m.sparse = None
        pax = self._apply_pax(m, records) if records or self._global else {}
        if long_name is not None:
            m.name = long_name
        if long_link is not None:
            m.linkname = long_link
        if m.size < 0:
            raise refusal(f"{show(m.name)}: negative size in the layer's tar stream")
        self._set_kind(m, flag, block)
        if b"\0" in m.name or b"\0" in m.linkname:
            raise refusal(f"{show(m.name)}: a NUL byte in a name")
        if m.kind != REG:
            m.size = 0 if flag != b"D" else m.size
        m.real_size = m.size
        self._left = m.size
        self._pad = -m.size % BLOCK
        if flag == b"S":
            m.real_size = number(block[483:495], "real size")
            m.sparse = read_gnu_map(self._source, block, m, self._caps.header_bytes)
        elif pax:
            self._pax_sparse(m, records, pax)
        return m

    def _apply_pax(self, m: Member, records: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
        pax = dict(self._global)
        pax.update(records)
        if pax.get(b"path"):  # an empty value takes a record back
            m.name = pax[b"path"]
        if pax.get(b"linkpath"):
            m.linkname = pax[b"linkpath"]
        if pax.get(b"size"):
            m.size = _decimal(pax[b"size"], "size")
        if pax.get(b"uid"):
            m.uid = _decimal(pax[b"uid"], "uid")
        if pax.get(b"gid"):
            m.gid = _decimal(pax[b"gid"], "gid")
        if pax.get(b"mtime"):
            m.mtime = _pax_time(pax[b"mtime"])
        xattrs = {k[13:]: v for k, v in pax.items() if k.startswith(b"SCHILY.xattr.")}
        if xattrs:
            m.xattrs = xattrs
            if sum(len(k) + len(v) for k, v in xattrs.items()) > self._caps.xattr_bytes:
                raise over_cap(f"{show(m.name)}: extended attributes beyond the limit", "")
        return pax

    def _set_kind(self, m: Member, flag: bytes, block: bytes) -> None:
        if flag in b"\x000127S":
            m.kind = flag if flag in b"12" else REG
            if m.kind == REG and flag != b"S" and m.name.endswith(b"/"):
                if m.size:
                    raise refusal(f"{show(m.name)}: a directory's name with a file's data")
                m.kind = DIR  # how v7 wrote directories
        elif flag in b"34":
            m.kind = flag
            m.major = number(block[329:337], "device number")
            m.minor = number(block[337:345], "device number")
        elif flag in b"5D":
            m.kind = DIR
        elif flag == b"6":
            m.kind = FIFO
        else:
            raise refusal(f"{show(m.name)}: unknown type {show(flag)} in the layer's tar stream")

    def _pax_sparse(self, m: Member, records: list[tuple[bytes, bytes]], pax: dict[bytes, bytes]) -> None:
        if m.kind != REG:
            return
        if b"GNU.sparse.major" in pax or b"GNU.sparse.minor" in pax:
            version = (pax.get(b"GNU.sparse.major"), pax.get(b"GNU.sparse.minor"))
            if version != (b"1", b"0"):
                raise refusal(f"{show(m.name)}: unknown version of a sparse file")
            m.name = pax.get(b"GNU.sparse.name") or m.name
            m.real_size = _decimal(pax.get(b"GNU.sparse.realsize", b""), "sparse size")
            m.sparse, used = read_pax1_map(self._source, m, self._caps.header_bytes)
            m.size -= used
            self._left = m.size
        elif b"GNU.sparse.size" in pax:
            m.name = pax.get(b"GNU.sparse.name") or m.name
            m.real_size = _decimal(pax[b"GNU.sparse.size"], "sparse size")
            m.sparse = pax_sparse_map(m, records, pax)
