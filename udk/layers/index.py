"""The index of a tree: what the kernel says of each of its files, so that an engine need not ask it again.

A tree is never changed once it is published. So what ``lstat`` tells of a file in it, that there is none of a
name, what a directory lists and where a link leads hold as long as the tree does. The file is little-endian,
of version 2 (docs/architecture.md), and mapped by the processes of a container: directories in the order of
their numbers, the names of each in the order of their hashes, their listings as getdents64 gives them. It is
of one copy of the tree: its header has the root's inode and time of change, with which whoever reads it
compares the root.
"""

from __future__ import annotations

import os
import struct
from errno import ENAMETOOLONG
from io import BytesIO
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, NamedTuple

from udk.base.files import atomic_write
from udk.layers.record import RecordReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAGIC = b"UDKIDX\0\2"
# Magic; the root's inode, ctime (seconds, nanoseconds) and owner; block size; how many directories and names;
# errno where a file has no attribute user.*, no access list; unused; offsets of directories, hashes, files,
# listings and links' targets; bytes of the last two.
HEADER = struct.Struct("<8sQqIIIIIIII7Q")
# Inode of a directory, number of its first name, how many it has; offset and bytes of its listing. ABSENT: it
# is not listed.
DIRECTORY = struct.Struct("<QIIII")
# Inode, size; seconds of atime, mtime, ctime; their nanoseconds; blocks of 512 bytes, mode, links, uid, gid,
# rdev (of a link: offset of its target, as long as its size says); number of the directory that it is, or 0;
# offset, in the listings, and length of the name; flags.
FILE = struct.Struct("<Qqqqq3I8IHH")
# Of a listing's record: inode, position of the next, length of this one, type; the name and zeros follow.
RECORD = struct.Struct("<QqHB")
START = 1 << 40  # position of the first: none that file systems give
PLAIN = 1  # no extended attribute of user.* and system.*
ABSENT = 0xFFFFFFFF

_MASK = (1 << 64) - 1
_SECOND = 1_000_000_000
_PIECE = 1 << 20
_MOST = 100_000  # names of a directory, which are sorted in memory
_S_IFMT, _S_IFDIR, _S_IFLNK = 0o170000, 0o040000, 0o120000
_OPEN = 0o555  # listed by all and gone through by all: for others it is the kernel that decides


def name_hash(name: bytes) -> int:
    """32 bits of a name: the upper half of ``text_hash`` (csrc/core/cache.c)."""
    h = 0x9E3779B97F4A7C15 ^ len(name)
    whole = len(name) & ~7
    for (word,) in struct.iter_unpack("<Q", name[:whole]):
        h = ((h ^ word) * 0xFF51AFD7ED558CCD) & _MASK
        h ^= h >> 32
    h = ((h ^ int.from_bytes(name[whole:], "little")) * 0xFF51AFD7ED558CCD) & _MASK
    return (h ^ h >> 29) >> 32


def write_index(tree: str, durable: bool = True) -> None:
    """Writes ``index``, beside ``rootfs`` and ``record`` of the finished tree in the directory ``tree``, over
    one that is there; ``durable`` as for ``atomic_write``. Memory is that for its largest directory. Raises
    OSError, and ValueError where something has no place in it: a file of over 2 TiB, or on another device."""
    atomic_write(f"{tree}/index", _index(tree, lambda: TemporaryFile(dir=tree)), durable=durable)


def is_indexed(tree: str) -> bool:
    """Whether there is an index of this version, be it of the tree or not. Raises OSError."""
    try:
        with open(f"{tree}/index", "rb") as f:
            return f.read(len(MAGIC)) == MAGIC
    except FileNotFoundError:
        return False


def has_index(tree: str) -> bool:
    """Whether the index is there and that of ``rootfs`` as it is now, times of access left out."""
    return check_index(tree) == (True, "")


def check_index(tree: str) -> tuple[bool, str]:
    """Whether the index is there and of this copy of the tree, and what was otherwise when it was made:
    a file of another size, mode or time of modification, or the names. Raises OSError for the tree."""
    try:
        with open(f"{tree}/index", "rb") as f:
            was = _told(f.read())
    except (OSError, ValueError, struct.error):
        return False, ""
    now = _told(b"".join(_index(tree, BytesIO)))
    if was == now or was.root != now.root:
        return was == now, ""
    if was.names != now.names:
        return True, "the names of its files"
    for name, old, new in zip(was.names, was.files, now.files):
        if any(old[i] != new[i] for i in (_SIZE, _MTIME, _MTIME_NS, _MODE)):
            return True, os.fsdecode(name)
    return False, ""  # the kernel's own, as the time of change


class _Told(NamedTuple):
    """All that an index says but times of access."""

    root: tuple[object, ...]
    rest: tuple[object, ...]
    files: tuple[tuple[int, ...], ...]
    names: tuple[bytes, ...]


_SIZE, _MTIME, _MTIME_NS, _MODE = 1, 2, 4, 7  # in _Told.files


def _told(data: bytes) -> _Told:
    head = HEADER.unpack_from(data)
    if head[0] != MAGIC:
        raise ValueError
    at, lists = head[13:15]
    end = at + head[7] * FILE.size
    rows = list(FILE.iter_unpack(data[at:end]))
    return _Told(
        head[:5],
        (*head[5:], data[HEADER.size : at], data[end:]),
        tuple(f[:2] + f[3:5] + f[6:] for f in rows),
        tuple(data[lists + f[-3] : lists + f[-3] + f[-2]] for f in rows),
    )


def _index(tree: str, scratch: Callable[[], IO[bytes]]) -> Iterator[bytes]:
    """The file in pieces, which are gathered in files that ``scratch`` makes."""
    try:
        with scratch() as hashes, scratch() as files, scratch() as lists, scratch() as targets:
            yield from _tell(tree, hashes, files, lists, targets)
    except struct.error as e:
        raise ValueError(f"{tree} cannot be indexed: {e}") from None


def _tell(
    tree: str, hashes: IO[bytes], files: IO[bytes], lists: IO[bytes], targets: IO[bytes]
) -> Iterator[bytes]:
    root = f"{tree}/rootfs"
    top = os.lstat(root)
    no_user, no_acl = _missing(root, "user.udk.none"), _missing(root, "system.posix_acl_default")
    marked = _with_attributes(tree) if no_acl else None  # else what is made below has access lists
    directories = bytearray(2 * DIRECTORY.size)  # numbers begin with 1
    todo = [(b"", 1, top, top)]
    count = 0
    while todo:
        where, number, itself, above = todo.pop()
        found = _listed(os.fsencode(root) + where) if itself.st_mode & _OPEN == _OPEN else None
        if found is None:
            DIRECTORY.pack_into(directories, number * DIRECTORY.size, 0, ABSENT, 0, 0, 0)
            continue
        listing, begun = _Listing(), lists.tell()
        listing.add(itself.st_ino, _S_IFDIR, b".")
        listing.add(above.st_ino, _S_IFDIR, b"..")
        rows = []
        for _, name, st in found:
            path = where + b"/" + name
            if st.st_dev != top.st_dev:
                raise ValueError(f"{tree} cannot be indexed: {os.fsdecode(path)} is on another device")
            kind, number_of, device = st.st_mode & _S_IFMT, 0, st.st_rdev
            if kind == _S_IFDIR:
                number_of = len(directories) // DIRECTORY.size
                directories += bytes(DIRECTORY.size)
                todo.append((path, number_of, st, itself))
            elif kind == _S_IFLNK:
                target = os.readlink(os.fsencode(root) + path)
                device = targets.tell() if len(target) == st.st_size else ABSENT
                targets.write(target)
            (atime, a_ns), (mtime, m_ns), (ctime, c_ns) = (
                divmod(t, _SECOND) for t in (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns)
            )
            entry = (
                st.st_ino, st.st_size, atime, mtime, ctime, a_ns, m_ns, c_ns, st.st_blocks, st.st_mode,
                st.st_nlink, st.st_uid, st.st_gid, device, number_of,
                begun + listing.add(st.st_ino, kind, name), len(name),
                PLAIN if marked is not None and path[1:] not in marked else 0,
            )  # fmt: skip
            rows.append(FILE.pack(*entry))
        hashes.write(b"".join(value.to_bytes(4, "little") for value, _, _ in found))
        files.write(b"".join(rows))
        lists.write(listing.data)
        row = (itself.st_ino, count, len(found), begun, len(listing.data))
        DIRECTORY.pack_into(directories, number * DIRECTORY.size, *row)
        count += len(rows)
    head = (
        MAGIC, top.st_ino, *divmod(top.st_ctime_ns, _SECOND), top.st_uid, top.st_blksize,
        len(directories) // DIRECTORY.size, count, no_user, no_acl, 0,
    )  # fmt: skip
    yield from _together(head, (BytesIO(directories), hashes, files, lists, targets))


class _Listing:
    """What getdents64 says of a directory."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._position = START

    def add(self, inode: int, kind: int, name: bytes) -> int:
        """Appends a record; where the name is in it."""
        begun = len(self.data)
        self._position += 1
        size = RECORD.size + len(name) + 1
        size += -size % 8
        self.data += RECORD.pack(inode, self._position, size, kind >> 12) + name
        self.data += bytes(begun + size - len(self.data))
        return begun + RECORD.size


def _together(head: tuple[object, ...], parts: tuple[IO[bytes], ...]) -> Iterator[bytes]:
    """The parts behind the header, each at a multiple of 64 bytes."""
    sizes = [part.seek(0, os.SEEK_END) for part in parts]
    at, offsets = HEADER.size, []
    for size in sizes:
        at += -at % 64
        offsets.append(at)
        at += size
    dirs, hashes, files, lists, targets = offsets
    yield HEADER.pack(*head, dirs, hashes, files, lists, sizes[-2], targets, sizes[-1])
    at = HEADER.size
    for part, offset, size in zip(parts, offsets, sizes):
        yield bytes(offset - at)
        part.seek(0)
        while data := part.read(_PIECE):
            yield data
        at = offset + size


def _listed(directory: bytes) -> list[tuple[int, bytes, os.stat_result]] | None:
    """The names of a directory in the order of their hashes. None: too many, or too deep for a path."""
    found = []
    try:
        with os.scandir(directory) as entries:
            for e in entries:
                found.append((name_hash(e.name), e.name, e.stat(follow_symlinks=False)))
                if len(found) > _MOST:
                    return None
    except OSError as e:
        if e.errno != ENAMETOOLONG:
            raise
        return None
    return sorted(found)


def _with_attributes(tree: str) -> set[bytes]:
    """The paths that the extractor gave extended attributes (user.*, where the file system keeps them)."""
    try:
        record = RecordReader(f"{tree}/record")
    except FileNotFoundError:
        return set()
    with record:
        return {entry.path for entry in record if b"user." in entry.raw_xattrs}


def _missing(root: str, attribute: str) -> int:
    """What the kernel says where there is no such attribute; 0: the root has it, so it is not known."""
    try:
        os.getxattr(root, attribute)
    except OSError as e:
        return e.errno or 0
    return 0
