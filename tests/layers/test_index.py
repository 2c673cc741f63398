"""The index of a tree: it says what the kernel says, of this tree alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import needs
from udk.layers.index import (
    ABSENT,
    DIRECTORY,
    FILE,
    HEADER,
    PLAIN,
    RECORD,
    START,
    has_index,
    is_indexed,
    name_hash,
    write_index,
)
from udk.layers.record import RecordWriter, encode_xattrs


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree/rootfs"
    for name in ("etc", "usr/share/doc", "empty", "closed"):
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text("root\n")
    (root / "etc/a name that is longer than eight bytes, \udcff and not UTF-8").write_bytes(b"x" * 5000)
    (root / "link").symlink_to("etc/passwd")
    os.link(root / "etc/passwd", root / "usr/share/hard")
    (root / "closed/in").touch()
    (root / "closed").chmod(0o700)
    for n in range(300):
        (root / f"usr/share/doc/{n}").touch()
    return root.parent


def read(data: bytes) -> dict[bytes, tuple[int, ...]]:
    """path -> its entry, as a reader of the format goes from the root's directory down."""
    head = HEADER.unpack_from(data)
    assert head[0] == b"UDKIDX\0\2"
    (directories, hashes, files, names, names_size, targets, targets_size), found = head[11:], {}
    assert targets + targets_size == len(data) and names + names_size <= targets
    todo = [(b"", 1)]
    for path, number in todo:
        _, first, count, _, _ = DIRECTORY.unpack_from(data, directories + number * DIRECTORY.size)
        if first == ABSENT:
            continue
        order = []
        for i in range(first, first + count):
            entry = FILE.unpack_from(data, files + i * FILE.size)
            at, length = names + entry[-3], entry[-2]
            name = data[at : at + length]
            order.append(int.from_bytes(data[hashes + 4 * i : hashes + 4 * i + 4], "little"))
            assert order[-1] == name_hash(name)
            found[path + b"/" + name] = entry
            if entry[-4]:
                todo.append((path + b"/" + name, entry[-4]))
        assert order == sorted(order)
    return found


def listing(data: bytes, number: int) -> list[tuple[int, int, bytes]]:
    """Inode, type and name of what the directory of that number lists."""
    head = HEADER.unpack_from(data)
    _, _, count, at, size = DIRECTORY.unpack_from(data, head[11] + number * DIRECTORY.size)
    found: list[tuple[int, int, bytes]] = []
    begin = at
    while at < begin + size:
        inode, position, length, kind = RECORD.unpack_from(data, head[14] + at)
        name, zero, rest = data[head[14] + at + RECORD.size : head[14] + at + length].partition(b"\0")
        assert zero and not rest.strip(b"\0") and len(rest) < 8 and length % 8 == 0
        found.append((inode, kind, name))
        assert position == START + len(found)
        at += length
    assert at == begin + size and len(found) == count + 2
    return found


def test_it_lists_what_the_kernel_lists(tree: Path) -> None:
    write_index(str(tree))
    data = (tree / "index").read_bytes()
    found = read(data)
    top = tree / "rootfs"
    numbers = {path: entry[-4] for path, entry in found.items() if entry[-4]}
    listed = 0
    for path, number in {b"": 1, **numbers}.items():
        where = os.fsencode(top) + path
        if path == b"/closed":
            continue
        names = listing(data, number)
        assert [name for _, _, name in names[:2]] == [b".", b".."]
        above = where if path == b"" else os.path.dirname(where)
        assert [inode for inode, _, _ in names[:2]] == [os.stat(where).st_ino, os.stat(above).st_ino]
        assert {name for _, _, name in names[2:]} == set(os.listdir(where))
        for inode, kind, name in names[2:]:
            st = os.lstat(where + b"/" + name)
            assert inode == st.st_ino and kind == st.st_mode >> 12
            listed += 1
    assert listed > 300


def test_where_links_lead(tree: Path) -> None:
    write_index(str(tree))
    data = (tree / "index").read_bytes()
    head, link = HEADER.unpack_from(data), read(data)[b"/link"]
    at = head[16] + link[13]
    assert data[at : at + link[1]] == b"etc/passwd"


def test_it_says_what_the_kernel_says(tree: Path) -> None:
    write_index(str(tree))
    found = read((tree / "index").read_bytes())
    top = os.fsencode(tree / "rootfs")
    there = {
        os.path.join(where, name)[len(top) :]
        for where, dirs, files in os.walk(top)
        for name in (*dirs, *files)
        if not where.endswith(b"/closed")  # the kernel decides for whom it is open
    }
    assert set(found) == there and len(there) > 300
    for path, entry in found.items():
        st = os.lstat(top + path)
        times = (st.st_mtime_ns, st.st_ctime_ns)  # reading changes the other
        assert entry[:2] == (st.st_ino, st.st_size)
        assert tuple(s * 10**9 + ns for s, ns in zip(entry[3:5], entry[6:8])) == times
        assert entry[8:13] == (st.st_blocks, st.st_mode, st.st_nlink, st.st_uid, st.st_gid)
        assert entry[13] == st.st_rdev or path == b"/link"
        assert entry[-1] == PLAIN


def test_the_hash_is_part_of_the_format() -> None:
    """Of names of all lengths about a word's."""
    known = {b"": 0x2E72B464, b"a": 0xED14A559, b"12345678": 0x9D143AAE, b"123456789": 0xAC658970}
    assert {name: name_hash(name) for name in known} == known


def test_attributes_are_told(tree: Path) -> None:
    """Of which the record knows."""
    record = RecordWriter(f"{tree}/record")
    record.add(b"etc/passwd", 0, 0, 0, raw_xattrs=encode_xattrs({b"user.mark": b"1"}))
    record.close()
    write_index(str(tree))
    found = read((tree / "index").read_bytes())
    assert found[b"/etc/passwd"][-1] == 0 and found[b"/link"][-1] == PLAIN


def test_a_new_one_is_flushed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header whose files and names a crash took would say that nothing is there."""
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(os.readlink(f"/proc/self/fd/{fd}")))
    write_index(str(tree), durable=False)  # who made the tree flushes all of it
    assert not flushed
    write_index(str(tree))
    assert len(flushed) == 2 and "/.index." in flushed[0] and flushed[1] == str(tree)


@needs("unshare", "mount")
def test_a_tree_on_two_devices_has_none(tree: Path) -> None:
    """Its inodes are not of one kind."""
    script = f'mount -t tmpfs none {tree}/rootfs/empty && exec {sys.executable} -c "$0" {tree}'
    program = "import sys; from udk.layers.index import write_index; write_index(sys.argv[1])"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script, program], stderr=subprocess.PIPE, text=True)
    assert done.returncode and done.stderr.endswith("/empty is on another device\n"), done.stderr
    assert not [name for name in os.listdir(tree) if "index" in name]


def test_of_this_tree_as_it_is(tree: Path, tmp_path: Path) -> None:
    assert not has_index(str(tree)) and not is_indexed(str(tree))
    write_index(str(tree))
    assert has_index(str(tree)) and is_indexed(str(tree))
    shutil.copytree(tree, tmp_path / "copy", symlinks=True)
    assert not has_index(str(tmp_path / "copy"))
    whole = (tree / "index").read_bytes()
    for damaged in (b"", whole[:50], whole[:-1], whole[:300] + bytes([whole[300] ^ 1]) + whole[301:]):
        (tree / "index").write_bytes(damaged)
        assert not has_index(str(tree))
    write_index(str(tree))
    (tree / "rootfs/etc/new").touch()
    assert not has_index(str(tree))
