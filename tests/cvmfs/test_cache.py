"""The object store: what it keeps, checks, heals and evicts, with a real server behind it."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfs_client.cache import ObjectStore, open_store
from cvmfs_client.cache_layout import XATTR, Directory
from cvmfs_client.cache_verify import matches_hash
from cvmfs_client.download import HttpFetcher
from cvmfs_client.errors import CacheError, ConfigError, IntegrityError, OfflineError, UsageError
from cvmfs_client.hash import SHA1, SHAKE128, Hash
from cvmfs_client.interfaces import Request
from tests.cvmfs.settings import Settings
from tests.support.webserver import WebServer


def put(
    root: Path, content: bytes, *, algorithm: str = SHA1, suffix: str = "", compressed: bool = True
) -> Request:
    body = zlib.compress(content) if compressed else content
    name = Hash.of(algorithm, body, suffix)
    path = root / "r" / name.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return Request(name, compressed, len(content), path=b"/some/path")


def content(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


class Site:
    """A server, a fetcher and a place for caches."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.web = tmp / "web"
        self.web.mkdir()
        self.server = WebServer(self.web)
        self.fetcher = HttpFetcher(Settings(), servers=[self.server.url + "/r"], proxy="DIRECT")

    def store(self, directory: str = "cache", **values: object) -> ObjectStore:
        return open_store(Settings(**values), self.fetcher, directory=str(self.tmp / directory))  # type: ignore[arg-type]

    def configured(self, **values: object) -> ObjectStore:
        return open_store(Settings(**values), self.fetcher)  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.server.stop()


def test_objects_are_stored_decompressed_in_the_official_layout(site: Site) -> None:
    for algorithm in (SHA1, SHAKE128):
        request = put(site.web, b"hello" * 100, algorithm=algorithm, suffix="P")
        store = site.store()
        assert content(store.open(request)) == b"hello" * 100
        text = str(request.hash)
        path = site.tmp / "cache" / text[:2] / text[2:]
        assert path.read_bytes() == b"hello" * 100
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert store.path(request) == str(path)
    assert stat.S_IMODE((site.tmp / "cache").stat().st_mode) == 0o700
    assert os.listdir(site.tmp / "cache" / "txn") == [".locks"]


def test_each_object_is_downloaded_once(site: Site) -> None:
    requests = [put(site.web, os.urandom(100)) for _ in range(10)]
    store = site.store()
    for _ in range(3):
        for request in requests:
            os.close(store.open(request))
    assert len(site.server.requests) == 10
    again = site.store()
    assert all(again.has(r) for r in requests)
    for request in requests:
        os.close(again.open(request))
    assert len(site.server.requests) == 10
    status = again.status()
    assert (status["hits"], status["downloads"], status["entries"]) == (10, 0, 10)


def test_threads_share_one_download(site: Site) -> None:
    request = put(site.web, os.urandom(1000))
    site.server.latency = 0.2
    store = site.store()
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.append(content(store.open(request)))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 16 and len(set(results)) == 1
    assert len(site.server.requests) == 1


def test_descriptors_cannot_change_the_cache(site: Site) -> None:
    request = put(site.web, b"x" * 1000)
    for fd in (site.store().open(request), site.store().open(request)):
        with pytest.raises(OSError):
            os.write(fd, b"y")
        os.close(fd)


def test_nothing_unverified_gets_a_name(site: Site) -> None:
    request = put(site.web, os.urandom(2 << 20))
    site.server.fault("data/", "flip")
    store = site.store()
    with pytest.raises(IntegrityError):
        store.open(request)
    assert not store.has(request)
    assert os.listdir(site.tmp / "cache" / "txn") == [".locks"]
    site.server.clear()
    assert len(content(store.open(request))) == 2 << 20


def damage(path: str, kind: str) -> None:
    with open(path, "r+b") as file:
        if kind == "flip":
            file.seek(10)
            byte = file.read(1)
            file.seek(10)
            file.write(bytes((byte[0] ^ 1,)))
        elif kind == "truncate":
            file.truncate(50)
        elif kind == "empty":
            file.truncate(0)
        elif kind == "append":
            file.seek(0, os.SEEK_END)
            file.write(b"more")


@pytest.mark.parametrize("kind", ["flip", "truncate", "empty", "append", "symlink", "no-record"])
@pytest.mark.parametrize("known_size", [True, False])
def test_damaged_objects_are_noticed_by_the_next_process_and_healed(
    site: Site, kind: str, known_size: bool
) -> None:
    data = os.urandom(100) + bytes(5000)
    request = put(site.web, data)
    if not known_size:
        request = request._replace(size=None)
    path = site.store().path(request)
    assert path is not None
    if kind == "symlink":
        os.unlink(path)
        os.symlink("/etc/passwd", path)
    elif kind == "no-record":
        copy = Path(path).read_bytes()
        os.unlink(path)
        Path(path).write_bytes(copy[:-1] + b"\1")
    else:
        damage(path, kind)
    store = site.store()
    assert content(store.open(request)) == data
    assert len(site.server.requests) == 2
    assert Path(path).read_bytes() == data and not os.path.islink(path)


def test_fsck_finds_and_removes_what_is_damaged(site: Site) -> None:
    requests = [put(site.web, os.urandom(500)) for _ in range(20)]
    store = site.store()
    assert store.ensure(requests) == []
    paths = [str(store.path(r)) for r in requests]
    damage(paths[3], "flip")
    damage(paths[7], "truncate")
    report = site.store().fsck(repair=False)
    assert report["checked"] == 20 and sorted(report["bad"]) == sorted(str(requests[i].hash) for i in (3, 7))
    assert report["repaired"] == 0 and os.path.exists(paths[3])
    seen: list[int] = []
    assert site.store().fsck(progress=seen.append)["repaired"] == 2
    assert len(seen) == 20 and not os.path.exists(paths[3])
    assert site.store().fsck()["bad"] == []


def test_copies_without_records_are_checked_by_compressing_again(site: Site) -> None:
    data = os.urandom(1000) + bytes(9000)
    for compressed in (True, False):
        request = put(site.web, data, compressed=compressed)
        path = str(site.store().path(request))
        raw = Path(path).read_bytes()
        os.unlink(path)
        Path(path).write_bytes(raw)
        with pytest.raises(OSError):
            os.getxattr(path, XATTR)
        fd = os.open(path, os.O_RDONLY)
        assert matches_hash(fd, request.hash)
        os.close(fd)
        count = len(site.server.requests)
        assert content(site.store().open(request)) == data
        assert len(site.server.requests) == count


def test_records_fall_back_to_links_where_there_are_no_attributes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "getxattr", refuse)
    data = os.urandom(3000)
    request = put(site.web, data)
    store = site.store()
    path = str(store.path(request))
    assert os.path.islink(path + ".udk")
    assert site.store().fsck()["bad"] == []
    damage(path, "flip")
    assert content(site.store().open(request)) == data
    assert len(site.server.requests) == 2
    assert [e["hash"] for e in store.entries()] == [str(request.hash)]
    store.evict([request.hash])
    store.gc()
    assert os.listdir(os.path.dirname(path)) == []


def test_ensure_fetches_in_parallel_and_reports_failures(site: Site) -> None:
    requests = [put(site.web, os.urandom(100)) for _ in range(60)]
    lost = Request(Hash.of(SHA1, b"nowhere"))
    site.server.latency = 0.02
    sizes: list[int] = []
    store = site.store()
    failed = store.ensure([*requests, lost, *requests], progress=sizes.append)
    assert [r for r, _ in failed] == [lost]
    assert sizes == [100] * 60
    assert site.server.max_parallel >= 16
    assert store.ensure(requests) == []
    assert len(site.server.paths("data/")) == 61


def test_offline(site: Site) -> None:
    request, other = put(site.web, b"kept"), put(site.web, b"not kept")
    store = site.store()
    os.close(store.open(request))
    store.save_state("sw.example.org", "manifest", b"signed")
    store.save_state("sw.example.org", "breadcrumb", b"hashT1R1")
    site.server.stop()
    alone = open_store(Settings(), None, directory=str(site.tmp / "cache"))
    assert content(alone.open(request)) == b"kept"
    assert alone.load_state("sw.example.org", "manifest") == b"signed"
    assert alone.load_state("sw.example.org", "whitelist") is None
    assert (site.tmp / "cache" / "cvmfschecksum.sw.example.org").read_bytes() == b"hashT1R1"
    with pytest.raises(OfflineError, match="not in the cache"):
        alone.open(other)
    with pytest.raises(UsageError):
        alone.save_state("../../etc", "passwd", b"")


# --- quota


def test_quota_is_kept_and_the_least_recently_used_go_first(site: Site) -> None:
    store = site.store()
    assert store.quota is not None
    store.quota.limit = 1_000_000
    old = [put(site.web, os.urandom(50_000)) for _ in range(10)]
    for i, request in enumerate(old):
        path = str(store.path(request))
        os.utime(path, (time.time() - 10_000 + i, time.time() - 10_000 + i))
    os.close(site.store().open(old[0]))  # a use of long ago becomes a use of now
    for _ in range(30):
        os.close(store.open(put(site.web, os.urandom(50_000))))
        assert (
            sum(item.size for item in Directory(str(site.tmp / "cache"), writable=True).items()) <= 1_050_000
        )
    left = [store.has(r) for r in old]
    assert left[1:] == [False] * 9
    assert store.status()["evicted"] > 0


def test_volatile_objects_go_first_and_pinned_ones_stay(site: Site) -> None:
    store = site.store()
    steady = [put(site.web, os.urandom(1000)) for _ in range(10)]
    volatile = [put(site.web, os.urandom(1000))._replace(volatile=True) for _ in range(10)]
    for request in steady:
        path = str(store.path(request))
        os.utime(path, (1_000_000_000 + (1 << 28), 1_000_000_000 + (1 << 28)))
    for request in volatile:
        os.close(store.open(request))
    store.pin(steady[:2])
    assert store.gc(limit=10_000)["left"] == 10_000
    assert all(store.has(r) for r in steady) and not any(store.has(r) for r in volatile)
    site.store().gc(limit=0)
    assert [store.has(r) for r in steady] == [True, True] + [False] * 8
    store.unpin([steady[0].hash])
    store.gc(limit=0)
    assert [store.has(r) for r in steady[:2]] == [False, True]


def test_several_processes_count_together(site: Site) -> None:
    requests = [put(site.web, os.urandom(100_000)) for _ in range(20)]
    for request in requests:
        pid = os.fork()
        if pid == 0:
            store = site.store()
            os.close(store.open(request))
            store.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    store = site.store()
    assert store.quota is not None and store.quota.used() == 2_000_000


def test_eviction_during_use_hurts_nobody(site: Site) -> None:
    data = os.urandom(100_000)
    request = put(site.web, data)
    store = site.store()
    fd = store.open(request)
    assert store.evict([request.hash]) == 100_000
    assert content(fd) == data
    assert content(store.open(request)) == data


def test_objects_larger_than_the_quota_are_not_stored(site: Site) -> None:
    store = site.store()
    assert store.quota is not None
    store.quota.limit = 1000
    request = put(site.web, os.urandom(5000))
    assert len(content(store.open(request))) == 5000
    assert not store.has(request) and store.path(request) is None
    assert store.status()["in_memory"] == 2


def test_streaming_keeps_catalogs_only(site: Site) -> None:
    store = site.store(streaming_cache="yes")
    file, catalog = put(site.web, b"file"), put(site.web, b"catalog", suffix="C")
    for request in (file, catalog):
        os.close(store.open(request))
    assert not store.has(file) and store.has(catalog)


def test_listing(site: Site) -> None:
    store = site.store()
    request = put(site.web, b"x" * 77, suffix="C")
    os.close(store.open(request))
    store.pin([request])
    (entry,) = store.entries()
    assert entry["hash"] == str(request.hash) and entry["size"] == 77 and entry["kind"] == "catalog"
    assert entry["path"] == "/some/path" and entry["pinned"] and abs(entry["last_used"] - time.time()) < 100
    os.close(store.open(put(site.web, b"v")._replace(volatile=True)))
    assert all(abs(e["last_used"] - time.time()) < 100 for e in store.entries())


def test_abandoned_downloads_are_swept(site: Site) -> None:
    store = site.store()
    place = site.tmp / "cache" / "txn"
    (place / "fetch1.1.1").write_bytes(b"x" * 100)
    (place / "fetch2.1.1").write_bytes(b"y")
    os.utime(place / "fetch1.1.1", (0, 0))
    assert store.gc()["freed"] == 100
    assert (place / "fetch2.1.1").exists()


# --- where it is


def test_tiers_are_read_only_and_new_objects_go_to_the_first(site: Site) -> None:
    lower = site.store("lower")
    below, new = put(site.web, b"below"), put(site.web, b"new")
    os.close(lower.open(below))
    before = sorted(str(p) for p in (site.tmp / "lower").rglob("*"))
    store = site.configured(
        cache_primary="T", cache_t_type="tiered", cache_t_upper="U", cache_t_lower="L",
        cache_u_type="posix", cache_u_dir=site.tmp / "upper",
        cache_l_type="posix", cache_l_alien=site.tmp / "lower",
    )  # fmt: skip
    site.server.clear()
    assert content(store.open(below)) == b"below"
    assert site.server.requests == []
    assert content(store.open(new)) == b"new"
    assert sorted(str(p) for p in (site.tmp / "lower").rglob("*")) == before
    assert [t["writable"] for t in store.status()["tiers"]] == [True, False]
    damage(str(store.path(below)), "append")
    again = site.configured(
        cache_primary="T", cache_t_type="tiered", cache_t_upper="U", cache_t_lower="L",
        cache_u_type="posix", cache_u_dir=site.tmp / "upper",
        cache_l_type="posix", cache_l_alien=site.tmp / "lower",
    )  # fmt: skip
    assert content(again.open(below)) == b"below"
    assert str(again.path(below)).startswith(str(site.tmp / "upper"))


def test_configuration_of_the_place(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert site.configured(cache_base=site.tmp / "b").status()["directory"] == str(site.tmp / "b" / "shared")
    own = site.configured(cache_base=site.tmp / "b", shared_cache="no")
    assert own.status()["directory"] == str(site.tmp / "b" / "sw.example.org")
    assert own.status()["limit"] == 4000 << 20
    assert site.configured(cache_dir=site.tmp / "d", quota_limit=-1).status()["limit"] is None
    monkeypatch.setenv("UDK_HOME", str(site.tmp / "home"))
    assert site.configured().status()["directory"] == str(site.tmp / "home" / "cvmfs")
    with pytest.raises(ConfigError, match="CVMFS_CACHE_X_TYPE"):
        site.configured(cache_primary="X", cache_x_type="external")


def test_caches_that_others_can_write_are_refused(site: Site) -> None:
    place = site.tmp / "open"
    place.mkdir()
    for mode, alien, fine in (
        (0o777, True, False),
        (0o775, False, False),
        (0o770, True, True),
        (0o755, False, True),
    ):
        place.chmod(mode)
        values = {"alien_cache" if alien else "cache_dir": place}
        if fine:
            site.configured(**values)
        else:
            with pytest.raises(CacheError, match="written by others"):
                site.configured(**values)


def test_alien_caches_are_shared_and_never_shrink(site: Site) -> None:
    store = site.configured(alien_cache=site.tmp / "alien", quota_limit=1)
    request = put(site.web, os.urandom(2 << 20))
    path = Path(str(store.path(request)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o770
    assert store.has(request)
    names = {p.name for p in (site.tmp / "alien").iterdir()}
    assert {"00", "ff", "txn", "quarantaine"} <= names


def test_a_wiped_cache_is_made_anew(site: Site) -> None:
    store = site.store()
    request = put(site.web, b"data")
    os.close(store.open(request))
    shutil.rmtree(site.tmp / "cache")
    assert content(store.open(request)) == b"data"
    assert store.has(request)


def test_a_read_only_place_is_used_for_reading(site: Site) -> None:
    request, other = put(site.web, b"data"), put(site.web, b"other")
    os.close(site.store().open(request))
    for path in [site.tmp / "cache", *(site.tmp / "cache").iterdir()]:
        if path.is_dir():
            path.chmod(0o555)
    try:
        store = site.store()
        assert content(store.open(request)) == b"data"
        assert content(store.open(other)) == b"other"
        assert store.status()["directory"] is None
        store.save_state("sw.example.org", "manifest", b"x")
        with pytest.raises(CacheError, match="read-only"):
            store.gc()
    finally:
        for path in [site.tmp / "cache", *(site.tmp / "cache").iterdir()]:
            if path.is_dir():
                path.chmod(0o755)


def test_a_stopped_holder_does_not_stop_others(site: Site) -> None:
    request = put(site.web, b"wanted")
    holder = site.store()
    assert holder._flight is not None
    store = site.store()
    assert store._flight is not None
    store._flight._patience = 0.3
    with holder._flight.claim(request.hash, lambda: False):  # type: ignore[union-attr]
        start = time.monotonic()
        assert content(store.open(request)) == b"wanted"
        assert 0.25 < time.monotonic() - start < 5


def test_fork_in_the_middle(site: Site) -> None:
    store = site.store()
    requests = [put(site.web, os.urandom(random.Random(i).randrange(3000))) for i in range(30)]
    site.server.latency = 0.01
    thread = threading.Thread(target=store.ensure, args=(requests,))
    thread.start()
    time.sleep(0.03)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for request in requests:
                assert len(content(store.open(request))) == request.size
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    thread.join()
    assert len(site.server.requests) <= 31
