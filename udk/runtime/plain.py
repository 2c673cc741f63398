"""Turning a container's layers into one plain private tree, for those who want to work in it from outside.

``udk inspect -p NAME`` (udocker's) prints a path that scripts then write to; a merged view exists only
inside the container. So the layers are copied into one directory, once, which is the container's root from
then on.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from udk.base.files import store_error
from udk.base.remove import remove_tree
from udk.errors import ContainerError, InUseError
from udk.runtime.spec import Root

if TYPE_CHECKING:
    from udk.runtime.container import Container

_FICLONE = 0x40049409
_CHUNK = 1 << 22


def make_plain(container: Container) -> str:
    """The path of the container's plain tree, made if it has none yet. Raises InUseError while it runs,
    ContainerError for one that is mapped to subordinate ids, StoreError."""
    root = container.spec.root
    if not root.lower:
        return root.upper
    label = container.name or container.id[:12]
    if container.running:
        raise InUseError(f"container {label} is running", "end it first")
    if container.spec.identity.subids:
        raise ContainerError(f"container {label} uses subordinate ids: its files are not yours to copy")
    layer = str(container.record["layer"])
    plain, part = f"{layer}/root", f"{layer}/root.part"
    try:
        remove_tree(part)
        os.mkdir(part, 0o700)
        _Copy().directory([root.upper, *root.lower], part)
        os.rename(part, plain)
        made = Root(records=root.records, lower=(), upper=plain, work=root.work, changes=root.changes,
                    readonly=root.readonly)  # fmt: skip
        container.record["spec"] = container.spec.replace(root=made).as_dict()
        container.save()
        remove_tree(root.upper)
    except OSError as e:
        raise store_error(e, plain) from e
    return plain


class _Copy:
    """One merge; hard links within a layer stay links."""

    def __init__(self) -> None:
        self.links: dict[tuple[int, int], str] = {}

    def directory(self, sources: list[str], target: str) -> None:
        """Copies what overlayfs would show of ``sources`` (topmost first) into the empty directory
        ``target``."""
        names: dict[str, tuple[int, os.stat_result]] = {}
        for level, source in enumerate(sources):
            with os.scandir(source) as entries:
                for e in entries:
                    if e.name not in names:
                        names[e.name] = (level, e.stat(follow_symlinks=False))
        for name, (level, st) in names.items():
            if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
                continue  # a whiteout
            source, here = f"{sources[level]}/{name}", f"{target}/{name}"
            if stat.S_ISDIR(st.st_mode):
                os.mkdir(here, 0o700)
                self.directory(_merged(sources[level:], name), here)
            else:
                self._other(source, here, st)
        _attributes(sources[0], target, os.stat(sources[0]))

    def _other(self, source: str, target: str, st: os.stat_result) -> None:
        if st.st_nlink > 1:
            first = self.links.setdefault((st.st_dev, st.st_ino), target)
            if first != target:
                os.link(first, target, follow_symlinks=False)
                return
        if stat.S_ISLNK(st.st_mode):
            os.symlink(os.readlink(source), target)
            os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns), follow_symlinks=False)
            return
        if stat.S_ISREG(st.st_mode):
            _content(source, target, st.st_size)
        elif stat.S_ISFIFO(st.st_mode):
            os.mkfifo(target)
        else:
            return  # a socket whose server is gone
        _attributes(source, target, st)


def _merged(sources: list[str], name: str) -> list[str]:
    merged: list[str] = []
    for source in sources:
        path = f"{source}/{name}"
        try:
            st = os.lstat(path)
        except OSError:
            continue
        if not stat.S_ISDIR(st.st_mode):
            break
        merged.append(path)
        try:
            if os.getxattr(path, "user.overlay.opaque") == b"y":
                break
        except OSError:
            continue
    return merged


def _content(source: str, target: str, size: int) -> None:
    import fcntl

    with open(source, "rb", buffering=0) as f, open(target, "xb", buffering=0) as t:
        try:
            fcntl.ioctl(t.fileno(), _FICLONE, f.fileno())
            return
        except OSError:
            pass
        done = 0
        while done < size:
            sent = os.sendfile(t.fileno(), f.fileno(), done, min(_CHUNK, size - done))
            if sent == 0:
                break
            done += sent


def _attributes(source: str, target: str, st: os.stat_result) -> None:
    for name in _xattrs(source):
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError:
            continue  # this file system keeps none
    os.chmod(target, stat.S_IMODE(st.st_mode) & 0o1777 | stat.S_IRUSR | stat.S_IWUSR)
    os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns))


def _xattrs(path: str) -> list[str]:
    try:
        return [n for n in os.listxattr(path) if n.startswith("user.") and not n.startswith("user.overlay.")]
    except OSError:
        return []
