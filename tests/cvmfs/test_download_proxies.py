"""Proxy lists, groups, sharding, names with several addresses, automatic configuration."""

from __future__ import annotations

import collections
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfs_client.download import HttpFetcher
from cvmfs_client.download_dns import Resolver, is_address
from cvmfs_client.download_proxy import NO_PROXY, ProxyChain, Switch, parse_groups, plan_groups, proxy_url
from cvmfs_client.download_url import TransferError, parse_url
from cvmfs_client.errors import ConfigError, NetworkError, ProxyError
from tests.cvmfs.settings import Settings
from tests.cvmfs.test_download import fetched, store
from tests.support.webserver import WebServer


def literal(host: str) -> list[str]:
    return [host]


def test_lists_of_proxies() -> None:
    assert parse_groups(" http://a:1 | b:2 ;; c:3;DIRECT ") == [["http://a:1", "b:2"], ["c:3"], ["DIRECT"]]
    assert parse_groups("") == [] == parse_groups(" ; | ;")
    assert parse_groups("a|a|b") == [["a", "b"]]
    assert plan_groups([["a", "DIRECT"], ["DIRECT"]], []) == [["a", "DIRECT"], ["DIRECT"]]
    # with a fallback nothing goes out directly
    assert plan_groups([["a", "DIRECT"], ["DIRECT"]], [["f"], ["direct"]]) == [["a"], ["f"]]


def test_addresses_of_proxies() -> None:
    assert str(proxy_url("squid.example.org")) == "http://squid.example.org:3128/"
    assert proxy_url("http://u:p%40@h:8080").userinfo == "u:p@"
    assert proxy_url("http://[::1]:3128").origin.host == "::1"
    assert proxy_url("http://h:80").origin.port == 80
    for bad in ("ftp://h:1", "http://", "http://h:notaport", "https://h:443", "http://a b:1"):
        with pytest.raises(ProxyError):
            proxy_url(bad)


@pytest.mark.parametrize(
    "bad", ["", "host/path", "http:///x", "gopher://h/", "http://h:99999/", "http://h/a\nb"]
)
def test_bad_server_urls(bad: str) -> None:
    with pytest.raises(ConfigError):
        parse_url(bad)


def chain(text: str, log: list[Switch] | None = None, **options: object) -> ProxyChain:
    return ProxyChain(parse_groups(text), literal, log=(log if log is not None else []).append, **options)  # type: ignore[arg-type]


def test_the_proxies_of_a_group_share_the_load() -> None:
    chosen = collections.Counter(str(chain("http://a:1|http://b:1|http://c:1").choose()) for _ in range(300))
    assert set(chosen) == {"http://a:1", "http://b:1", "http://c:1"}
    assert min(chosen.values()) > 50
    one = chain("http://a:1|http://b:1")
    assert len({one.choose() for _ in range(20)}) == 1  # but a client stays with its choice


def test_failover_goes_through_groups_and_starts_over() -> None:
    log: list[Switch] = []
    proxies = chain("http://a:1|http://b:1;http://c:1;DIRECT", log)
    seen = []
    for _ in range(4):
        proxy = proxies.choose()
        assert proxy is not None
        seen.append(str(proxy))
        proxies.failed(proxy, "broken")
    assert sorted(seen[:2]) == ["http://a:1", "http://b:1"] and seen[2:] == ["http://c:1", "DIRECT"]
    assert [s.kind for s in log] == ["proxy", "proxy group", "proxy group", "proxy group"]
    assert all("broken" in s.reason for s in log)
    assert str(proxies.choose()) in ("http://a:1", "http://b:1")
    assert proxies.failovers == 4


def test_a_failure_is_counted_once_and_others_are_left_alone() -> None:
    proxies = chain("http://a:1|http://b:1")
    first = proxies.choose()
    assert first is not None
    proxies.failed(first, "x")
    second = proxies.choose()
    proxies.failed(first, "x")  # another thread notices as well
    assert proxies.choose() == second != first


def test_a_job_avoids_what_it_has_tried_without_switching_for_all() -> None:
    proxies = chain("http://a:1;http://b:1")
    first = proxies.choose()
    assert first is not None
    other = proxies.choose(avoid=frozenset([first]))
    assert other is not None and other != first
    assert proxies.choose() == first
    assert proxies.choose(avoid=frozenset([first, other])) is None


def test_back_to_the_first_group_after_a_while() -> None:
    proxies = chain("http://a:1;http://b:1", reset_after=0.2)
    first = proxies.choose()
    assert first is not None
    proxies.failed(first, "x")
    assert str(proxies.choose()) == "http://b:1"
    time.sleep(0.25)
    assert proxies.choose() == first


def test_sharding_spreads_by_path_and_moves_little() -> None:
    proxies = chain("http://a:1|http://b:1|http://c:1", shard=True)
    paths = [f"data/{i:02x}" for i in range(200)]
    before = {p: proxies.choose(p) for p in paths}
    assert len(set(before.values())) == 3
    assert before == {p: proxies.choose(p) for p in paths}
    gone = before[paths[0]]
    assert gone is not None
    proxies.failed(gone, "x")
    after = {p: proxies.choose(p) for p in paths}
    assert all(after[p] == before[p] for p in paths if before[p] != gone)
    assert gone not in after.values()


# --- names


class NameServer:
    """Answers A queries from a table; other names do not exist; "silent" gets no answer."""

    def __init__(self, table: dict[str, list[str]]) -> None:
        self.table = table
        self.queries = 0
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._sock.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                query, peer = self._sock.recvfrom(512)
            except OSError:
                return
            self.queries += 1
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            name, kind = ".".join(labels), query[at + 1 : at + 3]
            if name == "silent":
                continue
            known = self.table.get(name)
            found = known if known and kind == b"\0\1" else []
            flags = 0x8180 if known is not None else 0x8183
            head = query[:2] + struct.pack(">HHHHH", flags, 1, len(found), 0, 0)
            answers = b"".join(
                b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 300, 4) + socket.inet_aton(a) for a in found
            )
            # what is no answer is not taken for one
            for message in (b"junk" + bytes(20), head + query[12 : at + 5] + answers):
                try:
                    self._sock.sendto(message, peer)
                except OSError:
                    return

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def names() -> Iterator[NameServer]:
    server = NameServer({"many": ["127.0.0.1", "127.0.0.2", "127.0.0.3"], "one": ["127.0.0.1"]})
    yield server
    server.close()


def test_names_are_looked_up_and_remembered(names: NameServer) -> None:
    resolver = Resolver(server=names.address, timeout=2)
    assert resolver("many") == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    asked = names.queries
    assert resolver("many") == resolver("many")
    assert names.queries == asked
    assert resolver("10.0.0.1") == ["10.0.0.1"] and resolver("::1") == ["::1"]
    with pytest.raises(TransferError, match="does not exist"):
        resolver("nowhere")
    start = time.monotonic()
    with pytest.raises(TransferError, match="timed out"):
        Resolver(server=names.address, timeout=0.2, retries=1)("silent")
    assert time.monotonic() - start < 2
    for bad in ("", "a..b", "x" * 64, "ä" * 70):
        with pytest.raises(TransferError):
            resolver(bad)


def test_stale_addresses_are_better_than_none(names: NameServer) -> None:
    resolver = Resolver(server=names.address, timeout=0.2, retries=0, minimum_ttl=0, maximum_ttl=0)
    assert resolver("one") == ["127.0.0.1"]
    names.close()
    assert resolver("one") == ["127.0.0.1"]


def test_the_system_resolver() -> None:
    assert "127.0.0.1" in Resolver(prefer=4)("localhost") or "::1" in Resolver(prefer=4)("localhost")
    with pytest.raises(TransferError):
        Resolver(timeout=2)("no-such-host.invalid")
    assert (
        is_address("1.2.3.4")
        and is_address("fe80::1")
        and not is_address("example.org")
        and not is_address("1.2.3")
    )


def test_a_name_with_many_addresses_is_a_group(names: NameServer, tmp_path: Path) -> None:
    resolver = Resolver(server=names.address)
    proxies = ProxyChain([["http://many:8000"]], resolver)
    assert proxies.choose() is not None and len(proxies) == 3
    limited = ProxyChain([["http://many:8000"]], resolver, max_addresses=2)
    assert limited.choose() is not None and len(limited) == 2
    # only one of the addresses has a proxy: the others are tried and set aside
    request = store(tmp_path, b"x" * 1000)
    with WebServer(tmp_path) as proxy:
        config = Settings("sw.example.org", dns_server=names.address)
        fetcher = HttpFetcher(config, servers=["http://one/r"], proxy=f"http://many:{proxy.port}")
        for _ in range(3):
            assert fetched(fetcher, request) == b"x" * 1000
        assert {r.headers["host"] for r in proxy.requests} == {"one"}
        groups = fetcher.status()["proxies"]
        assert len(groups) == 1 and len(groups[0]) == 3


def test_requests_reach_a_proxy_as_they_should(tmp_path: Path) -> None:
    request = store(tmp_path, b"content")
    with WebServer(tmp_path) as proxy:
        fetcher = HttpFetcher(
            Settings(), servers=["http://server.invalid/r"], proxy=proxy.url.replace("//", "//user:secret@")
        )
        assert fetched(fetcher, request) == b"content"
        assert proxy.requests[0].path == f"/r/{request.hash.path}"
        assert proxy.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpzZWNyZXQ="
        assert "secret" not in str(fetcher.status())


# --- automatic configuration


def pac(body: str) -> bytes:
    return f"function FindProxyForURL(url, host) {{ {body} }}".encode()


def test_auto_takes_the_environment_or_a_pac_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = store(tmp_path, b"content")
    with WebServer(tmp_path) as proxy, WebServer(tmp_path) as wpad:
        wpad.virtual["/wpad.dat"] = pac(
            f'if (shExpMatch(url, "*/r/.cvmfspublished") && host == "server.invalid") '
            f'return "SOCKS x:1; PROXY 127.0.0.1:{proxy.port}"; return "DIRECT";'
        )
        wpad.virtual["/bad.dat"] = b"function FindProxyForURL(url, host) { return new Thing(); }"
        urls = f"{wpad.url}/missing;{wpad.url}/bad.dat;{wpad.url}/wpad.dat"

        def make(text: str, **values: object) -> HttpFetcher:
            return HttpFetcher(
                Settings("sw.example.org", **values), servers=["http://server.invalid/r"], proxy=text
            )

        monkeypatch.delenv("http_proxy", raising=False)
        fetcher = make("auto;DIRECT", pac_urls=urls)
        assert fetched(fetcher, request) == b"content"
        assert [[p["url"] for p in g] for g in fetcher.status()["proxies"]] == [
            [f"http://127.0.0.1:{proxy.port}"], ["DIRECT"],
        ]  # fmt: skip
        log = " ".join(s["reason"] for s in fetcher.status()["switches"])
        assert "404" in log and "not supported" in log and "found by" in log
        with pytest.raises(ProxyError, match="no proxy was discovered"):
            fetched(make("auto", pac_urls=f"{wpad.url}/missing"), request)
        with pytest.raises(ProxyError, match="neither http_proxy nor"):
            fetched(make("auto"), request)
        monkeypatch.setenv("http_proxy", proxy.url)
        assert fetched(make("auto", pac_urls=urls), request) == b"content"
        # discovery that fails does not mean that nothing may be tried
        monkeypatch.delenv("http_proxy")
        assert fetched(make(f"auto;{proxy.url}", pac_urls=""), request) == b"content"


def test_never_direct_when_only_a_proxy_is_configured(tmp_path: Path) -> None:
    request = store(tmp_path, b"content")
    with WebServer(tmp_path) as server:
        with WebServer(tmp_path) as proxy:
            dead = proxy.url
        config = Settings("sw.example.org", fallback_proxy=dead)
        for text in (dead, f"{dead};{dead}", f"{dead};DIRECT"):
            fetcher = HttpFetcher(config, servers=[server.url + "/r"], proxy=text)
            with pytest.raises(NetworkError, match="refused"):
                fetched(fetcher, request)
        assert server.requests == []
        assert NO_PROXY.url is None
