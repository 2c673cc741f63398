"""The torture image, in every compression, gives exactly what was written down by hand."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.layers import torture
from tests.layers.support import Bytes, describe
from tests.support import tarmaker as t
from udk.layers.record import RecordReader
from udk.layers.tree import TreeBuilder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONG = {"names/" + "/".join(["long"] * n) for n in range(1, 41)}
ALL = (*torture.LAYERS, torture.DUPLICATES, torture.ODD_LAYER)
WRAPS: dict[str, list[Callable[[bytes], bytes]]] = {
    "gzip": [t.gz] * 5,
    "zstd": [t.zst] * 5,
    "plain": [bytes] * 5,
    "mixed": [t.gz, t.zst, bytes, t.gz, t.zst],
}


@pytest.fixture(params=[*WRAPS, "umask 077", "umask 0"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    umask = {"umask 077": 0o077, "umask 0": 0}.get(request.param, 0o022)
    old = os.umask(umask)
    try:
        (tmp_path / "s").mkdir(mode=0o755)
        with TreeBuilder(str(tmp_path / "s")) as builder:
            for layer, wrap in zip(ALL, WRAPS.get(request.param, WRAPS["gzip"])):
                builder.apply(Bytes(wrap(layer)), "", t.diff_id(layer))
            builder.finish()
    finally:
        os.umask(old)
    return tmp_path / "s"


def test_the_tree_is_what_was_written_down(tree: Path) -> None:
    got = describe(tree)
    want = torture.expected(torture.MANIFEST + torture.DUPLICATES_MANIFEST + torture.ODD_MANIFEST)
    assert {p for p in got if p in LONG} == LONG
    assert {p: v for p, v in got.items() if p not in LONG} == want

    root = tree / "rootfs"
    for group in torture.LINKS:
        inodes = {(root / name).lstat().st_ino for name in group}
        assert len(inodes) == 1, group
        assert (root / next(iter(group))).lstat().st_nlink == len(group)
    for name, seconds in torture.TIMES.items():
        assert (root / name).lstat().st_mtime == pytest.approx(seconds, abs=1e-6), name
    assert (root / "subsecond").stat().st_mtime_ns == 1234567890987654321


def test_the_modes_on_disk_let_us_in_and_nobody_up(tree: Path) -> None:
    for top, dirs, files in os.walk(tree / "rootfs"):
        for name in dirs:
            mode = os.lstat(os.path.join(top, name)).st_mode
            assert mode & 0o6000 == 0
            assert (mode & 0o700 == 0o700) or os.path.islink(os.path.join(top, name))
        for name in files:
            mode = os.lstat(os.path.join(top, name)).st_mode
            assert mode & 0o7000 == 0
            assert mode & 0o400


def test_the_record_holds_what_the_disk_does_not_show(tree: Path) -> None:
    with RecordReader(str(tree / "record")) as record:
        assert [e.path.decode("latin-1") for e in record] == [
            "attributes", "attributes.d", "attributes.link", "bin/doas", "bin/su", "bin/wall", "dev/null",
            "dev/sda", "etc/replaced", "etc/shadow", "gone", "gone/su", "home/other", "home/user",
            "home/user/.profile", "home/user/link", "home/user/private", "owner", "var/empty", "var/spool",
        ]  # fmt: skip
        kept = {b"user.comment": b"hello\0world", b"security.capability": b"\1\0\0\2" + bytes(16)}
        for name in ("attributes", "attributes.link"):
            entry = record.get(name)
            assert entry is not None
            assert entry.xattrs == kept
    on_disk = tree / "rootfs/attributes"
    if os.listxattr(on_disk):  # where the file system keeps them
        assert os.listxattr(on_disk) == ["user.comment"]
        assert os.getxattr(on_disk, "user.comment") == b"hello\0world"
        assert os.getxattr(tree / "rootfs/attributes.d", "user.dir") == b"d"


def test_two_builds_are_the_same(tmp_path: Path) -> None:
    """Byte for byte, whoever builds it: the key of a tree names its contents."""
    records = []
    for n in "ab":
        (tmp_path / n).mkdir()
        with TreeBuilder(str(tmp_path / n)) as builder:
            for layer in ALL:
                builder.apply(Bytes(layer), "", None)
            builder.finish()
        records.append([(tmp_path / n / f).read_bytes() for f in ("record", "tree.json")])
    assert records[0] == records[1]
    times = []
    for n in "ab":
        root = os.fsencode(tmp_path / n / "rootfs")
        names = [p.encode("latin-1") for p in describe(tmp_path / n)]
        times.append({p: os.lstat(os.path.join(root, p)).st_mtime_ns for p in names})
    assert times[0] == times[1]
