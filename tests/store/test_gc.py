"""Collection: nothing needed goes, everything else does, whoever is killed or comes in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

import pytest

from tests.store.support import add_image, snapshot
from tests.support.images import sha256
from udk.base import jsonlite
from udk.base.process import own_identity
from udk.errors import InUseError, StoreError
from udk.oci.reference import Reference
from udk.store import Store, StoredImage, leases
from udk.store.gc import Collector

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "s"))


def dead_lease(store: Store, kind: str, target: str, **extra: object) -> Path:
    """A lease of a process that has ended."""
    path = Path(store.path, "leases", f"{kind}-{target}-dead")
    data = {**own_identity(), "pid": 2**22 - 1, "start": 1, "kind": kind, "target": target, **extra}
    path.write_text(jsonlite.dumps(data))
    return path


def kinds(store: Store, **options: object) -> list[str]:
    return sorted(category for category, _, _ in store.gc(**options).removed)  # type: ignore[arg-type]


def is_whole(store: Store, image: Optional[StoredImage]) -> bool:
    return image is not None and store.has_tree(image.tree) and not [p for p in store.fsck() if p.serious]


def test_removed_image_goes_and_shared_parts_stay(store: Store) -> None:
    empty = snapshot(Path(store.path))
    kept = add_image(store, "a:1", {"x": "1"})
    gone = add_image(store, "b:1", {"x": "2"})
    alias = store.set_ref(Reference.parse("c:1"), kept)
    assert kinds(store) == []
    store.remove_ref(gone)
    found = store.gc()
    assert sorted(c for c, _, _ in found.removed) == ["blob", "blob", "blob", "tree"]
    assert found.freed > 0
    assert not store.has_tree(gone.tree)
    store.remove_ref(kept)
    assert kinds(store) == []
    assert is_whole(store, store.find(Reference.parse("c:1")))
    store.remove_ref(alias)
    assert len(kinds(store)) == 4
    assert snapshot(Path(store.path)) == empty


def test_dry_run_changes_nothing(store: Store) -> None:
    store.remove_ref(add_image(store, "a:1"))
    dead_lease(store, "pull", "x")
    before = snapshot(Path(store.path))
    assert sorted(kinds(store, dry_run=True)) == ["blob", "blob", "blob", "lease", "tree"]
    assert snapshot(Path(store.path)) == before
    assert len(os.listdir(f"{store.path}/leases")) == 1


def test_grace_spares_what_is_young(store: Store) -> None:
    store.remove_ref(add_image(store, "a:1"))
    assert kinds(store, grace=3600) == []
    assert len(kinds(store)) == 4


def test_leased_tree_stays_until_the_lease_goes(store: Store) -> None:
    image = add_image(store, "a:1")
    lease = store.use(image)
    store.remove_ref(image)
    assert kinds(store) == ["blob"] * 3
    assert store.has_tree(image.tree)
    lease.release()
    assert kinds(store) == ["tree"]


def test_lease_of_a_killed_process_does_not_hold(store: Store) -> None:
    image = add_image(store, "a:1")
    code = (
        "import sys,time; from udk.store import Store; s = Store.open(sys.argv[1]);"
        "lease = s.use(s.images()[0]); print(flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, store.path], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    child.stdout.readline()
    store.remove_ref(image)
    child.send_signal(signal.SIGSTOP)
    assert "tree" not in kinds(store)  # stopped is alive
    child.kill()
    child.communicate()
    assert kinds(store) == ["lease", "tree"]


def test_lease_from_another_host_holds_for_its_time(store: Store) -> None:
    image = add_image(store, "a:1")
    path = dead_lease(store, "tree", image.tree, host="elsewhere")
    store.remove_ref(image)
    assert kinds(store) == ["blob"] * 3
    old = time.time() - 31 * 86400
    os.utime(path, (old, old))
    assert kinds(store) == ["lease", "tree"]


def test_pull_holds_the_blobs_it_names(store: Store) -> None:
    image = add_image(store, "a:1")
    store.remove_ref(image)
    blobs = [image.digest, image.config_digest]
    with store.lease("pull", "x", {"blobs": blobs}):
        assert kinds(store) == ["tree"]  # the manifest names the layer
    assert kinds(store) == ["blob"] * 3


def test_container_holds_what_its_record_names(store: Store) -> None:
    image = add_image(store, "a:1")
    store.remove_ref(image)
    record = Path(store.path, "containers", "c1", "container.json")
    record.parent.mkdir()
    record.write_text(json.dumps({"tree": image.tree, "image": {"digest": image.digest}}))
    assert kinds(store) == []
    record.unlink()
    assert len(kinds(store)) == 4


def test_unreadable_reference_stops_the_collection(store: Store) -> None:
    image = add_image(store, "a:1")
    store.remove_ref(add_image(store, "b:1", {"x": "2"}))
    Path(image.path).write_text("damaged")
    with pytest.raises(StoreError, match="fsck --repair"):
        store.gc()
    assert store.has_tree(image.tree)


def test_staging_of_the_dead_goes_and_of_the_living_stays(store: Store) -> None:
    living, lease = store.staging("tree")
    orphan = Path(store.path, "staging", "tree.dead")
    orphan.mkdir()
    (orphan / "rootfs").mkdir(mode=0)
    part, old_part = Path(store.path, "staging", ".f.1"), Path(store.path, "staging", ".f.2")
    part.touch()
    old_part.touch()
    found = Collector(store)
    real = found._entries
    found._entries = lambda d: (  # type: ignore[method-assign]
        (n, p, 7200.0 if n == ".f.2" else a) for n, p, a in real(d)
    )
    found.run()
    assert sorted(os.listdir(f"{store.path}/staging")) == sorted([".f.1", os.path.basename(living)])
    lease.release()


def test_partials_are_kept_for_resumption_but_not_for_ever(store: Store) -> None:
    path = Path(store.path, "ingest", "sha256-" + "a" * 64)
    path.mkdir()
    (path / "data").write_bytes(b"x" * 1000)
    assert kinds(store) == []
    assert kinds(store, partial_seconds=0) == ["ingest"]
    assert os.listdir(f"{store.path}/ingest") == []


def test_partial_that_someone_writes_stays(store: Store) -> None:
    from udk.base.locks import Lock

    path = Path(store.path, "ingest", "sha256-" + "a" * 64)
    path.mkdir()
    with Lock(str(path / "lock")):
        assert kinds(store, partial_seconds=0) == []
        assert path.exists()


def test_partial_of_a_blob_that_is_there_goes(store: Store) -> None:
    data = b"blob"
    store.put_blob(sha256(data), data)
    path = Path(store.path, "ingest", sha256(data).replace(":", "-"))
    path.mkdir()
    with store.lease("pull", "x", {"blobs": [sha256(data)]}):
        assert kinds(store) == ["ingest"]


def test_trash_keeps_what_repair_put_there(store: Store) -> None:
    from udk.store.trash import to_trash

    for name, keep in (("now", 0.0), ("week", 7 * 86400.0)):
        Path(store.path, "staging", name).mkdir()
        to_trash(store.path, f"{store.path}/staging/{name}", keep)
    assert kinds(store) == ["trash"]
    assert [n.rpartition("-")[2] for n in os.listdir(f"{store.path}/trash")] == ["week"]


class TestRaces:
    """Things that happen between two steps of the collector."""

    def test_staging_made_while_the_collector_looks(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = []
        real = leases.all_leases

        def all_leases(root: str, prefix: str = "") -> list[object]:
            found = list(real(root, prefix))
            if not made:
                made.append(store.staging("tree"))  # after its leases were read
            return found  # type: ignore[return-value]

        monkeypatch.setattr(leases, "all_leases", all_leases)
        store.sweep()
        assert os.path.isdir(made[0][0])
        made[0][1].release()

    def test_tree_taken_into_use_before_the_mark(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        image = add_image(store, "a:1")
        store.remove_ref(image)
        held = []
        real = leases.mark_path

        def mark_path(root: str, key: str) -> str:
            monkeypatch.setattr(leases, "mark_path", real)
            held.append(store.use(image))
            return real(root, key)

        monkeypatch.setattr(leases, "mark_path", mark_path)
        assert "tree" not in kinds(store)
        assert store.has_tree(image.tree)
        assert not os.path.exists(real(store.path, image.tree))
        held[0].release()

    def test_tree_wanted_after_the_mark_waits_and_learns_that_it_has_gone(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import threading

        import udk.store.gc

        image = add_image(store, "a:1")
        store.remove_ref(image)
        results: list[object] = []
        threads: list[threading.Thread] = []
        real = udk.store.gc.find_roots

        def user() -> None:
            try:
                results.append(store.use(image))
            except InUseError as e:
                results.append(e)

        def find_roots(*args: float) -> object:
            found = real(*args)  # type: ignore[arg-type]
            if os.path.exists(leases.mark_path(store.path, image.tree)) and not threads:
                threads.append(threading.Thread(target=user))  # comes when the roots are read already
                threads[0].start()
                time.sleep(0.3)
                assert results == []  # it waits for the collector's decision
            return found

        monkeypatch.setattr(udk.store.gc, "find_roots", find_roots)
        assert "tree" in kinds(store)
        threads[0].join()
        assert isinstance(results[0], InUseError)

    def test_mark_of_a_killed_collector_keeps_nobody_waiting(self, store: Store) -> None:
        image = add_image(store, "a:1")
        data = {**own_identity(), "pid": 2**22 - 1, "start": 1, "kind": "condemn", "target": image.tree}
        mark = Path(leases.mark_path(store.path, image.tree))
        mark.write_text(jsonlite.dumps(data))
        start = time.monotonic()
        store.use(image).release()
        assert time.monotonic() - start < 5
        assert kinds(store) == ["lease"]
        assert not mark.exists()

    def test_blob_that_comes_to_be_needed_is_put_back(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import udk.store.gc

        image = add_image(store, "a:1")
        path = image.path
        ref = Path(path).read_text()
        store.remove_ref(image)
        calls = []
        real = udk.store.gc.find_roots

        def find_roots(*args: float) -> object:
            calls.append(1)
            if len(calls) == 3:  # after the trees and the move of the blobs
                assert not store.has_blob(image.config_digest)
                Path(path).parent.mkdir(parents=True)
                Path(path).write_text(ref)
            return real(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(udk.store.gc, "find_roots", find_roots)
        assert kinds(store) == ["tree"]
        assert all(store.has_blob(d) for d in (image.digest, image.config_digest))
        assert os.listdir(f"{store.path}/trash") == []
        assert [p for p in store.fsck() if p.serious] == []


def test_killed_at_any_moment_it_leaves_a_sound_store(store: Store) -> None:
    """SIGKILL after every so many system calls of a collection; what is needed survives each of them."""
    code = "import sys; from udk.store import Store; Store.open(sys.argv[1]).gc()"
    kept = add_image(store, "kept:1", {"k": "k"})
    for n in range(12):
        for i in range(3):
            store.remove_ref(add_image(store, f"gone:{n}-{i}", {f"f{i}": f"{n}"}))
        child = subprocess.Popen([sys.executable, "-c", code, store.path], cwd=ROOT)
        time.sleep(0.06 + 0.008 * n)
        child.kill()
        child.wait()
        assert is_whole(store, store.find(Reference.parse("kept:1")))
        with store.use(kept):
            pass
    store.gc()
    assert [p for p in store.fsck() if "index.json" not in p.path] == []
    assert len(os.listdir(f"{store.path}/trees")) == 1
    assert os.listdir(f"{store.path}/trash") == []


def test_racing_with_users(store: Store) -> None:
    """Users take leases and read while collectors run and names come and go: what is leased is there."""
    user = """
import os, sys, time, random
from udk.errors import InUseError
from udk.store import Store
store = Store.open(sys.argv[1]); end = time.time() + 2.5; uses = 0
images = {i.familiar: i for i in store.images()}
print(len(images), flush=True); sys.stdin.readline()
while time.time() < end:
    for image in images.values():
        try:
            lease = store.use(image)
        except InUseError:
            continue
        for _ in range(5):
            assert os.listdir(store.tree(image)[0]) == ["f"], "the tree vanished"
            time.sleep(0.001)
        uses += 1
        lease.release()
print(uses)
"""
    for n in range(3):
        add_image(store, f"i:{n}", {"f": str(n)})
    users = [
        subprocess.Popen(
            [sys.executable, "-c", user, store.path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in users:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "3\n"
    for process in users:
        process.stdin.write("\n")
        process.stdin.flush()
    collected = 0
    while users[0].poll() is None:
        for image in store.images():
            store.remove_ref(image)
        collected += sum(c == "tree" for c, _, _ in store.gc().removed)
        for n in range(3):
            add_image(store, f"i:{n}", {"f": str(n)})
    counts = []
    for process in users:
        out, _ = process.communicate()
        assert process.returncode == 0
        counts.append(int(out))
    assert min(counts) > 0
    assert collected > 0
