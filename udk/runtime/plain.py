"""Turning a container's layers into one plain private tree, for those who want to work in it from outside.

``udk inspect -p NAME`` (udocker's) prints a path that scripts then write to; a merged view exists only inside
the container. So what the lower trees have is copied up into the upper, once, after which the upper alone
is the root. Until the record says so, the upper is one that overlayfs could have made, whatever instant it
is killed at.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from udk.base.files import store_error
from udk.base.remove import remove_tree
from udk.errors import ContainerError, InUseError
from udk.runtime.rootfs import OPAQUE_XATTRS, WHITEOUT_PREFIX
from udk.runtime.spec import Root

if TYPE_CHECKING:
    from udk.runtime.container import Container

_FICLONE = 0x40049409
_CHUNK = 1 << 22


def make_plain(container: Container) -> str:
    """The path of the container's plain tree, made if it has none yet. Raises InUseError while it runs,
    ContainerError for one that is mapped to subordinate ids, StoreError."""
    root = container.spec.root
    label = container.name or container.id[:12]
    if container.running:
        raise InUseError(f"container {label} is running", "end it first")
    if container.spec.identity.subids:
        raise ContainerError(f"container {label} uses subordinate ids: its files are not yours to copy")
    part = f"{container.record['layer']}/plain.part"
    try:
        if root.lower:
            remove_tree(part)
            os.mkdir(part, 0o700)
            _Completion(part).directory(root.upper, list(root.lower))
            made = Root(
                records=root.records, lower=(), upper=root.upper, work=root.work, changes=root.changes,
                readonly=root.readonly,
            )  # fmt: skip
            container.record["spec"] = container.spec.replace(root=made).as_dict()
            container.record["marks"] = True
            container.save()
        if container.record.get("marks"):
            _remove_marks(root.upper)
            container.record["marks"] = False
            container.save()
        remove_tree(part)
    except OSError as e:
        raise store_error(e, root.upper) from e
    return root.upper


class _Completion:
    """One completion of an upper. Hard links within a lower tree stay links; ``part`` is a directory on the
    upper's file system in which files are made whole before they get their name."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.count = 0
        self.links: dict[tuple[int, int], str] = {}

    def directory(self, upper: str, lowers: list[str]) -> None:
        """Copies into ``upper`` what the directories ``lowers`` (topmost first) show below it."""
        if _opaque(upper):
            return
        have = {e.name: e.stat(follow_symlinks=False) for e in _entries(upper)}
        shown: dict[str, tuple[int, os.stat_result]] = {}
        for level, lower in enumerate(lowers):
            for e in _entries(lower):
                shown.setdefault(e.name, (level, e.stat(follow_symlinks=False)))
            if _opaque(lower):
                break
        for name, (level, st) in shown.items():
            own = have.get(name)
            if _is_whiteout(st) or f"{WHITEOUT_PREFIX}{name}" in have:
                continue
            if own is None and not stat.S_ISDIR(st.st_mode):
                self._file(f"{lowers[level]}/{name}", f"{upper}/{name}", st)
            elif stat.S_ISDIR(st.st_mode) and (own is None or stat.S_ISDIR(own.st_mode)):
                if own is None:
                    os.mkdir(f"{upper}/{name}", 0o700)
                    _attributes(f"{lowers[level]}/{name}", f"{upper}/{name}", st)
                self.directory(f"{upper}/{name}", _merged(lowers[level:], name))
                if own is None:
                    os.utime(f"{upper}/{name}", ns=(st.st_atime_ns, st.st_mtime_ns))

    def _file(self, source: str, target: str, st: os.stat_result) -> None:
        if st.st_nlink > 1:
            first = self.links.setdefault((st.st_dev, st.st_ino), target)
            if first != target:
                os.link(first, target, follow_symlinks=False)
                return
        self.count += 1
        part = f"{self.part}/{self.count}"
        if stat.S_ISLNK(st.st_mode):
            os.symlink(os.readlink(source), part)
            os.utime(part, ns=(st.st_atime_ns, st.st_mtime_ns), follow_symlinks=False)
        elif stat.S_ISREG(st.st_mode):
            _content(source, part, st.st_size)
            _attributes(source, part, st)
        elif stat.S_ISFIFO(st.st_mode):
            os.mkfifo(part)
            _attributes(source, part, st)
        else:
            return  # a socket whose server is gone
        os.rename(part, target)


def _entries(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return list(entries)


def _is_whiteout(st: os.stat_result) -> bool:
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def _opaque(path: str) -> bool:
    for name in OPAQUE_XATTRS:
        try:
            if os.getxattr(path, name) == b"y":
                return True
        except OSError:
            continue
    return False


def _merged(lowers: list[str], name: str) -> list[str]:
    merged: list[str] = []
    for lower in lowers:
        path = f"{lower}/{name}"
        try:
            st = os.lstat(path)
        except OSError:
            continue
        if not stat.S_ISDIR(st.st_mode):
            break
        merged.append(path)
    return merged


def _remove_marks(upper: str) -> None:
    """Removes whiteouts and the marks of opaque directories, which mean nothing without a lower tree."""
    pending = [upper]
    while pending:
        path = pending.pop()
        for name in OPAQUE_XATTRS:
            try:
                os.removexattr(path, name)
            except OSError:
                continue
        for e in _entries(path):
            if e.is_dir(follow_symlinks=False):
                pending.append(e.path)
            elif _is_whiteout(e.stat(follow_symlinks=False)) or (
                e.name.startswith(WHITEOUT_PREFIX) and e.is_file() and e.stat().st_size == 0
            ):
                os.unlink(e.path)


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
    os.chmod(target, stat.S_IMODE(st.st_mode) & 0o1777)
    os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns))


def _xattrs(path: str) -> list[str]:
    try:
        return [n for n in os.listxattr(path) if n.startswith("user.") and not n.startswith("user.overlay.")]
    except OSError:
        return []
