"""requests' adapter, with our TLS contexts and guarded connections instead of what requests brings.

``requests`` is used through this adapter only, without sessions: no cookies, no .netrc, no redirects of its
own, and no decoding of bodies, whose bytes are hashed as they came.
"""

from __future__ import annotations

import threading
from socket import SO_RCVBUF, SOL_SOCKET
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from udk.oci.text import clean
from udk.registry.peers import RefusedPeer, inside

if TYPE_CHECKING:
    import ssl
    from typing import Any

    import requests


NEAR_BUFFER = 256 << 10


class Policy(threading.local):
    """What the guarded connections of this thread's current exchange may do."""

    first = ""
    deadline = 30.0
    proxied = False


policy = Policy()


class _Guard:
    """Connection mixin: checks whom a name led to, and bounds the time for the head of an answer.

    A time-out of a socket bounds a single read only: a server that sends a byte now and then would hold us
    for ever. So a timer shuts the socket down."""

    sock: Any
    host: str
    is_verified: bool

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        # If not, our context says so by the user's choice; urllib3 would warn about it on stderr.
        self.is_verified = True
        if policy.proxied:
            return
        try:
            peer = self.sock.getpeername()[0]
        except (OSError, AttributeError, IndexError):
            return
        reason = inside(str(peer), policy.first) if self.host.strip("[]").lower() != policy.first else ""
        if reason:
            self.close()  # type: ignore[attr-defined]
            raise RefusedPeer(f"{clean(self.host, 80)} is not contacted: it is {reason}")

    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        late = threading.Event()

        def stop(sock: Any = self.sock) -> None:
            late.set()
            shut(sock)

        timer = threading.Timer(2 * policy.deadline, stop)
        timer.daemon = True
        timer.start()
        try:
            answer = super().getresponse(*args, **kwargs)  # type: ignore[misc]
        finally:
            timer.cancel()
        if late.is_set():  # what was cut off may look like a whole head
            raise TimeoutError("no whole answer in time")
        return answer


def shut(sock: Any) -> None:
    try:
        sock.shutdown(2)
    except (OSError, AttributeError):
        pass


class _HTTPConnection(_Guard, HTTPConnection):
    pass


class _HTTPSConnection(_Guard, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class Adapter(HTTPAdapter):
    """requests' adapter with our TLS context (None: plain HTTP) instead of the bundle that requests
    brings."""

    def __init__(self, context: ssl.SSLContext | None, connections: int, near: bool = False) -> None:
        self._tls: dict[str, Any] = {"ssl_context": context} if context is not None else {}
        if near:
            # Without latency a large buffer gains nothing, and whatever fills it is lost when we are killed.
            options = [*HTTPConnection.default_socket_options, (SOL_SOCKET, SO_RCVBUF, NEAR_BUFFER)]
            self._tls["socket_options"] = options
        super().__init__(pool_connections=4, pool_maxsize=connections)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block=block, **self._tls, **kwargs)
        _guarded(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return _guarded(super().proxy_manager_for(proxy, **self._tls, **kwargs))

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        parts = urlsplit(request.url)
        return {"scheme": parts.scheme, "host": parts.hostname, "port": parts.port}, {}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context verifies."""


def _guarded(manager: Any) -> Any:
    if not type(manager).__name__.startswith("SOCKS"):
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager


def reader(response: requests.Response) -> Any:
    """A function that returns what has come, up to so many bytes, waiting only if that is nothing.

    urllib3 before 2.1 lacks it, and reads until it has all that was asked for: too late to notice a stall."""
    raw: Any = response.raw
    if hasattr(raw, "read1"):
        return lambda size: raw.read1(size, decode_content=False)
    inner = raw._fp

    def read(size: int) -> bytes:
        chunk: bytes = inner.read1(size)
        if not chunk and inner.length == 0 and not inner.isclosed():
            inner.read()  # tells http.client that the body is over, so that the connection is kept
        return chunk

    return read


def socket_of(raw: Any) -> Any:
    """The socket under an answer, None if it cannot be found."""
    for name in ("_fp", "fp", "raw", "_sock"):
        raw = getattr(raw, name, None)
    return raw


def finished(response: requests.Response) -> bool:
    inner = getattr(response.raw, "_fp", None)
    closed = getattr(inner, "isclosed", None)
    return bool(closed()) if closed is not None else True
