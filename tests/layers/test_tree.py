"""Building trees from ordinary layers."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.layers.support import build, describe
from tests.support import tarmaker as t
from udk.errors import IntegrityError
from udk.layers.record import RecordReader
from udk.layers.tree import TreeBuilder

if TYPE_CHECKING:
    from pathlib import Path

BASE = t.tar(
    t.directory(b"./", mtime=1_500_000_000),
    t.directory(b"./etc/", mtime=1_400_000_000),
    t.file(b"./etc/passwd", b"root:x:0:0::/:/bin/sh\n", mtime=1_300_000_000),
    t.file(b"./etc/shadow", b"secret", mode=0o000, gid=42),
    t.file(b"./bin/su", b"su", mode=0o4755),
    t.symlink(b"./lib", b"usr/lib"),
    t.directory(b"./usr/lib"),
    t.file(b"./usr/lib/libc.so", b"c" * 3000),
    t.hardlink(b"./usr/lib/libc2.so", b"./usr/lib/libc.so"),
    t.hardlink(b"./etc/shadow-", b"./etc/shadow"),
)


def test_an_ordinary_layer_and_its_record(tmp_path: Path) -> None:
    tree = build(tmp_path / "s", BASE, wrap=t.gz)
    assert describe(tree) == {
        "": ("dir", 0o755, 0, 0, ""),
        "bin": ("dir", 0o755, 0, 0, ""),
        "bin/su": ("file", 0o4755, 0, 0, b"su"),
        "etc": ("dir", 0o755, 0, 0, ""),
        "etc/passwd": ("file", 0o644, 0, 0, b"root:x:0:0::/:/bin/sh\n"),
        "etc/shadow": ("file", 0, 0, 42, b"secret"),
        "etc/shadow-": ("file", 0, 0, 42, b"secret"),
        "lib": ("link", 0o777, 0, 0, b"usr/lib"),
        "usr": ("dir", 0o755, 0, 0, ""),
        "usr/lib": ("dir", 0o755, 0, 0, ""),
        "usr/lib/libc.so": ("file", 0o644, 0, 0, b"c" * 3000),
        "usr/lib/libc2.so": ("file", 0o644, 0, 0, b"c" * 3000),
    }
    root = tree / "rootfs"
    assert root.stat().st_mtime == 1_500_000_000
    assert (root / "etc").stat().st_mtime == 1_400_000_000
    assert (root / "etc/passwd").stat().st_mtime == 1_300_000_000
    assert (root / "bin/su").stat().st_mode & 0o7777 == 0o755
    assert (root / "usr/lib/libc.so").stat().st_ino == (root / "usr/lib/libc2.so").stat().st_ino
    with RecordReader(str(tree / "record")) as record:
        assert [e.path for e in record] == [b"bin/su", b"etc/shadow", b"etc/shadow-"]
    assert sorted(os.listdir(tree)) == ["record", "rootfs", "tree.json"]


def test_whiteouts_hide_what_lower_layers_hold(tmp_path: Path) -> None:
    upper = t.tar(
        t.file(b"etc/.wh.passwd"),
        t.file(b".wh.lib"),
        t.directory(b"usr/lib/"),
        t.file(b"usr/lib/new", b"n"),
        t.file(b"usr/lib/.wh..wh..opq"),
    )
    tree = build(tmp_path / "s", BASE, upper)
    assert sorted(describe(tree)) == [
        "", "bin", "bin/su", "etc", "etc/shadow", "etc/shadow-", "usr", "usr/lib", "usr/lib/new",
    ]  # fmt: skip


def test_the_chain_id_and_counts_of_a_tree(tmp_path: Path) -> None:
    upper = t.tar(t.file(b"x", b"1"))
    tree = build(tmp_path / "s", BASE, upper)
    import hashlib

    one, two = t.diff_id(BASE), t.diff_id(upper)
    chain = "sha256:" + hashlib.sha256(f"{one} {two}".encode()).hexdigest()
    assert json.loads((tree / "tree.json").read_text()) == {
        "version": 1, "chain_id": chain, "entries": 12, "bytes": len(BASE) + len(upper), "layers": 2,
        "diff_ids": [one, two],
    }  # fmt: skip


def test_contents_that_are_not_the_diff_id(tmp_path: Path) -> None:
    with (
        TreeBuilder(str(tmp_path)) as builder,
        pytest.raises(IntegrityError, match="config says sha256:0000"),
    ):
        path = tmp_path / "layer"
        path.write_bytes(t.gz(BASE))
        builder.apply(str(path), "application/vnd.oci.image.layer.v1.tar+gzip", "sha256:" + "0" * 64)
