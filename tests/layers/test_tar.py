"""The tar parser, against the standard library's writer, GNU tar and its own worst enemies."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.layers.support import build, describe
from tests.support import tarmaker as t
from tests.support.needs import require
from udk.errors import LayerError
from udk.layers.caps import Caps
from udk.layers.tar import ChunkReader, Member, TarReader, parse_pax

if TYPE_CHECKING:
    from pathlib import Path


def parse(data: bytes, chunk: int = 1 << 18) -> list[tuple[Member, bytes]]:
    chunks = (data[i : i + chunk] for i in range(0, len(data), chunk))
    reader = TarReader(ChunkReader(chunks), Caps())
    return [(m, b"".join(reader.data())) for m in reader]


names = st.text(
    st.characters(exclude_characters="\0/", exclude_categories=("Cs",)), min_size=1, max_size=60
).filter(lambda n: n not in {".", ".."})
paths = st.lists(names, min_size=1, max_size=6).map("/".join)


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(draw(paths))
    info.type = draw(
        st.sampled_from(
            [
                tarfile.REGTYPE,
                tarfile.DIRTYPE,
                tarfile.SYMTYPE,
                tarfile.LNKTYPE,
                tarfile.FIFOTYPE,
                tarfile.CHRTYPE,
                tarfile.BLKTYPE,
            ]
        )
    )
    info.mode = draw(st.integers(0, 0o7777))
    info.uid = draw(st.integers(0, 2**31))
    info.gid = draw(st.integers(0, 2**40))
    info.mtime = draw(st.one_of(st.integers(0, 2**34), st.integers(0, 2**33).map(lambda n: n / 4)))
    data = b""
    if info.type == tarfile.REGTYPE:
        data = draw(st.binary(max_size=2000))
        info.size = len(data)
    if info.type in {tarfile.SYMTYPE, tarfile.LNKTYPE}:
        info.linkname = draw(paths)
    if info.type in {tarfile.CHRTYPE, tarfile.BLKTYPE}:
        info.devmajor, info.devminor = draw(st.integers(0, 4095)), draw(st.integers(0, 2**20))
    return info, data


@settings(max_examples=60, deadline=None)
@given(
    st.lists(members(), max_size=5),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from([1 << 18, 512, 700, 1]),
)
def test_what_the_standard_library_writes_is_read(
    entries: list[tuple[tarfile.TarInfo, bytes]], form: int, chunk: int
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    got = parse(out.getvalue(), chunk)
    assert len(got) == len(entries)
    for (m, contents), (info, data) in zip(got, entries):
        want = info.name.encode() + (b"/" if info.type == tarfile.DIRTYPE else b"")
        assert m.name == want
        assert m.linkname == info.linkname.encode()
        assert m.kind == info.type
        assert (m.mode, m.uid, m.gid) == (info.mode, info.uid, info.gid)
        assert (m.major, m.minor) == (info.devmajor, info.devminor)
        fraction = form == tarfile.PAX_FORMAT
        assert m.mtime == Fraction(info.mtime if fraction else int(info.mtime)) * 10**9
        assert contents == data


SEEDS = t.tar(
    t.pax({b"path": b"p" * 120, b"mtime": b"1.5", b"SCHILY.xattr.user.a": b"b"}), t.file(b"x", b"data"),
    t.pax({b"comment": b"c"}, b"g"), t.gnu_long(b"n" * 150), t.directory(b"d"),
    t.gnu_long(b"l" * 150, b"K"), t.symlink(b"s", b"t"), t.device(b"c", b"3", 1, 2),
    t.pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"9"}),
    t.file(b"sp", t.pad(b"1\n4\n5\n") + b"12345"),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(SEEDS) - 1), st.integers(0, 255)), min_size=1, max_size=12),
    st.booleans(),
)
@example([(124, 0xFF)], True)
def test_damaged_streams_are_refused_or_read_never_worse(changes: list[tuple[int, int]], mend: bool) -> None:
    data = bytearray(SEEDS)
    for at, value in changes:
        data[at] = value
        if mend:  # with the checksum put right the damage gets through to the fields
            start = at - at % 512
            data[start : start + 512] = t.seal(bytes(data[start : start + 512]))
    try:
        for m, contents in parse(bytes(data)):
            assert len(contents) == m.size
            assert b"\0" not in m.name
            assert m.sparse is None or sum(n for _, n in m.sparse) == m.size
    except LayerError:
        pass


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000))
def test_random_bytes_are_refused(data: bytes) -> None:
    try:
        parse(data)
    except LayerError as e:
        assert "\n" not in str(e)
    else:
        assert not data.strip(b"\0")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_pax_headers_are_refused_or_read(data: bytes) -> None:
    try:
        records = parse_pax(data)
    except LayerError:
        return
    assert b"".join(t.pax_record(k, v) for k, v in records) == data or data.count(b"\0") or b"0" in data


def test_names_of_every_format() -> None:
    long = b"a" * 90 + b"/" + b"b" * 90
    cases = [
        (t.header(b"b" * 90, prefix=b"a" * 90), long),
        (t.pax({b"path": long}) + t.header(b"short"), long),
        (t.gnu_long(long) + t.header(b"short", magic=b"ustar  \0"), long),
        (t.header(b"v7", magic=bytes(8)), b"v7"),
        (t.header(b"v7", magic=bytes(8), tail=b"not a prefix"), b"v7"),
        (t.header(b"gnu", magic=b"ustar  \0", tail=b"01234567012"), b"gnu"),
        (
            t.header(
                b"star",
                tail=b"pre".ljust(131, b"\0") + b"01234567012 01234567012 ".ljust(32, b"\0") + b"tar\0",
            ),
            b"pre/star",
        ),
        (t.header(b"n" * 100), b"n" * 100),
        (t.pax({b"path": b""}) + t.header(b"kept"), b"kept"),
        (t.pax({b"path": b"\xff\xfe", b"hdrcharset": b"BINARY"}) + t.header(b"x"), b"\xff\xfe"),
    ]
    for data, name in cases:
        assert [m.name for m, _ in parse(t.tar(data))] == [name]


def test_global_headers_last_until_changed() -> None:
    data = t.tar(
        t.pax({b"uid": b"7", b"mtime": b"5", b"path": b"ignored", b"size": b"99", b"comment": b"git"}, b"g"),
        t.file(b"a", b"1"), t.pax({b"uid": b"8"}), t.file(b"b", b"2"), t.pax({b"uid": b""}, b"g"),
        t.file(b"c", uid=1),
    )  # fmt: skip
    assert [(m.name, m.uid, m.mtime, c) for m, c in parse(data)] == [
        (b"a", 7, 5 * 10**9, b"1"), (b"b", 8, 5 * 10**9, b"2"), (b"c", 1, 5 * 10**9, b""),
    ]  # fmt: skip


def test_old_and_odd_types() -> None:
    data = t.tar(
        t.header(b"regular", type=b"\0", size=1) + t.pad(b"x"), t.header(b"v7dir/", type=b"\0"),
        t.header(b"contiguous", type=b"7", size=1) + t.pad(b"y"),
        t.header(b"label", type=b"V", size=600) + bytes(1024),
        t.header(b"dump", type=b"D", size=3) + t.pad(b"Yx\0"),
        t.header(b"link", type=b"1", linkname=b"regular", size=999),
        t.header(b"dir", type=b"5", size=77), t.header(b"last", type=b"0"),
    )  # fmt: skip
    assert [(m.name, m.kind, m.size) for m, _ in parse(data)] == [
        (b"regular", b"0", 1), (b"v7dir/", b"5", 0), (b"contiguous", b"0", 1), (b"dump", b"5", 3),
        (b"link", b"1", 0), (b"dir", b"5", 0), (b"last", b"0", 0),
    ]  # fmt: skip


def test_checksums_of_signed_characters() -> None:
    """Some old writers added characters as signed numbers."""
    block = bytearray(t.header(b"caf\xe9"))
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 256 - 256)
    assert parse(t.tar(bytes(block)))[0][0].name == b"caf\xe9"
    with pytest.raises(LayerError, match="checksum"):
        parse(t.tar(bytes(block[:148] + b"0000001\0" + block[156:])))


@pytest.mark.parametrize(
    "form",
    [
        ["--format=gnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ],
)
def test_sparse_files_as_gnu_tar_writes_them(tmp_path: Path, form: list[str]) -> None:
    require("tar")
    regions = {
        "few": [(0, b"start"), (1 << 20, b"middle"), (3 << 20, b"x" * 70_000)],
        "many": [(i * 65_536, b"%d" % i) for i in range(60)],
        "hole-at-end": [(0, b"a" * 4096)],
        "empty": [],
    }
    source = tmp_path / "in"
    source.mkdir()
    for name, parts in regions.items():
        with open(source / name, "wb") as f:
            for offset, data in parts:
                f.seek(offset)
                f.write(data)
            f.truncate(5 << 20)
    out = subprocess.run(
        ["tar", "-c", "--sparse", *form, "-C", str(source), "."], stdout=subprocess.PIPE, check=True
    )
    assert len(out.stdout) < 4 << 20
    tree = build(tmp_path / "s", out.stdout)
    for name in regions:
        got = tree / "rootfs" / name
        assert got.read_bytes() == (source / name).read_bytes(), name
        assert got.stat().st_blocks * 512 < 3 << 20, f"{name} is not sparse"


def gnu_sparse(pairs: bytes, size: int, real: int, data: bytes, extended: int = 0) -> bytes:
    block = bytearray(t.header(b"s", type=b"S", size=size, magic=b"ustar  \0"))
    block[386 : 386 + len(pairs)] = pairs
    block[482] = extended
    block[483:495] = t.octal(real, 12)
    return t.seal(bytes(block)) + data


def pair(offset: int, size: int) -> bytes:
    return t.octal(offset, 12) + t.octal(size, 12)


@pytest.mark.parametrize(
    "entry",
    [
        gnu_sparse(pair(10, 5) + pair(12, 5), 10, 100, t.pad(b"x" * 10)),  # overlap
        gnu_sparse(pair(50, 5) + pair(10, 5), 10, 100, t.pad(b"x" * 10)),  # backwards
        gnu_sparse(pair(98, 5), 5, 100, t.pad(b"x" * 5)),  # beyond the end
        gnu_sparse(pair(0, 5), 6, 100, t.pad(b"x" * 6)),  # more data than map
        gnu_sparse(pair(0, 50), 5, 100, t.pad(b"x" * 5)),  # less
        gnu_sparse(pair(-5, 5), 5, 100, t.pad(b"x" * 5)),  # negative
        gnu_sparse(pair(0, 1), 1, 100, b"\xff" * 512, extended=1),
        t.pax({b"GNU.sparse.size": b"9", b"GNU.sparse.map": b"0,1,2"}) + t.file(b"s", b"x"),
        t.pax({b"GNU.sparse.size": b"9", b"GNU.sparse.map": b"0,x"}) + t.file(b"s", b"x"),
        t.pax({b"GNU.sparse.size": b"9", b"GNU.sparse.map": b"8,2"}) + t.file(b"s", b"xx"),
        t.pax([(b"GNU.sparse.size", b"9"), (b"GNU.sparse.numbytes", b"1")]) + t.file(b"s", b"x"),
        t.pax({b"GNU.sparse.major": b"2", b"GNU.sparse.minor": b"0"}) + t.file(b"s", b"x"),
        t.pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"}) + t.file(b"s", b"x"),
        t.pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"9"})
        + t.file(b"s", t.pad(b"1\n0\n9")),
        t.pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"9"})
        + t.file(b"s", t.pad(b"99999999\n0\n")),
        t.pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"9"})
        + t.file(b"s", t.pad(b"1\n-1\n9\n") + b"x" * 9),
    ],
)
def test_sparse_maps_that_lie(tmp_path: Path, entry: bytes) -> None:
    with pytest.raises(LayerError, match="sparse"):
        build(tmp_path / "s", t.tar(entry))


def test_an_archive_of_gnu_tar_with_everything(tmp_path: Path) -> None:
    require("tar")
    source = tmp_path / "in"
    (source / ("deep/" * 60)).mkdir(parents=True)
    (source / ("deep/" * 60) / "file").write_text("deep")
    (source / ("n" * 200)).write_text("long")
    os.symlink("t" * 200, source / "link")
    os.link(source / ("n" * 200), source / "hard")
    os.mkfifo(source / "fifo")
    for form in ("gnu", "posix", "ustar", "v7", "oldgnu"):
        names = (
            ["--exclude=deep", "--exclude=nn*", "--exclude=link", "--exclude=hard"]
            if form in {"ustar", "v7"}
            else []
        )
        names += ["--exclude=fifo"] if form == "v7" else []
        out = subprocess.run(
            ["tar", "-c", f"--format={form}", *names, "-C", str(source), "."],
            stdout=subprocess.PIPE,
            check=True,
        )
        tree = describe(build(tmp_path / form, out.stdout))
        assert form == "v7" or tree["fifo"][0] == "fifo"
        if not names:
            assert tree["deep/" * 60 + "file"][4] == b"deep"
            assert tree["link"][4] == b"t" * 200
            assert tree["hard"][4] == tree["n" * 200][4] == b"long"
