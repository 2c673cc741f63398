"""Reading through the library with fetching ahead: fewer round trips, few wasted bytes, nothing else
changed.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cvmfs_client.errors import CvmfsError
from cvmfs_client.prefetch_python import PythonPlanner
from cvmfs_client.prefetch_trace import Trace
from cvmfs_client.prefetch_window import Window
from cvmfs_client.publish import Options, RepositoryKeys, publish
from cvmfs_client.repository import Repository
from tests.support.webserver import WebServer

FQRN = "sw.example.org"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    RepositoryKeys.create(str(directory), FQRN)
    return directory


class Site:
    """A published tree and a server with latency."""

    def __init__(self, tmp: Path, keys: Path) -> None:
        self.tmp = tmp
        self.tree = tmp / "tree"
        self.tree.mkdir()
        self.keys = keys
        self.server = WebServer(tmp / "web")
        (tmp / "web").mkdir()

    def write(self, path: str, data: bytes | str) -> str:
        target = self.tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data.encode() if isinstance(data, str) else data)
        return "/" + path

    def publish(self, **options: Any) -> None:
        publish(
            str(self.tree),
            str(self.tmp / "web" / FQRN),
            fqrn=FQRN,
            keys=str(self.keys),
            options=Options(**options),
        )

    def open(self, cache: str = "cache", **config: str) -> Repository:
        values = {"CVMFS_TIMEOUT_DIRECT": "5", "CVMFS_PREFETCH": "always", **config}
        return Repository(
            FQRN, server=f"{self.server.url}/{FQRN}", keys=str(self.keys / f"{FQRN}.pub"), proxy="DIRECT",
            cache=str(self.tmp / cache), config=values,
        )  # fmt: skip


@pytest.fixture
def site(tmp_path: Path, keys: Path) -> Iterator[Site]:
    made = Site(tmp_path, keys)
    yield made
    made.server.stop()


def settle(repository: Repository, server: WebServer) -> None:
    """Waits until nothing more is fetched ahead."""
    deadline = time.monotonic() + 20
    quiet, last = 0, -1
    while time.monotonic() < deadline and quiet < 8:
        time.sleep(0.05)
        now = len(server.requests)
        quiet, last = (quiet + 1 if now == last else 0), now


def package(site: Site, depth: int, width: int) -> list[str]:
    """A package whose module m0 imports the next, and each a fan of others; paths in the order of an
    import.
    """
    order = [site.write("lib/p/__init__.py", "from . import m0\n")]
    for i in range(depth):
        fan = [f"x{i}_{j}" for j in range(width)]
        after = f"from . import m{i + 1}\n" if i + 1 < depth else ""
        order.append(site.write(f"lib/p/m{i}.py", "".join(f"from .{f} import thing\n" for f in fan) + after))
        order += [site.write(f"lib/p/{f}.py", f"thing = '{f}' + '{'7' * 50}'\n") for f in fan]
    for i in range(30):
        site.write(f"lib/p/unused{i}.py", f"# never imported {i}\n" * 2000)
    return order


def test_imports_run_ahead_of_the_interpreter(site: Site) -> None:
    order = package(site, 6, 10)
    site.publish()
    site.server.latency = 0.05
    times = {}
    for prefetch in ("no", "yes"):
        with site.open(f"cache-{prefetch}", CVMFS_PREFETCH=prefetch) as repository:
            site.server.clear()
            start = time.monotonic()
            for path in order:
                repository.read(path)
            times[prefetch] = time.monotonic() - start
            settle(repository, site.server)
            wanted = len(order)
            asked = len(site.server.paths("/data/"))
            assert asked == wanted if prefetch == "no" else wanted <= asked <= wanted + 2
    # 67 round trips one by one; the chain has 8 links
    assert times["no"] > 67 * 0.05
    assert times["yes"] < times["no"] / 2


def test_where_answers_come_at_once_nothing_is_planned(site: Site) -> None:
    order = package(site, 2, 6)
    site.publish()
    for latency, planned in ((0.0, False), (0.01, True)):
        site.server.latency = latency
        with site.open(f"cache-{planned}", CVMFS_PREFETCH="yes") as repository:
            store: Any = repository.store
            if not planned:
                store.wait = -1e9  # however busy the machine is
            for path in order:
                repository.read(path)
            assert repository._prefetcher is not None
            assert (repository._prefetcher.status()["predicted"] > 0) == planned  # type: ignore[attr-defined]


def test_contents_are_those_of_the_tree(site: Site) -> None:
    order = package(site, 3, 5)
    site.publish(chunk_size=4096)
    with site.open() as repository:
        for path in order:
            assert repository.read(path) == (site.tree / path[1:]).read_bytes()


def test_bundles_are_fetched_with_their_trigger(site: Site) -> None:
    listed = [site.write(f"data/{i}.bin", os.urandom(500)) for i in range(20)]
    trigger = site.write("bin/tool", b"#!/bin/sh\n")
    site.write(
        "bin/.cvmfsbundle-tool",
        json.dumps({"name": "CVMFS_BUNDLE", "version": "1.0.0", "encoding": "UTF-8", "dependencies": listed}),
    )
    site.publish()
    for setting, expected in (("yes", 0), ("no", 20)):
        with site.open(f"cache-{setting}", CVMFS_PREFETCH_FILEBUNDLES=setting) as repository:
            repository.read(trigger)
            settle(repository, site.server)
            site.server.clear()
            for path in random.Random(1).sample(listed, 20):
                repository.read(path)
            assert len(site.server.paths("/data/")) == expected


def test_a_walk_is_fetched_ahead_and_random_reads_are_not(site: Site) -> None:
    for i in range(60):
        site.write(f"d/f{i:02}", os.urandom(300))
    site.publish()
    names = []
    with site.open() as repository:
        names = repository.listdir("/d")
        site.server.latency = 0.02
        for name in names[:12]:
            repository.read(f"/d/{name}")
        settle(repository, site.server)
        assert len(site.server.paths("/data/")) >= 24
        assert site.server.max_parallel > 4
    with site.open("cache2") as repository:
        site.server.clear()
        for i in (50, 3, 41, 9, 27, 14, 33):
            repository.read(f"/d/{names[i]}")
        settle(repository, site.server)
        assert len(site.server.paths("/data/")) <= 7 + 2  # and the catalog


def test_the_second_run_knows_what_the_first_has_read(site: Site) -> None:
    paths = [site.write(f"a{i % 7}/{i}.dat", os.urandom(200)) for i in range(40)]
    random.Random(2).shuffle(paths)
    site.publish()
    with site.open() as repository:
        for path in paths:
            repository.read(path)
    # the objects are gone, what was learnt is not
    with site.open() as repository:
        repository.store.gc(limit=0)
    with site.open() as repository:
        site.server.clear()
        repository.read(paths[0])
        settle(repository, site.server)
        site.server.clear()
        for path in paths:
            repository.read(path)
        assert site.server.paths("/data/") == []


def test_nothing_is_planned_while_everything_is_cached(site: Site) -> None:
    order = package(site, 3, 5)
    site.publish()
    with site.open() as repository:
        for path in order:
            repository.read(path)
        settle(repository, site.server)
    site.server.clear()
    with site.open() as repository:
        for path in order:
            repository.read(path)
        assert repository._prefetcher is not None
        assert repository._prefetcher.status()["predicted"] == 0  # type: ignore[attr-defined]
    assert site.server.paths("/data/") == []


def test_guesses_stay_within_their_budget(site: Site) -> None:
    for i in range(40):
        site.write(f"d/f{i:02}", os.urandom(200_000))
    site.publish()
    with site.open() as repository:
        for name in repository.listdir("/d")[:4]:
            repository.read(f"/d/{name}")
        settle(repository, site.server)
    wire = sum(200_000 for _ in site.server.paths("/data/")) - 200_000
    assert wire <= 4 * 200_000 + (512 << 10) + 4 * 200_000 // 4


def test_unreachable_predictions_disturb_nobody(site: Site) -> None:
    order = package(site, 2, 4)
    site.publish()
    with site.open() as repository:
        entry: Any = repository.lookup(os.fsencode(order[3]))
        site.server.fault(entry.hash.path, "status", value=404)
        for path in order:
            if path == order[3]:
                with pytest.raises(CvmfsError):
                    repository.read(path)
            else:
                repository.read(path)


def test_fork_and_close_in_the_middle(site: Site) -> None:
    order = package(site, 4, 8)
    site.publish()
    site.server.latency = 0.01
    repository = site.open()
    for path in order[:5]:
        repository.read(path)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for path in order:
                repository.read(path)
            code = 0
        finally:
            os._exit(code)
    repository.close()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_planner_failures_are_counted_not_raised(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    order = package(site, 2, 2)
    site.publish()

    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(PythonPlanner, "follow", explode)
    with site.open() as repository:
        for path in order:
            repository.read(path)


def test_window() -> None:
    window = Window(100, 10, 0.5)
    assert window.admits(1000, guess=False)  # the first always may
    window.started(b"a", 90, guess=False)
    assert not window.admits(20, guess=False)
    assert window.admits(10, guess=True) and not window.admits(11, guess=True)
    window.used(b"a")
    assert window.ahead == 0
    assert window.admits(55, guess=True) and not window.admits(56, guess=True)
    window.started(b"g", 50, guess=True)
    assert not window.admits(10, guess=True)
    window.ascertained(b"g")
    assert window.admits(55, guess=True)
    window.used(b"unknown")
    assert window.ahead == 50


def test_stale_predictions_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("cvmfs_client.prefetch_window.time.monotonic", lambda: now[0])
    window = Window(100, 10, 0.5)
    window.started(b"a", 100, guess=False)
    assert not window.admits(50, guess=False)
    now[0] = 61.0
    assert window.admits(50, guess=False) and window.ahead == 0


def test_a_trace_is_of_the_start_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    saved: dict[str, bytes] = {}

    class Memory:
        def load_state(self, fqrn: str, name: str) -> bytes | None:
            return saved.get(name)

        def save_state(self, fqrn: str, name: str, data: bytes) -> None:
            saved[name] = data

    monkeypatch.setattr("cvmfs_client.prefetch_trace.time.monotonic", lambda: now[0])
    store: Any = Memory()
    trace = Trace(store, FQRN)
    for i in range(20):
        now[0] += 1.0
        trace.opened(b"/start%d" % i)
    now[0] += 10.0  # the program waits for its work
    for i in range(20):
        trace.opened(b"/work%d" % i)
    trace.save()
    again = Trace(store, FQRN)
    again.opened(b"/start0")
    assert list(again.expected()) == [b"/start%d" % i for i in range(20)]
    assert list(again.expected()) == []


def test_what_waits_for_the_budget_costs_nothing_meanwhile(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand modules are known to be wanted and the budget holds four: each event looks at a few."""
    names = [f"m{i}" for i in range(1000)]
    first = site.write("lib/p/__init__.py", "".join(f"from . import {n}\n" for n in names))
    for name in names:
        site.write(f"lib/p/{name}.py", f"# {name}\n" + "7" * 1000)
    site.publish()
    looks: list[int] = []
    real = Window.admits

    def admits(self: Window, size: int, *, guess: bool) -> bool:
        looks.append(size)
        return real(self, size, guess=guess)

    monkeypatch.setattr(Window, "admits", admits)
    monkeypatch.setattr("cvmfs_client.prefetch._AHEAD", 4200)
    with site.open() as repository:
        repository.read(first)
        settle(repository, site.server)
        for name in names[:200]:
            repository.read(f"/lib/p/{name}.py")
    assert 20 < len(looks) < 10_000
