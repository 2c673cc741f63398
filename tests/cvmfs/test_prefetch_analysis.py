"""What is read out of Python files, ELF files and bundles; strangers' bytes never raise."""

from __future__ import annotations

import importlib.util
import io
import json
import marshal
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfs_client.entry import FLAG_DIRECTORY, FLAG_FILE, FLAG_LINK, Entry
from cvmfs_client.prefetch_bundle import parse_bundle
from cvmfs_client.prefetch_elf import LibraryPlanner, parse
from cvmfs_client.prefetch_imports import (
    Import,
    imports_of_bytecode,
    imports_of_extension,
    imports_of_source,
)
from cvmfs_client.prefetch_listing import Listings
from cvmfs_client.prefetch_python import PythonPlanner
from cvmfs_client.prefetch_walk import WalkPlanner

SOURCE = b'''"""A module.

import nothing
from here import nothing
"""
from __future__ import annotations
import os, sys as system
import a.b.c
from . import sibling, other as o
from .pkg.mod import (
    one,  # a comment, with a comma
    two as zwei,
)
from ..up import *
from x import y, \\
    z
if TYPE_CHECKING:
    import hidden1
try:
    import fast
except ImportError:
    import slow

def function(
    argument,
):
    import hidden2
    from . import hidden3

    return hidden2

class Class:
    import inner

    def method(self):
        import hidden4

async def later():
    import hidden5
import last
if __name__ == "__main__":
    import hidden6
'''

EXPECTED = [
    Import("__future__", ("annotations",)), Import("os"), Import("sys"), Import("a.b.c"),
    Import("", ("sibling", "other"), 1), Import("pkg.mod", ("one", "two"), 1), Import("up", ("*",), 2),
    Import("x", ("y", "z")), Import("fast"), Import("slow"), Import("inner"), Import("last"),
]  # fmt: skip


def test_source() -> None:
    assert imports_of_source(SOURCE) == EXPECTED


def bytecode(source: bytes) -> bytes:
    code = compile(source, "x.py", "exec")
    return importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)


@pytest.mark.skipif(
    not (3, 8) <= sys.version_info < (3, 14), reason="bytecode of this version is not understood"
)
def test_bytecode_of_the_running_interpreter() -> None:
    found = imports_of_bytecode(bytecode(SOURCE))
    assert found is not None
    # the body of a class is another piece of code, and guards are compiled as they stand
    extra = {Import("hidden1"), Import("hidden6"), Import("inner")}
    assert [i for i in found if i not in extra] == [i for i in EXPECTED if i not in extra]


@pytest.mark.skipif(
    not (3, 8) <= sys.version_info < (3, 14), reason="bytecode of this version is not understood"
)
def test_bytecode_of_the_standard_library_says_what_the_source_says() -> None:
    library = Path(os.__file__).parent
    compared = 0
    for path in sorted(library.glob("*.py"))[:120]:
        source = path.read_bytes()
        if b"\nimport" not in source:
            continue
        try:
            found = imports_of_bytecode(bytecode(source))
        except SyntaxError:
            continue
        assert found is not None
        missing = {i.name for i in found if not i.level} - {i.name for i in imports_of_source(source)}
        # at most what stands after a semicolon, or behind `if __name__`
        assert len(missing) <= 2 + source.count(b";"), (path, missing)
        compared += 1
    assert compared > 50


def test_unknown_bytecode_is_admitted() -> None:
    assert imports_of_bytecode(b"") is None
    assert imports_of_bytecode(b"\xff\xff\r\n" + bytes(100)) is None
    good = bytecode(b"import os")
    assert imports_of_bytecode(good[:-10]) is None
    assert imports_of_bytecode(good[:16] + b"\x7b" * 200) is None


@given(st.binary(max_size=400), st.integers(0, 300))
def test_damaged_bytecode_never_raises(noise: bytes, at: int) -> None:
    data = bytearray(bytecode(SOURCE))
    data[16 + at : 16 + at + len(noise)] = noise
    imports_of_bytecode(bytes(data))


@given(st.binary(max_size=2000))
def test_any_bytes_as_source(data: bytes) -> None:
    for item in imports_of_source(data):
        assert item.level >= 0


def test_extension_modules_name_what_they_import() -> None:
    data = b"\x7fELF\0pkg.sub.mod\0other.mod\0pkg.x\0pkg.sub.mod\0pkg\0"
    assert imports_of_extension(data, b"pkg") == [Import("pkg.sub.mod"), Import("pkg.x")]


def test_bundles() -> None:
    good = {
        "name": "CVMFS_BUNDLE",
        "version": "1.0.0",
        "encoding": "UTF-8",
        "dependencies": ["/a/b", "//c", 3, "d"],
    }
    assert parse_bundle(json.dumps(good).encode()) == [b"/a/b", b"/c"]
    assert parse_bundle(json.dumps({**good, "version": "2.0.0"}).encode()) == []
    assert parse_bundle(json.dumps({**good, "dependencies": ["/../../etc/passwd", "/x\0"]}).encode()) == []
    for bad in (b"", b"[]", b"{", b"\xff", b'{"name":"CVMFS_BUNDLE","version":"1"}', b"[" * 100_000):
        assert parse_bundle(bad) == []


# --- a tree in memory


class Tree:
    """A Source of paths given as text: "/a/b" a file, "/a/" a directory, "/l -> target" a link."""

    fqrn = "sw.example.org"

    def __init__(self, *paths: str) -> None:
        self.below: dict[bytes, dict[bytes, Entry]] = {b"": {}}
        for text in paths:
            name, _, target = text.partition(" -> ")
            flags = FLAG_FILE | FLAG_LINK if target else FLAG_FILE
            self._add(name.encode(), flags, target.encode())

    def _add(self, path: bytes, flags: int, target: bytes = b"") -> None:
        directory, _, name = path.rpartition(b"/")
        if directory and directory not in self.below:
            self.below[directory] = {}
            self._add(directory, FLAG_DIRECTORY)
        mode = 0o40755 if flags & FLAG_DIRECTORY else 0o120777 if flags & FLAG_LINK else 0o100644
        self.below[directory][name] = Entry(
            name, flags, mode, 100, 0, 0, 0, 0, 1, 0, b"x" * 20, target, b"", 0
        )

    def list_entries(self, path: bytes) -> list[Entry]:
        return list(self.below.get(path, {}).values())


def followed(planner: PythonPlanner, path: str, data: bytes) -> list[str]:
    return [p.decode() for p in planner.follow(path.encode(), data, len(data))]


def test_modules_are_found_as_the_interpreter_finds_them() -> None:
    listings = Listings(Tree(  # type: ignore[arg-type]
        "/lib/python3.11/os.py", "/lib/python3.11/json/__init__.py",
        "/lib/python3.11/lib-dynload/_x.cpython-311-x86_64-linux-gnu.so",
        "/lib/python3.11/site-packages/p/__init__.py", "/lib/python3.11/site-packages/p/m.py",
        "/lib/python3.11/site-packages/p/ext.cpython-311-x86_64-linux-gnu.so",
        "/lib/python3.11/site-packages/p/ext.cpython-310-x86_64-linux-gnu.so",
        "/lib/python3.11/site-packages/p/sub/__init__.py", "/lib/python3.11/site-packages/p/sub/deep.py",
        "/lib/python3.11/site-packages/space/inner.py",
    ))  # fmt: skip
    planner = PythonPlanner(listings)
    site = "/lib/python3.11/site-packages"
    planner.saw(f"{site}/p/ext.cpython-311-x86_64-linux-gnu.so".encode())
    source = (
        b"import os, json, _x, nowhere\nfrom . import m, ext, value\nfrom .sub import deep\n"
        b"import p.sub.deep\nimport space.inner\n"
    )
    assert followed(planner, f"{site}/p/__init__.py", source) == [
        "/lib/python3.11/os.py",
        "/lib/python3.11/json/__init__.py",
        "/lib/python3.11/lib-dynload/_x.cpython-311-x86_64-linux-gnu.so",
        f"{site}/p/m.py",
        f"{site}/p/ext.cpython-311-x86_64-linux-gnu.so",
        f"{site}/p/sub/__init__.py",
        f"{site}/p/sub/deep.py",
        f"{site}/p/__init__.py",
        f"{site}/space/inner.py",
    ]


def test_bytecode_is_read_where_there_is_some_for_this_interpreter() -> None:
    listings = Listings(Tree(  # type: ignore[arg-type]
        "/s/p/__init__.py", "/s/p/m.py", "/s/p/n.py", "/s/p/__pycache__/m.cpython-39.pyc",
        "/s/p/__pycache__/m.cpython-311.pyc", "/s/p/__pycache__/__init__.cpython-311.pyc",
    ))  # fmt: skip
    planner = PythonPlanner(listings)
    planner.saw(b"/s/p/__pycache__/__init__.cpython-311.pyc")
    path = "/s/p/__pycache__/__init__.cpython-311.pyc"
    if (3, 8) <= sys.version_info < (3, 14):
        data = bytecode(b"from . import m, n")
        assert followed(planner, path, data) == ["/s/p/__pycache__/m.cpython-311.pyc", "/s/p/n.py"]
    # of an unknown version: the source tells
    assert followed(planner, path, b"\xff\xff\r\n" + bytes(50)) == ["/s/p/__init__.py"]
    # the source is read although there is bytecode: it is stale
    planner.saw(b"/s/p/m.py")
    assert followed(planner, "/s/p/__init__.py", b"from . import m") == [
        "/s/p/__pycache__/m.cpython-311.pyc",
        "/s/p/m.py",
    ]


def test_elf_files_as_an_independent_reader_sees_them() -> None:
    elffile = pytest.importorskip("elftools.elf.elffile")
    compared = 0
    for place in ("/usr/bin", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib/aarch64-linux-gnu"):
        if not os.path.isdir(place):
            continue
        for name in sorted(os.listdir(place))[:150]:
            try:
                data = Path(place, name).read_bytes()
            except OSError:
                continue
            if data[:4] != b"\x7fELF" or len(data) > 20_000_000:
                assert parse(data) is None or data[:4] == b"\x7fELF"
                continue
            found = parse(data)
            section = elffile.ELFFile(io.BytesIO(data)).get_section_by_name(".dynamic")
            if section is None or found is None:
                continue
            needed = tuple(t.needed.encode() for t in section.iter_tags("DT_NEEDED"))
            assert found.needed == needed, name
            compared += 1
    assert compared > 20


@given(st.binary(max_size=300), st.integers(0, 1000))
def test_damaged_elf_files_never_raise(noise: bytes, at: int) -> None:
    with open(sys.executable, "rb") as file:
        data = bytearray(file.read(4096))
    data[at : at + len(noise)] = noise
    parse(bytes(data))


def test_libraries_are_found_by_runpath_and_beside() -> None:
    tree = Tree(
        "/app/bin/tool",
        "/app/lib/liba.so.1 -> liba.so.1.2",
        "/app/lib/liba.so.1.2",
        "/x/libb.so",
        "/app/lib/libc.so.6",
    )
    planner = LibraryPlanner(Listings(tree), (b"/cvmfs/sw.example.org",))  # type: ignore[arg-type]
    import cvmfs_client.prefetch_elf as elf

    dynamic = elf.Dynamic(
        (b"liba.so.1", b"libb.so", b"libc.so.6", b"libnone.so"),
        (b"$ORIGIN/../lib", b"/cvmfs/sw.example.org/x", b"/usr/lib", b"$ORIGIN/../../../../etc"),
        b"/cvmfs/sw.example.org/app/lib/libc.so.6",
    )
    original = elf.parse
    elf.parse = lambda data: dynamic
    try:
        assert list(planner.follow(b"/app/bin/tool", b"")) == [
            b"/app/lib/libc.so.6", b"/app/lib/liba.so.1.2", b"/x/libb.so", b"/app/lib/libc.so.6",
        ]  # fmt: skip
        # what is loaded is not looked for again
        assert list(planner.follow(b"/app/bin/tool", b"")) == [b"/app/lib/libc.so.6"]
    finally:
        elf.parse = original


def test_a_walk_is_noticed_and_random_reads_are_not() -> None:
    names = [f"/d/f{i:03}" for i in range(100)]
    planner = WalkPlanner(Listings(Tree(*names)))  # type: ignore[arg-type]
    guessed: list[bytes] = []
    for name in names[:10]:
        guessed += planner.saw(name.encode())
    assert guessed[:2] == [b"/d/f003", b"/d/f004"]
    assert len(guessed) == len(set(guessed)) and len(guessed) > 10
    planner = WalkPlanner(Listings(Tree(*names)))  # type: ignore[arg-type]
    assert [g for i in (50, 3, 77, 4, 12, 90, 91, 8) for g in planner.saw(names[i].encode())] == []
    planner = WalkPlanner(Listings(Tree(*names)))  # type: ignore[arg-type]
    assert [g for n in names for g in planner.saw(n.encode(), explained=True)] == []
