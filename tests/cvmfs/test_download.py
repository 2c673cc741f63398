"""The fetcher against real servers that misbehave: what arrives is right or an error, and the log says
why.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from cvmfs_client.download import HttpFetcher, escape
from cvmfs_client.errors import (
    ExpiredError,
    IntegrityError,
    NetworkError,
    ObjectNotFoundError,
    ProxyError,
)
from cvmfs_client.hash import SHA1, Hash
from cvmfs_client.interfaces import External, Request
from tests.cvmfs.settings import Settings
from tests.support.webserver import WebServer

CONTENT = os.urandom(1000) + bytes(3000)
LARGE = bytes(range(256)) * 20_000 + os.urandom(200_000)


def store(root: Path, content: bytes, *, compressed: bool = True, suffix: str = "") -> Request:
    """Puts an object below ``root``/r and returns how to ask for it."""
    body = zlib.compress(content) if compressed else content
    name = Hash.of(SHA1, body, suffix)
    path = root / "r" / name.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return Request(name, compressed, len(content))


class Sink:
    """Collects what a fetcher delivers."""

    def __init__(self) -> None:
        self.data = b""
        self.restarts = 0

    def put(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data = b""
        self.restarts += 1


def fetched(fetcher: HttpFetcher, request: Request) -> bytes:
    sink = Sink()
    fetcher.fetch(request, sink.put, sink.restart)
    return sink.data


def make(servers: list[str], proxy: str | None = "DIRECT", **values: object) -> HttpFetcher:
    return HttpFetcher(Settings("sw.example.org", **values), servers=servers, proxy=proxy)


@pytest.fixture
def two(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Two servers of the same directory."""
    with WebServer(tmp_path) as first, WebServer(tmp_path) as second:
        yield first, second


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("content", [b"", CONTENT, LARGE], ids=["empty", "small", "large"])
def test_fetches_and_keeps_the_connection(tmp_path: Path, content: bytes, compressed: bool) -> None:
    request = store(tmp_path, content, compressed=compressed)
    with WebServer(tmp_path) as server:
        fetcher = make([server.url + "/r"])
        for _ in range(5):
            assert fetched(fetcher, request) == content
        assert fetched(fetcher, request._replace(size=None)) == content
        assert server.connections == 1
        headers = server.requests[0].headers
        assert "accept-encoding" not in headers and "pragma" not in headers
    status = fetcher.status()
    assert status["online"] and status["counters"]["requests"] == 6 and status["switches"] == []


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("status", {"value": 500}),
    ("status", {"value": 404}),
    ("drop", {}),
    ("hang", {}),
    ("flip", {}),
    ("truncate", {}),
    ("short", {}),
    ("garbage", {}),
    ("slow", {"value": 300}),
    ("replace", {"body": b"<html>captive portal</html>"}),
    ("redirect", {"target": "http://127.0.0.1:1/elsewhere"}),
    ("endless", {}),
]


@pytest.mark.parametrize(("kind", "details"), FAULTS, ids=[f"{k}{d.get('value', '')}" for k, d in FAULTS])
def test_another_host_takes_over_whatever_the_first_does(
    two: tuple[WebServer, WebServer], tmp_path: Path, kind: str, details: dict[str, Any]
) -> None:
    first, second = two
    request = store(tmp_path, CONTENT)
    other = store(tmp_path, b"other")
    first.fault("data/", kind, **details)
    fetcher = make([first.url + "/r", second.url + "/r"])
    assert fetched(fetcher, request) == CONTENT
    status = fetcher.status()
    assert [h["active"] for h in status["hosts"]] == [False, True]
    assert len(status["switches"]) == 1
    switch = status["switches"][0]
    assert (switch["from"], switch["to"]) == (first.url + "/r", second.url + "/r")
    assert switch["reason"]
    # the switch lasts: the next object is asked of the second at once
    asked = len(first.requests)
    assert fetched(fetcher, other) == b"other"
    assert len(first.requests) == asked


def test_refused_connections_are_not_retried_where_there_is_another_host(tmp_path: Path) -> None:
    request = store(tmp_path, CONTENT)
    dead = WebServer(tmp_path)
    dead.stop()
    with WebServer(tmp_path) as server:
        fetcher = make([dead.url + "/r", server.url + "/r"])
        assert fetched(fetcher, request) == CONTENT
        assert fetcher.status()["counters"]["retries"] == 0
        assert "refused" in fetcher.status()["switches"][0]["reason"]


def test_bad_data_are_asked_for_once_more_past_caches(tmp_path: Path) -> None:
    request = store(tmp_path, CONTENT)
    with WebServer(tmp_path) as server:
        server.fault("data/", "flip", count=1)
        fetcher = make([server.url + "/r"])
        assert fetched(fetcher, request) == CONTENT
        assert [r.headers.get("cache-control") for r in server.requests] == [None, "no-cache"]
        assert server.requests[1].headers["pragma"] == "no-cache"
        server.clear()
        server.fault("data/", "flip")
        with pytest.raises(IntegrityError, match="hash differs"):
            fetched(fetcher, request)
        assert len(server.requests) == 2
        assert fetcher.status()["online"]


def test_large_bad_data_are_withdrawn_from_the_sink(tmp_path: Path) -> None:
    request = store(tmp_path, os.urandom(3 << 20))
    with WebServer(tmp_path) as server:
        server.fault("data/", "flip", count=1)
        sink = Sink()
        make([server.url + "/r"]).fetch(request, sink.put, sink.restart)
        assert sink.restarts == 1
        assert Hash.of(SHA1, zlib.compress(sink.data)) == request.hash


def test_missing_everywhere_is_told_from_unreachable(
    two: tuple[WebServer, WebServer], tmp_path: Path
) -> None:
    first, second = two
    fetcher = make([first.url + "/r", second.url + "/r"])
    missing = Request(Hash.of(SHA1, b"nowhere"))
    with pytest.raises(ObjectNotFoundError, match="404"):
        fetched(fetcher, missing)
    # an object that nobody has is no reason to leave a server
    assert fetcher.status()["switches"] == []
    assert fetcher.status()["online"]
    second.stop()
    with pytest.raises(NetworkError) as error:
        fetched(fetcher, missing)
    assert not isinstance(error.value, ObjectNotFoundError)


def test_all_servers_gone_is_an_error_in_time_and_passes(tmp_path: Path) -> None:
    request = store(tmp_path, CONTENT)
    with WebServer(tmp_path) as first, WebServer(tmp_path) as second:
        first.fault("data/", "hang")
        second.fault("data/", "hang")
        fetcher = make([first.url + "/r", second.url + "/r"], max_retries=0)
        start = time.monotonic()
        with pytest.raises(NetworkError, match="timed out"):
            fetched(fetcher, request)
        assert time.monotonic() - start < 5
        status = fetcher.status()
        assert not status["online"] and status["offline_since"] <= time.time()
        first.clear()
        second.clear()
        assert fetched(fetcher, request) == CONTENT
        assert fetcher.status()["online"]


def test_lies_about_size_are_caught(tmp_path: Path) -> None:
    bomb = bytes(50 << 20)
    with WebServer(tmp_path) as server:
        fetcher = make([server.url + "/r"])
        request = store(tmp_path, bomb)
        sink = Sink()
        with pytest.raises(IntegrityError, match="bytes"):
            fetcher.fetch(request._replace(size=1000), sink.put, sink.restart)
        assert len(sink.data) <= 1000
        with pytest.raises(IntegrityError, match="more than 60000 bytes"):
            fetcher.fetch(request._replace(size=None, limit=60_000), sink.put, sink.restart)
        with pytest.raises(IntegrityError, match="instead of"):
            fetched(fetcher, store(tmp_path, CONTENT)._replace(size=len(CONTENT) + 1))
        # an endless body ends where no honest one could go on
        server.fault("data/", "endless")
        with pytest.raises(IntegrityError, match="more than"):
            fetched(fetcher, store(tmp_path, CONTENT))


def test_truncated_stream_with_a_right_hash_is_bad(tmp_path: Path) -> None:
    body = zlib.compress(LARGE)[:-10]
    name = Hash.of(SHA1, body)
    path = tmp_path / "r" / name.path
    path.parent.mkdir(parents=True)
    path.write_bytes(body)
    with WebServer(tmp_path) as server, pytest.raises(IntegrityError, match="cut off"):
        fetched(make([server.url + "/r"]), Request(name))


def test_redirects_are_followed_only_where_allowed_and_not_for_ever(tmp_path: Path) -> None:
    request = store(tmp_path, CONTENT)
    with WebServer(tmp_path) as server, WebServer(tmp_path) as other:
        target = f"{other.url}/r/{request.hash.path}"
        server.fault("data/", "redirect", target=target)
        with pytest.raises(NetworkError, match="CVMFS_FOLLOW_REDIRECTS"):
            fetched(make([server.url + "/r"]), request)
        assert fetched(make([server.url + "/r"], follow_redirects="yes"), request) == CONTENT
        other.fault("data/", "redirect", target=target)
        with pytest.raises(NetworkError, match="redirects"):
            fetched(make([server.url + "/r"], follow_redirects="yes"), request)
        server.clear()
        server.fault("data/", "redirect", target="file:///etc/passwd")
        with pytest.raises(NetworkError, match="refused"):
            fetched(make([server.url + "/r"], follow_redirects="yes"), request)


def test_get_tries_the_next_host_when_the_check_refuses(
    two: tuple[WebServer, WebServer], tmp_path: Path
) -> None:
    first, second = two
    first.virtual["/r/.cvmfspublished"] = b"old"
    second.virtual["/r/.cvmfspublished"] = b"new"

    def check(body: bytes) -> str:
        if body == b"old":
            raise ExpiredError("too old")
        return body.decode()

    fetcher = make([first.url + "/r", second.url + "/r"])
    assert fetcher.get(".cvmfspublished", check) == "new"
    assert fetcher.status()["switches"][0]["reason"] == "too old"
    second.virtual["/r/.cvmfspublished"] = b"old"
    with pytest.raises(ExpiredError):
        fetcher.get(".cvmfspublished", check)
    first.virtual["/r/.cvmfspublished"] = second.virtual["/r/.cvmfspublished"] = bytes(100)
    with pytest.raises(IntegrityError, match="larger"):
        fetcher.get(".cvmfspublished", check, limit=50)


def test_nothing_is_fetched_without_a_proxy_unless_told(tmp_path: Path) -> None:
    request = store(tmp_path, CONTENT)
    with WebServer(tmp_path) as server:
        for text in (None, "", "  ", ";|;"):
            with pytest.raises(ProxyError, match="no proxy"):
                fetched(make([server.url + "/r"], text), request)
        assert server.requests == []


def test_file_urls(tmp_path: Path) -> None:
    request = store(tmp_path, LARGE)
    fetcher = make([f"file://{tmp_path}/r"], None)
    assert fetched(fetcher, request) == LARGE
    with pytest.raises(ObjectNotFoundError):
        fetched(fetcher, Request(Hash.of(SHA1, b"nowhere")))


def test_alternative_place_is_tried_first(tmp_path: Path) -> None:
    request = store(tmp_path, CONTENT, suffix="C")
    with WebServer(tmp_path) as server:
        fetcher = make([server.url + "/r"])
        there = request._replace(alternative=f".cvmfsalt-{request.hash.name}")
        assert fetched(fetcher, there) == CONTENT
        assert server.paths() == [f"/r/{there.alternative}", f"/r/{request.hash.path}"]
        (tmp_path / "r" / there.alternative).write_bytes(zlib.compress(CONTENT))
        server.clear()
        assert fetched(fetcher, there) == CONTENT
        assert server.paths() == [f"/r/{there.alternative}"]


def test_external_files_come_in_ranges_from_their_own_servers(tmp_path: Path) -> None:
    (tmp_path / "ext").mkdir()
    (tmp_path / "ext" / "odd name%").write_bytes(LARGE)
    piece = LARGE[1000:5000]
    whole = Request(
        Hash.of(SHA1, LARGE), False, len(LARGE), external=External(b"/odd name%", 0, len(LARGE), True)
    )
    part = Request(Hash.of(SHA1, piece), False, 4000, external=External(b"/odd name%", 1000, 4000, False))
    with WebServer(tmp_path) as server:
        fetcher = make([server.url + "/r"], external_url=server.url + "/ext")
        assert fetched(fetcher, whole) == LARGE
        assert fetched(fetcher, part) == piece
        assert server.requests[0].path == "/ext/odd%20name%25"
        assert "range" not in server.requests[0].headers
        assert server.requests[1].headers["range"] == "bytes=1000-4999"
        server.fault("ext/", "replace", body=LARGE)
        with pytest.raises(NetworkError, match="ignores Range"):
            fetched(fetcher, part)
    with pytest.raises(NetworkError, match="CVMFS_EXTERNAL_URL"):
        fetched(make(["http://127.0.0.1:1/r"]), whole)


def test_geo_api_orders_the_hosts(tmp_path: Path) -> None:
    request = store(tmp_path, CONTENT)
    with WebServer(tmp_path) as a, WebServer(tmp_path) as b, WebServer(tmp_path) as c:
        servers = [s.url + "/r" for s in (a, b, c)]
        for server in (a, b, c):
            server.virtual["/r/api/v1.0/geo/here/127.0.0.1,127.0.0.1,127.0.0.1"] = b"3,1,2\n"
        fetcher = make(servers, use_geoapi="yes", proxy_template="here", max_servers=2)
        assert fetched(fetcher, request) == CONTENT
        assert [h["url"] for h in fetcher.status()["hosts"]] == [servers[2], servers[0]]
        assert len(c.paths("/data/")) == 1
        # a broken answer changes nothing
        for server in (a, b, c):
            server.virtual["/r/api/v1.0/geo/here/127.0.0.1,127.0.0.1,127.0.0.1"] = b"3,1,1\n"
        fetcher = make(servers, use_geoapi="yes", proxy_template="here")
        assert fetched(fetcher, request) == CONTENT
        assert [h["url"] for h in fetcher.status()["hosts"]] == servers
        assert any("unusable answer" in s["reason"] for s in fetcher.status()["switches"])


def test_back_to_the_first_host_after_a_while(two: tuple[WebServer, WebServer], tmp_path: Path) -> None:
    first, second = two
    request = store(tmp_path, CONTENT)
    first.fault("data/", "status", value=503)
    fetcher = make([first.url + "/r", second.url + "/r"], host_reset_after=1)
    fetched(fetcher, request)
    first.clear()
    time.sleep(1.1)
    fetched(fetcher, request)
    assert len(first.paths("data/")) == 1
    assert [s["to"] for s in fetcher.status()["switches"]] == [second.url + "/r", first.url + "/r"]


def test_probe_orders_by_round_trip_time(two: tuple[WebServer, WebServer], tmp_path: Path) -> None:
    first, second = two
    first.latency = 0.2
    fetcher = make([first.url + "/r", second.url + "/r", "http://127.0.0.1:1/r"])
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / ".cvmfspublished").write_bytes(b"x")
    fetcher.probe()
    hosts = fetcher.status()["hosts"]
    assert [h["url"] for h in hosts] == [second.url + "/r", first.url + "/r", "http://127.0.0.1:1/r"]
    assert hosts[1]["rtt_ms"] >= 200 and hosts[2]["rtt_ms"] is None


def test_many_threads_and_a_forked_child_share_one_fetcher(tmp_path: Path) -> None:
    requests = [store(tmp_path, os.urandom(5000)) for _ in range(40)]
    with WebServer(tmp_path, latency=0.01) as server:
        fetcher = make([server.url + "/r"])
        bad: list[object] = []

        def work() -> None:
            for request in requests:
                if Hash.of(SHA1, zlib.compress(fetched(fetcher, request))) != request.hash:
                    bad.append(request)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work()
                code = 0 if not bad else 2
            finally:
                os._exit(code)
        for thread in threads:
            thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not bad
        assert server.max_parallel > 4
        assert server.connections <= 10


def test_escape() -> None:
    assert escape(b"/a b/\xff~[x],:@%") == "/a%20b/%FF~[x],:@%25"
    assert hashlib.md5(escape(bytes(range(256))).encode()).hexdigest()  # total: never fails


def test_info_header_only_where_asked(tmp_path: Path) -> None:
    request = store(tmp_path, CONTENT)._replace(path=b"/a b")
    with WebServer(tmp_path) as server:
        fetched(make([server.url + "/r"]), request)
        fetched(make([server.url + "/r"], send_info_header="yes"), request)
        assert [r.headers.get("cvmfs-info") for r in server.requests] == [None, "/a%20b"]
