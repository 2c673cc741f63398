"""A directory entry as a catalog row gives it, and the bits of its flags (formats reference 6)."""

from __future__ import annotations

import stat
import struct
from typing import NamedTuple

from .errors import CatalogError
from .hash import CATALOG_ALGORITHMS, Hash

FLAG_DIRECTORY = 0x1
FLAG_TRANSITION = 0x2  # nested catalog mountpoint, as seen in the parent catalog
FLAG_FILE = 0x4  # also set for symbolic links and special files
FLAG_LINK = 0x8
FLAG_SPECIAL = 0x10
FLAG_NESTED_ROOT = 0x20  # the same directory, as seen in the nested catalog
FLAG_CHUNKED = 0x40
FLAG_EXTERNAL = 0x80
FLAG_HASH_SHIFT = 8  # 3 bits: index into CATALOG_ALGORITHMS
FLAG_COMPRESSION_SHIFT = 11  # 3 bits: 0 zlib, 1 none
FLAG_BIND_MOUNT = 0x4000
FLAG_HIDDEN = 0x8000
FLAG_DIRECT_IO = 0x10000

COMPRESSION_ZLIB = 0
COMPRESSION_NONE = 1

XATTR_VERSION = 1


class Entry(NamedTuple):
    """One row of a catalog. Sizes in bytes, times since the epoch; values as the publisher wrote them."""

    name: bytes  # last component; "" for the root
    flags: int
    mode: int  # st_mode with the type bits
    size: int  # of the raw target for links; st_rdev for device nodes
    mtime: int  # s
    mtime_ns: int  # 0..999999999
    uid: int
    gid: int
    nlink: int
    group: int  # hard-link group, 0 for none; unique per catalog only
    digest: bytes  # content hash; empty where there is none
    symlink: bytes  # raw target, not expanded
    xattrs: bytes  # packed; see unpack_xattrs
    ino: int  # 63 bits; the same for all members of a hard-link group, stable as long as path or group are

    @property
    def is_dir(self) -> bool:
        return bool(self.flags & FLAG_DIRECTORY)

    @property
    def is_link(self) -> bool:
        return bool(self.flags & FLAG_LINK)

    @property
    def is_file(self) -> bool:
        """A regular file."""
        return self.flags & (FLAG_FILE | FLAG_LINK | FLAG_SPECIAL) == FLAG_FILE

    @property
    def is_special(self) -> bool:
        return bool(self.flags & FLAG_SPECIAL)

    @property
    def is_mountpoint(self) -> bool:
        """What lies below is in another catalog."""
        return bool(self.flags & (FLAG_TRANSITION | FLAG_BIND_MOUNT))

    @property
    def is_chunked(self) -> bool:
        return bool(self.flags & FLAG_CHUNKED)

    @property
    def is_external(self) -> bool:
        return bool(self.flags & FLAG_EXTERNAL)

    @property
    def is_hidden(self) -> bool:
        return bool(self.flags & FLAG_HIDDEN)

    @property
    def direct_io(self) -> bool:
        return bool(self.flags & FLAG_DIRECT_IO)

    @property
    def compression(self) -> int:
        """COMPRESSION_ZLIB, COMPRESSION_NONE, or a number of the future."""
        return self.flags >> FLAG_COMPRESSION_SHIFT & 7

    @property
    def algorithm(self) -> str | None:
        """Hash algorithm of the contents; None: unknown to this version."""
        index = self.flags >> FLAG_HASH_SHIFT & 7
        return CATALOG_ALGORITHMS[index] if index < len(CATALOG_ALGORITHMS) else None

    @property
    def hash(self) -> Hash | None:
        """Content hash of a regular file that is stored in one piece (or also in one piece)."""
        algorithm = self.algorithm
        if not self.digest or algorithm is None:
            return None
        return Hash(algorithm, self.digest)

    @property
    def rdev(self) -> int:
        """st_rdev of a device node, else 0."""
        return self.size if stat.S_ISCHR(self.mode) or stat.S_ISBLK(self.mode) else 0


class Chunk(NamedTuple):
    """A piece of a chunked file; offset and size in bytes of the decompressed file."""

    offset: int
    size: int
    hash: Hash


def unpack_xattrs(blob: bytes | None) -> dict[bytes, bytes]:
    """The extended attributes of an entry: full name (with its namespace) -> value. Raises CatalogError."""
    if not blob:
        return {}
    if len(blob) < 2 or blob[0] != XATTR_VERSION:
        raise CatalogError("extended attributes of an unknown format")
    found: dict[bytes, bytes] = {}
    at = 2
    for _ in range(blob[1]):
        if at + 2 > len(blob):
            raise CatalogError("truncated extended attributes")
        key_length, value_length = struct.unpack_from("BB", blob, at)
        at += 2
        if at + key_length + value_length > len(blob):
            raise CatalogError("truncated extended attributes")
        found[blob[at : at + key_length]] = blob[at + key_length : at + key_length + value_length]
        at += key_length + value_length
    return found


def pack_xattrs(xattrs: dict[bytes, bytes]) -> bytes | None:
    """The inverse of :func:`unpack_xattrs`; None for none. Raises CatalogError beyond the limits."""
    if not xattrs:
        return None
    if len(xattrs) > 255 or any(not 0 < len(k) < 256 or len(v) > 255 for k, v in xattrs.items()):
        raise CatalogError(
            "too many or too long extended attributes",
            "the format holds 255 of them, names and values of at most 255 bytes",
        )
    body = b"".join(bytes((len(k), len(v))) + k + v for k, v in sorted(xattrs.items()))
    return bytes((XATTR_VERSION, len(xattrs))) + body
