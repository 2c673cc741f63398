"""The source tree as nodes: what is there, without contents."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from ..entry import (
    FLAG_DIRECTORY,
    FLAG_FILE,
    FLAG_LINK,
    FLAG_SPECIAL,
    Chunk,
    pack_xattrs,
)
from ..errors import show
from ..hash import Hash
from .objects import PublishError

MARKER = b".cvmfscatalog"
_DIRECTORY_SIZE = 4096  # the same on every file system, so that equal trees give equal catalogs
_PUBLISHED_XATTRS = ("user.", "security.capability")


class Node:
    """One path of the tree to publish. ``path`` as in catalogs: "" is the root, others start with a slash."""

    __slots__ = (
        "children", "chunks", "flags", "gid", "group", "hash", "inode", "mode", "mtime_ns", "name", "nested",
        "nlink", "path", "rdev", "size", "symlink", "uid", "xattrs",
    )  # fmt: skip

    def __init__(self, path: bytes, st: os.stat_result) -> None:
        self.path = path
        self.name = path.rpartition(b"/")[2]
        self.mode = st.st_mode
        self.uid, self.gid = st.st_uid, st.st_gid
        self.mtime_ns = st.st_mtime_ns
        self.inode = (st.st_dev, st.st_ino) if st.st_nlink > 1 else None
        self.nlink, self.group = 1, 0
        self.rdev = 0
        self.size = st.st_size
        self.symlink = b""
        self.xattrs: bytes | None = None
        self.hash: Hash | None = None
        self.chunks: tuple[Chunk, ...] = ()
        self.children: list[Node] = []
        self.nested = False  # a catalog of its own starts here
        if stat.S_ISDIR(st.st_mode):
            self.flags, self.size = FLAG_DIRECTORY, _DIRECTORY_SIZE
        elif stat.S_ISLNK(st.st_mode):
            self.flags = FLAG_FILE | FLAG_LINK
        elif stat.S_ISREG(st.st_mode):
            self.flags = FLAG_FILE
        else:
            self.flags, self.size = FLAG_FILE | FLAG_SPECIAL, 0
            if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
                self.rdev = st.st_rdev

    @property
    def is_dir(self) -> bool:
        return bool(self.flags & FLAG_DIRECTORY)

    @property
    def is_file(self) -> bool:
        return self.flags & (FLAG_FILE | FLAG_LINK | FLAG_SPECIAL) == FLAG_FILE


class Tree:
    """All nodes below a source directory. ``directories`` are in pre-order, the root first."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.directories: list[Node] = []
        self.skipped_xattrs: list[bytes] = []  # paths with attributes that the format cannot hold

    def local(self, node: Node) -> bytes:
        """Path of the node on disk."""
        return self.source + node.path

    def files(self) -> Iterator[Node]:
        """The regular files, directory by directory."""
        for directory in self.directories:
            for node in directory.children:
                if node.is_file:
                    yield node


def scan(source: bytes, *, owner: tuple[int, int] | None = None, xattrs: bool = True) -> Tree:
    """Reads the metadata of a tree; follows no symbolic link, crosses file systems. Raises PublishError."""
    source = os.path.abspath(source).rstrip(b"/")
    tree = Tree(source)
    try:
        status = os.stat(source or b"/")
        if not stat.S_ISDIR(status.st_mode):
            raise PublishError(f"{show(source)} is not a directory")
        root = Node(b"", status)
        if xattrs:
            _read_xattrs(tree, root)
        waiting = [root]
        while waiting:
            directory = waiting.pop()
            tree.directories.append(directory)
            _read_directory(tree, directory, xattrs=xattrs)
            waiting.extend(node for node in reversed(directory.children) if node.is_dir)
    except OSError as error:
        raise PublishError(f"cannot read the tree to publish: {error}") from error
    if owner is not None:
        for directory in tree.directories:
            for node in directory.children:
                node.uid, node.gid = owner
        root.uid, root.gid = owner
    return tree


def _read_directory(tree: Tree, directory: Node, *, xattrs: bool) -> None:
    links: dict[tuple[int, int], list[Node]] = {}
    subdirectories = 0
    with os.scandir(tree.source + directory.path or b"/") as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            node = Node(directory.path + b"/" + entry.name, entry.stat(follow_symlinks=False))
            if node.flags & FLAG_LINK:
                node.symlink = os.readlink(entry.path)
                node.size = len(node.symlink)
            if xattrs:
                _read_xattrs(tree, node)
            directory.children.append(node)
            if node.is_dir:
                subdirectories += 1
            elif node.inode is not None:
                links.setdefault(node.inode, []).append(node)
    directory.nlink = 2 + subdirectories
    # the format knows hard links within one directory only (what official tools check); others become
    # copies, stored once
    for members in links.values():
        if len(members) > 1:
            for node in members:
                node.nlink = len(members)


def _read_xattrs(tree: Tree, node: Node) -> None:
    path = tree.local(node) or b"/"
    try:
        names = [n for n in os.listxattr(path, follow_symlinks=False) if n.startswith(_PUBLISHED_XATTRS)]
        if not names:
            return
        found = {os.fsencode(n): os.getxattr(path, n, follow_symlinks=False) for n in names}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return
        raise
    kept = {k: v for k, v in found.items() if len(k) < 256 and len(v) < 256}
    if len(kept) < len(found) or len(kept) > 255:
        tree.skipped_xattrs.append(node.path)
        kept = dict(sorted(kept.items())[:255])
    node.xattrs = pack_xattrs(kept)
