"""HTTP/1.1 over a pool of keep-alive connections: just what fetching objects needs, strictly parsed.

A hand-made client, since the standard one spends more time on headers than an object takes on loopback.
Framing that is ambiguous (two lengths, length and chunked) is refused, never guessed (RFC 9112, 6.3).
"""

from __future__ import annotations

import base64
import os
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Callable, Optional

from .download_url import Limits, Origin, TransferError, Url
from .forksafe import ForkSafe

_HEAD_LIMIT = 64 << 10
_PIECE = 256 << 10
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: |$)")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


Resolve = Callable[[str], "list[str]"]


class _Connection:
    """One connection; ``buffer`` holds what was received beyond the last answer's end."""

    __slots__ = ("buffer", "idle_since", "key", "sock", "used")

    def __init__(self, sock: socket.socket, key: tuple[object, ...]) -> None:
        self.sock = sock
        self.key = key
        self.buffer = bytearray()
        self.idle_since = 0.0
        self.used = False

    def alive(self) -> bool:
        """An idle connection has nothing to read, unless its peer has closed it (or speaks out of turn)."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not self.buffer and not poll.poll(0)

    def close(self) -> None:
        try:
            self.sock.close()
        except OSError:
            pass


class Response:
    """An answer whose body is still to be read. Use as context manager; the connection is kept if all was
    read.
    """

    def __init__(self, pool: Pool, connection: _Connection, limits: Limits, *, via_proxy: bool) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.length: Optional[int] = None  # None: not announced
        self._pool = pool
        self._connection = connection
        self._limits = limits
        self._via_proxy = via_proxy
        self._chunked = False
        self._keep = False
        self._done = False
        self._window_start = time.monotonic()
        self._window_bytes = 0

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the connection back, or closes it where the body was not read to its end."""
        connection, self._connection = self._connection, None  # type: ignore[assignment]
        if connection is not None:
            if self._done and self._keep:
                self._pool._give_back(connection)
            else:
                self._pool._discard(connection)

    def pieces(self) -> Iterator[bytes]:
        """The body, piece by piece. Raises TransferError when it is cut, too slow or ill-framed."""
        if self._chunked:
            yield from self._chunks()
        elif self.length is not None:
            yield from self._exactly(self.length)
        else:
            while True:
                piece = self._receive()
                if not piece:
                    break
                yield piece
        self._done = True

    def _exactly(self, length: int) -> Iterator[bytes]:
        buffer = self._connection.buffer
        while length:
            if buffer:
                piece = bytes(buffer[:length])
                del buffer[:length]
            else:
                piece = self._receive(min(length, _PIECE))
                if not piece:
                    raise TransferError(f"the body ended {length} bytes early", "body", proxy=self._via_proxy)
            length -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while True:
            line = self._line().partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", line):
                raise TransferError("ill-framed chunked body", "body", proxy=self._via_proxy)
            size = int(line, 16)
            if size == 0:
                break
            yield from self._exactly(size)
            if self._line():
                raise TransferError("ill-framed chunked body", "body", proxy=self._via_proxy)
        for _ in range(64):  # trailers
            if not self._line():
                return
        raise TransferError("too many trailers", "body", proxy=self._via_proxy)

    def _line(self) -> bytes:
        buffer = self._connection.buffer
        while True:
            end = buffer.find(b"\n")
            if end >= 0:
                line = bytes(buffer[:end]).rstrip(b"\r")
                del buffer[: end + 1]
                return line
            if len(buffer) > 4096:
                raise TransferError("an endless line in a chunked body", "body", proxy=self._via_proxy)
            piece = self._receive()
            if not piece:
                raise TransferError("the body ended early", "body", proxy=self._via_proxy)
            buffer += piece

    def _receive(self, size: int = _PIECE) -> bytes:
        if not size:
            return b""
        buffer = self._connection.buffer
        if buffer:
            piece = bytes(buffer)
            buffer.clear()
            return piece
        piece = _receive(self._connection.sock, size, "body", proxy=self._via_proxy)
        self._window_bytes += len(piece)
        now = time.monotonic()
        elapsed = now - self._window_start
        if elapsed > self._limits.timeout:
            if self._window_bytes < self._limits.low_speed * elapsed:
                rate = self._window_bytes / elapsed
                raise TransferError(
                    f"slower than {self._limits.low_speed:.0f} B/s ({rate:.0f} B/s for {elapsed:.0f} s)",
                    "body",
                    timeout=True,
                    proxy=self._via_proxy,
                )
            self._window_start, self._window_bytes = now, 0
        return piece


class Pool(ForkSafe):
    """Keep-alive connections to servers and proxies. Thread-safe, fork-safe.

    At most ``size`` transfers run at once; more callers wait for their turn."""

    def __init__(
        self, resolve: Resolve, *, size: int = 64, idle: float = 30.0, agent: str = "cvmfs udk"
    ) -> None:
        super().__init__()
        self.connects = 0  # connections opened so far
        self._resolve = resolve
        self._size = size
        self._idle = idle
        self._agent = agent
        self.tls: Callable[[], ssl.SSLContext] = ssl.create_default_context
        self._context: Optional[ssl.SSLContext] = None
        self._free: dict[tuple[object, ...], list[_Connection]] = {}
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(size)

    def _after_fork(self) -> None:
        # the sockets belong to the parent's conversations: close our copies without a word (TLS would say
        # goodbye)
        free, self._free = self._free, {}
        for connections in free.values():
            for connection in connections:
                try:
                    os.close(connection.sock.detach())
                except OSError:
                    pass
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(self._size)

    def close(self) -> None:
        """Closes idle connections."""
        with self._lock:
            free, self._free = self._free, {}
        for connections in free.values():
            for connection in connections:
                connection.close()

    def get(
        self,
        url: Url,
        *,
        proxy: Optional[Url] = None,
        proxy_address: str = "",
        headers: Mapping[str, str] = {},
        limits: Limits = Limits(),  # noqa: B008
    ) -> Response:
        """Sends a GET and reads the head of the answer.

        ``proxy_address`` is the IP address of the proxy to use (its name may have several). Raises
        TransferError.
        """
        self._turns.acquire()
        try:
            return self._get(url, proxy, proxy_address, headers, limits)
        except BaseException:
            self._turns.release()
            raise

    def _get(
        self, url: Url, proxy: Optional[Url], proxy_address: str, headers: Mapping[str, str], limits: Limits
    ) -> Response:
        key = (
            url.origin if url.origin.scheme == "https" or proxy is None else None,
            proxy and proxy.origin,
            proxy_address,
        )
        plain_proxy = proxy is not None and url.origin.scheme == "http"
        target = str(url) if plain_proxy else url.path
        lines = [f"GET {target} HTTP/1.1", f"Host: {url.origin.netloc}", f"User-Agent: {self._agent}"]
        if plain_proxy and proxy is not None and proxy.userinfo:
            lines.append(f"Proxy-Authorization: {_basic(proxy.userinfo)}")
        if url.userinfo:
            lines.append(f"Authorization: {_basic(url.userinfo)}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        while True:
            connection = self._take(key)
            if connection is None:
                connection = self._connect(url, proxy, proxy_address, limits, key)
            try:
                try:
                    connection.sock.sendall(request)
                except OSError as error:
                    raise _transfer_error(error, "send", proxy=proxy is not None) from error
                response = Response(self, connection, limits, via_proxy=proxy is not None)
                _read_head(response, connection, limits)
                connection.used = True
                return response
            except TransferError as error:
                connection.close()
                # a server may close an idle connection at any time: that says nothing about its health
                if connection.used and not error.timeout and not connection.buffer:
                    continue
                raise
            except BaseException:
                connection.close()
                raise

    def _take(self, key: tuple[object, ...]) -> Optional[_Connection]:
        now = time.monotonic()
        while True:
            with self._lock:
                free = self._free.get(key)
                if not free:
                    return None
                connection = free.pop()
            if now - connection.idle_since < self._idle and connection.alive():
                return connection
            connection.close()

    def _give_back(self, connection: _Connection) -> None:
        connection.idle_since = time.monotonic()
        with self._lock:
            self._free.setdefault(connection.key, []).append(connection)
        self._turns.release()

    def _discard(self, connection: _Connection) -> None:
        connection.close()
        self._turns.release()

    def _connect(
        self, url: Url, proxy: Optional[Url], proxy_address: str, limits: Limits, key: tuple[object, ...]
    ) -> _Connection:
        peer = proxy.origin if proxy is not None else url.origin
        addresses = [proxy_address] if proxy_address else self._resolve(peer.host)
        failure: Optional[TransferError] = None
        for address in addresses:
            try:
                sock = _open_socket(address, peer, limits.timeout, proxy=proxy is not None)
            except TransferError as error:
                failure = error
                continue
            self.connects += 1
            try:
                if url.origin.scheme == "https":
                    sock = self._secure(sock, url, proxy, limits)
                seconds, rest = divmod(limits.timeout, 1)
                if not isinstance(sock, ssl.SSLSocket):
                    # the kernel's own time-out saves a poll before each receive
                    sock.settimeout(None)
                    patience = struct.pack("@ll", int(seconds), int(rest * 1e6))
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
                return _Connection(sock, key)
            except BaseException:
                sock.close()
                raise
        raise failure or TransferError(f"{peer.host} has no address", "resolve", proxy=proxy is not None)

    def _secure(self, sock: socket.socket, url: Url, proxy: Optional[Url], limits: Limits) -> socket.socket:
        if proxy is not None:
            host = f"[{url.origin.host}]" if ":" in url.origin.host else url.origin.host
            authority = f"{host}:{url.origin.port}"
            lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", f"User-Agent: {self._agent}"]
            if proxy.userinfo:
                lines.append(f"Proxy-Authorization: {_basic(proxy.userinfo)}")
            try:
                sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            except OSError as error:
                raise _transfer_error(error, "connect", proxy=True) from error
            tunnel = Response(self, _Connection(sock, ()), limits, via_proxy=True)
            _read_head(tunnel, tunnel._connection, limits, tunnel=True)
            if tunnel.status != 200:
                # 502 to 504: the proxy is well, the server is not
                raise TransferError(
                    f"the proxy refuses the tunnel to {authority}: {tunnel.status}",
                    "connect",
                    proxy=tunnel.status not in (502, 503, 504),
                )
        with self._lock:
            if self._context is None:
                self._context = self.tls()
        try:
            return self._context.wrap_socket(sock, server_hostname=url.origin.host)
        except (OSError, ValueError) as error:
            reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
            raise TransferError(f"TLS with {url.origin.netloc} fails: {reason}", "connect") from error


def _basic(userinfo: str) -> str:
    return "Basic " + base64.b64encode(userinfo.encode()).decode("ascii")


def _open_socket(address: str, peer: Origin, timeout: float, *, proxy: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _transfer_error(error, "connect", proxy=proxy) from error
    try:
        sock.settimeout(timeout)
        sock.connect((address, peer.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    except OSError as error:
        sock.close()
        raise _transfer_error(error, "connect", proxy=proxy, peer=f"{address} port {peer.port}") from error


def _transfer_error(error: OSError, stage: str, *, proxy: bool, peer: str = "") -> TransferError:
    # EAGAIN is how the kernel reports its own time-out
    timeout = isinstance(error, (TimeoutError, BlockingIOError, socket.timeout))
    words = {"connect": "connecting", "send": "sending the request", "head": "waiting for an answer"}
    doing = words.get(stage, "receiving")
    reason = "timed out" if timeout else (error.strerror or str(error) or type(error).__name__)
    return TransferError(
        f"{doing}{f' to {peer}' if peer else ''}: {reason}", stage, timeout=timeout, proxy=proxy
    )


def _receive(sock: socket.socket, size: int, stage: str, *, proxy: bool) -> bytes:
    try:
        return sock.recv(size)
    except OSError as error:
        raise _transfer_error(error, stage, proxy=proxy) from error


def _read_head(response: Response, connection: _Connection, limits: Limits, *, tunnel: bool = False) -> None:
    """Reads status line and headers; skips up to a few 1xx answers."""
    proxy = response._via_proxy
    buffer = connection.buffer
    deadline = time.monotonic() + limits.timeout
    for _ in range(8):
        while True:
            end = buffer.find(b"\r\n\r\n")
            if 0 <= end <= _HEAD_LIMIT:
                break
            if len(buffer) > _HEAD_LIMIT:
                raise TransferError("the head of the answer is endless", "head", proxy=proxy)
            if buffer and not b"HTTP/".startswith(buffer[:5]):
                raise TransferError("the answer is not HTTP", "head", proxy=proxy)
            piece = _receive(connection.sock, _PIECE, "head", proxy=proxy)
            if not piece:
                raise TransferError("the connection was closed without an answer", "head", proxy=proxy)
            if time.monotonic() > deadline:
                raise TransferError("waiting for an answer: timed out", "head", timeout=True, proxy=proxy)
            buffer += piece
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        lines = head.split(b"\r\n")
        match = _STATUS.match(lines[0])
        if match is None:
            raise TransferError("the answer is not HTTP", "head", proxy=proxy)
        response.status = int(match.group(2))
        if response.status >= 200:
            _apply_headers(response, lines[1:], old=match.group(1) == b"0", tunnel=tunnel)
            return
    raise TransferError("too many interim answers", "head", proxy=proxy)


def _apply_headers(response: Response, lines: list[bytes], *, old: bool, tunnel: bool) -> None:
    proxy = response._via_proxy
    headers = response.headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or b"\n" in line or b"\0" in line:
            raise TransferError("the answer has a malformed header", "head", proxy=proxy)
        key = name.decode("ascii").lower()
        text = value.strip().decode("latin-1")
        if key in headers and key in ("content-length", "transfer-encoding") and headers[key] != text:
            raise TransferError(f"the answer has two values of {key}", "head", proxy=proxy)
        headers[key] = text
    if tunnel:
        return
    connection = headers.get("connection", "").lower()
    response._keep = connection == "keep-alive" if old else "close" not in connection
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked" or "content-length" in headers:
            raise TransferError("the answer has an ambiguous length", "head", proxy=proxy)
        response._chunked = True
    elif "content-length" in headers:
        text = headers["content-length"]
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise TransferError(f"the answer has the length {text[:40]!r}", "head", proxy=proxy)
        response.length = int(text)
    elif response.status in (204, 304):
        response.length = 0
    else:
        response._keep = False
    if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        # it was not asked for, and what is hashed is the object as stored
        raise TransferError(
            f"the answer is encoded ({headers['content-encoding'][:40]})", "head", proxy=proxy
        )
