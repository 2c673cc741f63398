"""A static web server on loopback for tests: request log, injected faults, latency."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Optional
from urllib.parse import unquote_to_bytes


class LoggedRequest(NamedTuple):
    method: str
    path: str  # as sent, still percent-escaped
    headers: dict[str, str]  # names in lower case
    status: int  # 0: the connection was dropped or left hanging


class Fault(NamedTuple):
    """What happens to requests whose path contains ``match``.

    kind: "status" (answer ``value``), "hang" (accept, never answer), "drop" (close without an answer),
    "flip" (one bit of the body), "truncate" (announce all, send half, close), "short" (an answer with half of
    the body), "slow" (``value`` bytes per second), "redirect" (302 to ``target``), "replace" (200 with
    ``body``), "garbage" (no HTTP at all), "endless" (chunked zeros until the client goes)."""

    match: str
    kind: str
    value: int = 0
    target: str = ""
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class WebServer:
    """Serves ``root``; ``url`` is its address. As context manager it stops at the end.

    ``latency``: seconds before each answer. ``faults``: list of [Fault, remaining count or None]."""

    def __init__(self, root: Path, *, latency: float = 0.0, port: int = 0) -> None:
        self.root = os.path.realpath(root)
        self.latency = latency
        self.requests: list[LoggedRequest] = []
        self.faults: list[list[object]] = []
        self.virtual: dict[str, bytes] = {}  # path -> body, before the files
        self.connections = 0
        self.max_parallel = 0
        self._parallel = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept, name="webserver", daemon=True)
        self._thread.start()

    # --- control
    def fault(self, match: str, kind: str, *, count: Optional[int] = None, **details: object) -> None:
        """Injects a fault, for ``count`` requests or for good; the newest that matches wins."""
        self.faults.insert(0, [Fault(match, kind, **details), count])  # type: ignore[arg-type]

    def clear(self) -> None:
        """Forgets faults and the log."""
        with self._lock:
            self.faults.clear()
            self.requests.clear()

    def paths(self, match: str = "") -> list[str]:
        """Paths of the logged requests that contain ``match``."""
        with self._lock:
            return [r.path for r in self.requests if match in r.path]

    def drop_connections(self) -> None:
        """Closes every connection that is open now."""
        with self._lock:
            for sock in self._open:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def stop(self) -> None:
        """Stops listening and drops all connections: from now on they are refused."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self.drop_connections()
        self._thread.join(5)

    def __enter__(self) -> WebServer:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.stop()

    # --- serving
    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            reader = sock.makefile("rb")
            while not self._stopped.is_set():
                line = reader.readline(65536)
                if not line.strip():
                    return
                method, target, _ = line.decode("latin-1").split(" ", 2)
                headers: dict[str, str] = {}
                while True:
                    line = reader.readline(65536)
                    if line in (b"\r\n", b"\n", b""):
                        break
                    name, _, value = line.decode("latin-1").partition(":")
                    headers[name.strip().lower()] = value.strip()
                if target.startswith("http://"):  # asked as a proxy
                    target = "/" + target[7:].partition("/")[2]
                if not self._answer(sock, method, target, headers):
                    return
        except (OSError, ValueError):
            pass
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _pick(self, path: str) -> Optional[Fault]:
        with self._lock:
            for item in self.faults:
                fault, count = item
                assert isinstance(fault, Fault)
                if fault.match in path and count != 0:
                    if isinstance(count, int):
                        item[1] = count - 1
                    return fault
        return None

    def _answer(self, sock: socket.socket, method: str, target: str, headers: dict[str, str]) -> bool:
        with self._lock:
            self._parallel += 1
            self.max_parallel = max(self.max_parallel, self._parallel)
        try:
            if self.latency:
                time.sleep(self.latency)
            fault = self._pick(target)
            status, body, extra = self._lookup(target, headers, fault)
            with self._lock:
                self.requests.append(LoggedRequest(method, target, headers, status))
            if fault is not None and not self._misbehave(sock, fault, body):
                return False
            if fault is not None and fault.kind == "flip":
                middle = len(body) // 2
                body = body[:middle] + bytes((body[middle] ^ 1,)) + body[middle + 1 :]
            elif fault is not None and fault.kind == "short":
                body = body[: len(body) // 2]
            lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *extra]
            head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
            payload = b"" if method == "HEAD" else body
            if fault is not None and fault.kind == "truncate":
                sock.sendall(head + payload[: len(payload) // 2])
                return False
            if fault is not None and fault.kind == "slow":
                sock.sendall(head)
                step = max(1, fault.value // 10)
                for at in range(0, len(payload), step):
                    if self._stopped.wait(0.1):
                        return False
                    sock.sendall(payload[at : at + step])
            else:
                sock.sendall(head + payload)
            return headers.get("connection", "").lower() != "close"
        finally:
            with self._lock:
                self._parallel -= 1

    def _misbehave(self, sock: socket.socket, fault: Fault, body: bytes) -> bool:
        """Faults that leave no HTTP answer; False: the connection is over."""
        if fault.kind == "hang":
            while not self._stopped.wait(0.05):
                with self._lock:
                    if not any(item[0] is fault for item in self.faults):
                        return False
            return False
        if fault.kind == "drop":
            return False
        if fault.kind == "garbage":
            sock.sendall(b"\x00\xffnot http at all\r\n\r\n" + body[:100])
            return False
        if fault.kind == "endless":
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            block = b"10000\r\n" + bytes(65536) + b"\r\n"
            while not self._stopped.is_set():
                sock.sendall(block)
            return False
        return True

    def _lookup(
        self, target: str, headers: dict[str, str], fault: Optional[Fault]
    ) -> tuple[int, bytes, list[str]]:
        extra = [f"{k}: {v}" for k, v in fault.headers] if fault is not None else []
        if fault is not None and fault.kind in ("hang", "drop", "garbage", "endless"):
            return 0, b"", extra
        if fault is not None and fault.kind == "status":
            return fault.value, fault.body or b"fault\n", extra
        if fault is not None and fault.kind == "redirect":
            return 302, b"", [*extra, f"Location: {fault.target}"]
        if fault is not None and fault.kind == "replace":
            return 200, fault.body, extra
        name = target.partition("?")[0]
        if name in self.virtual:
            return 200, self.virtual[name], extra
        path = os.path.join(os.fsencode(self.root), unquote_to_bytes(name).lstrip(b"/"))
        if b".." in path.split(b"/"):
            return 403, b"", extra
        try:
            with open(path, "rb") as f:
                body = f.read()
        except OSError:
            return 404, b"not found\n", extra
        wanted = headers.get("range", "")
        if wanted.startswith("bytes=") and wanted.count("-") == 1:
            first, last = wanted[6:].split("-")
            if int(first) >= len(body):
                return 416, b"", extra
            end = min(int(last), len(body) - 1) if last else len(body) - 1
            extra.append(f"Content-Range: bytes {first}-{end}/{len(body)}")
            return 206, body[int(first) : end + 1], extra
        return 200, body, extra
