"""URLs of servers and proxies, and what can go wrong between here and there."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from .errors import ConfigError


class TransferError(Exception):
    """A transfer failed. ``stage``: "resolve", "connect" (nothing was reached), "send", "head", "body".

    ``proxy``: whether it was the proxy that could not be reached or spoke."""

    def __init__(self, reason: str, stage: str, *, timeout: bool = False, proxy: bool = False) -> None:
        super().__init__(reason)
        self.stage = stage
        self.timeout = timeout
        self.proxy = proxy


class Origin(NamedTuple):
    """Scheme, host name (lower case, without brackets) and port."""

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"


class Url(NamedTuple):
    """A parsed absolute URL; ``path`` with its query, as it is sent; ``userinfo`` decoded, "" for none."""

    origin: Origin
    path: str
    userinfo: str = ""

    def __str__(self) -> str:
        return f"{self.origin.scheme}://{self.origin.netloc}{self.path}"


def parse_url(text: str) -> Url:
    """An http, https or file URL. Raises ConfigError."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{text[:200]!r} is not a URL: {error}") from error
    if parts.scheme == "file" and parts.path.startswith("/"):
        return Url(Origin("file", "", 0), parts.path)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(ord(c) <= 32 for c in text):
        raise ConfigError(
            f"{text[:200]!r} is not a URL of a server", "write it like http://host.example.org/cvmfs/name"
        )
    user = unquote(parts.netloc.rpartition("@")[0])
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(
        Origin(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)), path, user
    )


class Limits(NamedTuple):
    """Patience of one transfer: seconds to connect or of silence; bytes/s below which that long is a
    failure.
    """

    timeout: float = 5.0
    low_speed: float = 1024.0
