"""Building trees from hand-made layers and describing what came out."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from tests.support import tarmaker as t
from udk.layers.record import RecordReader
from udk.layers.tree import TreeBuilder

if TYPE_CHECKING:
    from pathlib import Path

    from udk.layers.caps import Caps

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


class Bytes:
    """A stream over bytes that hands out short reads, as sockets do."""

    def __init__(self, data: bytes, most: int = 1 << 20) -> None:
        self.data = memoryview(data)
        self.most = most

    def read(self, size: int) -> bytes:
        n = min(size, self.most)
        out, self.data = self.data[:n], self.data[n:]
        return bytes(out)


def build(
    where: Path, *layers: bytes, caps: Caps | None = None, media_type: str = "", wrap: object = None
) -> Path:
    """The staging directory of a tree made from uncompressed tar streams (or, with ``wrap``, their
    compressed form)."""
    where.mkdir()
    with TreeBuilder(str(where), caps=caps) as builder:
        for layer in layers:
            data = wrap(layer) if callable(wrap) else layer
            builder.apply(Bytes(data), media_type, t.diff_id(layer))
        builder.finish()
    return where


def describe(staging: Path) -> dict[str, tuple[object, ...]]:
    """path -> (kind, true mode, uid, gid, what it holds) as an engine would show the tree; names as
    latin-1."""
    out: dict[str, tuple[object, ...]] = {}
    root = os.open(staging / "rootfs", os.O_RDONLY)
    with RecordReader(str(staging / "record")) as record:
        todo = [b""]
        while todo:
            path = todo.pop()
            here = path or b"."
            st = os.lstat(here, dir_fd=root)
            entry = record.get(path)
            mode = entry.mode if entry else st.st_mode
            kind = KINDS[stat.S_IFMT(mode)]
            holds: object = ""
            if stat.S_ISREG(mode):
                with open(os.open(here, os.O_RDONLY, dir_fd=root), "rb") as data:
                    holds = data.read()
            elif stat.S_ISLNK(mode):
                holds = os.readlink(here, dir_fd=root)
            elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                assert entry is not None
                holds = (entry.major, entry.minor)
            if stat.S_ISDIR(st.st_mode):
                fd = os.open(here, os.O_RDONLY, dir_fd=root)
                todo += [os.path.join(path, os.fsencode(n)) for n in os.listdir(fd)]
                os.close(fd)
            owner = (entry.uid, entry.gid) if entry else (0, 0)
            out[path.decode("latin-1")] = (kind, stat.S_IMODE(mode), *owner, holds)
    os.close(root)
    return out
