"""Checking and repair: every kind of damage is found, named, and moved out of the way on request only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.store.support import add_image, snapshot
from udk.layers.index import has_index
from udk.oci.reference import Reference
from udk.store import Store, StoredImage


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "s"))


def overwrite(path: str | Path, data: str) -> None:
    path = Path(path)
    path.chmod(0o600)
    path.write_text(data)


def layer_of(store: Store, image: StoredImage) -> str:
    return str(store.manifest(image)["layers"][0]["digest"])


def tree_of(store: Store, image: StoredImage) -> Path:
    return Path(store.path, "trees", image.tree)


Damage = Callable[[Store, StoredImage], object]
DAMAGES: dict[str, tuple[Damage, str, bool]] = {
    # name: (what is done, what is said, whether the image is still usable after repair)
    "blob": (
        lambda s, i: overwrite(s.blob_path(layer_of(s, i)), "rot"), "its content has the digest", False
    ),
    "config": (lambda s, i: Path(s.blob_path(i.config_digest)).unlink(), "which is missing", False),
    "stray": (lambda s, i: Path(s.path, "oci/blobs/sha256/xyz").touch(), "not a digest", True),
    "algorithm": (lambda s, i: Path(s.path, "oci/blobs/md5").mkdir(), "not a digest algorithm", True),
    "reference": (lambda s, i: overwrite(i.path, "{"), "not a reference", False),
    "tree.json": (lambda s, i: (tree_of(s, i) / "tree.json").unlink(), "not complete", False),
    "tree.json content": (lambda s, i: overwrite(tree_of(s, i) / "tree.json", "{}"), "damaged", False),
    "record": (lambda s, i: overwrite(tree_of(s, i) / "record", "x"), "record", False),
    "file gone": (lambda s, i: (tree_of(s, i) / "rootfs/hello").unlink(), "entries", False),
    "file too many": (lambda s, i: (tree_of(s, i) / "rootfs/extra").touch(), "entries", False),
    "file written to": (
        lambda s, i: overwrite(tree_of(s, i) / "rootfs/hello", "WORLD"), "hello: not as when", False
    ),
    "mode": (lambda s, i: (tree_of(s, i) / "rootfs/dir/f").chmod(0o600), "f: not as when it was made", False),
    "key": (
        lambda s, i: tree_of(s, i).rename(Path(s.path, "trees", "0" * 64 + "-1")), "says it is", False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_repaired(store: Store, name: str) -> None:
    damage, said, usable = DAMAGES[name]
    image = add_image(store, "a:1", {"hello": "world", "dir/f": "x"})
    other = add_image(store, "b:1", {"other": "image"})
    assert store.fsck() == []
    damage(store, image)
    before = snapshot(Path(store.path))
    found = [p for p in store.fsck() if p.serious]
    assert found, "nothing was noticed"
    assert any(said in str(p) for p in found), [str(p) for p in found]
    assert not any(p.repaired for p in found)
    assert snapshot(Path(store.path)) == before  # looking changes nothing
    repaired = store.fsck(repair=True)
    assert all(p.repaired for p in repaired if p.serious)
    assert [str(p) for p in store.fsck() if p.serious] == []
    assert os.listdir(f"{store.path}/trash")
    assert (store.find(Reference.parse("a:1")) is not None) == usable
    assert store.find(Reference.parse("b:1")) is not None
    with store.use(other):
        pass
    store.gc()
    assert os.listdir(f"{store.path}/trash")  # kept for a week


def test_damaged_container_is_named_and_left_alone(store: Store) -> None:
    record = Path(store.path, "containers", "c", "container.json")
    record.parent.mkdir()
    record.write_text("{")
    (found,) = store.fsck(repair=True)
    assert found.serious
    assert not found.repaired
    assert record.exists()


def test_index_is_a_view_and_made_again(store: Store) -> None:
    add_image(store, "a:1")
    index = Path(store.path, "oci/index.json")
    good = index.read_bytes()
    index.write_text("{}")
    (found,) = store.fsck()
    assert not found.serious
    store.fsck(repair=True)
    assert index.read_bytes() == good
    index.unlink()
    store.fsck(repair=True)
    assert index.read_bytes() == good


def test_a_tree_without_its_own_index_gets_it(store: Store) -> None:
    tree = tree_of(store, add_image(store, "a:1"))
    other = tree_of(store, add_image(store, "b:1", {"other": "image"}))
    for others in (False, True):
        (tree / "index").unlink()
        if others:
            shutil.copy(other / "index", tree / "index")
        (found,) = store.fsck()
        assert not found.serious and "index" in str(found)
        (found,) = store.fsck(repair=True)
        assert found.repaired and store.fsck() == [] and has_index(str(tree))


def test_what_only_the_kernel_says_may_change(store: Store) -> None:
    tree = tree_of(store, add_image(store, "a:1"))
    file = next(path for path in (tree / "rootfs").iterdir() if path.is_file())
    os.link(file, f"{store.path}/another-name")
    assert not any(p.serious for p in store.fsck()) and store.fsck(repair=True) and not store.fsck()


def test_leftovers_are_mentioned_and_not_serious(store: Store) -> None:
    Path(store.path, "staging", "tree.dead").mkdir()
    partial = Path(store.path, "ingest", "sha256-" + "a" * 64)
    partial.mkdir()
    (partial / "data").write_bytes(b"x" * 123)
    found = store.fsck()
    assert not any(p.serious for p in found)
    assert any("123 bytes so far" in str(p) for p in found)
    assert any("staging" in str(p) for p in found)


def test_missing_tree_is_not_damage(store: Store) -> None:
    image = add_image(store, "a:1")
    store.discard(str(tree_of(store, image)))
    (found,) = store.fsck()
    assert not found.serious
    assert "makes it anew" in str(found)


def test_without_hashes_only_the_listing_is_read(store: Store) -> None:
    image = add_image(store, "a:1")
    path = store.blob_path(layer_of(store, image))
    size = os.stat(path).st_size
    overwrite(path, "x" * size)
    assert store.fsck(hashes=False) == []
    assert store.fsck() != []


def test_hostile_names_stay_on_one_line(store: Store) -> None:
    Path(store.path, "oci/blobs/sha256/a\x1b[2J\nb").touch()
    (found,) = store.fsck()
    assert str(found).isprintable()


def test_df_counts_every_category_once(store: Store) -> None:
    add_image(store, "a:1", {"big": "x" * 100_000})
    gone = add_image(store, "b:1", {"big": "y" * 50_000})
    store.remove_ref(gone)
    partial = Path(store.path, "ingest", "sha256-" + "a" * 64)
    partial.mkdir()
    (partial / "data").write_bytes(b"x" * 20_000)
    lines = {u.category: u for u in store.df()}
    assert lines["trees"].count == 2
    assert lines["blobs"].count == 6
    assert 50_000 <= lines["trees"].reclaimable < 80_000
    assert lines["ingest"].bytes >= 20_000
    total = sum(u.bytes for u in lines.values())
    du = int(subprocess.check_output(["du", "-s", "-B1", store.path]).split()[0])
    assert abs(total - du) <= 4096 * 12  # du counts the directories above too
