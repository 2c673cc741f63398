"""A tree that a power failure may have robbed of data is made anew, others are not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.store.support import add_image
from udk.base import jsonlite, process
from udk.oci.reference import Reference
from udk.store import Store, settle


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "s"))


def mark(store: Store, key: str, **changes: object) -> Path:
    path = Path(store.path, "trees", key, "unsettled")
    own = process.own_identity()
    data = {"host": own["host"], "boot": own["boot"], "time": time.time(), **changes}
    path.write_text(jsonlite.dumps(data))
    return path


def found(store: Store) -> bool:
    return store.find(Reference.parse("a:1")) is not None


def test_new_tree_is_marked_and_used(store: Store) -> None:
    image = add_image(store, "a:1")
    assert Path(store.path, "trees", image.tree, "unsettled").exists()
    assert found(store)


def test_after_a_crash_of_this_host_it_is_in_doubt(store: Store) -> None:
    image = add_image(store, "a:1")
    mark(store, image.tree, boot="another")
    assert not found(store)
    assert not any(p.serious for p in store.fsck())
    add_image(store, "a:1")  # publishing replaces it
    assert found(store)


def test_what_another_host_made_is_not_in_doubt(store: Store) -> None:
    image = add_image(store, "a:1")
    mark(store, image.tree, host="other", boot="another")
    assert found(store)


def test_mark_that_was_lost_in_the_crash(store: Store) -> None:
    image = add_image(store, "a:1")
    mark(store, image.tree).write_text("")
    assert not found(store)


def test_settles_after_a_while_with_one_flush(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [add_image(store, f"a:{n}", {"f": str(n)}).tree for n in range(3)]
    flushed: list[str] = []
    monkeypatch.setattr(settle, "_sync", lambda path: flushed.append(path) or True)  # type: ignore[func-returns-value]
    store.gc()
    assert flushed == []  # too young: the kernel is still at it
    for key in keys[:2]:
        mark(store, key, time=time.time() - 100)
    store.gc()
    assert flushed == [f"{store.path}/trees"]
    left = [k for k in keys if os.path.exists(f"{store.path}/trees/{k}/unsettled")]
    assert left == keys[2:]


def test_flush_that_fails_settles_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    image = add_image(store, "a:1")
    path = mark(store, image.tree, time=0)
    monkeypatch.setattr(settle, "_sync", lambda path: False)
    assert settle.settle(store.path) == 0
    assert path.exists()


def test_the_real_flush_works(store: Store) -> None:
    image = add_image(store, "a:1")
    path = mark(store, image.tree, time=0)
    assert settle.settle(store.path) == 1
    assert not path.exists()
    assert found(store)
