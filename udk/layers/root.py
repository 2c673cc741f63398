"""A tree under one directory descriptor: paths are resolved component by component and never leave it.

``..`` and absolute symbolic links mean what they mean in a chroot. The kernel follows no link for us: every
component is opened with O_NOFOLLOW from the descriptor of the one before, so a mistake here can misplace a
file inside the tree but not reach outside it. Nobody else may change the tree meanwhile; it is private
until published.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from udk.layers.caps import PATH_MAX, refusal, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from udk.layers.paths import PathSet

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40  # as the kernel's own limit
_CACHED = 48  # directories kept open: far below the smallest `ulimit -n`


def join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name


class Root:
    """Directories of a tree by path. A path's canonical form has no links in it.

    ``on_missing(canonical, dirfd, name)`` must make a directory; ``on_file(canonical, dirfd, name)`` is
    asked what to do with a file in the place of a directory: it replaces it by one, or raises."""

    def __init__(
        self,
        fd: int,
        on_missing: Callable[[bytes, int, bytes], None],
        on_file: Callable[[bytes, int, bytes], None],
    ) -> None:
        self.fd = fd
        self._on_missing = on_missing
        self._on_file = on_file
        self._cache: dict[bytes, tuple[int, bytes]] = {}
        self._stale = False

    def close(self) -> None:
        self._flush()

    def forget(self) -> None:
        """A directory or a link is gone: what is known about paths may be wrong from the next call on.

        Descriptors handed out so far stay open until then."""
        self._stale = True

    def directory(self, path: bytes, create: bool) -> tuple[int, bytes] | None:
        """A descriptor of the directory ``path`` and its canonical path.

        The descriptor belongs to the cache and is good until the call after the next one. With ``create``
        missing directories are made, else None is returned for what is missing or not a directory. Raises
        LayerError for a loop of links."""
        if self._stale:
            self._flush()
        hit = self._cache.pop(path, None)
        if hit is not None:
            self._cache[path] = hit  # now the youngest: the next call cannot evict it
            return hit
        if not path:
            return self.fd, b""
        cut = len(path)
        start = (self.fd, b"")
        while (cut := path.rfind(b"/", 0, cut)) > 0:
            hit = self._cache.get(path[:cut])
            if hit is not None:
                start = hit
                break
        todo = path[max(cut, 0) :].split(b"/")
        todo.reverse()
        found = self._walk(start[0], start[1], todo, create, path)
        if found is None:
            return None
        if len(self._cache) >= _CACHED:
            oldest = next(iter(self._cache))
            os.close(self._cache.pop(oldest)[0])
        self._cache[path] = found
        return found

    def _flush(self) -> None:
        for fd, _ in self._cache.values():
            os.close(fd)
        self._cache.clear()
        self._stale = False

    def _walk(
        self, start: int, canonical: bytes, todo: list[bytes], create: bool, path: bytes
    ) -> tuple[int, bytes] | None:
        """Takes the components in ``todo`` (last one first) from ``start``; the descriptor returned is
        new."""
        fd = os.open(b".", _DIR, dir_fd=start)
        links = 0
        try:
            while todo:
                name = todo.pop()
                if name in {b"", b"."}:
                    continue
                if name == b"..":
                    if canonical:
                        fd = _replace(fd, os.open(b"..", _DIR, dir_fd=fd))
                        canonical = canonical.rpartition(b"/")[0]
                    continue
                step = self._step(fd, canonical, name, create)
                if step is None:
                    os.close(fd)
                    return None
                if isinstance(step, int):
                    fd = _replace(fd, step)
                    canonical = join(canonical, name)
                    if len(canonical) > PATH_MAX:
                        raise refusal(f"{show(path)}: path too long")
                    continue
                links += 1
                if links > _MAX_LINKS:
                    raise refusal(f"{show(path)}: too many levels of symbolic links")
                if step.startswith(b"/"):
                    fd = _replace(fd, os.open(b".", _DIR, dir_fd=self.fd))
                    canonical = b""
                todo.extend(reversed(step.split(b"/")))
        except BaseException:
            os.close(fd)
            raise
        return fd, canonical

    def _step(self, fd: int, canonical: bytes, name: bytes, create: bool) -> int | bytes | None:
        """The descriptor of a subdirectory, or the target of a link, or None where there is neither."""
        for _ in range(2):
            try:
                return os.open(name, _DIR, dir_fd=fd)
            except OSError as e:
                if e.errno == errno.ENOENT:
                    if not create:
                        return None
                    self._on_missing(join(canonical, name), fd, name)
                elif e.errno in {errno.ENOTDIR, errno.ELOOP}:
                    if stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                        return os.readlink(name, dir_fd=fd)
                    if not create:
                        return None
                    self._on_file(join(canonical, name), fd, name)
                elif e.errno == errno.ENAMETOOLONG and not create:
                    return None
                else:
                    raise
        return os.open(name, _DIR, dir_fd=fd)


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new


def clear(
    fd: int,
    canonical: bytes,
    keep: PathSet | None,
    on_gone: Callable[[bytes], None],
    on_hollow: Callable[[bytes, int, bytes], None],
) -> bool:
    """Removes what is in a directory but the paths in ``keep`` and the directories that lead to them.

    Returns whether anything is left. ``on_gone`` is told each path removed, ``on_hollow`` (canonical path,
    dirfd, name) each directory that is left only for what is in it. Takes two descriptors whatever the
    depth."""
    # One frame a level: name, subdirectories still to visit, whether something is left.
    frames: list[list[object]] = []
    here = os.open(b".", _DIR, dir_fd=fd)
    path = canonical
    try:
        subdirs, left = _sweep(here, path, keep, on_gone)
        while True:
            if subdirs:
                name = subdirs.pop()
                frames.append([path, subdirs, left])
                path = join(path, name)
                here = _replace(here, os.open(name, _DIR, dir_fd=here))
                subdirs, left = _sweep(here, path, keep, on_gone)
                continue
            if not frames:
                return left
            gone_from, done, was_left = path, left, False
            name = gone_from.rpartition(b"/")[2]
            here = _replace(here, os.open(b"..", _DIR, dir_fd=here))
            path, subdirs, was_left = frames.pop()  # type: ignore[assignment]
            if keep is not None and gone_from in keep:
                left = True
            elif done:
                on_hollow(gone_from, here, name)
                left = True
            else:
                os.rmdir(name, dir_fd=here)
                on_gone(gone_from)
                left = was_left
    finally:
        os.close(here)


def _sweep(
    fd: int, canonical: bytes, keep: PathSet | None, on_gone: Callable[[bytes], None]
) -> tuple[list[bytes], bool]:
    """Removes the files and empty directories in one directory; returns the other directories, and if
    files stay."""
    while True:
        subdirs: list[bytes] = []
        left = False
        removed = False
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                path = join(canonical, name)
                kept = keep is not None and path in keep
                if not entry.is_dir(follow_symlinks=False):
                    if kept:
                        left = True
                        continue
                    os.unlink(name, dir_fd=fd)
                elif kept:
                    subdirs.append(name)
                    continue
                else:
                    try:
                        os.rmdir(name, dir_fd=fd)
                    except OSError as e:
                        if e.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                            raise
                        subdirs.append(name)
                        continue
                on_gone(path)
                removed = True
        # Some file systems lose their place in a directory that changes under a scan: look again.
        if not removed:
            return subdirs, left
