"""Hostile layers: each is refused in one line, or does inside the tree what it wanted to do outside.

Every case runs with the tree two directories below a place with something to protect, and everything there
but the staging directory must be the same afterwards: contents, modes, times, link counts.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.layers.hostile import outside, refused, remove
from tests.layers.support import build, describe
from tests.support import tarmaker as t
from tests.support.needs import require

if TYPE_CHECKING:
    from pathlib import Path

# Names that lead out


@pytest.mark.parametrize(
    "name",
    [
        b"../x",
        b"a/../../x",
        b"/../x",
        b"./../x",
        b"..",
        b"../",
        b"a/b/../../../outside/secret",
        b"/a/../..//../x",
    ],
)
@pytest.mark.parametrize("make", [t.file, t.directory, lambda n: t.symlink(n, b"t"), t.fifo])
def test_names_that_climb_out(staging: Path, name: bytes, make: Any) -> None:
    refused(staging, t.tar(t.directory(b"a"), make(name)), match="leads out of the image")


def test_absolute_names_are_below_the_root(staging: Path) -> None:
    name = outside(staging) + b"/secret"
    tree = describe(
        build(staging, t.tar(t.file(b"/abs", b"1"), t.file(name, b"2"), t.file(b"//a//./b/../c", b"3")))
    )
    assert tree["abs"][4] == b"1"
    assert tree[name[1:].decode()][4] == b"2"
    assert tree["a/c"][4] == b"3"


@pytest.mark.parametrize("target", [b"/", b"../../..", b"/../../..", b".", b"././/.."])
def test_a_link_to_the_root_and_a_file_through_it(staging: Path, target: bytes) -> None:
    layer = t.tar(t.symlink(b"d", target), t.file(b"d/etc/passwd", b"mine"))
    tree = describe(build(staging, layer))
    assert tree["etc/passwd"][4] == b"mine"
    assert tree["d"][0] == "link"


@pytest.mark.parametrize("same_layer", [True, False])
@pytest.mark.parametrize("kind", ["absolute", "relative", "chain", "dotted"])
def test_a_file_through_a_link_that_points_out(staging: Path, kind: str, same_layer: bool) -> None:
    out = outside(staging)
    links = {
        "absolute": [t.symlink(b"d", out)],
        "relative": [t.symlink(b"d", b"../../outside")],
        "chain": [t.symlink(b"e", out), t.symlink(b"f", b"e/."), t.symlink(b"d", b"/f/../f")],
        "dotted": [t.symlink(b"d", b"..//.././../outside/dir/..")],
    }[kind]
    through = [
        t.file(b"d/secret", b"replaced"),
        t.file(b"d/dir/file", b"replaced"),
        t.directory(b"d/dir", 0o700),
    ]
    layers = [t.tar(*links, *through)] if same_layer else [t.tar(*links), t.tar(*through)]
    tree = describe(build(staging, *layers))
    inside = "outside" if kind in {"relative", "dotted"} else out[1:].decode()
    if kind == "chain":  # f/../f: the parent of what f leads to, as a kernel would see it
        inside = os.path.dirname(out[1:].decode()) + "/f"
    assert tree[f"{inside}/secret"][4] == b"replaced"
    assert tree[f"{inside}/dir"][1] == 0o700


def test_absolute_link_targets_are_kept_as_they_are(staging: Path) -> None:
    tree = describe(build(staging, t.tar(t.symlink(b"localtime", b"/usr/share/zoneinfo/UTC"))))
    assert tree["localtime"][4] == b"/usr/share/zoneinfo/UTC"


def test_the_final_component_is_never_followed(staging: Path) -> None:
    secret = outside(staging) + b"/secret"
    links = [t.symlink(n, secret) for n in (b"a", b"b", b"c", b"d", b"e")]
    upper = t.tar(
        t.file(b"a", b"x"),
        t.directory(b"b", 0o700),
        t.fifo(b"c"),
        t.symlink(b"d", b"z"),
        t.device(b"e", b"3", 1, 3),
    )
    tree = describe(build(staging, t.tar(*links), upper))
    assert [tree[n][0] for n in "abcde"] == ["file", "dir", "fifo", "link", "char"]


def test_a_loop_of_links(staging: Path) -> None:
    layer = t.tar(t.symlink(b"a", b"b"), t.symlink(b"b", b"a"), t.file(b"a/x"))
    refused(staging, layer, match="too many levels of symbolic links")


def test_a_link_to_itself_below(staging: Path) -> None:
    refused(staging, t.tar(t.symlink(b"a", b"a/a/a"), t.file(b"a/x")), match="too many levels")


# Hard links


def test_hard_links_stay_inside(staging: Path) -> None:
    out = outside(staging)
    for target in (b"/etc/shadow", out + b"/secret", b"later", b"nowhere/x", b"", b"."):
        layer = t.tar(t.hardlink(b"x", target), t.file(b"later"))
        refused(staging, layer, match="which does not exist")
        remove(staging)
    refused(staging, t.tar(t.hardlink(b"x", b"../../outside/secret")), match="leads out of the image")


def test_an_absolute_hard_link_target_is_below_the_root(staging: Path) -> None:
    tree = build(staging, t.tar(t.file(b"etc/shadow", b"ours"), t.hardlink(b"x", b"/etc/shadow")))
    assert describe(tree)["x"][4] == b"ours"
    assert (tree / "rootfs/x").stat().st_nlink == 2


def test_a_hard_link_to_a_symbolic_link_links_the_link(staging: Path) -> None:
    layer = t.tar(
        t.symlink(b"s", outside(staging) + b"/secret"), t.hardlink(b"h", b"s"), t.file(b"h", b"new")
    )
    tree = describe(build(staging, layer))
    assert tree["h"][4] == b"new"
    assert tree["s"][4] == outside(staging) + b"/secret"


def test_a_hard_link_through_a_linked_directory(staging: Path) -> None:
    out = outside(staging)
    layer = t.tar(t.symlink(b"d", out), t.hardlink(b"h", b"d/secret"))
    refused(staging, layer, match="which does not exist")


def test_a_hard_link_to_itself(staging: Path) -> None:
    refused(staging, t.tar(t.file(b"x", b"1"), t.hardlink(b"x", b"x")), match="to itself")


def test_a_hard_link_to_itself_by_another_way(staging: Path) -> None:
    layer = t.tar(t.file(b"d/x", b"1"), t.symlink(b"l", b"d"), t.hardlink(b"l/x", b"/d/x"))
    refused(staging, layer, match="to itself")


def test_a_hard_link_to_a_directory(staging: Path) -> None:
    refused(staging, t.tar(t.directory(b"d"), t.hardlink(b"x", b"d")), match="hard link to the directory d")


def test_a_hard_link_in_the_place_of_the_directory_that_holds_its_target(staging: Path) -> None:
    refused(staging, t.tar(t.file(b"d/x", b"1"), t.hardlink(b"d", b"d/x")), match="which does not exist")


def test_a_file_over_a_hard_link_leaves_the_other_name_alone(staging: Path) -> None:
    lower = t.tar(t.file(b"a", b"one"), t.hardlink(b"b", b"a"))
    tree = describe(build(staging, lower, t.tar(t.file(b"b", b"two", uid=7))))
    assert (tree["a"][4], tree["b"][4]) == (b"one", b"two")
    assert (tree["a"][2], tree["b"][2]) == (0, 7)


# Whiteouts


@pytest.mark.parametrize(
    "name", [b".wh.", b".wh..", b".wh...", b"d/.wh.", b"d/.wh..", b"d/.wh...", b"./.wh.."]
)
def test_whiteouts_of_nothing(staging: Path, name: bytes) -> None:
    refused(staging, t.tar(t.directory(b"d")), t.tar(t.file(name)), match="a whiteout of nothing")


def test_a_name_that_only_looks_like_a_whiteout(staging: Path) -> None:
    tree = describe(
        build(staging, t.tar(t.file(b"wh.", b"1")), t.tar(t.file(b"..wh.", b"2"), t.file(b"a.wh.b", b"3")))
    )
    assert sorted(tree) == ["", "..wh.", "a.wh.b", "wh."]


def test_an_opaque_root(staging: Path) -> None:
    lower = t.tar(t.file(b"a/b/c"), t.symlink(b"out", outside(staging)), t.fifo(b"f"))
    assert sorted(describe(build(staging, lower, t.tar(t.file(b"new"), t.file(b".wh..wh..opq"))))) == [
        "",
        "new",
    ]


@pytest.mark.parametrize(
    "hide", [b"d/.wh.secret", b"d/.wh.dir", b"d/.wh..wh..opq", b"d/dir/.wh.file", b"d/.wh...wh."]
)
def test_a_whiteout_through_a_linked_directory(staging: Path, hide: bytes) -> None:
    out = outside(staging)
    build(staging, t.tar(t.symlink(b"d", out)), t.tar(t.file(hide)))


def test_a_whiteout_through_a_linked_directory_acts_inside(staging: Path) -> None:
    lower = t.tar(t.symlink(b"d", b"/../real"), t.file(b"real/x"), t.file(b"real/y"))
    assert sorted(describe(build(staging, lower, t.tar(t.file(b"d/.wh.x"))))) == ["", "d", "real", "real/y"]


def test_a_whiteout_of_a_link_removes_the_link(staging: Path) -> None:
    lower = t.tar(t.symlink(b"d", outside(staging)), t.symlink(b"e", b"real"), t.file(b"real/x"))
    tree = describe(build(staging, lower, t.tar(t.file(b".wh.d"), t.file(b".wh.e"))))
    assert sorted(tree) == ["", "real", "real/x"]


def test_a_directory_replaced_does_not_take_what_links_in_it_lead_to(staging: Path) -> None:
    lower = t.tar(t.symlink(b"d/out", outside(staging)), t.symlink(b"d/up", b"../keep"), t.file(b"keep/x"))
    assert sorted(describe(build(staging, lower, t.tar(t.file(b"d"))))) == ["", "d", "keep", "keep/x"]


@pytest.mark.parametrize("name", [b".wh.a/b", b"x/.wh.a/b/c", b"x/.wh./y"])
def test_entries_below_a_whiteout(staging: Path, name: bytes) -> None:
    refused(staging, t.tar(t.file(name)), match="an entry below a whiteout")


def test_what_aufs_left_behind_is_ignored(staging: Path) -> None:
    layer = t.tar(
        t.directory(b".wh..wh.plnk"),
        t.file(b".wh..wh.plnk/12.34", b"x"),
        t.file(b".wh..wh.aufs"),
        t.directory(b".wh..wh.orph"),
        t.file(b"d/.wh..wh.other"),
        t.file(b"real"),
    )
    assert sorted(describe(build(staging, layer))) == ["", "real"]


# The same name again


def test_a_file_then_a_link_then_a_file(staging: Path) -> None:
    secret = outside(staging) + b"/secret"
    layer = t.tar(t.file(b"x", b"1"), t.symlink(b"x", secret), t.file(b"x", b"2"))
    assert describe(build(staging, layer))["x"] == ("file", 0o644, 0, 0, b"2")


def test_a_directory_then_a_link_of_its_name_then_a_child(staging: Path) -> None:
    out = outside(staging)
    layer = t.tar(
        t.directory(b"d"),
        t.file(b"d/a", b"1"),
        t.symlink(b"d", out),
        t.file(b"d/a", b"2"),
        t.file(b"d/secret", b"3"),
    )
    tree = describe(build(staging, layer))
    assert tree["d"] == ("link", 0o777, 0, 0, out)
    assert tree[out[1:].decode() + "/a"][4] == b"2"


def test_a_directory_known_by_two_names_is_replaced(staging: Path) -> None:
    """What was learnt about a path must be forgotten when a link on the way to it changes."""
    out = outside(staging)
    layer = t.tar(
        t.directory(b"r"),
        t.symlink(b"l", b"r"),
        t.file(b"l/one", b"1"),
        t.symlink(b"l", out),
        t.file(b"l/two", b"2"),
        t.directory(b"l"),
        t.file(b"l/three", b"3"),
        t.file(b"r/four", b"4"),
        t.symlink(b"r", b"l"),
        t.file(b"r/five", b"5"),
    )
    tree = describe(build(staging, layer))
    assert tree["l/three"][4] == b"3"
    assert tree["l/five"][4] == b"5"
    assert tree[out[1:].decode() + "/two"][4] == b"2"
    assert "l/one" not in tree


def test_more_directories_than_are_kept_open_between_a_file_and_its_hard_link(staging: Path) -> None:
    """The descriptor of a link's directory must outlive the search for its target."""
    entries = [t.directory(b"first"), t.file(b"first/x", b"x")]
    entries += [t.file(b"d%d/f" % i, b"%d" % i) for i in range(47)]
    entries += [t.hardlink(b"first/link", b"d0/../other/f")]
    layer = t.tar(t.file(b"other/f", b"other"), *entries)
    tree = describe(build(staging, layer))
    assert tree["first/link"][4] == b"other"


def test_a_file_as_a_parent(staging: Path) -> None:
    refused(staging, t.tar(t.file(b"f", b"1"), t.file(b"f/x")), match="f is not a directory")


def test_the_root_as_something_else(staging: Path) -> None:
    for entry in (
        t.file(b"./", b""),
        t.symlink(b"/", outside(staging)),
        t.fifo(b"."),
        t.device(b".", b"3", 1, 3),
    ):
        if entry[156:157] == b"0":
            continue  # a name that ends in a slash is a directory's
        refused(staging, t.tar(entry), match="the root of the image is not a directory")
        remove(staging)


# Devices, set-id bits, modes, FIFOs, times, owners


def test_devices_and_set_id_bits_are_recorded_not_made(staging: Path) -> None:
    layer = t.tar(
        t.device(b"null", b"3", 1, 3, 0o666),
        t.device(b"sda", b"4", 8, 0),
        t.file(b"su", b"x", mode=0o6755),
        t.directory(b"spool", 0o2775),
        t.directory(b"tmp", 0o1777),
        t.file(b"sticky", b"", mode=0o1644),
        t.device(b"whiteout", b"3", 0, 0),
    )
    tree = build(staging, layer)
    assert describe(tree) == {
        "": ("dir", 0o755, 0, 0, ""),
        "null": ("char", 0o666, 0, 0, (1, 3)),
        "sda": ("block", 0o660, 0, 0, (8, 0)),
        "su": ("file", 0o6755, 0, 0, b"x"),
        "spool": ("dir", 0o2775, 0, 0, ""),
        "tmp": ("dir", 0o1777, 0, 0, ""),
        "sticky": ("file", 0o1644, 0, 0, b""),
        "whiteout": ("char", 0o660, 0, 0, (0, 0)),
    }
    for name, mode in (("null", 0o666), ("su", 0o755), ("spool", 0o775), ("tmp", 0o1777), ("sticky", 0o644)):
        st = (tree / "rootfs" / name).lstat()
        assert stat.S_IMODE(st.st_mode) == mode, name
        assert stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode)


def test_impossible_devices_and_owners(staging: Path) -> None:
    for entry in (t.device(b"x", b"3", -1, 0), t.device(b"x", b"4", 0, 1 << 40)):
        refused(staging, t.tar(entry), match="impossible device number")
        remove(staging)
    for uid, gid in ((-1, 0), (0, 1 << 32), (0xFFFFFFFF, 0)):
        refused(staging, t.tar(t.directory(b"x", uid=uid, gid=gid)), match="impossible owner")
        remove(staging)


def test_directories_and_files_without_any_permission(staging: Path) -> None:
    lower = t.tar(
        t.directory(b"d", 0), t.file(b"d/f", b"x", mode=0), t.directory(b"d/e", 0), t.fifo(b"d/p", 0)
    )
    tree = describe(build(staging, lower, t.tar(t.file(b"d/f2", b"y", mode=0), t.file(b"d/.wh.e"))))
    assert {p: v[1] for p, v in tree.items()} == {"": 0o755, "d": 0, "d/f": 0, "d/f2": 0, "d/p": 0}
    mode = stat.S_IMODE((staging / "rootfs/d").stat().st_mode)
    assert mode == 0o700
    assert stat.S_IMODE((staging / "rootfs/d/f").stat().st_mode) == 0o400


@pytest.mark.timeout(20)
def test_fifos_are_never_opened(staging: Path) -> None:
    lower = t.tar(t.fifo(b"a"), t.fifo(b"b"), t.fifo(b"c"), t.fifo(b"d"), t.hardlink(b"e", b"d"))
    upper = t.tar(
        t.file(b"a", b"x"), t.directory(b"b"), t.file(b".wh.c"), t.file(b"d/x", b"y"), t.hardlink(b"f", b"e")
    )
    tree = describe(build(staging, lower, upper))
    assert {p: v[0] for p, v in tree.items()} == {
        "": "dir", "a": "file", "b": "dir", "d": "dir", "d/x": "file", "e": "fifo", "f": "fifo",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (t.octal(-1, 12), -1),
        (t.octal(1 << 31, 12), 1 << 31),
        (t.octal(1 << 62, 12), 9_223_372_036),
        (t.octal(-(1 << 62), 12), -(1 << 31)),
        (b"\0" * 12, 0),
        (b" " * 12, 0),
    ],
)
def test_times_beyond_reason(staging: Path, field: bytes, seconds: int) -> None:
    layer = t.tar(
        t.header(b"f", mtime=field),
        t.header(b"d", type=b"5", mtime=field),
        t.header(b"l", type=b"2", linkname=b"x", mtime=field),
        t.header(b"p", type=b"6", mtime=field),
    )
    build(staging, layer)
    for name in ("f", "d", "l", "p"):
        assert int((staging / "rootfs" / name).lstat().st_mtime_ns // 1_000_000_000) == seconds, name


@pytest.mark.parametrize(
    ("value", "ns"),
    [(b"1.5", 1_500_000_000), (b"-1.5", -1_500_000_000), (b".5", 500_000_000),
     (b"1600000000.123456789987", 1_600_000_000_123_456_789),
     (b"99999999999999999999999999", 9_223_372_036 * 10**9)],
)  # fmt: skip
def test_times_of_pax(staging: Path, value: bytes, ns: int) -> None:
    build(staging, t.tar(t.pax({b"mtime": value}), t.file(b"f")))
    assert (staging / "rootfs/f").stat().st_mtime_ns == ns


# What the host does


def test_a_full_disk(staging: Path) -> None:
    """A file beyond the process's file-size limit and a full device end in a line that says so."""
    require("unshare", "mount")
    code = (
        "import sys\nfrom udk.layers.tree import TreeBuilder\n"
        "from udk.errors import DiskFullError\n"
        "from tests.support import tarmaker as t\nfrom tests.layers.support import Bytes\n"
        "b = TreeBuilder(sys.argv[1])\n"
        "try:\n b.apply(Bytes(t.tar(t.file(b'big', bytes(4 << 20)))), '', None)\n"
        "except DiskFullError as e: print(e)\n"
    )
    staging.mkdir()
    script = f'mount -t tmpfs -o size=1m none "$1" && exec {sys.executable} -c "$2" "$1"'
    out = subprocess.run(
        ["unshare", "-rm", "sh", "-ec", script, "sh", str(staging), code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.stdout.startswith("no space left while writing big; "), out.stderr


def test_no_inodes_left(staging: Path) -> None:
    require("unshare", "mount")
    code = (
        "import sys\nfrom udk.layers.tree import TreeBuilder\n"
        "from udk.errors import DiskFullError\n"
        "from tests.support import tarmaker as t\nfrom tests.layers.support import Bytes\n"
        "b = TreeBuilder(sys.argv[1])\n"
        "try:\n b.apply(Bytes(t.tar(*(t.file(b'f%d' % i) for i in range(100)))), '', None)\n"
        "except DiskFullError as e: print(e)\n"
    )
    staging.mkdir()
    script = f'mount -t tmpfs -o nr_inodes=50 none "$1" && exec {sys.executable} -c "$2" "$1"'
    out = subprocess.run(
        ["unshare", "-rm", "sh", "-ec", script, "sh", str(staging), code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.stdout.startswith("no space left while writing f"), out.stderr


def test_a_file_beyond_the_limit_of_the_process(staging: Path) -> None:
    """As in a batch job with `ulimit -f`; the signal that comes with it does not kill."""
    code = (
        "import resource, sys\nfrom udk.errors import StoreError\nfrom udk.layers.tree import TreeBuilder\n"
        "from tests.support import tarmaker as t\nfrom tests.layers.support import Bytes\n"
        "b = TreeBuilder(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n b.apply(Bytes(t.tar(t.file(b'big', bytes(4 << 20)))), '', None)\n"
        "except StoreError as e: print(e)\n"
    )
    staging.mkdir()
    out = subprocess.run(
        [sys.executable, "-c", code, str(staging)], capture_output=True, text=True, check=True
    )
    assert out.stdout.startswith("big is larger than this file system or `ulimit -f` allows"), out.stderr


def test_whiteouts_repeated_do_not_look_again(staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a small layer could keep a processor busy for hours with one large directory."""
    scans = 0
    scandir = os.scandir

    def counted(fd: Any) -> Any:
        nonlocal scans
        scans += 1
        return scandir(fd)

    own = [t.file(b"d/f%d" % i) for i in range(20)]
    hides = [t.file(b"d/.wh..wh..opq"), t.file(b".wh.d")] * 200
    monkeypatch.setattr(os, "scandir", counted)
    tree = build(staging, t.tar(t.file(b"d/old")), t.tar(*own, *hides))
    assert scans < 10
    assert len(os.listdir(tree / "rootfs/d")) == 20
