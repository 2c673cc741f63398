"""Looking into a container's root from outside, without ever leaving it.

The root is a stack of directories, topmost first (the private layer, then the image's tree), merged as
overlayfs merges them: a whiteout hides a name below, an opaque directory hides what the lower ones hold.
Paths are walked component by component relative to directory descriptors; symbolic links are resolved
within the root.
"""

from __future__ import annotations

import os
import stat

from udk.errors import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LINKS = 40
WHITEOUT_PREFIX = (
    ".wh."  # of the files that stand for whiteouts where the upper's file system refuses 0:0 devices
)
OPAQUE_XATTRS = ("user.overlay.opaque", "trusted.overlay.opaque")
_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Rootfs:
    """A merged view of ``layers`` (host directories, topmost first; missing ones are skipped)."""

    def __init__(self, layers: Iterable[str]) -> None:
        self.layers = [layer for layer in layers if layer]

    def kind(self, path: str) -> str:
        """``dir``, ``file``, ``other`` or ``""`` (nothing there) for a path inside, links followed."""
        with _Walk(self.layers) as walk:
            found = walk.to(path)
            if found is None:
                return ""
            mode = found[1]
        return "dir" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"

    def is_empty_dir(self, path: str) -> bool:
        """Whether ``path`` is a directory without entries (in any layer: whiteouts count as entries)."""
        with _Walk(self.layers) as walk:
            if not walk.is_dir(path):
                return False
            return not any(os.listdir(f"/proc/self/fd/{fd}") for fd in walk.stack[-1])

    def host_paths(self, path: str) -> list[str]:
        """Host paths of the directories that are merged at ``path``, topmost first; [] if it is no
        directory."""
        with _Walk(self.layers) as walk:
            if not walk.is_dir(path):
                return []
            return [os.readlink(f"/proc/self/fd/{fd}") for fd in walk.stack[-1]]

    def read(self, path: str, limit: int = 16 << 20) -> bytes | None:
        """The contents of a regular file, None where there is none; ContainerError beyond ``limit`` bytes."""
        with _Walk(self.layers) as walk:
            found = walk.to(path)
            if found is None or not stat.S_ISREG(found[1]):
                return None
            parent, _, name = found
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            except OSError:
                return None
        try:
            if os.fstat(fd).st_size > limit:
                raise ContainerError(f"{path} of the image is larger than {limit} bytes")
            data = b""
            while len(data) <= limit:
                chunk = os.read(fd, 1 << 20)
                if not chunk:
                    return data
                data += chunk
            raise ContainerError(f"{path} of the image is larger than {limit} bytes")
        finally:
            os.close(fd)


class _Walk:
    """One walk through the merged view. ``stack`` holds, per directory on the way, its descriptors topmost
    first."""

    def __init__(self, layers: list[str]) -> None:
        self.opened: list[int] = []
        root = []
        for layer in layers:
            try:
                root.append(self._open(layer, None))
            except OSError:
                continue
        self.stack: list[list[int]] = [root]

    def __enter__(self) -> _Walk:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.opened:
            os.close(fd)

    def _open(self, name: str, parent: int | None) -> int:
        flags = _DIR if parent is not None else _DIR & ~os.O_NOFOLLOW
        fd = os.open(name, flags, dir_fd=parent)
        self.opened.append(fd)
        return fd

    def is_dir(self, path: str) -> bool:
        found = self.to(path)
        return found is not None and stat.S_ISDIR(found[1])

    def to(self, path: str) -> tuple[int, int, str] | None:
        """(descriptor of the directory it is in, st_mode, name) of ``path``, None where there is nothing; a
        directory's own descriptors are on top of ``stack`` then."""
        todo = path.split("/")[::-1]
        links = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if len(self.stack) > 1:
                    self.stack.pop()
                continue
            found = self._find(name)
            if found is None:
                return None
            level, st = found
            parent = self.stack[-1][level]
            if stat.S_ISLNK(st.st_mode):
                links += 1
                if links > MAX_LINKS:
                    return None
                target = os.readlink(name, dir_fd=parent)
                if target.startswith("/"):
                    del self.stack[1:]
                todo += target.split("/")[::-1]
            elif stat.S_ISDIR(st.st_mode):
                if not self._enter(name, level):
                    return None
            else:
                return None if any(t not in ("", ".") for t in todo) else (parent, st.st_mode, name)
        top = self.stack[-1]
        return (top[0], stat.S_IFDIR | 0o755, ".") if top else None

    def _find(self, name: str) -> tuple[int, os.stat_result] | None:
        for level, fd in enumerate(self.stack[-1]):
            try:
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                if level + 1 < len(self.stack[-1]) and _exists(WHITEOUT_PREFIX + name, fd):
                    return None
                continue
            if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
                return None
            return level, st
        return None

    def _enter(self, name: str, level: int) -> bool:
        merged: list[int] = []
        for fd in self.stack[-1][level:]:
            try:
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                continue
            if not stat.S_ISDIR(st.st_mode):
                break
            try:
                merged.append(self._open(name, fd))
            except OSError:
                return False
            if len(self.stack[-1]) > 1 and _opaque(merged[-1]):
                break
        self.stack.append(merged)
        return bool(merged)


def _exists(name: str, fd: int) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return False
    return True


def _opaque(fd: int) -> bool:
    for name in OPAQUE_XATTRS:
        try:
            if os.getxattr(f"/proc/self/fd/{fd}", name) in (b"y", b"x"):
                return True
        except OSError:
            continue
    return False
