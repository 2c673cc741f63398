"""Building trees from ordinary layers."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.layers.support import Bytes, build, describe
from tests.support import tarmaker as t
from tests.support.needs import require
from udk.errors import IntegrityError, LayerError, StoreError
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
    assert sorted(os.listdir(tree)) == ["index", "record", "rootfs", "tree.json"]


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


def test_a_hard_link_has_no_attributes_of_its_own(tmp_path: Path) -> None:
    """As GNU tar, bsdtar and umoci have it; Docker and containers/storage apply the link's header to both
    names."""
    layer = t.tar(
        t.file(b"a", b"1", mode=0o4711, uid=3, mtime=1), t.hardlink(b"b", b"a", mode=0o600, uid=4, mtime=2)
    )
    tree = build(tmp_path / "s", layer)
    assert {p: v for p, v in describe(tree).items() if p} == {
        "a": ("file", 0o4711, 3, 0, b"1"),
        "b": ("file", 0o4711, 3, 0, b"1"),
    }
    assert (tree / "rootfs/a").stat().st_mtime == 1


def test_the_hard_link_groups_of_many_layers_keep_their_owners(tmp_path: Path) -> None:
    layers = [t.tar(t.file(b"f0", b"x", uid=5, mode=0o600))]
    layers += [t.tar(t.hardlink(b"f%d" % (i + 1), b"f%d" % i)) for i in range(8)]
    layers += [t.tar(t.file(b".wh.f0"), t.file(b"f1", b"new"))]
    tree = describe(build(tmp_path / "s", *layers))
    assert tree["f1"] == ("file", 0o644, 0, 0, b"new")
    assert {tree[f"f{i}"] for i in range(2, 9)} == {("file", 0o600, 5, 0, b"x")}


def test_a_failed_builder_refuses_to_go_on(tmp_path: Path) -> None:
    with TreeBuilder(str(tmp_path)) as builder:
        with pytest.raises(LayerError):
            builder.apply(Bytes(b"no tar" * 100), "", None)
        with pytest.raises(StoreError, match="failed before"):
            builder.apply(Bytes(BASE), "", None)
        with pytest.raises(StoreError, match="failed before"):
            builder.finish()


def test_a_staging_directory_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    with pytest.raises(StoreError, match="rootfs"):
        TreeBuilder(str(tmp_path))


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    build(tmp_path / "s", BASE, BASE)
    for i, bad in enumerate(
        (t.tar(t.file(b"../x")), BASE[:-3000], t.tar(t.file(b"a/b/c"), t.hardlink(b"x", b"y")))
    ):
        with pytest.raises(LayerError):
            build(tmp_path / str(i), BASE, bad)
    assert count() == before


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_the_umask_does_not_matter(tmp_path: Path, umask: int) -> None:
    expected = describe(build(tmp_path / "expected", BASE))
    (tmp_path / "s").mkdir(mode=0o755)
    old = os.umask(umask)
    try:
        with TreeBuilder(str(tmp_path / "s")) as builder:
            builder.apply(Bytes(BASE), "", None)
            os.umask(old)
            builder.finish()
    finally:
        os.umask(old)
    assert describe(tmp_path / "s") == expected


def test_a_set_gid_directory_above_does_not_show(tmp_path: Path) -> None:
    """As in a store that a group shares."""
    os.chmod(tmp_path, 0o2775)
    (tmp_path / "in").mkdir()
    tree = build(tmp_path / "s", BASE)
    for top, dirs, _ in os.walk(tree / "rootfs"):
        assert not any(os.stat(os.path.join(top, d)).st_mode & 0o2000 for d in dirs)


def test_a_default_acl_above_does_not_show(tmp_path: Path) -> None:
    require("setfacl")
    subprocess.run(["setfacl", "-d", "-m", "u::rwx,g::---,o::---", str(tmp_path)], check=True)
    tree = build(tmp_path / "s", BASE)
    assert (tree / "rootfs").stat().st_mode & 0o777 == 0o755
    assert (tree / "rootfs/etc/passwd").stat().st_mode & 0o777 == 0o644
