"""The index of a tree: what the kernel says of each of its files, so that an engine need not ask it again.

A tree is never changed once it is published. So what ``lstat`` tells of a file in it, and that there is none
of a name, holds as long as the tree does. The file is little-endian, of version 1 (docs/architecture.md), and
mapped by the processes of a container: directories in the order of their numbers, the names of each in the
order of their hashes. It is of one copy of the tree: its header has the root's inode and time of change, with
which whoever reads it compares the root.
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

MAGIC = b"UDKIDX\0\1"
# Magic; the root's inode, ctime (seconds, nanoseconds) and owner; block size; how many directories and names;
# errno where a file has no attribute user.*, no access list; unused; offsets of directories, hashes, files
# and names; bytes of names.
HEADER = struct.Struct("<8sQqIIIIIIII5Q")
# Inode of a directory, number of its first name, how many it has. ABSENT: it is not listed.
DIRECTORY = struct.Struct("<QII")
# Inode, size; seconds of atime, mtime, ctime; their nanoseconds; blocks of 512 bytes, mode, links, uid, gid,
# rdev; number of the directory that it is, or 0; offset and length of the name; flags.
FILE = struct.Struct("<Qqqqq3I8IHH")
PLAIN = 1  # no extended attribute of user.* and system.*
ABSENT = 0xFFFFFFFF

_MASK = (1 << 64) - 1
_SECOND = 1_000_000_000
_PIECE = 1 << 20
_MOST = 100_000  # names of a directory, which are sorted in memory
_S_IFMT, _S_IFDIR = 0o170000, 0o040000
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
    if was.names != now.names or was.order != now.order:
        return True, "the names of its files"
    for old, new in zip(was.files, now.files):
        if any(old[i] != new[i] for i in (_SIZE, _MTIME, _MTIME_NS, _MODE)):
            return True, os.fsdecode(was.names[old[-3] : old[-3] + old[-2]])
    return False, ""  # the kernel's own, as the time of change


class _Told(NamedTuple):
    """All that an index says but times of access."""

    root: tuple[object, ...]
    rest: tuple[object, ...]
    order: bytes
    files: tuple[tuple[int, ...], ...]
    names: bytes


_SIZE, _MTIME, _MTIME_NS, _MODE = 1, 2, 4, 7  # in _Told.files


def _told(data: bytes) -> _Told:
    head = HEADER.unpack_from(data)
    at = head[13]
    end = at + head[7] * FILE.size
    files = tuple(f[:2] + f[3:5] + f[6:] for f in FILE.iter_unpack(data[at:end]))
    return _Told(head[:5], head[5:], data[HEADER.size : at], files, data[head[14] :])


def _index(tree: str, scratch: Callable[[], IO[bytes]]) -> Iterator[bytes]:
    """The file in pieces, which are gathered in files that ``scratch`` makes."""
    try:
        with scratch() as hashes, scratch() as files, scratch() as names:
            yield from _tell(tree, hashes, files, names)
    except struct.error as e:
        raise ValueError(f"{tree} cannot be indexed: {e}") from None


def _tell(tree: str, hashes: IO[bytes], files: IO[bytes], names: IO[bytes]) -> Iterator[bytes]:
    root = f"{tree}/rootfs"
    top = os.lstat(root)
    no_user, no_acl = _missing(root, "user.udk.none"), _missing(root, "system.posix_acl_default")
    marked = _with_attributes(tree) if no_acl else None  # else what is made below has access lists
    directories = bytearray(2 * DIRECTORY.size)  # numbers begin with 1
    todo = [(b"", 1, top)]
    count = name_at = 0
    while todo:
        where, number, itself = todo.pop()
        found = _listed(os.fsencode(root) + where) if itself.st_mode & _OPEN == _OPEN else None
        row = (0, ABSENT, 0) if found is None else (itself.st_ino, count, len(found))
        DIRECTORY.pack_into(directories, number * DIRECTORY.size, *row)
        rows = []
        for _, name, st in found or ():
            path = where + b"/" + name
            if st.st_dev != top.st_dev:
                raise ValueError(f"{tree} cannot be indexed: {os.fsdecode(path)} is on another device")
            number = 0
            if st.st_mode & _S_IFMT == _S_IFDIR:
                number = len(directories) // DIRECTORY.size
                directories += bytes(DIRECTORY.size)
                todo.append((path, number, st))
            (atime, a_ns), (mtime, m_ns), (ctime, c_ns) = (
                divmod(t, _SECOND) for t in (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns)
            )
            entry = (
                st.st_ino, st.st_size, atime, mtime, ctime, a_ns, m_ns, c_ns, st.st_blocks, st.st_mode,
                st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, number, name_at, len(name),
                PLAIN if marked is not None and path[1:] not in marked else 0,
            )  # fmt: skip
            rows.append(FILE.pack(*entry))
            name_at += len(name)
        hashes.write(b"".join(value.to_bytes(4, "little") for value, _, _ in found or ()))
        files.write(b"".join(rows))
        names.write(b"".join(name for _, name, _ in found or ()))
        count += len(rows)
    head = (
        MAGIC, top.st_ino, *divmod(top.st_ctime_ns, _SECOND), top.st_uid, top.st_blksize,
        len(directories) // DIRECTORY.size, count, no_user, no_acl, 0,
    )  # fmt: skip
    yield from _together(head, (BytesIO(directories), hashes, files, names))


def _together(head: tuple[object, ...], parts: tuple[IO[bytes], ...]) -> Iterator[bytes]:
    """The parts behind the header, each at a multiple of 64 bytes."""
    sizes = [part.seek(0, os.SEEK_END) for part in parts]
    at, offsets = HEADER.size, []
    for size in sizes:
        at += -at % 64
        offsets.append(at)
        at += size
    yield HEADER.pack(*head, *offsets, sizes[-1])
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
