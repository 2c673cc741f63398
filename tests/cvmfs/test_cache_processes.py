"""Many processes on one cache, killed at any moment, on a disk that fills up."""

from __future__ import annotations

import collections
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from cvmfs_client.cache_layout import is_object
from cvmfs_client.hash import SHA1, Hash
from tests.support.needs import require
from tests.support.webserver import WebServer

# arguments: server URL, cache directory, file of "hash size" lines, seed
_READER = """
import os, random, sys
from cvmfs_client.cache import open_store
from cvmfs_client.download import HttpFetcher
from cvmfs_client.hash import Hash
from cvmfs_client.interfaces import Request
from tests.cvmfs.settings import Settings

server, directory, listing, seed, quota = sys.argv[1:6]
requests = []
with open(listing) as file:
    for line in file:
        name, size = line.split()
        requests.append(Request(Hash.parse(name), True, int(size)))
random.Random(int(seed)).shuffle(requests)
config = Settings(quota_limit=quota)
store = open_store(config, HttpFetcher(config, servers=[server], proxy="DIRECT"), directory=directory)
if os.environ.get("LIMIT"):
    store.quota.limit = int(os.environ["LIMIT"])
import zlib, hashlib
for request in requests:
    with open(store.open(request), "rb") as file:
        data = file.read()
    packed = zlib.compress(data)
    if hashlib.sha1(packed).digest() != request.hash.digest:
        print("WRONG", request.hash)
        sys.exit(3)
store.close()
print("fine", store.counters)
"""


def make_objects(root: Path, count: int, largest: int, seed: int = 5) -> Path:
    """A served repository of random objects, and the listing that _READER takes."""
    generator = random.Random(seed)
    lines = []
    for _ in range(count):
        content = generator.randbytes(generator.randrange(1, largest)) + bytes(generator.randrange(largest))
        body = zlib.compress(content)
        name = Hash.of(SHA1, body)
        path = root / "r" / name.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        lines.append(f"{name} {len(content)}\n")
    listing = root / "listing"
    listing.write_text("".join(lines))
    return listing


def reader(
    server: WebServer, cache: Path, listing: Path, seed: int, quota: int = 4000, **environment: str
) -> list[str]:
    """The command line of a reader."""
    return [sys.executable, "-c", _READER, server.url + "/r", str(cache), str(listing), str(seed), str(quota)]


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    top = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, "PYTHONPATH": top, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def assert_sound(cache: Path, root: Path) -> int:
    """Every file that has an object's name is what the server's object decompresses to; returns how many."""
    count = 0
    for directory in cache.iterdir() if cache.exists() else ():
        if len(directory.name) != 2:
            continue
        for path in directory.iterdir():
            if is_object(path.name):
                body = (root / "r" / "data" / directory.name / path.name).read_bytes()
                assert hashlib.sha1(body).hexdigest() == directory.name + path.name
                assert path.read_bytes() == zlib.decompress(body)
                count += 1
    return count


@pytest.mark.slow
def test_32_processes_download_each_object_once(tmp_path: Path) -> None:
    listing = make_objects(tmp_path, 150, 20_000)
    with WebServer(tmp_path, latency=0.002) as server:
        readers = [start(reader(server, tmp_path / "cache", listing, seed)) for seed in range(32)]
        for process in readers:
            output, _ = process.communicate(timeout=200)
            assert process.returncode == 0, output
        counts = collections.Counter(server.paths("data/"))
    assert len(counts) == 150
    assert set(counts.values()) == {1}
    assert assert_sound(tmp_path / "cache", tmp_path) == 150


def cache_is_cold(cache: Path) -> bool:
    return not any(cache.glob("[0-9a-f][0-9a-f]/*"))


@pytest.mark.slow
def test_killed_at_50_moments_every_cached_byte_is_right(tmp_path: Path) -> None:
    listing = make_objects(tmp_path, 400, 60_000)
    generator = random.Random(11)
    cache = tmp_path / "cache"
    with WebServer(tmp_path) as server:
        killed = checked = 0
        for attempt in range(25):
            asked = len(server.requests)
            pair = [start(reader(server, cache, listing, 2 * attempt + i)) for i in range(2)]
            deadline = time.monotonic() + 20
            while len(server.requests) == asked and cache_is_cold(cache) and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(generator.uniform(0, 0.3))
            for process in pair:
                process.send_signal(signal.SIGKILL)
                killed += 1
            for process in pair:
                process.communicate()
            checked += assert_sound(cache, tmp_path)
            if attempt % 6 == 5:
                shutil.rmtree(cache)
        assert killed == 50 and checked > 100
        last = start(reader(server, cache, listing, 99))
        output, _ = last.communicate(timeout=100)
        assert last.returncode == 0, output
        assert assert_sound(cache, tmp_path) == 400


def test_a_killed_downloader_is_replaced(tmp_path: Path) -> None:
    listing = make_objects(tmp_path, 1, 1000)
    with WebServer(tmp_path) as server:
        server.fault("data/", "hang")
        first = start(reader(server, tmp_path / "cache", listing, 0))
        deadline = time.monotonic() + 20
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        second = start(reader(server, tmp_path / "cache", listing, 0))
        time.sleep(0.5)
        server.faults.clear()
        first.kill()
        output, _ = second.communicate(timeout=60)
        first.communicate()
        assert second.returncode == 0, output
        assert len(server.paths("data/")) == 2


@pytest.mark.slow
def test_a_small_quota_is_survived_by_many(tmp_path: Path) -> None:
    listing = make_objects(tmp_path, 120, 40_000)
    with WebServer(tmp_path) as server:
        readers = [start(reader(server, tmp_path / "cache", listing, s), LIMIT="500000") for s in range(6)]
        for process in readers:
            output, _ = process.communicate(timeout=200)
            assert process.returncode == 0, output
    assert_sound(tmp_path / "cache", tmp_path)


_IN_SMALL_DISK = """
set -e
mkdir -p "$1"
mount -t tmpfs -o size=3m,mode=700 tmpfs "$1"
shift
"$@"
"""


def in_small_disk(mountpoint: Path, command: list[str]) -> list[str]:
    """A command in a user namespace where ``mountpoint`` is a disk of 3 MB."""
    return ["unshare", "-rm", "sh", "-c", _IN_SMALL_DISK, "sh", str(mountpoint), *command]


def can_mount(tmp_path: Path) -> bool:
    probe = subprocess.run(in_small_disk(tmp_path / "probe", ["true"]), capture_output=True)
    return probe.returncode == 0


@pytest.mark.parametrize("quota", [4000, -1], ids=["evicts", "cannot-evict"])
def test_a_full_disk_is_survived(tmp_path: Path, quota: int) -> None:
    require("unshare", "mount")
    if not can_mount(tmp_path):
        pytest.skip("no user namespaces here")
    listing = make_objects(tmp_path, 60, 200_000)
    disk = tmp_path / "disk"
    with WebServer(tmp_path) as server:
        process = start(in_small_disk(disk, reader(server, disk / "cache", listing, 1, quota)))
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "fine" in output
    assert ("'in_memory': 0" in output) == (quota > 0)
