"""Proxies: a real squid between us and the registry."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.needs import find, needs
from tests.support.squid import forget_squid, start_squid
from tests.support.webserver import WebServer
from udk.errors import RegistryError
from udk.oci.reference import Reference
from udk.registry.client import RegistryClient
from udk.registry.options import RegistryOptions
from udk.registry.transport import Transport


class Proxy(NamedTuple):
    url: str
    log: Path

    def lines(self, match: str) -> list[str]:
        for _ in range(100):  # squid writes its log when it likes
            found = [line for line in self.log.read_text().splitlines() if match in line]
            if found:
                return found
            time.sleep(0.05)
        return []


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    helper = tmp_path / "auth.sh"
    check = "case $user.$password in user.p@ss|user.p%40ss) echo OK;; *) echo ERR;; esac"
    script = f"while read user password; do {check}; done"
    helper.write_text(f"#!/bin/sh\n{script}\n")
    helper.chmod(0o755)
    conf = tmp_path / "squid.conf"
    conf.write_text(
        f"http_port 127.0.0.1:{port}\npid_filename {tmp_path}/pid\naccess_log stdio:{tmp_path}/access.log\n"
        f"cache_log {tmp_path}/cache.log\ncache deny all\nshutdown_lifetime 0 seconds\n"
        f"netdb_filename none\ncoredump_dir {tmp_path}\n"
        f"auth_param basic program {helper}\nauth_param basic children 1\nacl known proxy_auth REQUIRED\n"
        "http_access allow known\nhttp_access deny all\nvisible_hostname proxy.test\n"
    )
    (tmp_path / "access.log").touch()
    squid = find("squid")
    assert squid
    process = start_squid(squid, conf, port)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "cache.log").read_text()
                time.sleep(0.05)
        yield Proxy(f"http://user:p%40ss@127.0.0.1:{port}", tmp_path / "access.log")
    finally:
        process.kill()
        process.wait()
        forget_squid(port)


def environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@needs("squid")
@pytest.mark.slow
def test_through_a_proxy(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a name that is not loopback to us: squid refuses to resolve it, and says so in its log."""
    environment(monkeypatch, https_proxy=proxy.url, HTTP_PROXY=proxy.url)
    with RegistryClient(RegistryOptions(attempts=1, environ={"HOME": str(tmp_path)})) as client:
        with pytest.raises(RegistryError) as caught:
            client.manifest(Reference.parse("registry.invalid/a:1"))
    assert str(caught.value).isprintable()
    assert "p@ss" not in str(caught.value)
    assert "CONNECT registry.invalid:443 user" in proxy.lines("CONNECT")[0]


@needs("squid")
@pytest.mark.slow
def test_plain_requests_through_a_proxy(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment(monkeypatch, http_proxy=proxy.url)
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "x").write_text("content")
    address = own_address()
    if not address:
        pytest.skip("this machine has no address but loopback")
    with WebServer(tmp_path / "www") as server:
        server._listener.close()
    transport = Transport(RegistryOptions(attempts=1))
    with transport.send("GET", f"http://{address}:9/x", {}) as answer:
        assert answer.status in (403, 503)  # squid's own word: nobody listens there
    assert f"http://{address}:9/x user" in proxy.lines(address)[0]
    transport.close()


@needs("squid")
@pytest.mark.slow
def test_no_proxy_and_loopback_go_straight(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, served: Any, options: Any
) -> None:
    environment(monkeypatch, http_proxy=proxy.url, https_proxy=proxy.url, NO_PROXY="registry.invalid")
    with RegistryClient(options(attempts=1)) as client:
        client.manifest(served.ref)
        with pytest.raises(RegistryError):
            client.manifest(Reference.parse("registry.invalid/a:1"))
    assert not [line for line in proxy.log.read_text().splitlines() if "invalid" in line or " user " in line]


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1", "http://127.0.0.1:1", "nonsense://x", "http://"])
def test_proxies_that_do_not_work(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment(monkeypatch, https_proxy=url)
    with RegistryClient(RegistryOptions(attempts=1, environ={"HOME": str(tmp_path)})) as client:
        with pytest.raises(RegistryError) as caught:
            client.manifest(Reference.parse("registry.invalid/a:1"))
    assert str(caught.value).isprintable()


def own_address() -> str:
    """An address of this machine that is not loopback, ``""`` if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return ""
        address = str(probe.getsockname()[0])
    return "" if address.startswith("127.") else address
