"""The HTTP client against a peer that sends exact bytes: framing is parsed strictly, connections are kept
or not.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from cvmfs_client.download_dns import Resolver
from cvmfs_client.download_http import Pool
from cvmfs_client.download_url import Limits, TransferError, parse_url


class Peer:
    """Sends the next scripted answer to each request; None closes instead."""

    def __init__(self) -> None:
        self.script: list[bytes | None] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.pause = 0.0  # s between the bytes of an answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/x"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            buffer = b""
            while True:
                while b"\r\n\r\n" not in buffer:
                    piece = sock.recv(65536)
                    if not piece:
                        return
                    buffer += piece
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                self.requests.append(head)
                answer = self.script.pop(0) if self.script else None
                if answer is None:
                    return
                try:
                    if self.pause:
                        for at in range(len(answer)):
                            sock.sendall(answer[at : at + 1])
                            time.sleep(self.pause)
                    else:
                        sock.sendall(answer)
                except OSError:
                    return
                told = answer.lower()
                if b"connection: close" in told or not (b"content-length" in told or b"chunked" in told):
                    return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nL: x\r\n\r\n"
QUICK = Limits(0.5, 100.0)


def get(pool: Pool, peer: Peer, limits: Limits = QUICK) -> tuple[int, bytes]:
    with pool.get(parse_url(peer.url), limits=limits) as response:
        return response.status, b"".join(response.pieces())


@pytest.mark.parametrize(
    ("answer", "body", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc", True),
        (b"HTTP/1.1 200\r\ncontent-length:3 \r\n\r\nabc", b"abc", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc", b"abc", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", b"abc", False),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end", False),
        (b"HTTP/1.1 204 No\r\nX: Content-Length\r\n\r\n", b"", True),
        (CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n", b"abcde", True),
        (INTERIM + b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nz", b"z", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab", b"ab", True),
    ],
)  # fmt: skip
def test_answers(peer: Peer, answer: bytes, body: bytes, kept: bool) -> None:
    pool = Pool(Resolver())
    peer.script = [answer, answer]
    assert get(pool, peer)[1] == body
    assert get(pool, peer)[1] == body
    assert peer.connections == (1 if kept else 2)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x01\x02",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nConnection: close\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3x\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded: c\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"",
    ],
)
def test_broken_answers(peer: Peer, answer: bytes) -> None:
    peer.script = [answer]
    with pytest.raises(TransferError):
        get(Pool(Resolver()), peer)


def test_an_idle_connection_that_was_closed_is_no_failure(peer: Peer) -> None:
    pool = Pool(Resolver())
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    peer.script = [good, None, good]  # the second request finds the connection closed under it
    assert get(pool, peer) == (200, b"ok")
    assert get(pool, peer) == (200, b"ok")
    assert peer.connections == 2
    # but a first request that is not answered is one
    peer.script = [None]
    with pytest.raises(TransferError, match="without an answer"):
        get(Pool(Resolver()), peer)


def test_what_was_not_read_is_not_taken_for_the_next_answer(peer: Peer) -> None:
    pool = Pool(Resolver())
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    peer.script = [good, good + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", good]
    with pool.get(parse_url(peer.url)):
        pass  # the body stays unread
    assert get(pool, peer) == (200, b"ok")
    assert get(pool, peer) == (200, b"ok")
    assert peer.connections == 3


@pytest.mark.parametrize("what", ["head", "body"])
def test_trickling_peers_are_given_up(peer: Peer, what: str) -> None:
    peer.pause = 0.02
    if what == "head":
        peer.script = [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200]
    else:
        peer.script = [b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b"z" * 500]
    limits = Limits(0.3, 1000.0) if what == "head" else Limits(1.5, 1000.0)
    start = time.monotonic()
    with pytest.raises(TransferError) as error:
        get(Pool(Resolver()), peer, limits)
    assert error.value.timeout
    assert time.monotonic() - start < 6


def test_requests_are_what_they_should_be(peer: Peer) -> None:
    peer.script = [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
    get(Pool(Resolver()), peer)
    lines = peer.requests[0].decode().split("\r\n")
    assert lines[0] == "GET /x HTTP/1.1"
    assert {line.split(":")[0] for line in lines[1:]} == {"Host", "User-Agent"}


def test_no_more_transfers_at_once_than_allowed(peer: Peer) -> None:
    pool = Pool(Resolver(), size=3)
    peer.script = [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"] * 20
    peer.pause = 0.002
    most = [0, 0]
    lock = threading.Lock()

    def work() -> None:
        with pool.get(parse_url(peer.url), limits=Limits(5.0, 0.0)) as response:
            with lock:
                most[0] += 1
                most[1] = max(most)
            list(response.pieces())
            time.sleep(0.01)
            with lock:
                most[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[1] <= 3 and peer.connections <= 3
