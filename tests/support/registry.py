"""A registry that misbehaves on demand: our own server with faults, authentication and a log of what it sent.

::

    layout = Layout(tmp_path / "layout"); image = layout.add_image([{"hello": "world"}], "1")
    with FaultyRegistry({"team/app": layout.path}) as registry:
        registry.fault("/blobs/", "truncate", after=1000, count=1)
        ...
        assert registry.served(digest) == 1 and registry.bytes_of(digest) == size
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from udk.registry.server import Answer, RegistryServer, Request, error


class Logged:
    """One request; ``sent`` counts the body bytes handed to the kernel so far."""

    def __init__(self, request: Request) -> None:
        self.method, self.target, self.headers, self.body = (
            request.method, request.target, request.headers, request.body,
        )  # fmt: skip
        self.status = 0
        self.sent = 0

    def __repr__(self) -> str:
        return f"{self.method} {self.target} -> {self.status}, {self.sent} bytes"


class Fault:
    """What happens to requests whose target contains ``match``, for ``count`` requests (None: for good).

    kinds of answers: ``status`` (code, body, headers), ``redirect`` (target, code=302), ``replace`` (body,
    headers), ``headers`` (headers: name -> value, or None to drop one), ``edit`` (call: bytes -> bytes of the
    whole body). kinds of transfers: ``truncate`` (after: bytes, then the connection is closed; announces
    ``announce`` bytes more or less than there are), ``reset`` (the same with RST), ``length`` (announce:
    added to Content-Length, the body is sent whole), ``chunked`` (no length, chunk-coded), ``unframed`` (no
    length, ends by closing), ``slow`` (rate: bytes a second), ``stall`` (after: bytes, then silence),
    ``hang`` (no answer), ``drop`` (closed without an answer), ``endless`` (chunked zeros), ``flip`` (one bit
    at ``at``), ``garbage`` (no HTTP), ``delay`` (seconds, then right). kinds of ranges: ``norange`` (200 with
    everything), ``wrongstart`` (206 with ``shift`` added to the start), ``lyingstart`` (206 that claims the
    start asked for and sends from the beginning), ``badrange`` (416).
    """

    def __init__(
        self, match: str, kind: str, count: Optional[int], skip: int, details: dict[str, Any]
    ) -> None:
        self.match, self.kind, self.count, self.skip = match, kind, count, skip
        self.after: int = details.pop("after", 0)
        self.announce: int = details.pop("announce", 0)
        self.rate: int = details.pop("rate", 1)
        self.shift: int = details.pop("shift", 1)
        self.at: int = details.pop("at", 0)
        self.seconds: float = details.pop("seconds", 0.0)
        self.code: int = details.pop("code", 0)
        self.target: str = details.pop("target", "")
        self.body: bytes = details.pop("body", b"")
        self.headers: Mapping[str, Optional[str]] = details.pop("headers", {})
        self.call: Any = details.pop("call", None)
        self.method: str = details.pop("method", "")
        if details:
            raise TypeError(f"unknown: {', '.join(details)}")


class FaultyRegistry(RegistryServer):
    """See the module. Faults and log may be used from any thread."""

    def __init__(
        self,
        layouts: Mapping[str, Any],
        port: int = 0,
        tls: Optional[ssl.SSLContext] = None,
        latency: float = 0.0,
    ) -> None:
        super().__init__(layouts, port=port, tls=tls)
        self.log: list[Logged] = []
        self.latency = latency
        self.users: dict[str, str] = {}
        self.scheme = ""  # "", "basic" or "bearer"
        self.realm = ""
        self.tokens: set[str] = set()
        self.identity_token = ""
        self.token_answer: dict[str, Any] = {}
        self.anonymous = False  # whether tokens are given without credentials
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    # --- control

    def fault(
        self, match: str, kind: str, *, count: Optional[int] = None, skip: int = 0, **details: Any
    ) -> Fault:
        """Adds a fault; the newest that matches wins. ``skip``: requests to leave alone first."""
        made = Fault(match, kind, count, skip, details)
        with self._lock:
            self._faults.insert(0, made)
        return made

    def clear(self) -> None:
        """Forgets faults and the log."""
        with self._lock:
            self._faults.clear()
            self.log.clear()

    def require_basic(self, user: str, password: str) -> None:
        """From now on every request needs these credentials."""
        self.scheme, self.users = "basic", {user: password}

    def require_bearer(
        self, users: Optional[Mapping[str, str]] = None, *, realm: str = "", identity_token: str = "",
        **answer: Any,
    ) -> None:  # fmt: skip
        """From now on every request needs a token of ``/token`` (which asks for ``users``' credentials if
        any).

        ``answer``: members that replace those of the token answer (None removes one)."""
        self.scheme, self.users = "bearer", dict(users or {})
        self.realm = realm or f"{self.url}/token"
        self.identity_token, self.token_answer = identity_token, answer
        self.anonymous = not self.users and not identity_token

    def requests(self, match: str = "", method: str = "") -> list[Logged]:
        """What was asked so far, in the order of the answers' beginnings."""
        with self._lock:
            return [r for r in self.log if match in r.target and method in ("", r.method)]

    def served(self, digest: str) -> int:
        """How often bytes of a blob were sent."""
        return sum(1 for r in self.requests(f"/blobs/{digest}", "GET") if r.status in (200, 206) and r.sent)

    def bytes_of(self, digest: str = "") -> int:
        """Bytes sent of one blob, or of all."""
        return sum(r.sent for r in self.requests(f"/blobs/{digest}", "GET") if r.status in (200, 206))

    def stop(self) -> None:
        self._stopping.set()
        super().stop()

    # --- answers

    def answer(self, request: Request) -> Answer:
        if self.latency:
            time.sleep(self.latency)
        if request.path == "/token":
            return self._token(request)
        if request.path.startswith("/v2") and not self._authorized(request):
            return self._challenge()
        return super().answer(request)

    def _authorized(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        if self.scheme == "basic":
            return self._user(given) != ""
        if self.scheme == "bearer":
            return given.startswith("Bearer ") and given[7:] in self.tokens
        return True

    def _user(self, header: str) -> str:
        if not header.startswith("Basic "):
            return ""
        user, _, password = base64.b64decode(header[6:]).decode().partition(":")
        return user if self.users.get(user) == password else ""

    def _challenge(self) -> Answer:
        if self.scheme == "basic":
            value = 'Basic realm="Registry, \\"test\\""'
        else:
            value = f'Bearer realm="{self.realm}",service="test registry",scope="repository:team/app:pull"'
        return error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": value})

    def _token(self, request: Request) -> Answer:
        form = Request("POST", "/?" + request.body.decode(), {}).query
        allowed = self.anonymous or self._user(request.headers.get("authorization", "")) != ""
        if request.method == "POST":
            allowed = bool(self.identity_token) and form.get("refresh_token") == [self.identity_token]
        if not allowed:
            return error(401, "UNAUTHORIZED", "wrong user or password")
        token = secrets.token_urlsafe(16)
        self.tokens.add(token)
        key = "access_token" if request.method == "POST" else "token"
        body = {key: token, "expires_in": 300, **self.token_answer}
        shown = {k: v for k, v in body.items() if v is not None}
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(shown).encode())

    # --- transfers

    def send(self, handler: Any, request: Request, answer: Answer) -> None:
        fault = self._pick(request)
        entry = Logged(request)
        counter = _Counter(handler, entry, self)
        if fault is None:
            self._send(handler, counter, request, answer)
        else:
            getattr(self, "_do_" + fault.kind)(fault, handler, counter, request, answer)
        counter.begin(answer)  # what was not answered at all is logged too

    def _pick(self, request: Request) -> Optional[Fault]:
        with self._lock:
            for fault in self._faults:
                if (
                    fault.match in request.target
                    and fault.method in ("", request.method)
                    and fault.count != 0
                ):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    if fault.count is not None:
                        fault.count -= 1
                    return fault
        return None

    def _send(self, handler: Any, counter: _Counter, request: Request, answer: Answer) -> None:
        answer.headers.setdefault("Content-Length", str(answer.length))
        counter.begin(answer)
        if request.method != "HEAD":
            for piece in _pieces(answer):
                counter.send(piece)

    def _cut(self, fault: Fault, handler: Any, counter: _Counter, answer: Answer) -> None:
        answer.headers.setdefault("Content-Length", str(answer.length + fault.announce))
        counter.begin(answer)
        left = fault.after
        for piece in _pieces(answer):
            counter.send(piece[:left])
            left -= len(piece)
            if left <= 0:
                break
        handler.close_connection = True

    def _do_status(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        answer.status, answer.body, answer.length = fault.code, fault.body, len(fault.body)
        answer.headers = {k: v for k, v in fault.headers.items() if v is not None}
        self._send(handler, counter, request, answer)

    def _do_redirect(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        answer.status, answer.body, answer.length = fault.code or 302, b"", 0
        answer.headers = {"Location": fault.target}
        self._send(handler, counter, request, answer)

    def _do_replace(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        answer.status, answer.body, answer.start, answer.length = (
            fault.code or 200,
            fault.body,
            0,
            len(fault.body),
        )
        self._do_headers(fault, handler, counter, request, answer)

    def _do_headers(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        merged = {**answer.headers, **fault.headers}
        answer.headers = {k: v for k, v in merged.items() if v is not None}
        self._send(handler, counter, request, answer)

    def _do_edit(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        answer.body = fault.call(b"".join(_pieces(answer)))
        answer.start, answer.length = 0, len(answer.body)
        self._do_headers(fault, handler, counter, request, answer)

    def _do_flip(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        data = bytearray(b"".join(_pieces(answer)))
        data[fault.at] ^= 1
        answer.body, answer.start = bytes(data), 0
        self._send(handler, counter, request, answer)

    def _do_truncate(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        self._cut(fault, handler, counter, answer)

    def _do_reset(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        self._cut(fault, handler, counter, answer)
        time.sleep(0.05)  # what was sent should be read before the reset throws the rest away
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _do_length(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        answer.headers["Content-Length"] = str(answer.length + fault.announce)
        self._send(handler, counter, request, answer)
        handler.close_connection = True

    def _do_chunked(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        answer.headers["Transfer-Encoding"] = "chunked"
        counter.begin(answer)
        for piece in _pieces(answer, 7000):
            handler.wfile.write(b"%x\r\n" % len(piece))
            counter.send(piece)
            handler.wfile.write(b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    def _do_unframed(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        answer.headers["Connection"] = "close"
        counter.begin(answer)
        for piece in _pieces(answer):
            counter.send(piece)
        handler.close_connection = True

    def _do_slow(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        answer.headers["Content-Length"] = str(answer.length)
        counter.begin(answer)
        for piece in _pieces(answer, max(1, fault.rate // 20)):
            if self._stopping.wait(len(piece) / fault.rate):
                break
            counter.send(piece)

    def _do_stall(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        self._cut(fault, handler, counter, answer)
        self._stopping.wait(fault.seconds or 300)

    def _do_hang(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        answer.status, handler.close_connection = 0, True
        counter.begin(answer)
        self._stopping.wait(fault.seconds or 300)

    def _do_drop(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        answer.status, handler.close_connection = 0, True

    def _do_delay(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        self._stopping.wait(fault.seconds)
        self._send(handler, counter, request, answer)

    def _do_endless(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        answer.headers["Transfer-Encoding"] = "chunked"
        counter.begin(answer)
        handler.close_connection = True
        while not self._stopping.is_set():
            handler.wfile.write(b"10000\r\n")
            counter.send(bytes(65536))
            handler.wfile.write(b"\r\n")

    def _do_garbage(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        answer.status, handler.close_connection = 0, True
        counter.begin(answer)
        handler.wfile.write(b"\x00\xff\x1b[31m this is not HTTP\r\n\r\n")

    def _do_norange(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        if answer.status == 206:
            answer.length += answer.start  # ranges of these tests are open-ended
            answer.start, answer.status = 0, 200
            answer.headers.pop("Content-Range")
        self._send(handler, counter, request, answer)

    def _do_wrongstart(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        if answer.status == 206:
            end = answer.start + answer.length
            answer.start = max(0, answer.start + fault.shift)
            answer.length = end - answer.start
            answer.headers["Content-Range"] = f"bytes {answer.start}-{end - 1}/{end}"
        self._send(handler, counter, request, answer)

    def _do_lyingstart(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        if answer.status == 206:
            answer.start = 0
        self._send(handler, counter, request, answer)

    def _do_badrange(
        self, fault: Fault, handler: Any, counter: _Counter, request: Request, answer: Answer
    ) -> None:
        if answer.status == 206:
            answer.status, answer.body, answer.start, answer.length = 416, b"", 0, 0
            answer.headers = {}
        self._send(handler, counter, request, answer)


class _Counter:
    """Sends an answer and keeps its entry of the log, also that of a transfer that breaks.

    The entry is there before the client can have seen anything."""

    def __init__(self, handler: Any, entry: Logged, registry: FaultyRegistry) -> None:
        self.handler, self.entry, self.registry, self.begun = handler, entry, registry, False

    def begin(self, answer: Answer) -> None:
        if self.begun:
            return
        self.begun = True
        self.entry.status = 0 if self.handler.close_connection and not answer.status else answer.status
        with self.registry._lock:
            self.registry.log.append(self.entry)
        if self.entry.status and not self.registry._stopping.is_set():
            self.handler.send_head(answer)

    def send(self, data: bytes) -> None:
        self.entry.sent += len(data)
        view = memoryview(data)
        try:
            while view:
                view = view[self.handler.connection.send(view) :]
        except OSError:
            self.entry.sent -= len(view)
            raise


def _pieces(answer: Answer, size: int = 1 << 16) -> Iterator[bytes]:
    if isinstance(answer.body, bytes):
        for at in range(0, len(answer.body), size):
            yield answer.body[at : at + size]
        return
    with open(answer.body, "rb") as f:
        f.seek(answer.start)
        left = answer.length
        while left > 0 and (piece := f.read(min(size, left))):
            left -= len(piece)
            yield piece
