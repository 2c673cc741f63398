"""A small read-only registry: serves OCI image layouts over the distribution protocol, on loopback by
default.

It exists for the demonstration, for tests and for handing images to the next node; it has no authentication
and no push. Every answer is computed by :meth:`RegistryServer.answer`, which the tests' fault injector
overrides.

``python -m udk.registry.server NAME=LAYOUT...`` serves until it is stopped and prints its address first.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit

from udk.errors import InvalidDigestError, UdkError
from udk.oci import mediatypes
from udk.oci.digest import Digest
from udk.oci.strictjson import MAX_BYTES, load_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Any

REF_NAME = "org.opencontainers.image.ref.name"
SEND_BUFFER = 256 << 10
API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}


class Request:
    """One request: ``path`` decoded and without the query, header names in lower case."""

    __slots__ = ("body", "headers", "method", "path", "query", "target")

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> None:
        parts = urlsplit(target)
        self.method = method
        self.target = target
        self.path = unquote(parts.path)
        self.query = parse_qs(parts.query, keep_blank_values=True)
        self.headers = headers
        self.body = body


class Answer:
    """One answer: ``body`` is bytes, or a path of which ``start`` and ``length`` bytes are sent."""

    __slots__ = ("body", "headers", "length", "start", "status")

    def __init__(
        self, status: int, headers: Mapping[str, str] | None = None, body: bytes | str = b"", start: int = 0,
        length: int = -1,
    ) -> None:  # fmt: skip
        self.status = status
        self.headers = dict(headers or {})
        self.body = body
        self.start = start
        self.length = len(body) if isinstance(body, bytes) else length


def error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An error answer in the form of the distribution-spec."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Answer(status, {"Content-Type": "application/json", **(headers or {})}, body)


class RegistryServer:
    """Serves ``layouts``, a mapping of repository name -> directory in OCI image layout.

    A layout's images are tagged by the ``org.opencontainers.image.ref.name`` of its index: the part after the
    last colon if that is a full image name. Layouts are read anew for each request. A context manager; runs
    in threads of this process. ``tls``: an ``ssl.SSLContext`` to serve HTTPS.
    """

    def __init__(
        self,
        layouts: Mapping[str, str | os.PathLike[str]],
        address: str = "127.0.0.1",
        port: int = 0,
        tls: Any = None,
    ) -> None:
        self.layouts = {name: os.fspath(path) for name, path in layouts.items()}
        registry = self

        class Handler(_Handler):
            server_registry = registry

        self._server = (_ServerIPv6 if ":" in address else _Server)((address, port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_address[1]
        self.host = f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self._thread: threading.Thread | None = None

    def start(self) -> RegistryServer:
        """Serves in a background thread."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def serve_forever(self) -> None:
        """Serves in this thread until interrupted."""
        self._server.serve_forever()

    def stop(self) -> None:
        """Stops listening and drops the connections that are open."""
        if self._thread:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()
        self.drop_connections()

    def drop_connections(self) -> None:
        """Breaks every connection that is open now, as a crash of the server would."""
        for connection in list(self._server.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self) -> RegistryServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- what is answered

    def answer(self, request: Request) -> Answer:
        """The answer to ``request``. Overridden by tests that need a registry to misbehave."""
        if request.method not in ("GET", "HEAD"):
            return error(405, "UNSUPPORTED", "this registry is read-only")
        parts = request.path.split("/")
        if parts[:2] != ["", "v2"]:
            return error(404, "UNSUPPORTED", "not an address of the registry API")
        if request.path in ("/v2/", "/v2"):
            return Answer(200, {**API_VERSION, "Content-Type": "application/json"}, b"{}")
        name, kind, last = "/".join(parts[2:-2]), parts[-2], parts[-1]
        layout = self.layouts.get(name)
        if layout is None:
            return error(404, "NAME_UNKNOWN", f"repository {name} is not known")
        if kind == "manifests":
            return self._manifest(layout, last)
        if kind == "blobs":
            return self._blob(layout, last, request.headers.get("range", ""))
        if (kind, last) == ("tags", "list"):
            return self._tags(layout, name, request)
        if kind == "referrers":
            return self._referrers(layout, last, request)
        return error(404, "UNSUPPORTED", "not an address of the registry API")

    def _manifest(self, layout: str, selector: str) -> Answer:
        media_type = ""
        if ":" not in selector:
            entry = self.tagged(layout).get(selector)
            if entry is None:
                return error(404, "MANIFEST_UNKNOWN", f"tag {selector} is not known")
            selector, media_type = entry
        path = _blob_path(layout, selector)
        if path is None or os.path.getsize(path) > MAX_BYTES:
            return error(404, "MANIFEST_UNKNOWN", f"manifest {selector} is not known")
        with open(path, "rb") as f:
            data = f.read()
        headers = {
            **API_VERSION, "Content-Type": media_type or _media_type(data), "Docker-Content-Digest": selector,
            "ETag": f'"{selector}"',
        }  # fmt: skip
        return Answer(200, headers, data)

    def _blob(self, layout: str, digest: str, wanted: str) -> Answer:
        path = _blob_path(layout, digest)
        if path is None:
            return error(404, "BLOB_UNKNOWN", f"blob {digest} is not known")
        size = os.path.getsize(path)
        headers = {
            **API_VERSION, "Content-Type": "application/octet-stream", "Docker-Content-Digest": digest,
            "Accept-Ranges": "bytes", "ETag": f'"{digest}"',
        }  # fmt: skip
        span = _parse_range(wanted, size)
        if span is None:
            return Answer(200, headers, path, 0, size)
        first, last = span
        if first >= size:
            return error(416, "SIZE_INVALID", "range beyond the blob", {"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Answer(206, headers, path, first, last - first + 1)

    def _tags(self, layout: str, name: str, request: Request) -> Answer:
        tags = sorted(self.tagged(layout))
        if "last" in request.query:
            tags = [t for t in tags if t > request.query["last"][0]]
        headers = {**API_VERSION, "Content-Type": "application/json"}
        try:
            count = int(request.query.get("n", ["0"])[0])
        except ValueError:
            count = 0
        if 0 < count < len(tags):
            tags = tags[:count]
            headers["Link"] = f'</v2/{name}/tags/list?n={count}&last={quote(tags[-1])}>; rel="next"'
        return Answer(200, headers, json.dumps({"name": name, "tags": tags}).encode())

    def _referrers(self, layout: str, digest: str, request: Request) -> Answer:
        wanted = request.query.get("artifactType", [""])[0]
        found = []
        for entry in _index(layout):
            path = _blob_path(layout, str(entry.get("digest")))
            if path is None or os.path.getsize(path) > MAX_BYTES:
                continue
            with open(path, "rb") as f:
                manifest = json.load(f)
            kind = manifest.get("artifactType") or manifest.get("config", {}).get("mediaType", "")
            if (manifest.get("subject") or {}).get("digest") == digest and wanted in ("", kind):
                row = {k: entry[k] for k in ("mediaType", "digest", "size")}
                found.append({**row, "artifactType": kind, "annotations": manifest.get("annotations", {})})
        body = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": found}
        headers = {**API_VERSION, "Content-Type": mediatypes.OCI_INDEX}
        if wanted:
            headers["OCI-Filters-Applied"] = "artifactType"
        return Answer(200, headers, json.dumps(body).encode())

    def tagged(self, layout: str) -> dict[str, tuple[str, str]]:
        """Tag -> (digest, media type) of a layout."""
        found = {}
        for entry in _index(layout):
            name = (entry.get("annotations") or {}).get(REF_NAME, "")
            tag = name.rpartition("/")[2].rpartition(":")[2]
            if tag:
                found[tag] = (entry["digest"], entry.get("mediaType", ""))
        return found

    # --- how it is sent

    def send(self, handler: _Handler, request: Request, answer: Answer) -> None:
        """Sends ``answer``. Overridden by tests that break transfers."""
        answer.headers.setdefault("Content-Length", str(answer.length))
        handler.send_head(answer)
        if request.method != "HEAD":
            self.send_body(handler, answer)

    def send_body(self, handler: _Handler, answer: Answer) -> None:
        if isinstance(answer.body, bytes):
            handler.wfile.write(answer.body)
        else:
            with open(answer.body, "rb") as f:
                handler.connection.sendfile(f, answer.start, answer.length)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # HTTPServer would look its own name up, which waits for a name server that may not answer
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # clients may leave at any moment
            super().handle_error(request, client_address)


class _ServerIPv6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_registry: RegistryServer
    server: _Server

    def setup(self) -> None:
        # What waits in a large buffer is lost, and counted as served, when the client is killed.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        try:
            super().finish()
        except OSError:
            pass

    def version_string(self) -> str:
        return "udk-registry"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def send_head(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _serve(self) -> None:
        length = self.headers.get("Content-Length", "")
        body = self.rfile.read(min(int(length), MAX_BYTES)) if length.isdigit() else b""
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body)
        try:
            answer = self.server_registry.answer(request)
        except (OSError, ValueError, KeyError, UdkError) as e:
            answer = error(500, "UNKNOWN", f"{type(e).__name__} in the layout")
        self.server_registry.send(self, request, answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve


def _index(layout: str) -> list[dict[str, Any]]:
    with open(os.path.join(layout, "index.json"), "rb") as f:
        entries: list[dict[str, Any]] = load_object(f.read(), "index.json").get("manifests") or []
    return entries


def _blob_path(layout: str, digest: str) -> str | None:
    try:
        parsed = Digest.parse(digest)
    except InvalidDigestError:
        return None
    path = os.path.join(layout, "blobs", parsed.algorithm, parsed.hex)
    return path if os.path.isfile(path) else None


def _media_type(data: bytes) -> str:
    obj = load_object(data)
    kind = mediatypes.OCI_INDEX if "manifests" in obj else mediatypes.OCI_MANIFEST
    return str(obj.get("mediaType") or kind)


def _parse_range(text: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a single ``bytes=`` range; None when there is none to honour (RFC 9110,
    14.2)."""
    if not text.startswith("bytes=") or "," in text:
        return None
    first, dash, last = text[6:].strip().partition("-")
    if not dash or not (first or last) or not all(not p or p.isdigit() for p in (first, last)):
        return None
    if not first:
        return max(0, size - int(last)), size - 1
    end = min(int(last), size - 1) if last else size - 1
    return (int(first), end) if int(first) <= end or int(first) >= size else None


def main(arguments: list[str]) -> int:
    """``[--port N] NAME=LAYOUT...``"""
    port = 0
    if arguments[:1] == ["--port"]:
        port, arguments = int(arguments[1]), arguments[2:]
    layouts = dict(a.split("=", 1) for a in arguments if "=" in a)
    if not layouts or len(layouts) != len(arguments):
        print("usage: python -m udk.registry.server [--port N] NAME=LAYOUT...", file=sys.stderr)
        return 2
    server = RegistryServer(layouts, port=port)
    print(server.host, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
