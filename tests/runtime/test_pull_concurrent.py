"""Many processes, one store: each blob is served once, whoever is killed or stopped.

``UDK_STOP_SECONDS`` says for how long the holder is stopped in the big test (default 4; 65 is more than the
minute that a holder may be stopped for without anybody passing it over)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest

from tests.support.images import Image, Layout
from tests.support.puller import start_puller
from tests.support.registry import FaultyRegistry
from udk.base.locks import PATIENCE
from udk.store import Store

STOP_SECONDS = float(os.environ.get("UDK_STOP_SECONDS", "4"))


def lock_holder(store: Path, pattern: str) -> Optional[int]:
    """The pid that holds the lock of a file of the store, by what the kernel says."""
    inodes = set()
    for path in store.glob(pattern):
        try:
            inodes.add(path.stat().st_ino)
        except OSError:
            continue
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) in inodes:
            return int(fields[4])
    return None


def wait_for_holder(store: Path, pattern: str, seconds: float = 60.0) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid = lock_holder(store, pattern)
        if pid is not None:
            return pid
        time.sleep(0.005)
    raise AssertionError(f"nobody ever held {pattern}")


def finish(processes: list[subprocess.Popen[str]], killed: tuple[int, ...] = ()) -> list[dict[str, object]]:
    """What those that were not killed printed; they must all have succeeded."""
    results = []
    for process in processes:
        out, err = process.communicate(timeout=200)
        if process.pid in killed:
            assert process.returncode == -signal.SIGKILL
            continue
        assert process.returncode == 0, err
        results.append(json.loads(out))
    return results


class Registry:
    def __init__(self, tmp: Path) -> None:
        self.layout = Layout(tmp / "layout")
        self.server = FaultyRegistry({"team/app": self.layout.path})
        self.images: dict[str, Image] = {}

    def add(self, tag: str, layers: list[dict[str, bytes]]) -> str:
        self.images[tag] = self.layout.add_image(layers, tag, compression="")
        return self.name(tag)

    def name(self, tag: str) -> str:
        return f"{self.server.url.partition('//')[2]}/team/app:{tag}"

    def check_each_blob_served_once(self) -> None:
        wanted = {d: len(b) for i in self.images.values() for d, b in i.blobs.items()}
        assert {d: self.server.served(d) for d in wanted} == dict.fromkeys(wanted, 1)
        assert self.server.bytes_of() == sum(wanted.values())


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    made = Registry(tmp_path)
    with made.server:
        yield made


def check_store(path: Path, trees: int) -> None:
    store = Store.open(str(path))
    store.gc()  # leases of the killed
    assert [str(p) for p in store.fsck()] == []
    assert len(os.listdir(path / "trees")) == trees
    for directory in ("ingest", "staging", "trash", "leases"):
        assert os.listdir(path / directory) == []


@pytest.mark.slow
def test_sixty_four_processes_four_images_two_killed_one_stopped(registry: Registry, tmp_path: Path) -> None:
    assert PATIENCE > 60
    rng = random.Random(1)
    shared = [{f"d{n}/f": rng.randbytes(20_000 + 1000 * n)} for n in range(64)]
    names = [
        registry.add("all", shared),
        registry.add("base", shared[:5]),
        registry.add("more", [*shared[:3], {"x": b"1"}]),
        registry.add("other", [*shared[10:12], {"y": b"1"}]),
    ]
    registry.server.latency = 0.1  # a registry is not on the same machine; and there is time to interfere
    store = tmp_path / "s"
    processes = [start_puller(store, names[n % 4], "missing") for n in range(64)]
    stopped = wait_for_holder(store, "ingest/*/lock")
    os.kill(stopped, signal.SIGSTOP)
    try:
        # Those that want the same image certainly wait.
        image = [p.pid for p in processes].index(stopped) % 4
        waiting = [p for p in processes[image::4] if p.poll() is None and p.pid != stopped]
        victims = tuple(p.pid for p in waiting[-2:])
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        time.sleep(STOP_SECONDS)
    finally:
        os.kill(stopped, signal.SIGCONT)
    results = finish(processes, victims)
    assert len(results) == 62
    assert {r["digest"] for r in results} == {i.digest for i in registry.images.values()}
    registry.check_each_blob_served_once()
    # Only who has to fetch something loads what it takes.
    assert sum("requests" in r["loaded"] for r in results) <= 6  # type: ignore[operator]
    assert len(registry.server.requests("/manifests/")) <= 6
    check_store(store, trees=4)


def test_killed_holder_is_followed_at_once_and_its_bytes_are_used(registry: Registry, tmp_path: Path) -> None:
    name = registry.add("1", [{"f": random.Random(2).randbytes(3_000_000)}])
    blob = max(registry.images["1"].blobs, key=lambda d: len(registry.images["1"].blobs[d]))
    registry.server.fault(f"/blobs/{blob}", "slow", rate=2_000_000, count=1)
    store = tmp_path / "s"
    processes = [start_puller(store, name, "missing") for _ in range(3)]
    holder = wait_for_holder(store, "ingest/*/lock")
    data = store / "ingest" / blob.replace(":", "-") / "data"
    while not data.exists() or data.stat().st_size < 500_000:
        time.sleep(0.01)
    os.kill(holder, signal.SIGKILL)
    have = data.stat().st_size
    assert len(finish(processes, (holder,))) == 2
    first, second = registry.server.requests(f"/blobs/{blob}", "GET")
    offset = int(second.headers["range"].partition("=")[2].rstrip("-"))
    assert offset >= have
    assert second.sent == len(registry.images["1"].blobs[blob]) - offset
    assert first.sent - offset <= 4 << 20
    check_store(store, trees=1)


def test_same_layers_under_two_names_make_one_tree(registry: Registry, tmp_path: Path) -> None:
    layers = [{"f": random.Random(3).randbytes(400_000)}, {"g": b"1"}]
    names = [registry.add(tag, layers) for tag in ("1", "2", "3")]
    registry.server.latency = 0.05
    store = tmp_path / "s"
    results = finish([start_puller(store, name) for name in names * 2])
    assert len({r["tree"] for r in results}) == 1
    registry.check_each_blob_served_once()
    check_store(store, trees=1)


def test_holder_stopped_for_good_does_not_stop_the_others(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the patience cut to a second: the others go on from the stopped one's bytes, and when it comes
    back it does no harm."""
    name = registry.add("1", [{"f": random.Random(4).randbytes(2_000_000)}])
    blob = max(registry.images["1"].blobs, key=lambda d: len(registry.images["1"].blobs[d]))
    registry.server.fault(f"/blobs/{blob}", "slow", rate=1_500_000, count=1)
    store = tmp_path / "s"
    code = (
        "import udk.base.locks as l, sys; l.Lock.__init__.__defaults__ = (1.0, False);"
        "import udk.store.ingest as i; i.Ingest.__init__.__defaults__ = ('', None, 1.0);"
        "from tests.support.puller import main; sys.exit(main())"
    )
    first = start_puller(store, name, "missing")
    data = store / "ingest" / blob.replace(":", "-") / "data"
    while not data.exists() or data.stat().st_size < 300_000:
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    others = [start_puller(store, name, "missing", code=code) for _ in range(3)]
    try:
        results = finish(others)
        assert len(results) == 3
        assert first.poll() is None
        ranges = [r.headers.get("range", "") for r in registry.server.requests(f"/blobs/{blob}", "GET")]
        (second,) = [r for r in ranges if r]  # one of the three went on, from what was there
        assert int(second.partition("=")[2].rstrip("-")) >= 300_000
    finally:
        first.send_signal(signal.SIGCONT)
    assert finish([first])[0]["digest"] == results[0]["digest"]
    check_store(store, trees=1)
