"""Atomic files and the durability policy: what is published is on disk before its name is.

Light: the run path imports this.
"""

from __future__ import annotations

import os
from errno import EDQUOT, EFBIG, EINVAL, ENOSPC, ENOTSUP

from udk.errors import DiskFullError, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

_counter = 0


def unique() -> str:
    """A name part that no other process on any host, and no other call in this one, gets."""
    global _counter
    _counter += 1
    return f"{os.getpid():x}-{os.urandom(5).hex()}{_counter:x}"


def fsync(fd: int) -> None:
    """Flushes a file or directory. Directories of some network file systems cannot be flushed: not an
    error."""
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in (EINVAL, ENOTSUP):
            raise


def fsync_dir(path: str) -> None:
    """Makes the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Writes every byte of ``data`` at the file's position."""
    done = os.write(fd, data)
    if done < len(data):  # a signal, or the last room of the disk: the next write says which
        view = memoryview(data)
        while done < len(view):
            done += os.write(fd, view[done:])


def atomic_write(
    path: str,
    data: bytes | Iterable[bytes],
    mode: int = 0o644,
    durable: bool = True,
    exclusive: bool = False,
    part_dir: str = "",
) -> None:
    """Puts ``data``, whole or in pieces, at ``path`` so that a reader sees the old content or the new, never
    a part.

    ``durable``: the content is flushed before the rename, the name after it. ``exclusive``: FileExistsError
    when ``path`` exists already. A kill leaves at most a file ``.<name>.<unique>`` in ``part_dir``, a
    directory on the same file system, by default that of ``path``."""
    head, _, name = path.rpartition("/")
    part = f"{part_dir or head or '.'}/.{name[:100]}.{unique()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(part, flags, mode)
    except FileNotFoundError:
        if not part_dir:
            raise
        os.makedirs(part_dir, exist_ok=True)
        fd = os.open(part, flags, mode)
    try:
        try:
            for piece in (data,) if isinstance(data, bytes) else data:
                write_all(fd, piece)
            if durable:
                fsync(fd)
        finally:
            os.close(fd)
        if exclusive:
            os.link(part, path)
            os.unlink(part)
        else:
            os.rename(part, path)
    except BaseException:
        try:
            os.unlink(part)
        except OSError:
            pass
        raise
    if durable:
        fsync_dir(head or ".")


def read_file(path: str, limit: int = 64 << 20) -> bytes:
    """The whole content of a file. Raises OSError; StoreError beyond ``limit`` bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size > limit:
            raise StoreError(f"{path} has {size} bytes, more than the {limit} that are sensible")
        data = os.read(fd, size + 1)
        while len(data) < limit:
            more = os.read(fd, 1 << 20)
            if not more:
                break
            data += more
        return data
    finally:
        os.close(fd)


class disk_errors:
    """``with disk_errors(path):`` turns OSError into the store's errors; a full disk keeps its own class."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise store_error(error, self._path) from error


def store_error(error: OSError, path: str) -> StoreError:
    """The StoreError that says what ``error`` means for the store's file or directory ``path``."""
    where = error.filename if isinstance(error.filename, str) else path
    if error.errno == ENOSPC:
        return DiskFullError(
            f"no space left on the file system of {where}",
            "make room, or set UDK_HOME to a larger file system; what was fetched so far is kept",
        )
    if error.errno == EDQUOT:
        return DiskFullError(
            f"disk quota exceeded at {where}",
            "make room, or set UDK_HOME to another file system; what was fetched so far is kept",
        )
    if error.errno == EFBIG:
        return StoreError(
            f"{where}: the file size limit of this process is reached", "raise it with ulimit -f"
        )
    return StoreError(f"{where}: {error.strerror or error}")
