"""Reading goes on while proxies and servers fail in every way; the log says why each switch was made.

Through squid, as sites have it, to two servers of one repository.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cvmfs_client import Repository
from cvmfs_client.errors import CvmfsError, NetworkError
from tests.cvmfs.conftest import FQRN, Published
from tests.support.needs import needs
from tests.support.squid import Squid, free_port, running_squid
from tests.support.webserver import WebServer

QUICK = {
    "CVMFS_TIMEOUT": "1",
    "CVMFS_TIMEOUT_DIRECT": "1",
    "CVMFS_MAX_RETRIES": "0",
    "CVMFS_BACKOFF_INIT": "0",
    "CVMFS_BACKOFF_MAX": "0",
    "CVMFS_PREFETCH": "no",
}


@pytest.fixture(scope="module")
def squid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Squid]:
    with running_squid(tmp_path_factory.mktemp("squid")) as made:
        yield made


class Two:
    """Two servers of the published repository."""

    def __init__(self, published: Published, top: Path) -> None:
        self.published = published
        self.top = top
        self.www = published.directory.parents[1]
        self.servers = [WebServer(self.www), WebServer(self.www)]
        self.expected = self.contents_of(published.tree)

    @staticmethod
    def contents_of(tree: Path) -> dict[str, str]:
        return {
            "/" + str(p.relative_to(tree)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in tree.rglob("*")
            if p.is_file() and not p.is_symlink()
        }

    def open(self, proxy: str, name: str = "c", **config: str) -> Repository:
        urls = ";".join(f"{s.url}/cvmfs/{FQRN}" for s in self.servers)
        return self.published.open(self.top / name, server=urls, proxy=proxy, config={**QUICK, **config})

    def read_all(self, repo: Repository) -> dict[str, str]:
        return {path: hashlib.sha256(repo.read(path)).hexdigest() for path in self.expected}


@pytest.fixture
def two(published: Published, tmp_path: Path) -> Iterator[Two]:
    made = Two(published, tmp_path)
    yield made
    for server in made.servers:
        server.stop()


def reasons(repo: Repository) -> list[str]:
    return [f"{s['from']} -> {s['to']}: {s['reason']}" for s in repo.network_status()["switches"]]


@needs("squid")
def test_through_squid(two: Two, squid: Squid) -> None:
    with two.open(squid.url) as repo:
        assert two.read_all(repo) == two.expected
        assert repo.getxattr("/", "user.proxy") == squid.url.encode()
        assert reasons(repo) == []
    assert any(FQRN in line for line in squid.lines())
    # the site's second node is served by squid: the server is not asked for objects again
    two.servers[0].clear()
    with two.open(squid.url, "second") as repo:
        assert two.read_all(repo) == two.expected
    assert len(two.servers[0].paths("/data/")) <= 2
    assert two.servers[1].requests == []


HOST_FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("status", {"value": 404}, "404"),
    ("status", {"value": 500}, "500"),
    ("status", {"value": 503}, "503"),
    ("flip", {}, ""),
    ("short", {}, ""),
    ("truncate", {}, ""),
    ("drop", {}, ""),
    ("hang", {}, ""),
    ("garbage", {}, ""),
    ("slow", {"value": 40}, ""),
    ("redirect", {"target": "http://127.0.0.1:1/elsewhere"}, ""),
    ("endless", {}, ""),
]


@needs("squid")
@pytest.mark.parametrize(("kind", "details", "text"), HOST_FAULTS)
def test_a_failing_server_behind_squid(
    two: Two, squid: Squid, kind: str, details: dict[str, Any], text: str
) -> None:
    two.servers[0].fault("/data/", kind, **details)
    began = time.monotonic()
    with two.open(squid.url) as repo:
        assert two.read_all(repo) == two.expected
        log = reasons(repo)
        assert log, "no switch was recorded"
        assert any(text in line for line in log), log
    assert time.monotonic() - began < 60
    two.servers[0].clear()


@pytest.mark.parametrize(("kind", "details", "text"), HOST_FAULTS)
def test_a_failing_server(two: Two, kind: str, details: dict[str, Any], text: str) -> None:
    two.servers[0].fault("/data/", kind, **details)
    with two.open("DIRECT") as repo:
        assert two.read_all(repo) == two.expected
        log = reasons(repo)
        assert any(two.servers[0].url in line and text in line for line in log), log
        assert repo.network_status()["hosts"][1]["active"]
    two.servers[0].clear()


def test_a_server_that_is_gone(two: Two) -> None:
    two.servers[0].stop()
    with two.open("DIRECT") as repo:
        assert two.read_all(repo) == two.expected
        assert "refused" in " ".join(reasons(repo)).lower()


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("status", {"value": 503}),
        ("status", {"value": 407}),
        ("drop", {}),
        ("hang", {}),
        ("flip", {}),
        ("garbage", {}),
    ],
)
def test_a_failing_proxy(two: Two, kind: str, details: dict[str, Any]) -> None:
    """A proxy that is none: the next group is used, and the servers are not blamed."""
    with WebServer(two.www) as bad, WebServer(two.www) as good:
        bad.fault("/cvmfs/", kind, **details)
        with two.open(f"{bad.url};{good.url}") as repo:
            assert two.read_all(repo) == two.expected
            log = reasons(repo)
            assert log
        assert bad.requests and good.requests
        assert two.servers[0].requests == [] and two.servers[1].requests == []
        bad.clear()


@needs("squid")
def test_squid_dies_while_reading(two: Two, tmp_path: Path) -> None:
    with running_squid(tmp_path / "a") as first, running_squid(tmp_path / "b") as second:
        with two.open(f"{first.url};{second.url}") as repo:
            paths = sorted(two.expected)
            found = {}
            for number, path in enumerate(paths):
                if number == len(paths) // 2:
                    first.stop()
                found[path] = hashlib.sha256(repo.read(path)).hexdigest()
            assert found == two.expected
            assert any(first.url in line and second.url in line for line in reasons(repo)), reasons(repo)
        assert first.lines() and second.lines()


def test_all_proxies_down_and_no_direct(two: Two) -> None:
    """An error within the deadline; nothing goes out directly."""
    dead = ";".join(f"http://127.0.0.1:{free_port()}" for _ in range(3))
    began = time.monotonic()
    with pytest.raises(NetworkError) as caught:
        two.open(dead)
    assert time.monotonic() - began < 20
    assert caught.value.status == 30
    assert two.servers[0].requests == [] and two.servers[1].requests == []


def test_all_proxies_hang(two: Two) -> None:
    with WebServer(two.top) as proxy:
        proxy.fault("/", "hang")
        began = time.monotonic()
        with pytest.raises(NetworkError):
            two.open(f"{proxy.url}|{proxy.url}")
        assert time.monotonic() - began < 30
        proxy.clear()
    assert two.servers[0].requests == []


def test_everything_fails_in_the_middle(two: Two) -> None:
    """What is in the cache stays readable, the rest is an error in time."""
    with two.open("DIRECT") as repo:
        assert repo.read("/README") == b"read me\n"
        for server in two.servers:
            server.stop()
        began = time.monotonic()
        with pytest.raises(CvmfsError) as caught:
            repo.read("/bin/tool")
        assert isinstance(caught.value, OSError) and caught.value.errno == 5
        assert time.monotonic() - began < 20
        assert repo.read("/README") == b"read me\n"
        assert repo.network_status()["online"] is False


def test_the_first_proxy_group_is_used_again(two: Two) -> None:
    with WebServer(two.www) as first, WebServer(two.www) as second:
        first.fault("/data/", "status", value=407, count=1)
        with two.open(f"{first.url};{second.url}", CVMFS_PROXY_RESET_AFTER="1") as repo:
            repo.read("/README")
            assert repo.getxattr("/", "user.proxy") == second.url.encode()
            time.sleep(1.1)
            repo.read("/bin/tool")
            assert repo.getxattr("/", "user.proxy") == first.url.encode()
