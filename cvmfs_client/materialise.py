"""Entries of a repository made on a local disk: each file appears whole, by rename."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from typing import Any

from .entry import Entry, unpack_xattrs
from .errors import CvmfsError, IntegrityError, show
from .interfaces import Request, Store

_BLOCK = 1 << 20
_PART = b".part-"
_unique = itertools.count()


class LocalError(CvmfsError):
    """Something could not be made on the local disk."""

    status = 1


def local_error(path: bytes, e: OSError) -> LocalError:
    """One line about a failed system call; disk full keeps its own status."""
    error = LocalError(f"{show(path)}: {e.strerror or e}")
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        error.status = 9
    return error


def part_name(directory: bytes) -> bytes:
    """A name for something unfinished that no other process or thread uses."""
    return directory + b"/" + _PART + b"%d-%d" % (os.getpid(), next(_unique))


def sweep_parts(directory: bytes, older: float) -> None:
    """Removes what killed processes left unfinished in ``directory`` more than ``older`` s ago."""
    limit = time.time() - older
    for name in os.listdir(directory):
        path = directory + b"/" + name
        try:
            if name.startswith(_PART) and os.lstat(path).st_ctime < limit:
                os.unlink(path)
        except OSError:
            continue


def copy_contents(
    store: Store, requests: Sequence[Request], size: int, part: bytes, progress: Callable[[int], Any] | None
) -> None:
    """Writes a file's verified bytes to the new file ``part``, which is removed when that fails."""
    out = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        total = 0
        for request in requests:
            source = store.open(request)
            try:
                total += _copy(source, out, progress)
            finally:
                os.close(source)
        if total != size:
            raise IntegrityError(f"{show(part)}: {total} of {size} bytes")
    except BaseException:
        os.unlink(part)
        raise
    finally:
        os.close(out)


def _copy(source: int, out: int, progress: Callable[[int], Any] | None) -> int:
    total = 0
    try:
        while True:
            count = os.copy_file_range(source, out, _BLOCK)  # reflinks or copies in the kernel
            if not count:
                return total
            total += count
            if progress is not None:
                progress(count)
    except (OSError, AttributeError) as e:
        if total or (isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)):
            raise
    while True:
        data = os.read(source, _BLOCK)
        if not data:
            return total
        view = memoryview(data)
        while view:
            view = view[os.write(out, view) :]
        total += len(data)
        if progress is not None:
            progress(len(data))


def same_contents(store: Store, requests: Sequence[Request], path: bytes) -> bool:
    """Whether a local file has the verified bytes."""
    with open(path, "rb") as f:
        for request in requests:
            with open(store.open(request), "rb") as source:
                while True:
                    wanted = source.read(_BLOCK)
                    if f.read(len(wanted)) != wanted:
                        return False
                    if not wanted:
                        break
        return not f.read(1)


def set_metadata(path: bytes, entry: Entry, *, preserve: bool = True) -> None:
    """Mode, and with ``preserve`` owner (as root), time and `user.*` attributes. Set-id bits only for
    root."""
    root = os.geteuid() == 0
    if preserve:
        if root:
            os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        for name, value in unpack_xattrs(entry.xattrs).items():
            if root or name.startswith(b"user."):
                try:
                    os.setxattr(path, name, value, follow_symlinks=False)
                except OSError as e:
                    if e.errno not in (errno.ENOTSUP, errno.EPERM, errno.ENOSPC, errno.E2BIG):
                        raise
    if not entry.is_link:
        os.chmod(path, entry.mode & (0o7777 if root and preserve else 0o777 | (entry.mode & stat.S_ISVTX)))
    if preserve:
        nanoseconds = entry.mtime * 1_000_000_000 + entry.mtime_ns
        os.utime(path, ns=(nanoseconds, nanoseconds), follow_symlinks=False)


def clear_way(path: bytes) -> None:
    """Removes whatever is at ``path``, a directory with all below; follows no links."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def make_directory(path: bytes) -> None:
    """A real directory at ``path`` that we can write to; a link or file in its place is removed."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        os.mkdir(path, 0o700)
        return
    if not stat.S_ISDIR(mode):
        os.unlink(path)
        os.mkdir(path, 0o700)
    elif mode & 0o700 != 0o700:
        os.chmod(path, stat.S_IMODE(mode) | 0o700)


def put(part: bytes, path: bytes) -> None:
    """Renames an unfinished thing to its place; an empty directory or a tree there is removed first."""
    try:
        os.rename(part, path)
    except OSError as e:
        if e.errno not in (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
            raise
        clear_way(path)
        os.rename(part, path)


def make_link(path: bytes, target: bytes, parts: bytes = b"") -> bool:
    """A symbolic link; False if it was there already. ``parts``: directory for the unfinished one."""
    try:
        if os.readlink(path) == target:
            return False
    except OSError:
        pass
    part = part_name(parts or os.path.dirname(path))
    os.symlink(target, part)
    put(part, path)
    return True


def make_special(path: bytes, entry: Entry, parts: bytes = b"") -> bool:
    """A fifo, socket or device; False where this user may not make it."""
    part = part_name(parts or os.path.dirname(path))
    try:
        os.mknod(part, entry.mode & ~0o7777 | 0o600, entry.rdev)
    except PermissionError:
        return False
    put(part, path)
    return True
