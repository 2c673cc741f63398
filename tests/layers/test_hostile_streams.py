"""Hostile layers: numbers that cannot be, headers without end, bombs, streams cut short (``hostile.py``)."""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING

import pytest

from tests.layers.hostile import refused, remove
from tests.layers.support import Bytes, build, describe
from tests.support import tarmaker as t
from udk.errors import IntegrityError, LayerError
from udk.layers.caps import Caps
from udk.layers.tree import TreeBuilder

if TYPE_CHECKING:
    from pathlib import Path

# Numbers, headers, compression


def test_sizes_that_cannot_be(staging: Path) -> None:
    sizes = [
        (b"\xff" * 12, "negative size"),
        (b"\x80" + b"\x7f" * 11, "out of range"),
        (b"77777777777\0", "tar stream"),
        (b"-0000000001\0", "not a number"),
        (b"99999999999\0", "not a number"),
        (b"0x10\0", "not a number"),
        (t.octal(1 << 62, 12), "larger than|tar stream"),
    ]
    for size, match in sizes:
        refused(staging, t.tar(t.header(b"x", size=size)), match=match)
        remove(staging)


def test_a_size_in_base_256(staging: Path) -> None:
    entry = t.header(b"x", size=b"\x80" + (5).to_bytes(11, "big")) + t.pad(b"hello")
    assert describe(build(staging, t.tar(entry)))["x"][4] == b"hello"


@pytest.mark.parametrize("ustar", [0, 3, 4096])
def test_the_size_of_pax_counts(staging: Path, ustar: int) -> None:
    entry = t.pax({b"size": b"5"}) + t.header(b"x", size=ustar) + t.pad(b"hello")
    tree = describe(build(staging, t.tar(entry, t.file(b"y", b"after"))))
    assert (tree["x"][4], tree["y"][4]) == (b"hello", b"after")


@pytest.mark.parametrize(
    "record",
    [b"5 size=-1\n", b"x", b"5", b"30 path=short\n", b"3 \n\n", b"0 a=b\n", b"6 a=bc\n\n",
     b"99999999999999999999 a=b\n", b"12 size=1e99\n", b"5 =a\n", b"9 size=-5\n", b"12 mtime=nan\n",
     b"12 mtime=inf\n", b"11 mtime=--1\n", b"9 uid=-1\n", b"28 uid=99999999999999999999\n", b"10 mtime=.\n"],
)  # fmt: skip
def test_malformed_pax_records(staging: Path, record: bytes) -> None:
    header = t.header(b"PaxHeaders/x", type=b"x", size=len(record)) + t.pad(record)
    refused(staging, t.tar(header, t.file(b"x")), match="PAX header")


def test_long_pax_records(staging: Path) -> None:
    """Long ones are legitimate, as long as they stay below the cap."""
    comment = b"c" * 100_000
    tree = describe(build(staging, t.tar(t.pax({b"comment": comment, b"path": b"name"}), t.file(b"x"))))
    assert sorted(tree) == ["", "name"]


def test_a_million_pax_records(staging: Path) -> None:
    refused(staging, t.tar(t.pax([(b"a", b"b")] * 1_000_000), t.file(b"x")), match="extended header")


def test_extended_headers_without_end(staging: Path) -> None:
    headers = t.pax({b"comment": b"c" * 60_000}) * 20
    refused(staging, t.tar(headers, t.file(b"x")), match="extended header")


def test_a_gnu_name_of_a_gigabyte(staging: Path) -> None:
    header = t.header(b"././@LongLink", type=b"L", size=1 << 30, magic=b"ustar  \0")
    refused(staging, header + bytes(4096), match="extended header")


def test_extended_attributes_too_large(staging: Path) -> None:
    big = t.pax({b"SCHILY.xattr.user.x": b"v" * 65537})
    refused(staging, t.tar(big, t.file(b"x")), match=r"user\.x of 65537 bytes is too long")


def test_many_extended_attributes(staging: Path) -> None:
    many = t.pax({b"SCHILY.xattr.user.%d" % i: b"v" * 1000 for i in range(300)})
    refused(staging, t.tar(many, t.file(b"x")), match="extended attributes beyond")


@pytest.mark.parametrize("name", [b"", b"user." + b"n" * 251, b"user.\0x"])
def test_impossible_names_of_extended_attributes(staging: Path, name: bytes) -> None:
    refused(staging, t.tar(t.pax({b"SCHILY.xattr." + name: b"v"}), t.file(b"x")), match="extended attribute")


def test_names_too_long(staging: Path) -> None:
    for name in (b"n" * 256, b"d/" + b"n" * 10_000, b"d/" * 2500 + b"x", b"e" * 300 + b"/x"):
        refused(staging, t.tar(t.pax({b"path": name}), t.file(b"x")), match="too long")
        remove(staging)


def test_a_path_that_grows_too_long_through_links(staging: Path) -> None:
    deep = b"/".join([b"d" * 200] * 15)
    layer = t.tar(
        t.pax({b"path": deep}),
        t.directory(b"x"),
        t.pax({b"linkpath": deep}),
        t.symlink(b"l", b"x"),
        t.pax({b"path": b"l/" + deep}),
        t.directory(b"y"),
    )
    refused(staging, layer, match="too long")


def test_as_deep_as_a_path_may_be(staging: Path) -> None:
    """Far more levels than a process may have files open."""
    name = b"d/" * 2040 + b"file"
    deep = t.tar(t.pax({b"path": name}), t.file(b"x", b"deep"))
    root = os.open(build(staging, deep) / "rootfs", os.O_RDONLY)
    assert os.stat(name, dir_fd=root).st_size == 4
    os.close(root)
    remove(staging)  # more levels than shutil.rmtree goes down
    assert sorted(describe(build(staging, deep, t.tar(t.file(b".wh.d"))))) == [""]


def test_names_that_play_with_the_terminal(staging: Path) -> None:
    name = b"\x1b[2J\nok\r\x07\x9b31m\xe2\x80\xae"
    text = refused(staging, t.tar(t.hardlink(name, name + b"2")), match="does not exist")
    assert "\\x1b[2J\\nok\\r\\x07" in text
    tree = describe(build(staging.parent / "tree" / "again", t.tar(t.file(name, b"1"))))
    assert tree[name.decode("latin-1")][4] == b"1"
    remove(staging)


@pytest.mark.parametrize("records", [{b"path": b"a\0b"}, {b"linkpath": b"a\0b"}])
def test_a_nul_in_a_name(staging: Path, records: dict[bytes, bytes]) -> None:
    refused(staging, t.tar(t.pax(records), t.symlink(b"x", b"y")), match="a NUL byte")


def test_names_that_are_not_utf8_and_case_pairs(staging: Path) -> None:
    layer = t.tar(
        t.file(b"caf\xe9", b"1"),
        t.file(b"caf\xc3\xa9", b"2"),
        t.file(b"CAF\xc3\x89", b"3"),
        t.file(b"a"),
        t.file(b"A"),
        t.pax({b"hdrcharset": b"BINARY", b"path": b"\xff\xfe"}),
        t.file(b"x", b"4"),
    )
    names = sorted(os.listdir(os.fsencode(build(staging, layer) / "rootfs")))
    assert names == sorted([b"caf\xe9", b"caf\xc3\xa9", b"CAF\xc3\x89", b"a", b"A", b"\xff\xfe"])


def test_more_entries_than_the_cap(staging: Path) -> None:
    assert 1_000_000 < Caps().entries < 2_000_000
    layers = [
        t.tar(*(t.file(b"f%d" % i) for i in range(60))),
        t.tar(*(t.file(b"g%d" % i) for i in range(60))),
    ]
    refused(staging, *layers, match="more than 100 entries.*UDK_UNPACK_ENTRIES", caps=Caps(entries=100))


def test_whiteouts_count_as_entries_too(staging: Path) -> None:
    layer = t.tar(*(t.file(b".wh.f%d" % i) for i in range(60)))
    refused(staging, layer, match="more than 50 entries", caps=Caps(entries=50))


def test_more_bytes_than_the_cap(staging: Path) -> None:
    caps = Caps(bytes=100_000)
    refused(
        staging,
        t.tar(t.file(b"a", bytes(60_000))),
        t.tar(t.file(b"b", bytes(60_000))),
        match="bytes",
        caps=caps,
    )


def test_a_sparse_file_larger_than_the_cap(staging: Path) -> None:
    sparse = t.pax(
        {
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": b"big",
            b"GNU.sparse.realsize": b"%d" % (1 << 60),
        }
    )
    refused(staging, t.tar(sparse + t.file(b"x", t.pad(b"0\n"))), match="larger than")


@pytest.mark.parametrize("where", ["in a file", "after the end"])
def test_a_gzip_bomb(staging: Path, where: str) -> None:
    """The default caps' shape at a sixteenth of their size."""
    caps = Caps(ratio_floor=64 << 20)
    head = t.header(b"zeros", size=t.octal(10 << 30, 12)) if where == "in a file" else t.tar()
    bomb = t.gz(head) + t.raw_gzip_zeros(128 << 20)
    with pytest.raises(LayerError, match=r"expands more than 200 times.*unpack\.ratio"):
        staging.mkdir()
        with TreeBuilder(str(staging), caps=caps) as builder:
            builder.apply(Bytes(bomb), "", None)


def test_an_honest_file_of_zeros_is_no_bomb(staging: Path) -> None:
    assert Caps().ratio_floor >= 1 << 30
    layer = t.tar(t.file(b"zeros", bytes(8 << 20)))
    build(staging, layer, wrap=t.gz)


def test_a_zstd_bomb(staging: Path) -> None:
    bomb = t.zst(t.header(b"zeros", size=t.octal(1 << 33, 12)) + bytes(64 << 20))
    staging.mkdir()
    with (
        pytest.raises(LayerError, match="ratio"),
        TreeBuilder(str(staging), caps=Caps(ratio_floor=4 << 20)) as builder,
    ):
        builder.apply(Bytes(bomb), "", None)


@pytest.mark.parametrize("log", [28, 31])
def test_a_zstd_window_beyond_the_cap(staging: Path, log: int) -> None:
    # Frame header: magic, descriptor (no single segment, no size), window descriptor; then one raw last
    # block.
    frame = struct.pack("<IBB", 0xFD2FB528, 0, (log - 10) << 3) + (3 << 3 | 1).to_bytes(3, "little") + b"abc"
    staging.mkdir()
    with (
        pytest.raises(LayerError, match=r"zstd window.*unpack\.window"),
        TreeBuilder(str(staging)) as builder,
    ):
        builder.apply(Bytes(frame), "", None)


def test_concatenated_gzip_members(staging: Path) -> None:
    layer = t.tar(t.file(b"a", b"1" * 1000), t.file(b"b", b"2" * 1000))
    tree = describe(build(staging, layer, wrap=lambda d: t.gz(d[:700]) + t.gz(b"") + t.gz(d[700:])))
    assert sorted(tree) == ["", "a", "b"]


def test_garbage_after_gzip(staging: Path) -> None:
    refused(
        staging, t.tar(t.file(b"a")), match="garbage after its gzip", wrap=lambda d: t.gz(d) + b"garbage!"
    )


def test_padding_after_gzip(staging: Path) -> None:
    build(staging, t.tar(t.file(b"a")), wrap=lambda d: t.gz(d) + bytes(70_000))


@pytest.mark.parametrize("cut", [1, 4, 8, 9, 100])
def test_truncated_gzip(staging: Path, cut: int) -> None:
    data = os.urandom(5000)
    refused(
        staging, t.tar(t.file(b"a", data)), match="gzip stream is truncated", wrap=lambda d: t.gz(d)[:-cut]
    )


def test_a_wrong_checksum_in_gzip(staging: Path) -> None:
    def wrap(data: bytes) -> bytes:
        return t.gz(data)[:-8] + struct.pack("<II", zlib.crc32(data) ^ 1, len(data))

    refused(staging, t.tar(t.file(b"a")), match="gzip stream is damaged", wrap=wrap)


def test_truncated_zstd(staging: Path) -> None:
    data = os.urandom(50_000)
    with pytest.raises((LayerError, IntegrityError)):
        build(staging, t.tar(t.file(b"a", data)), wrap=lambda d: t.zst(d)[:-100])


def test_a_tar_without_end_blocks(staging: Path) -> None:
    assert describe(build(staging, t.tar(t.file(b"a", b"x"), end=b"")))["a"][4] == b"x"


def test_a_tar_with_one_end_block(staging: Path) -> None:
    assert describe(build(staging, t.tar(t.file(b"a", b"x"), end=bytes(512))))["a"][4] == b"x"


def test_nothing_at_all(staging: Path) -> None:
    assert sorted(describe(build(staging, b"", t.tar()))) == [""]


def test_data_after_the_end_counts_to_the_diff_id(staging: Path) -> None:
    layer = t.tar(t.file(b"a", b"x")) + b"anything" * 10_000
    assert sorted(describe(build(staging, layer, wrap=t.gz))) == ["", "a"]
    other = staging / "other"
    other.mkdir()
    with pytest.raises(IntegrityError), TreeBuilder(str(other)) as builder:
        builder.apply(Bytes(layer[:-1]), "", t.diff_id(layer))


@pytest.mark.parametrize("cut", [500, 512, 700, 1024, 1500])
def test_truncated_tars(staging: Path, cut: int) -> None:
    whole = t.file(b"a", b"x" * 1000) + t.pax({b"path": b"name"}) + t.file(b"x", b"y" * 600)
    refused(staging, whole[:-cut], match="tar stream ends in the middle")


def test_a_last_file_without_its_padding(staging: Path) -> None:
    assert describe(build(staging, t.header(b"a", size=5) + b"hello"))["a"][4] == b"hello"


def test_a_wrong_header_checksum(staging: Path) -> None:
    entry = bytearray(t.file(b"a", b"x"))
    entry[0] ^= 1
    refused(staging, t.tar(bytes(entry)), match="checksum is wrong")


def test_something_that_is_no_tar(staging: Path) -> None:
    refused(staging, b'{"not": "a layer"}' * 100, match="not a tar stream")
    remove(staging)
    refused(staging, b"short", match="middle of a header")


def test_a_lone_zero_block(staging: Path) -> None:
    refused(staging, t.file(b"a") + bytes(512) + t.tar(t.file(b"b")), match="lone zero block")


def test_unknown_types(staging: Path) -> None:
    refused(staging, t.tar(t.header(b"a", type=b"Z")), match="unknown type Z")
