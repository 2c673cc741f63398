"""One HTTP exchange: TLS, proxies, redirects, time limits. Retrying and authentication are the client's
business."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import requests
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError

from udk.errors import NetworkError, ProtocolError, RegistryError
from udk.oci.text import quoted
from udk.registry.adapter import Adapter, finished, policy, reader, shut, socket_of
from udk.registry.answers import MAX_ERROR_BODY
from udk.registry.failures import describe, find, is_not_http, tls_error
from udk.registry.options import RegistryOptions, is_loopback
from udk.registry.peers import MAX_URL, RefusedPeer, host_of, origin, redirect_target
from udk.registry.retry import Unreachable
from udk.registry.tls import TlsSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_REDIRECTS = 10
CHUNK = 1 << 18
REDIRECTS = (301, 302, 303, 307, 308)


class BrokenTransfer(NetworkError):
    """The body ended early or stopped coming: what was read is good, the rest can be asked for."""


class NotHttp(NetworkError):
    """The peer does not speak plain HTTP; it may speak TLS."""


class Answer:
    """An answer whose body has not been read yet. ``url`` is where it finally came from."""

    def __init__(self, raw: requests.Response, url: str, transport: Transport, redirected: bool) -> None:
        self._response = raw
        self._transport = transport
        self.status = raw.status_code
        self.headers = raw.headers
        self.url = url
        self._error: bytes | None = None
        self._body: bytes | None = None
        self.redirected = redirected  # to another origin than the first request's

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the exchange; a connection whose body was read wholly is kept for the next one."""
        if self._transport.forget(self):
            if not finished(self._response):
                self._response.raw.close()  # cheaper than reading what nobody wants
            self._response.raw.release_conn()

    def abort(self) -> None:
        """Breaks the exchange from another thread."""
        shut(socket_of(self._response.raw))  # closing would wait for the reader that is to be woken

    @property
    def length(self) -> int | None:
        """The Content-Length announced, in bytes; None if there is none. Raises ProtocolError."""
        text = self.headers.get("Content-Length")
        if text is None or "Transfer-Encoding" in self.headers:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ProtocolError(f"{host_of(self.url)} sent the Content-Length {quoted(text, 40)}")
        return int(text)

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes. Raises BrokenTransfer when it ends early, stalls or falls below the least
        rate."""
        options = self._transport.options
        host = host_of(self.url)
        expected = self.length
        read = reader(self._response)
        total, mark, since = 0, 0, time.monotonic()
        while True:
            try:
                chunk = read(CHUNK)
            except (HTTPError, OSError, ValueError, AttributeError) as e:
                # ValueError and AttributeError: urllib3 and http.client, when the connection was closed under
                # them
                raise BrokenTransfer(f"{_broke(host, total, expected)}: {describe(e)}") from None
            if not chunk:
                break
            total += len(chunk)
            yield chunk
            now = time.monotonic()
            if now - since >= options.stall_timeout:
                if total - mark < options.min_rate * (now - since):
                    raise BrokenTransfer(f"{host} sends less than {options.min_rate} bytes a second")
                mark, since = total, now
        if expected is not None and total < expected:
            raise BrokenTransfer(f"{_broke(host, total, expected)}: the connection was closed")

    def read(self, limit: int, what: str) -> bytes:
        """The whole body (again, if it was read before), of at most ``limit`` bytes. Raises ProtocolError,
        naming ``what``, if there is more."""
        if self._body is not None:
            return self._body
        parts: list[bytes] = []
        total = 0
        if (self.length or 0) > limit:
            raise ProtocolError(f"{what} from {host_of(self.url)} has {self.length} bytes, more than {limit}")
        for chunk in self.chunks():
            total += len(chunk)
            if total > limit:
                raise ProtocolError(f"{what} from {host_of(self.url)} has more than {limit} bytes")
            parts.append(chunk)
        self._body = b"".join(parts)
        return self._body

    def error_body(self) -> bytes:
        """The beginning of an error's body, for its message; nothing if it does not come."""
        if self._error is None:
            self._error = b""
            try:
                for chunk in self.chunks():
                    self._error += chunk
                    if len(self._error) >= MAX_ERROR_BODY:
                        break
            except RegistryError:
                pass
        return self._error


class Transport:
    """Sends requests. May be used by several threads."""

    def __init__(self, options: RegistryOptions) -> None:
        self.options = options
        self._tls = TlsSettings(options)
        self._adapters: dict[tuple[str, bool, bool], Adapter] = {}
        self._lock = threading.Lock()
        self._open: set[Answer] = set()
        self._closed = False
        self._insecure: set[str] = set()

    def allow_insecure(self, host: str) -> None:
        """Lets ``host[:port]`` do without TLS, or with a certificate that cannot be verified."""
        self._insecure.add(host)

    def is_insecure(self, host: str) -> bool:
        return host in self._insecure or self.options.is_insecure(host)

    def has_certificates(self, host: str) -> bool:
        """Whether certs.d has a directory for ``host[:port]``, which says that it speaks TLS."""
        return bool(self._tls.directory(host))

    def close(self) -> None:
        """Breaks all transfers and closes all connections."""
        with self._lock:
            self._closed = True
            adapters, answers = list(self._adapters.values()), list(self._open)
        for answer in answers:
            answer.abort()
        for adapter in adapters:
            adapter.close()

    def forget(self, answer: Answer) -> bool:
        with self._lock:
            known = answer in self._open
            self._open.discard(answer)
            return known

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        redirects: bool = True,
    ) -> Answer:
        """One exchange, redirects followed. ``Authorization`` stays behind when the origin changes.

        Raises NetworkError where another attempt may help, RegistryError where it will not."""
        headers = {"User-Agent": self.options.user_agent, "Accept-Encoding": "identity", **headers}
        first, current = origin(url), url
        for _ in range(MAX_REDIRECTS + 1):
            answer = Answer(
                self._exchange(method, current, headers, body, first), current, self, origin(current) != first
            )
            with self._lock:
                self._open.add(answer)
                closed = self._closed
            if closed:
                answer.abort()
            if answer.status not in REDIRECTS or not redirects:
                return answer
            target = answer.headers.get("Location", "")
            answer.close()
            current = redirect_target(current, target, first, self.is_insecure)
            if origin(current) != first:
                headers.pop("Authorization", None)  # for good: it does not come back when a later hop returns
        raise ProtocolError(f"{first[1]} redirects more than {MAX_REDIRECTS} times")

    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        first: tuple[str, str, int],
    ) -> requests.Response:
        host = host_of(url)
        if len(url) > MAX_URL:
            raise ProtocolError(f"the address at {host} is too long")
        try:
            prepared = requests.Request(method, url, headers=dict(headers), data=body).prepare()
        except (requests.RequestException, ValueError) as e:
            raise ProtocolError(f"{quoted(url, 80)} cannot be asked for: {describe(e)}") from None
        proxies = {} if is_loopback(host) else self._proxies(url)
        policy.first, policy.deadline = first[1], self.options.stall_timeout
        policy.proxied = bool(proxies)
        timeout = (self.options.connect_timeout, self.options.stall_timeout)
        try:
            return self._adapter(url).send(prepared, stream=True, timeout=timeout, proxies=proxies)
        except requests.exceptions.InvalidSchema as e:
            raise RegistryError(f"the proxy for {host} cannot be used: {describe(e)}") from None
        except requests.exceptions.SSLError as e:
            raise tls_error(host, e) from None
        except (requests.RequestException, HTTPError, OSError, ValueError) as e:
            refused = find(e, RefusedPeer)
            if refused is not None:
                raise ProtocolError(str(refused)) from None
            if url.startswith("http:") and is_not_http(e):
                raise NotHttp(f"{host} does not speak HTTP") from None
            raise Unreachable(
                f"registry {host} cannot be reached: {describe(e)}",
                "check the name and the network, or try later",
            ) from None

    def _proxies(self, url: str) -> dict[str, str]:
        return dict(get_environ_proxies(url, no_proxy=None))

    def _adapter(self, url: str) -> Adapter:
        host, near = host_of(url) if url.startswith("https:") else "", is_loopback(host_of(url))
        insecure = bool(host) and self.is_insecure(host)
        key = (host, insecure, near)
        with self._lock:
            adapter = self._adapters.get(key)
        if adapter is None:
            context = self._tls.context(host, insecure) if host else None
            made = Adapter(context, self.options.connections, near)
            with self._lock:
                adapter = self._adapters.setdefault(key, made)
        return adapter


def _broke(host: str, total: int, expected: int | None) -> str:
    return f"the transfer from {host} broke off after {total}{f' of {expected}' if expected else ''} bytes"
