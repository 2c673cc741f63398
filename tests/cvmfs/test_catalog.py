"""Catalogs: every schema, everything an entry can be, and catalogs made to do harm."""

from __future__ import annotations

import os
import sqlite3
import stat
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvmfs_client import database
from cvmfs_client.catalog import Catalog
from cvmfs_client.database import Database
from cvmfs_client.entry import Chunk, pack_xattrs, unpack_xattrs
from cvmfs_client.errors import CatalogError, CvmfsError
from cvmfs_client.hash import RMD160, SHA1, SHAKE128, Hash
from tests.cvmfs.catalogmaker import Row, directory, key, make, row

IDENTITY = Hash(SHA1, b"\x22" * 20, "C")


def open_catalog(data: bytes, tmp_path: Path, mountpoint: bytes = b"") -> Catalog:
    place = tmp_path / "catalog.db"
    place.write_bytes(data)
    return Catalog(lambda: Database(str(place), "the catalog"), mountpoint, IDENTITY)


def names(catalog: Catalog, path: bytes = b"", **more: Any) -> list[bytes]:
    return sorted(e.name for e in catalog.entries(path, **more))


SCHEMAS = [
    ("0.9", 0),
    ("1.0", 0),
    ("2.0", 0),
    ("2.1", 0),
    ("2.4", 0),
    *(("2.5", r) for r in range(8)),
    ("2.5", 9),
]


@pytest.mark.parametrize(("schema", "revision"), SCHEMAS)
def test_every_schema(schema: str, revision: int, tmp_path: Path) -> None:
    rows = [
        directory(b""),
        directory(b"/d"),
        row(b"/d/f", hardlinks=3, mtimens=5, xattr=pack_xattrs({b"user.a": b"b"})),
        row(b"/l", 0o120777, symlink=b"d/f"),
    ]
    catalog = open_catalog(make(rows, schema=schema, revision=revision), tmp_path)
    number = float(schema)
    assert catalog.schema == pytest.approx(number)
    assert names(catalog) == [b"d", b"l"]
    entry = catalog.find(b"/d/f")
    assert entry is not None
    assert entry.is_file and entry.size == 5 and entry.mtime == 1_700_000_000 and entry.algorithm == SHA1
    assert (entry.uid, entry.gid) == ((7, 8) if number >= 2.1 else (0, 0))
    assert entry.nlink == (3 if number >= 2.1 else 1)
    assert entry.mtime_ns == (5 if number >= 2.5 and revision >= 7 else 0)
    assert unpack_xattrs(entry.xattrs) == ({b"user.a": b"b"} if number >= 2.5 and revision >= 2 else {})
    link = catalog.find(b"/l")
    assert link is not None and link.symlink == b"d/f" and link.is_link
    assert catalog.find(b"/none") is None
    assert catalog.statistics() == {}


@pytest.mark.parametrize("schema", ["2.6", "3.0", "0.8", "x", "nan", "inf"])
def test_unknown_schema(schema: str, tmp_path: Path) -> None:
    data = (
        make([directory(b"")], properties={"schema": schema})
        if schema != "2.6"
        else make([directory(b"")], schema="2.6")
    )
    with pytest.raises(CatalogError):
        open_catalog(data, tmp_path)


def test_flags(tmp_path: Path) -> None:
    rows = [
        directory(b""),
        row(b"/rmd", flags=4 | 1 << 8),
        row(b"/shake", flags=4 | 2 << 8 | 1 << 11),
        row(b"/future", flags=4 | 5 << 8 | 6 << 11 | 1 << 20),
        row(b"/external", flags=4 | 128),
        row(b"/direct", flags=4 | 1 << 16),
        directory(b"/hidden", flags=1 | 0x8000),
        directory(b"/nested", flags=3),
        directory(b"/bind", flags=1 | 0x4000),
        row(b"/fifo", stat.S_IFIFO | 0o600),
        row(b"/device", stat.S_IFCHR | 0o600, size=os.makedev(1, 3)),
        row(b"/group", hardlinks=5 << 32 | 2),
        row(b"/group2", hardlinks=5 << 32 | 2),
        row(b"/sticky", 0o101755, mtime=-5),
    ]
    catalog = open_catalog(make(rows), tmp_path)

    def entry(name: bytes) -> Any:
        return catalog.find(b"/" + name)

    assert entry(b"rmd").algorithm == RMD160
    assert (entry(b"shake").algorithm, entry(b"shake").compression) == (SHAKE128, 1)
    assert (
        entry(b"future").algorithm is None
        and entry(b"future").hash is None
        and entry(b"future").compression == 6
    )
    assert entry(b"external").is_external and entry(b"direct").direct_io
    assert entry(b"nested").is_mountpoint and entry(b"bind").is_mountpoint
    assert entry(b"hidden").is_hidden and b"hidden" not in names(catalog)
    assert b"hidden" in names(catalog, hidden=True)
    assert entry(b"fifo").is_special and not entry(b"fifo").is_file
    assert entry(b"device").rdev == os.makedev(1, 3)
    assert entry(b"group").ino == entry(b"group2").ino != entry(b"rmd").ino
    assert (entry(b"group").group, entry(b"group").nlink) == (5, 2)
    assert entry(b"sticky").mtime == -5


def test_names_are_bytes(tmp_path: Path) -> None:
    odd = [b"new\nline", b"\xff\xfe", "日本".encode(), b" ", b"-", b"\\", b"a" * 255]
    catalog = open_catalog(make([directory(b""), *(row(b"/" + n) for n in odd)]), tmp_path)
    assert names(catalog) == sorted(odd)


@pytest.mark.parametrize("name", [b"a/b", b"..", b".", b"", b"nul\0byte", b"a" * 256])
def test_bad_names_are_refused(name: bytes, tmp_path: Path) -> None:
    catalog = open_catalog(make([directory(b""), row(b"/x", name=name)]), tmp_path)
    with pytest.raises(CatalogError, match="name"):
        names(catalog)
    with pytest.raises(CatalogError):
        catalog.find(b"/x")


def test_an_entry_under_another_name(tmp_path: Path) -> None:
    catalog = open_catalog(make([directory(b""), row(b"/x", name=b"y")]), tmp_path)
    with pytest.raises(CatalogError, match="another name"):
        catalog.find(b"/x")


def test_a_name_twice_in_a_directory(tmp_path: Path) -> None:
    """Rows whose keys are not those of their path would let a link and a directory have one name."""
    twin = directory(b"/x")
    twin["md5path_2"] += 1
    catalog = open_catalog(make([directory(b""), row(b"/x", 0o120777, symlink=b"/etc"), twin]), tmp_path)
    with pytest.raises(CatalogError, match="not where its name says"):
        names(catalog)


@pytest.mark.parametrize(
    "columns",
    [
        {"flags": 0},
        {"flags": 13},
        {"size": -1},
        {"mtime": "text"},
        {"flags": None},
        {"size": 1.5},
        {"hash": 7},
        {"flags": 20},  # special, by its mode a regular file
        {"flags": 12, "symlink": b""},
        {"flags": 12, "symlink": b"a\0b"},
    ],
)
def test_impossible_rows(columns: dict[str, Any], tmp_path: Path) -> None:
    catalog = open_catalog(make([directory(b""), row(b"/x", **columns)]), tmp_path)
    with pytest.raises(CatalogError):
        names(catalog)


def test_the_flags_decide_about_the_type(tmp_path: Path) -> None:
    catalog = open_catalog(make([directory(b""), row(b"/x", 0o040755, flags=4)]), tmp_path)
    entry = catalog.find(b"/x")
    assert entry is not None and entry.is_file and stat.S_ISREG(entry.mode)


def chunked(*pieces: tuple[int, int], size: int = 30) -> tuple[list[Row], list[tuple[Any, ...]]]:
    rows = [directory(b""), row(b"/x", flags=4 | 64 | 1 << 8, size=size, hash=None)]
    return rows, [(*key(b"/x"), offset, length, b"\x33" * 20) for offset, length in pieces]


def test_chunks(tmp_path: Path) -> None:
    rows, chunks = chunked((20, 10), (0, 20))
    catalog = open_catalog(make(rows, chunks=chunks), tmp_path)
    entry = catalog.find(b"/x")
    assert entry is not None
    identity = Hash(RMD160, b"\x33" * 20, "P")
    assert catalog.chunks(b"/x", entry) == [Chunk(0, 20, identity), Chunk(20, 10, identity)]


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        ((0, 20),),
        ((0, 20), (21, 9)),
        ((0, 20), (19, 11)),
        ((0, 0), (0, 30)),
        ((0, -5), (-5, 35)),
        ((0, 40),),
        ((5, 25),),
    ],
)
def test_chunks_that_do_not_fit(pieces: Any, tmp_path: Path) -> None:
    rows, chunks = chunked(*pieces)
    catalog = open_catalog(make(rows, chunks=chunks), tmp_path)
    entry = catalog.find(b"/x")
    assert entry is not None
    with pytest.raises(CatalogError):
        catalog.chunks(b"/x", entry)


def test_nested_catalogs(tmp_path: Path) -> None:
    data = make(
        [directory(b"/a", flags=33), directory(b"/a/b", flags=3)],
        properties={"root_prefix": "/a"},
        nested=[("/a/b", "c" * 40 + "-shake128", 77)],
    )
    catalog = open_catalog(data, tmp_path, b"/a")
    found = catalog.nested()[b"/a/b"]
    assert found.hash == Hash(SHAKE128, b"\xcc" * 20, "C") and found.size == 77 and not found.bind


@pytest.mark.parametrize("path", ["/a", "", "/", "/b", "/a/../c", "/a//b", "/a/", "a/b", "/ab", "/a/b/."])
def test_nested_catalogs_outside_their_parent(path: str, tmp_path: Path) -> None:
    data = make([directory(b"/a", flags=33)], properties={"root_prefix": "/a"}, nested=[(path, "c" * 40, 1)])
    with pytest.raises(CatalogError, match="outside itself"):
        open_catalog(data, tmp_path, b"/a").nested()


@pytest.mark.parametrize("text", ["", "short", "c" * 40 + "-md5", 7, "c" * 32])
def test_nested_catalogs_with_bad_hashes(text: Any, tmp_path: Path) -> None:
    catalog = open_catalog(make([directory(b"")], nested=[("/a", text, 1)]), tmp_path)
    if text == "":
        assert catalog.nested()[b"/a"].hash is None
        return
    with pytest.raises(CatalogError):
        catalog.nested()


@pytest.mark.parametrize(
    ("mountpoint", "rows", "prefix"),
    [
        (b"/a", [directory(b"")], "/b"),  # made for another place
        (b"/a", [directory(b"/b")], "/a"),  # lacks its own root
        (b"", [row(b"", 0o100644)], ""),  # its root is a file
        (b"", [], ""),
    ],
)
def test_wrong_roots(mountpoint: bytes, rows: list[Row], prefix: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogError):
        open_catalog(make(rows, properties={"root_prefix": prefix}), tmp_path, mountpoint)


def test_bound_catalogs_strip_their_mountpoint(tmp_path: Path) -> None:
    data = make([directory(b""), row(b"/f")])
    catalog = open_catalog(data, tmp_path, b"/.cvmfs/snapshots/v1")
    root = catalog.find(b"/.cvmfs/snapshots/v1")
    assert root is not None and root.name == b"v1" and root.is_dir
    inside = catalog.find(b"/.cvmfs/snapshots/v1/f")
    assert inside is not None
    plain = open_catalog(data, tmp_path).find(b"/f")
    assert plain is not None and inside.ino != plain.ino


# --- schemas made to do harm


@pytest.mark.parametrize(
    "statements",
    [
        [
            "DROP TABLE nested_catalogs",
            "CREATE VIEW nested_catalogs AS SELECT 1 AS path, 2 AS sha1, 3 AS size",
        ],
        ["CREATE TRIGGER t AFTER INSERT ON catalog BEGIN DELETE FROM catalog; END"],
        ["CREATE VIRTUAL TABLE v USING fts5(a)"],
        ["ALTER TABLE catalog ADD COLUMN evil GENERATED ALWAYS AS (zeroblob(1000000000)) VIRTUAL"],
        ['CREATE TABLE "x; y" (a)'],
    ],
)
def test_schemas_with_more_than_tables(statements: list[str], tmp_path: Path) -> None:
    try:
        data = make([directory(b"")], sql=statements)
    except sqlite3.OperationalError as e:
        pytest.skip(f"this SQLite cannot make it: {e}")
    with pytest.raises(CatalogError, match="damaged or hostile"):
        open_catalog(data, tmp_path)


@pytest.mark.parametrize("drop", ["name", "flags", "md5path_1", "parent_2", "mode", "size", "mtime"])
def test_missing_columns(drop: str, tmp_path: Path) -> None:
    data = make([directory(b"")])
    db = tmp_path / "x.db"
    db.write_bytes(data)
    connection = sqlite3.connect(db)
    connection.execute("CREATE TABLE other AS SELECT * FROM catalog")
    connection.execute("DROP TABLE catalog")
    connection.execute(f"ALTER TABLE other RENAME COLUMN {drop} TO gone")
    connection.execute("ALTER TABLE other RENAME TO catalog")
    connection.commit()
    connection.close()
    with pytest.raises(CatalogError, match="lacks columns"):
        open_catalog(db.read_bytes(), tmp_path)


def test_without_rowid_and_without_index_still_reads(tmp_path: Path) -> None:
    data = make([directory(b""), row(b"/f")], sql=["DROP INDEX idx_catalog_parent"])
    assert names(open_catalog(data, tmp_path)) == [b"f"]


def test_a_huge_value_is_an_error(tmp_path: Path) -> None:
    data = make([directory(b""), row(b"/f", xattr=bytes(3 << 20))])
    with pytest.raises(CvmfsError):
        for entry in open_catalog(data, tmp_path).entries(b""):
            unpack_xattrs(entry.xattrs)


def test_endless_work_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an index each lookup reads the whole table: a bound on the work ends it."""
    monkeypatch.setattr(database, "_STEPS", 1000)
    monkeypatch.setattr(database, "_MAX_STEPS", 20_000)
    data = make(
        [directory(b""), *(row(b"/%d" % i) for i in range(10_000))], sql=["DROP INDEX idx_catalog_parent"]
    )
    catalog = open_catalog(data, tmp_path)
    with pytest.raises(CatalogError, match="interrupted"):
        names(catalog, b"/none")


def test_only_reading_is_allowed(tmp_path: Path) -> None:
    catalog = open_catalog(make([directory(b"")]), tmp_path)
    for statement in (
        "DELETE FROM catalog",
        "ATTACH ':memory:' AS other",
        "PRAGMA query_only=OFF",
        "SELECT load_extension('x')",
        "SELECT randomblob(10)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT i FROM n",
        "CREATE TABLE x (a)",
    ):
        with pytest.raises(CatalogError):
            catalog._db.rows(statement)


SAMPLE = make(
    [
        directory(b""),
        directory(b"/d"),
        *(row(b"/d/f%d" % i) for i in range(40)),
        row(b"/l", 0o120777, symlink=b"x"),
    ],
    nested=[("/d/n", "a" * 40, 9)],
    statistics={"self_regular": 40},
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_one_error(data: st.DataObject, tmp_path: Path) -> None:
    """Whatever bytes are changed or cut off, there is a result or a CatalogError, never anything else."""
    content = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    try:
        catalog = open_catalog(bytes(content), tmp_path)
        for path in (b"", b"/d"):
            for entry in catalog.entries(path):
                catalog.chunks(path + b"/" + entry.name, entry)
                unpack_xattrs(entry.xattrs)
        catalog.find(b"/d/f3")
        catalog.nested()
        catalog.statistics()
        catalog.count()
    except CatalogError:
        pass


def test_memory_of_huge_directories_is_bounded(tmp_path: Path) -> None:
    """A listing holds one batch at a time, not the directory."""
    import tracemalloc

    rows = [directory(b""), *(row(b"/a-rather-long-name-of-a-file-%07d" % i) for i in range(50_000))]
    catalog = open_catalog(make(rows), tmp_path)
    tracemalloc.start()
    count = sum(1 for _ in catalog.entries(b""))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 50_000
    assert peak < 3_000_000


def test_many_threads(tmp_path: Path) -> None:
    catalog = open_catalog(SAMPLE, tmp_path)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                assert len(names(catalog, b"/d")) == 40
                assert catalog.find(b"/d/f7") is not None
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_after_fork(tmp_path: Path) -> None:
    catalog = open_catalog(SAMPLE, tmp_path)
    listing = catalog.entries(b"/d")
    next(listing)
    with catalog._lock:  # as if another thread were in the middle of a query
        child = os.fork()
        if not child:
            os._exit(0 if len(names(catalog, b"/d")) == 40 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(names(catalog, b"/d")) == 40


# --- extended attributes


@given(st.dictionaries(st.binary(min_size=1, max_size=255), st.binary(max_size=255), max_size=255))
def test_xattrs_round_trip(xattrs: dict[bytes, bytes]) -> None:
    assert unpack_xattrs(pack_xattrs(xattrs)) == xattrs


@given(st.binary(max_size=200))
def test_arbitrary_xattr_blobs(blob: bytes) -> None:
    try:
        unpack_xattrs(blob)
    except CatalogError:
        pass


def test_truncated_xattrs() -> None:
    blob = pack_xattrs({b"user.a": b"value"})
    assert blob is not None
    for cut in range(1, len(blob)):
        with pytest.raises(CatalogError):
            unpack_xattrs(blob[:cut])
    assert struct.unpack("BB", blob[:2]) == (1, 1)
