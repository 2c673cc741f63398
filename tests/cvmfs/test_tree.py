"""Trees of catalogs: which one is asked, which are fetched, and trees that are not trees."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cvmfs_client.diff import compare
from cvmfs_client.errors import (
    CatalogError,
    ObjectNotFoundError,
    PathNotADirectoryError,
    PathNotFoundError,
    UnsupportedError,
)
from cvmfs_client.hash import Hash
from cvmfs_client.tree import CatalogTree
from tests.cvmfs.catalogmaker import DictStore, directory, key, make, row


class Sample:
    """/, /a (nested, with /a/b nested in it), /plain."""

    def __init__(self, top: Path, *, text: bytes = b"\x11" * 20) -> None:
        self.store = DictStore(top)
        self.inner = self.store.add(
            make(
                [directory(b"/a/b", flags=33), row(b"/a/b/f", hash=text)], properties={"root_prefix": "/a/b"}
            )
        )
        self.outer = self.store.add(
            make(
                [directory(b"/a", flags=33), directory(b"/a/b", flags=3), row(b"/a/x")],
                properties={"root_prefix": "/a"},
                nested=[("/a/b", str(self.inner), 0)],
            )
        )
        self.root = self.store.add(
            make(
                [directory(b""), directory(b"/a", flags=3), directory(b"/ab"), row(b"/ab/y"), row(b"/plain")],
                nested=[("/a", str(self.outer), 0)],
            )
        )

    def open(self) -> CatalogTree:
        return CatalogTree(self.store, "sw.example.org", self.root)  # type: ignore[arg-type]


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample(tmp_path)


def listing(tree: CatalogTree, path: bytes) -> list[bytes]:
    return sorted(e.name for e in tree.entries(path))


def test_lookup_and_listing(sample: Sample) -> None:
    tree = sample.open()
    assert listing(tree, b"") == [b"a", b"ab", b"plain"]
    assert listing(tree, b"/a") == [b"b", b"x"]
    assert listing(tree, b"/a/b") == [b"f"]
    assert tree.lookup(b"/a/b/f").is_file
    assert tree.lookup(b"/ab/y").is_file
    with pytest.raises(PathNotFoundError):
        tree.lookup(b"/a/b/none")
    with pytest.raises(PathNotADirectoryError):
        tree.lookup(b"/plain/x")


def test_transition_points_do_not_fetch(sample: Sample) -> None:
    """The parent's row answers stat; the nested catalog is fetched for what lies below."""
    tree = sample.open()
    assert tree.lookup(b"/a").is_mountpoint
    listing(tree, b"")
    assert sample.store.opened == [sample.root.name]
    listing(tree, b"/a")
    assert sample.store.opened == [sample.root.name, sample.outer.name]
    tree.lookup(b"/a/b")
    assert len(sample.store.opened) == 2
    tree.find(b"/a/b/none")
    assert sample.store.opened[2:] == [sample.inner.name]


def test_each_catalog_is_opened_once(sample: Sample) -> None:
    tree = sample.open()
    for _ in range(5):
        tree.lookup(b"/a/b/f")
    assert len(sample.store.opened) == 3


def test_many_threads_open_a_catalog_once(sample: Sample) -> None:
    tree = sample.open()
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(tree.lookup(b"/a/b/f"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(sample.store.opened) == 3


def test_few_catalogs_stay_open(sample: Sample) -> None:
    tree = CatalogTree(sample.store, "sw.example.org", sample.root, max_open=1)  # type: ignore[arg-type]
    tree.lookup(b"/a/b/f")
    assert len(tree.open_catalogs) == 2
    tree.lookup(b"/a/x")
    tree.lookup(b"/a/b/f")


def test_a_missing_nested_catalog_hurts_only_what_is_below(sample: Sample) -> None:
    sample.store.missing.add(sample.outer)
    tree = sample.open()
    assert listing(tree, b"") == [b"a", b"ab", b"plain"]
    assert tree.lookup(b"/a").is_dir
    for path in (b"/a/x", b"/a/b", b"/a/none"):
        with pytest.raises(ObjectNotFoundError) as caught:
            tree.lookup(path)
        assert caught.value.errno == 5  # not "no such file"
    with pytest.raises(ObjectNotFoundError):
        listing(tree, b"/a")


def test_catalogs_without_a_name_in_the_cache(sample: Sample) -> None:
    sample.store.named = False
    assert sample.open().lookup(b"/a/b/f").is_file


def test_bind_mountpoints(tmp_path: Path) -> None:
    sample = Sample(tmp_path)
    snapshots = sample.store.add(
        make(
            [
                directory(b"/.cvmfs", flags=0x8021),
                directory(b"/.cvmfs/snapshots"),
                directory(b"/.cvmfs/snapshots/v1", flags=0x4001),
            ],
            properties={"root_prefix": "/.cvmfs"},
            bind=[("/.cvmfs/snapshots/v1", str(sample.root), 0)],
        )
    )
    root = sample.store.add(
        make(
            [directory(b""), directory(b"/.cvmfs", flags=0x8003), row(b"/new")],
            nested=[("/.cvmfs", str(snapshots), 0)],
        )
    )
    tree = CatalogTree(sample.store, "sw.example.org", root)  # type: ignore[arg-type]
    assert listing(tree, b"") == [b"new"]
    assert listing(tree, b"/.cvmfs/snapshots") == [b"v1"]
    assert listing(tree, b"/.cvmfs/snapshots/v1") == [b"a", b"ab", b"plain"]
    assert tree.lookup(b"/.cvmfs/snapshots/v1/a/b/f").is_file
    assert tree.lookup(b"/.cvmfs/snapshots/v1").is_dir


def test_a_bound_catalog_must_be_a_root(tmp_path: Path) -> None:
    sample = Sample(tmp_path)
    root = sample.store.add(
        make([directory(b""), directory(b"/a", flags=0x4001)], bind=[("/a", str(sample.outer), 0)])
    )
    tree = CatalogTree(sample.store, "sw.example.org", root)  # type: ignore[arg-type]
    with pytest.raises(CatalogError, match="not the root of a revision"):
        listing(tree, b"/a")


def test_the_wrong_catalog_at_a_mountpoint(tmp_path: Path) -> None:
    sample = Sample(tmp_path)
    root = sample.store.add(
        make([directory(b""), directory(b"/z", flags=3)], nested=[("/z", str(sample.outer), 0)])
    )
    tree = CatalogTree(sample.store, "sw.example.org", root)  # type: ignore[arg-type]
    with pytest.raises(CatalogError, match="made for /a"):
        listing(tree, b"/z")


def test_a_catalog_inside_itself_ends(tmp_path: Path) -> None:
    """A root may be bound below itself many times; each path is finite and nothing recurses."""
    store = DictStore(tmp_path)
    below = store.add(make([directory(b"")]))
    for _ in range(30):
        below = store.add(
            make([directory(b""), directory(b"/x", flags=0x4001)], bind=[("/x", str(below), 0)])
        )
    tree = CatalogTree(store, "sw.example.org", below, max_open=4)  # type: ignore[arg-type]
    assert tree.lookup(b"/x" * 30).is_dir
    with pytest.raises(PathNotFoundError):
        tree.lookup(b"/x" * 31)
    with pytest.raises(PathNotFoundError):
        tree.lookup(b"/x" * 10_000)


def test_schema_without_hashes_of_nested_catalogs(tmp_path: Path) -> None:
    store = DictStore(tmp_path)
    root = store.add(make([directory(b""), directory(b"/a", flags=3)], schema="0.9", nested=[("/a",)]))
    tree = CatalogTree(store, "sw.example.org", root)  # type: ignore[arg-type]
    assert listing(tree, b"") == [b"a"]
    with pytest.raises(UnsupportedError):
        listing(tree, b"/a")


def test_requests(tmp_path: Path) -> None:
    store = DictStore(tmp_path)
    chunks = [(*key(b"/c"), at, 10, bytes((at,)) * 20) for at in (0, 10)]
    root = store.add(
        make(
            [
                directory(b""),
                row(b"/f"),
                row(b"/plain", flags=4 | 1 << 11),
                row(b"/c", flags=4 | 64, size=20, hash=None),
                row(b"/e", flags=4 | 128 | 64 | 1 << 11, size=0),
                row(b"/x", flags=4 | 128 | 1 << 11),
                row(b"/future", flags=4 | 3 << 11),
                row(b"/nohash", hash=None),
                row(b"/short", hash=b"123"),
            ],
            chunks=chunks,
            properties={"volatile": "1"},
        )
    )
    tree = CatalogTree(store, "sw.example.org", root)  # type: ignore[arg-type]

    def of(path: bytes) -> list[object]:
        return list(tree.requests(path, tree.lookup(path)))

    (plain,) = of(b"/plain")
    assert (plain.compressed, plain.size, plain.volatile) == (False, 5, True)  # type: ignore[attr-defined]
    assert [(r.hash.suffix, r.size) for r in of(b"/c")] == [("P", 10), ("P", 10)]  # type: ignore[attr-defined]
    assert of(b"/e") == []
    (external,) = of(b"/x")
    assert external.external == (b"/x", 0, 5, True)  # type: ignore[attr-defined]
    assert of(b"") == []
    with pytest.raises(UnsupportedError):
        of(b"/future")
    for path in (b"/nohash", b"/short"):
        with pytest.raises(CatalogError, match="content hash"):
            of(path)


def test_differences_skip_equal_catalogs(tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    sample = Sample(tmp_path / "o")
    changed = sample.store.add(
        make(
            [
                directory(b""),
                directory(b"/a", flags=3),
                row(b"/ab"),
                row(b"/plain", mode=0o100755, hash=b"\x44" * 20),
                directory(b"/new"),
                row(b"/new/f"),
            ],
            nested=[("/a", str(sample.outer), 0)],
        )
    )
    old, new = sample.open(), CatalogTree(sample.store, "sw.example.org", changed)  # type: ignore[arg-type]
    sample.store.opened.clear()
    found = [(c.kind, c.path, c.what) for c in compare(old, new)]
    assert found == [
        ("removed", b"/ab/y", ()),
        ("removed", b"/ab", ()),
        ("added", b"/ab", ()),
        ("added", b"/new", ()),
        ("added", b"/new/f", ()),
        ("modified", b"/plain", ("content", "mode")),
    ]
    assert sample.store.opened == []  # the nested catalogs are the same: not even opened
    assert list(compare(old, old)) == []


def test_root_hash_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError):
        CatalogTree(DictStore(tmp_path), "sw.example.org", Hash.parse("0" * 40))  # type: ignore[arg-type]
