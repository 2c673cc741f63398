"""Random layers full of links: whatever they do, they do it inside the tree."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layers.support import build
from tests.support import tarmaker as t
from udk.errors import LayerError
from udk.layers.record import RecordReader

NAMES = [
    "a",
    "b",
    "a/b",
    "b/a",
    "a/a/a",
    "outside",
    "a/outside/secret",
    "./a",
    "/b",
    "a//b/",
    "a/../b",
    "a/./a",
]
TARGETS = [
    "a",
    "b",
    "..",
    ".",
    "/",
    "../..",
    "../../outside",
    "/outside",
    "a/b",
    "/a/../..",
    "b/../../outside/dir",
]

Entry = tuple  # (kind, name, target)


def pack(entry: Entry, out: bytes) -> bytes:
    kind, name, target = entry
    raw = name.encode()
    aim = out if target == "OUT" else target.encode()
    if kind == "file":
        return t.file(raw, b"written")
    if kind == "dir":
        return t.directory(raw, 0o700)
    if kind == "symlink":
        return t.symlink(raw, aim)
    if kind == "hardlink":
        return t.hardlink(raw, aim)
    if kind == "fifo":
        return t.fifo(raw)
    above, _, last = raw.rstrip(b"/").rpartition(b"/")
    last = b".wh..wh..opq" if kind == "opaque" else b".wh." + last
    return t.file(above + b"/" + last if above else last)


entries = st.tuples(
    st.sampled_from(["file", "dir", "symlink", "symlink", "symlink", "hardlink", "hide", "opaque", "fifo"]),
    st.sampled_from(NAMES),
    st.sampled_from([*TARGETS, "OUT", "OUT"]),
)
layers = st.lists(st.lists(entries, min_size=1, max_size=6), min_size=1, max_size=4)


def look(where: Path) -> dict[str, tuple[object, ...]]:
    out: dict[str, tuple[object, ...]] = {}
    for top, dirs, files in os.walk(where):
        if top == str(where):
            dirs.remove("tree")
        for name in [*dirs, *files]:
            path = os.path.join(top, name)
            s = os.lstat(path)
            data = Path(path).read_bytes() if stat.S_ISREG(s.st_mode) else b""
            out[path] = (s.st_mode, s.st_ino, s.st_nlink, s.st_mtime_ns, s.st_ctime_ns, data)
    return out


@settings(max_examples=300, deadline=None)
@given(layers)
def test_nothing_outside_is_touched(stack: list[list[Entry]]) -> None:
    with tempfile.TemporaryDirectory() as top:
        where = Path(top)
        (where / "outside/dir").mkdir(parents=True)
        (where / "outside/secret").write_text("secret")
        (where / "outside/dir/secret").write_text("secret")
        (where / "tree").mkdir()
        before = look(where)
        out = os.fsencode(where / "outside")
        tree = where / "tree/s"
        try:
            build(tree, *(t.tar(*(pack(e, out) for e in layer)) for layer in stack))
        except LayerError as e:
            assert "\n" not in str(e)
            assert not (tree / "tree.json").exists()
        else:
            assert sorted(os.listdir(tree)) == ["index", "record", "rootfs", "tree.json"]
            with RecordReader(str(tree / "record")) as record:
                for entry in record:
                    os.lstat(os.path.join(os.fsencode(tree / "rootfs"), entry.path))
        assert look(where) == before
        for path in [
            *before,
            *(os.path.join(p, n) for p, _, files in os.walk(tree / "rootfs") for n in files),
        ]:
            if not os.path.islink(path) and os.path.isfile(path) and path not in before:
                assert Path(path).read_bytes() == b"written"  # no hard link to what is outside
        subprocess.run(["rm", "-rf", str(tree)], check=True)


@settings(max_examples=150, deadline=None)
@given(layers)
def test_the_kernel_sees_the_same_tree_in_a_chroot(stack: list[list[Entry]]) -> None:
    """What was written through links is where a process inside would find it under the name that it was
    given."""
    with tempfile.TemporaryDirectory() as top:
        tree = Path(top) / "s"
        name, through = "b/a/found", b"found"
        links = [[e for e in layer if e[0] in {"dir", "symlink"}] for layer in stack]
        last = t.tar(t.file(name.encode(), through))
        try:
            build(tree, *(t.tar(*(pack(e, b"/a/b") for e in layer)) for layer in links), last)
        except LayerError:
            return
        assert resolve(tree / "rootfs", name) is not None
        subprocess.run(["rm", "-rf", str(tree)], check=True)


def resolve(root: Path, name: str) -> Path | None:
    """The file that ``name`` leads to with ``root`` as the root; a plain reading of path_resolution(7)."""
    todo = name.split("/")[::-1]
    here: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part in {"", "."}:
            continue
        if part == "..":
            here = here[:-1]
            continue
        path = root.joinpath(*here, part)
        if path.is_symlink():
            links += 1
            if links > 40:
                return None
            target = os.readlink(path)
            here = [] if target.startswith("/") else here
            todo += target.split("/")[::-1]
            continue
        here.append(part)
        if not os.path.lexists(path):
            return None
    return root.joinpath(*here)
