"""The record's file format, and the log it is made from."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udk.layers.log import RECORDED, TreeLog, pack, unpack
from udk.layers.paths import PathSet
from udk.layers.record import RecordEntry, RecordReader, RecordWriter, decode_xattrs, encode_xattrs

if TYPE_CHECKING:
    from pathlib import Path

ENTRIES = [
    RecordEntry(b"", 0o40755, 1, 2),
    RecordEntry(b"bin/su", 0o104755, 0, 0),
    RecordEntry(b"dev", 0o40700, 3, 4, 0, 0, encode_xattrs({b"user.b": b"2", b"user.a": b"\0" * 300})),
    RecordEntry(b"dev!", 0o100644, 5, 5),
    RecordEntry(b"dev/null", 0o20666, 0, 0, 1, 3),
    RecordEntry(b"dev/sda", 0o60660, 0, 6, 8, 0),
    RecordEntry(b"\xff", 0o100000, 0xFFFFFFFE, 7),
]


def write(path: Path, entries: list[RecordEntry]) -> str:
    writer = RecordWriter(str(path))
    for e in entries:
        writer.add(e.path, e.mode, e.uid, e.gid, e.major, e.minor, e.raw_xattrs)
    writer.close()
    return str(path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with RecordReader(write(tmp_path / "record", ENTRIES)) as record:
        assert len(record) == 7
        assert list(record) == ENTRIES
        for e in ENTRIES:
            assert record.get(e.path) == e
        assert record.get("dev/null") == ENTRIES[4]
        assert record.get(b"dev/nul") is None
        assert record.get(b"zzz") is None
        assert [e.path for e in record.below(b"dev")] == [b"dev/null", b"dev/sda"]
        assert [e.path for e in record.below("")] == [e.path for e in ENTRIES[1:]]
        assert record.get(b"dev").xattrs == {b"user.a": b"\0" * 300, b"user.b": b"2"}  # type: ignore[union-attr]


def test_the_bytes_of_the_format(tmp_path: Path) -> None:
    """Byte for byte as docs/architecture.md has it: other programs read it too."""
    data = open(
        write(
            tmp_path / "record", [ENTRIES[4], RecordEntry(b"x", 1, 2, 3, 4, 5, encode_xattrs({b"n": b"val"}))]
        ),
        "rb",
    ).read()
    magic, count, reserved, entries, strings = struct.unpack_from("<8sIIQQ", data)
    assert (magic, count, reserved) == (b"UDKREC\0\1", 2, 0)
    one = struct.unpack_from("<QIIIIIIQII", data, entries)
    two = struct.unpack_from("<QIIIIIIQII", data, entries + 48)
    assert one[1:7] == (8, 0o20666, 0, 0, 1, 3)
    assert one[8:] == (0, 0)
    assert data[strings + one[0] :][:8] == b"dev/null"
    assert two[1:7] == (1, 1, 2, 3, 4, 5)
    assert data[strings + two[7] :][: two[8]] == struct.pack("<HI", 1, 3) + b"nval"
    assert len(data) == entries + 2 * 48


def test_an_empty_record(tmp_path: Path) -> None:
    with RecordReader(write(tmp_path / "record", [])) as record:
        assert len(record) == 0
        assert record.get(b"") is None
        assert list(record.below(b"x")) == []


def test_entries_out_of_order(tmp_path: Path) -> None:
    writer = RecordWriter(str(tmp_path / "record"))
    writer.add(b"b", 0, 0, 0)
    for path in (b"a", b"b"):
        with pytest.raises(ValueError, match="out of order"):
            writer.add(path, 0, 0, 0)
    writer.abort()


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"x" * 100])
def test_what_is_no_record(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "record").write_bytes(damage)
    with pytest.raises(ValueError, match="not a record"):
        RecordReader(str(tmp_path / "record"))


def test_a_record_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "record", ENTRIES)
    data = open(path, "rb").read()
    for size in range(0, len(data), 7):
        with open(path, "wb") as f:
            f.write(data[:size])
        with pytest.raises(ValueError, match="not a record"):
            RecordReader(path)


def test_a_writer_that_died_leaves_no_record(tmp_path: Path) -> None:
    writer = RecordWriter(str(tmp_path / "record"))
    writer.add(b"b", 0, 0, 0)
    writer.abort()
    assert os.listdir(tmp_path) == ["record"]
    with pytest.raises(ValueError, match="not a record"):
        RecordReader(str(tmp_path / "record"))


def test_damaged_attributes() -> None:
    raw = encode_xattrs({b"user.a": b"1"})
    assert decode_xattrs(raw) == {b"user.a": b"1"}
    for cut in (1, 5, len(raw) - 1):
        with pytest.raises(ValueError, match="damaged"):
            decode_xattrs(raw[:cut])


def test_reading_a_record_imports_next_to_nothing() -> None:
    """It is on the path of every run."""
    code = "import sys; old = set(sys.modules); import udk.layers.record; print(*set(sys.modules) - old)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # site may have loaded some of these already
    assert set(out.stdout.split()) <= {
        "udk",
        "udk.layers",
        "udk.layers.record",
        "mmap",
        "struct",
        "_struct",
        "__future__",
    }


values = st.one_of(st.none(), st.binary(max_size=40))
keys = st.lists(st.sampled_from([b"a", b"b", b"/", b"!"]), max_size=4).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(keys, values), max_size=200), st.sampled_from([1 << 20, 2000, 0]))
def test_a_log_is_a_map_however_little_memory_it_has(
    changes: list[tuple[bytes, bytes | None]], budget: int
) -> None:
    log = TreeLog("/tmp", budget)
    model: dict[bytes, bytes] = {}
    for key, value in changes:
        if value is None:
            log.discard(key)
            model.pop(key, None)
        elif value:
            log.put(key, value)
            model[key] = value
        assert log.get(key) == model.get(key)
    for key in {k for k, _ in changes}:
        assert log.get(key) == model.get(key)
    assert list(log.items()) == sorted(model.items())
    log.close()


def test_a_log_leaves_no_files(tmp_path: Path) -> None:
    log = TreeLog(str(tmp_path), 1000)
    for i in range(1000):
        log.put(b"%d" % (i * 7919 % 1000), pack(RECORDED, i, 0, 0, 0, 0, 0, b""))
    assert os.listdir(tmp_path) == []
    assert [int(k) for k, _ in log.items()] == sorted(range(1000), key=lambda n: b"%d" % n)
    assert unpack(log.get(b"5") or b"")[0] == RECORDED
    log.close()


def test_a_set_of_paths() -> None:
    paths = PathSet()
    for i in range(20_000):
        paths.add(b"%d" % i)
        paths.add(b"%d" % i)
    assert len(paths) == 20_000
    assert all(b"%d" % i in paths for i in range(20_000))
    assert not any(b"x%d" % i in paths for i in range(20_000))
