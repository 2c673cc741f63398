"""HTTPS: which servers are believed, tunnels through proxies, and to whom credentials are shown."""

from __future__ import annotations

import datetime
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cvmfs_client.download import HttpFetcher
from cvmfs_client.errors import ConfigError, NetworkError
from tests.cvmfs.settings import Settings
from tests.cvmfs.test_download import fetched, store
from tests.support.webserver import WebServer


def certificate(path: Path, address: str) -> Path:
    """A self-signed certificate with its key, for an address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(secret + made.public_bytes(pem))
    return path


class Front:
    """A TLS front before a plain server; notes the heads of requests."""

    def __init__(self, behind: WebServer, pem: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(str(pem))
        self._behind = behind.port
        self.heads: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            with self._context.wrap_socket(raw, server_side=True) as sock:
                with socket.create_connection(("127.0.0.1", self._behind)) as inner:
                    while True:
                        head = b""
                        while not head.endswith(b"\r\n\r\n"):
                            piece = sock.recv(65536)
                            if not piece:
                                return
                            head += piece
                        self.heads.append(head)
                        inner.sendall(head)
                        while True:
                            ready, _, _ = select.select([inner], [], [], 0.2)
                            if not ready:
                                break
                            answer = inner.recv(65536)
                            if not answer:
                                return
                            sock.sendall(answer)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


class Tunnel:
    """A proxy that knows CONNECT only."""

    def __init__(self, *, status: int = 200) -> None:
        self.status = status
        self.heads: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(65536)
            self.heads.append(head)
            sock.sendall(b"HTTP/1.1 %d X\r\n\r\n" % self.status)
            if self.status != 200:
                return
            host, _, port = head.split(b" ")[1].partition(b":")
            with socket.create_connection((host.decode(), int(port))) as peer:
                pair = {sock: peer, peer: sock}
                while True:
                    for ready in select.select(list(pair), [], [])[0]:
                        data = ready.recv(65536)
                        if not data:
                            return
                        pair[ready].sendall(data)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return certificate(tmp_path / "server.pem", "127.0.0.1")


@pytest.fixture
def front(tmp_path: Path, pem: Path) -> Iterator[Front]:
    with WebServer(tmp_path) as behind:
        made = Front(behind, pem)
        yield made
        made.close()


def make(server: str, proxy: str = "DIRECT", **values: object) -> HttpFetcher:
    return HttpFetcher(
        Settings("sw.example.org", timeout=3, timeout_direct=3, **values), servers=[server], proxy=proxy
    )


def test_only_known_authorities_are_believed(
    front: Front, pem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = store(tmp_path, b"content" * 100)
    monkeypatch.delenv("X509_CERT_DIR", raising=False)
    monkeypatch.setenv("X509_CERT_BUNDLE", str(pem))
    fetcher = make(front.url + "/r")
    for _ in range(3):
        assert fetched(fetcher, request) == b"content" * 100
    assert fetcher.status()["counters"]["connects"] == 1
    with pytest.raises(NetworkError, match="certificate"):
        fetched(make(front.url + "/r", use_ssl_system_ca="yes"), request)
    other = certificate(tmp_path / "other.pem", "127.0.0.1")
    monkeypatch.setenv("X509_CERT_BUNDLE", str(other))
    with pytest.raises(NetworkError, match="certificate"):
        fetched(make(front.url + "/r"), request)
    monkeypatch.setenv("X509_CERT_BUNDLE", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="missing"):
        fetched(make(front.url + "/r"), request)


def test_the_name_in_the_certificate_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = store(tmp_path, b"content")
    wrong = certificate(tmp_path / "wrong.pem", "192.0.2.1")
    monkeypatch.delenv("X509_CERT_DIR", raising=False)
    monkeypatch.setenv("X509_CERT_BUNDLE", str(wrong))
    with WebServer(tmp_path) as behind:
        front = Front(behind, wrong)
        with pytest.raises(NetworkError, match=r"not valid for|mismatch"):
            fetched(make(front.url + "/r"), request)
        assert front.heads == []
        front.close()


def test_through_a_tunnel(front: Front, pem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = store(tmp_path, b"content")
    monkeypatch.delenv("X509_CERT_DIR", raising=False)
    monkeypatch.setenv("X509_CERT_BUNDLE", str(pem))
    tunnel = Tunnel()
    fetcher = make(front.url + "/r", tunnel.url.replace("//", "//me:secret@"))
    fetcher.credentials = lambda: {"Authorization": "Bearer token"}
    assert fetched(fetcher, request) == b"content" == fetched(fetcher, request)
    assert len(tunnel.heads) == 1
    assert tunnel.heads[0].startswith(f"CONNECT 127.0.0.1:{front.port} HTTP/1.1\r\n".encode())
    # each gets its own credentials and not the other's
    assert b"Proxy-Authorization: Basic" in tunnel.heads[0] and b"token" not in tunnel.heads[0]
    assert b"Bearer token" in front.heads[0] and b"Proxy-" not in front.heads[0]
    tunnel.close()


def test_a_proxy_that_refuses_the_tunnel_is_to_blame_and_one_that_fails_to_connect_is_not(
    front: Front, pem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = store(tmp_path, b"content")
    monkeypatch.delenv("X509_CERT_DIR", raising=False)
    monkeypatch.setenv("X509_CERT_BUNDLE", str(pem))
    for status in (403, 407, 503):
        bad, good = Tunnel(status=status), Tunnel()
        fetcher = make(front.url + "/r", f"{bad.url};{good.url}")
        assert fetched(fetcher, request) == b"content"
        assert str(status) in fetcher.status()["switches"][0]["reason"]
        assert bad.heads and good.heads
        bad.close()
        good.close()


def test_credentials_stay_with_the_server_they_are_for(
    front: Front, pem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = store(tmp_path, b"content")
    monkeypatch.delenv("X509_CERT_DIR", raising=False)
    monkeypatch.setenv("X509_CERT_BUNDLE", str(pem))
    with WebServer(tmp_path) as plain, WebServer(tmp_path) as behind:
        fetcher = make(plain.url + "/r")
        fetcher.credentials = lambda: {"Authorization": "Bearer token"}
        assert fetched(fetcher, request) == b"content"
        assert "authorization" not in plain.requests[0].headers
        # from one https server to another, and never down to http
        first = Front(behind, pem)
        behind.fault("data/", "redirect", target=f"{front.url}/r/{request.hash.path}", count=1)
        fetcher = make(first.url + "/r", follow_redirects="yes")
        fetcher.credentials = lambda: {"Authorization": "Bearer token"}
        assert fetched(fetcher, request) == b"content"
        assert b"Bearer token" in first.heads[0] and b"Bearer" not in front.heads[0]
        behind.fault("data/", "redirect", target=f"{plain.url}/r/{request.hash.path}")
        with pytest.raises(NetworkError, match="which is refused"):
            fetched(fetcher, request)
        first.close()
