"""Whiteouts, opaque directories and type changes, against a small model of what the image specification
says."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layers.support import build, describe
from tests.support import tarmaker as t
from udk.errors import LayerError

Node = tuple  # (kind, mode, uid, gid, contents)
Entry = tuple  # ("file" | "dir" | "link" | "hide" | "opaque", path, number)

IMPLICIT = ("dir", 0o755, 0, 0, "")


class Model:
    """A tree as a dict. Whiteouts of a layer act on lower layers only, wherever they stand in it."""

    def __init__(self) -> None:
        self.tree: dict[str, Node] = {"": IMPLICIT}

    def drop(self, path: str, below: bool = False) -> None:
        prefix = path + "/" if path else ""
        gone = [p for p in self.tree if (p and p.startswith(prefix)) or (p == path and not below)]
        for p in gone:
            del self.tree[p]

    def apply(self, layer: list[Entry]) -> bool:
        """False where the layer is to be refused."""
        for kind, path, _ in layer:
            if kind == "hide" and self.leads(path):
                self.drop(path)
            elif kind == "opaque" and self.tree.get(path, "")[:1] == ("dir",):
                self.drop(path, below=True)
        own: set[str] = set()
        for kind, path, number in layer:
            if kind in {"hide", "opaque"}:
                continue
            parts = path.split("/")
            for i in range(1, len(parts)):
                above = "/".join(parts[:i])
                if self.tree.get(above, ("",))[0] != "dir":
                    if above in own:
                        return False
                    self.tree[above] = IMPLICIT
            if kind == "dir":
                if self.tree.get(path, ("dir",))[0] != "dir":
                    self.drop(path)
                self.tree[path] = ("dir", 0o700 + number % 8, number, 0, "")
            else:
                self.drop(path)
                self.tree[path] = ("file", 0o600, number, number, b"%d" % number)
            own.add(path)
        return True

    def leads(self, path: str) -> bool:
        parts = path.split("/")
        return all(self.tree.get("/".join(parts[:i]), ("",))[0] == "dir" for i in range(1, len(parts)))


def pack(layer: list[Entry]) -> bytes:
    out = []
    for kind, path, number in layer:
        raw = path.encode()
        above, _, name = raw.rpartition(b"/")
        if kind == "hide":
            out.append(t.file((above + b"/" if above else b"") + b".wh." + name))
        elif kind == "opaque":
            out.append(t.file((raw + b"/" if raw else b"") + b".wh..wh..opq"))
        elif kind == "dir":
            out.append(t.directory(raw + b"/", 0o700 + number % 8, uid=number))
        else:
            out.append(t.file(raw, b"%d" % number, mode=0o600, uid=number, gid=number))
    return t.tar(*out)


names = st.sampled_from(["a", "a/b", "a/b/a", "a/a", "b"])  # few, so that they meet
entries = st.one_of(
    st.tuples(st.sampled_from(["file", "dir", "hide", "opaque"]), names, st.integers(0, 9)),
    st.tuples(st.just("opaque"), st.just(""), st.just(0)),
)
layers = st.lists(st.lists(entries, max_size=6), min_size=2, max_size=3)


@settings(max_examples=200, deadline=None)
@given(layers)
def test_any_layers_give_what_the_specification_says(stack: list[list[Entry]]) -> None:
    model = Model()
    expected: Optional[dict[str, Node]] = model.tree
    for layer in stack:
        if not model.apply(layer):
            expected = None
            break
    with tempfile.TemporaryDirectory() as top:
        where = Path(top) / "s"
        packed = [pack(layer) for layer in stack]
        if expected is None:
            with pytest.raises(LayerError, match="is not a directory"):
                build(where, *packed)
        else:
            assert describe(build(where, *packed)) == expected


def test_a_whiteout_spares_what_its_own_layer_brings(tmp_path: Path) -> None:
    lower = t.tar(t.directory(b"d", 0o700, uid=5), t.file(b"d/old"), t.file(b"f", b"old"), t.file(b"d/e/old"))
    own = [t.file(b"d/e/new", b"n"), t.file(b"f", b"new")]
    hides = [t.file(b".wh.d"), t.file(b".wh.f")]
    first = describe(build(tmp_path / "first", lower, t.tar(*hides, *own)))
    last = describe(build(tmp_path / "last", lower, t.tar(*own, *hides)))
    assert first == last
    assert sorted(first) == ["", "d", "d/e", "d/e/new", "f"]
    assert first["d"] == ("dir", 0o755, 0, 0, "")  # the lower one is hidden, with its owner


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_an_opaque_directory_wherever_the_mark_stands(tmp_path: Path, position: int) -> None:
    lower = t.tar(
        t.directory(b"d", 0o700, uid=5), t.file(b"d/old"), t.file(b"d/e/old"), t.file(b"d/both", b"1")
    )
    upper = [t.directory(b"d", 0o711, uid=6), t.file(b"d/e/new", b"n"), t.file(b"d/both", b"2")]
    upper.insert(position, t.file(b"d/.wh..wh..opq"))
    tree = describe(build(tmp_path / "s", lower, t.tar(*upper)))
    assert sorted(tree) == ["", "d", "d/both", "d/e", "d/e/new"]
    assert tree["d"][1:3] == (0o711, 6)
    assert tree["d/both"][4] == b"2"


def test_an_opaque_mark_without_its_directory_does_nothing(tmp_path: Path) -> None:
    tree = build(
        tmp_path / "s", t.tar(t.file(b"f")), t.tar(t.file(b"no/.wh..wh..opq"), t.file(b"f/.wh..wh..opq"))
    )
    assert sorted(describe(tree)) == ["", "f"]


def test_whiteouts_of_what_is_not_there(tmp_path: Path) -> None:
    layer = t.tar(t.file(b".wh.x"), t.file(b"no/.wh.x"), t.file(b".wh." + b"n" * 251))
    assert sorted(describe(build(tmp_path / "s", t.tar(), layer))) == [""]


@pytest.mark.parametrize(
    "make", [t.file, t.directory, t.fifo, lambda n: t.symlink(n, b"x"), lambda n: t.hardlink(n, n)]
)
def test_a_whiteout_of_any_type(tmp_path: Path, make: object) -> None:
    assert callable(make)
    tree = build(tmp_path / "s", t.tar(t.file(b"x"), t.file(b"y")), t.tar(make(b".wh.x")))
    assert sorted(describe(tree)) == ["", "y"]


def test_a_whiteout_forgets_the_owner_of_what_comes_back(tmp_path: Path) -> None:
    lower = t.tar(t.file(b"f", b"1", uid=7), t.directory(b"d", uid=7), t.file(b"d/x", uid=7))
    tree = build(
        tmp_path / "s",
        lower,
        t.tar(t.file(b".wh.f"), t.file(b".wh.d")),
        t.tar(t.file(b"f", b"2"), t.file(b"d/x")),
    )
    assert {v[2] for v in describe(tree).values()} == {0}


def test_a_lower_file_as_a_parent_is_hidden(tmp_path: Path) -> None:
    tree = describe(build(tmp_path / "s", t.tar(t.file(b"a", b"1", uid=7)), t.tar(t.file(b"a/b", b"2"))))
    assert tree == {"": IMPLICIT, "a": IMPLICIT, "a/b": ("file", 0o644, 0, 0, b"2")}


def test_a_directory_over_a_link_to_one_takes_its_place(tmp_path: Path) -> None:
    lower = t.tar(t.file(b"usr/lib/a"), t.symlink(b"lib", b"usr/lib"))
    tree = describe(build(tmp_path / "s", lower, t.tar(t.directory(b"lib"), t.file(b"lib/b"))))
    assert tree["lib"][0] == "dir"
    assert sorted(tree) == ["", "lib", "lib/b", "usr", "usr/lib", "usr/lib/a"]


def test_a_file_below_a_link_goes_where_the_link_leads(tmp_path: Path) -> None:
    lower = t.tar(t.file(b"usr/lib/a"), t.symlink(b"lib", b"usr/lib"))
    tree = describe(build(tmp_path / "s", lower, t.tar(t.file(b"lib/b"))))
    assert tree["lib"][0] == "link"
    assert "usr/lib/b" in tree


def test_a_directory_over_a_directory_takes_its_attributes(tmp_path: Path) -> None:
    lower = t.tar(t.pax({b"SCHILY.xattr.user.old": b"1"}), t.directory(b"d", 0o2750, uid=3), t.file(b"d/x"))
    tree = build(tmp_path / "s", lower, t.tar(t.directory(b"d", 0o700, mtime=1_234)))
    assert describe(tree)["d"] == ("dir", 0o700, 0, 0, "")
    assert (tree / "rootfs/d").stat().st_mtime == 1_234
    import os

    assert os.listxattr(tree / "rootfs/d") == []


def test_times_of_directories_survive_what_later_layers_do_in_them(tmp_path: Path) -> None:
    lower = t.tar(t.directory(b"d", mtime=1_000), t.directory(b"d/e", mtime=2_000), t.file(b"d/e/x"))
    tree = build(
        tmp_path / "s", lower, t.tar(t.file(b"d/e/y"), t.file(b"d/.wh.z")), t.tar(t.file(b"d/e/.wh.x"))
    )
    assert (tree / "rootfs/d").stat().st_mtime == 1_000
    assert (tree / "rootfs/d/e").stat().st_mtime == 2_000
    assert (tree / "rootfs").stat().st_mtime == 0  # never named: the same for everybody
