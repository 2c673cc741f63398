"""One attempt: one host, one proxy, one answer; and what kind of failure it is when there is none."""

from __future__ import annotations

import enum
import functools
import os
from typing import Any, Callable, NamedTuple, Optional, TypeVar, cast
from urllib.parse import unquote, urljoin

from .download_http import Pool, Response
from .download_proxy import Proxy
from .download_url import Limits, TransferError, Url, parse_url
from .errors import ConfigError
from .interfaces import Config

T = TypeVar("T")

_REDIRECTS = 4
_DRAIN = 64 << 10
_HASTE = 1.0  # s
# what squid says when it is well but cannot reach the server
_BEYOND_PROXY = (
    "ERR_CONNECT_FAIL", "ERR_DNS_FAIL", "ERR_READ_TIMEOUT", "ERR_READ_ERROR", "ERR_ZERO_SIZE_OBJECT",
    "ERR_SECURE_CONNECT_FAIL", "ERR_CANNOT_FORWARD", "ERR_LIFETIME_EXP", "ERR_INVALID_RESP",
)  # fmt: skip


class Kind(enum.Enum):
    """Who is to blame for a failure."""

    PROXY = "proxy"
    HOST = "host"
    EITHER = "proxy or host"  # seen through a proxy, it cannot be told
    MISSING = "missing"  # the host does not have it
    BAD = "bad"  # the host, or a cache on the way, has something else


class AttemptError(Exception):
    """An attempt failed. ``transient``: worth another try at the same place."""

    def __init__(self, kind: Kind, reason: str, *, transient: bool = False, unreached: bool = False) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.transient = transient
        self.unreached = unreached  # no connection was made


class Settings(NamedTuple):
    """Patience and persistence; times in s."""

    proxied: Limits
    direct: Limits
    retries: int
    backoff_init: float
    backoff_max: float
    redirects: bool
    indefinitely: bool

    @classmethod
    def of(cls, config: Config) -> Settings:
        """From the configuration of the repository."""
        speed = float(config.integer("CVMFS_LOW_SPEED_LIMIT", 1024))
        return cls(
            Limits(float(config.integer("CVMFS_TIMEOUT", 5)), speed),
            Limits(float(config.integer("CVMFS_TIMEOUT_DIRECT", 10)), speed),
            config.integer("CVMFS_MAX_RETRIES", 1),
            float(config.integer("CVMFS_BACKOFF_INIT", 2)),
            float(config.integer("CVMFS_BACKOFF_MAX", 10)),
            config.boolean("CVMFS_FOLLOW_REDIRECTS"),
            config.boolean("CVMFS_FAILOVER_INDEFINITELY"),
        )

    def hasty(self) -> Settings:
        """For when nothing answered a moment ago."""
        return self._replace(
            proxied=self.proxied._replace(timeout=min(self.proxied.timeout, _HASTE)),
            direct=self.direct._replace(timeout=min(self.direct.timeout, _HASTE)),
            retries=0,
        )

    def external(self, config: Config) -> Settings:
        """The same for external files."""
        return self._replace(
            proxied=self.proxied._replace(
                timeout=float(config.integer("CVMFS_EXTERNAL_TIMEOUT", int(self.proxied.timeout)))
            ),
            direct=self.direct._replace(
                timeout=float(config.integer("CVMFS_EXTERNAL_TIMEOUT_DIRECT", int(self.direct.timeout)))
            ),
        )


_server = functools.lru_cache(maxsize=64)(parse_url)


class Attempt:
    """Makes attempts; holds no state between them."""

    def __init__(self, pool: Pool, settings: Settings, credentials: Callable[[], dict[str, str]]) -> None:
        self._pool = pool
        self.settings = settings
        self._credentials = credentials

    def run(
        self,
        base: str,
        path: str,
        proxy: Optional[Proxy],
        headers: dict[str, str],
        handle: Callable[[Response], T],
    ) -> T:
        """GETs ``base``/``path`` and gives the answer to ``handle``. Raises AttemptError, and what
        ``handle`` raises except TransferError."""
        server = _server(base)
        url = server._replace(path=f"{server.path.rstrip('/')}/{path.lstrip('/')}")
        if url.origin.scheme == "file":
            return self._read_file(url, headers, handle)
        through = proxy.url if proxy is not None else None
        limits = self.settings.proxied if through is not None else self.settings.direct
        try:
            first = url.origin
            for _ in range(_REDIRECTS + 1):
                trusted = url.origin == first and first.scheme == "https"
                sent = {**headers, **self._credentials()} if trusted else headers
                with self._pool.get(
                    url,
                    proxy=through,
                    proxy_address=proxy.address if proxy is not None else "",
                    headers=sent,
                    limits=limits,
                ) as response:
                    if response.status == 206 or (200 <= response.status < 300 and "Range" not in headers):
                        return handle(response)
                    error = _judge(response, through)
                    _drain(response)
                    if response.status not in (301, 302, 303, 307, 308) or not self.settings.redirects:
                        raise error
                    url = _redirected(url, response)
            raise AttemptError(Kind.HOST, f"more than {_REDIRECTS} redirects")
        except TransferError as error:
            raise _blame(error, through) from error

    def _read_file(self, url: Url, headers: dict[str, str], handle: Callable[[Response], T]) -> T:
        try:
            fd = os.open(unquote(url.path), os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise AttemptError(Kind.MISSING, f"{url.path} does not exist") from error
        except (OSError, ValueError) as error:
            raise AttemptError(Kind.HOST, f"{url.path}: {error}") from error
        with _FileResponse(fd, headers.get("Range", "")) as response:
            try:
                return handle(cast(Response, response))
            except OSError as error:
                raise AttemptError(Kind.HOST, f"{url.path}: {error}") from error


class _FileResponse:
    """A local file in the shape of a Response."""

    def __init__(self, fd: int, wanted: str) -> None:
        self._fd = fd
        self.status = 200
        self.headers: dict[str, str] = {}
        self._left: int = os.fstat(fd).st_size
        if wanted:
            first, last = wanted[len("bytes=") :].split("-")
            self._left = max(0, min(self._left, int(last) + 1) - int(first))
            os.lseek(fd, int(first), os.SEEK_SET)
        self.length: Optional[int] = self._left

    def __enter__(self) -> _FileResponse:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def pieces(self) -> Any:
        while self._left:
            piece = os.read(self._fd, min(self._left, 1 << 20))
            if not piece:
                raise OSError("the file became shorter")
            self._left -= len(piece)
            yield piece


def _blame(error: TransferError, proxy: Optional[Url]) -> AttemptError:
    """A broken transfer without proxy is the host's fault; with one, only what happened before the proxy
    took the request is surely the proxy's."""
    unreached = error.stage in ("resolve", "connect")
    if proxy is None:
        return AttemptError(Kind.HOST, str(error), transient=True, unreached=unreached)
    if unreached and error.proxy:
        return AttemptError(Kind.PROXY, str(error), transient=True, unreached=True)
    return AttemptError(Kind.EITHER, str(error), transient=True)


def _judge(response: Response, proxy: Optional[Url]) -> AttemptError:
    """What an answer other than success means."""
    status = response.status
    told = response.headers.get("x-squid-error", "")
    state = response.headers.get("proxy-status", "")
    reason = f"status {status}" + (f" ({told or state})"[:80] if told or state else "")
    if proxy is not None and (told or "error=" in state):
        kind = Kind.EITHER if not told or told.split()[0] in _BEYOND_PROXY else Kind.PROXY
        return AttemptError(kind, f"the proxy says: {reason}")
    if status == 404:
        return AttemptError(Kind.MISSING, reason)
    if 300 <= status < 400:
        return AttemptError(
            Kind.HOST, f"it redirects ({status}), which CVMFS_FOLLOW_REDIRECTS does not allow"
        )
    if 200 <= status < 300:
        return AttemptError(Kind.HOST, "it ignores Range")
    if status in (400, 416, 429) or status >= 500 or proxy is None:
        return AttemptError(Kind.HOST, reason)
    return AttemptError(Kind.PROXY, reason)


def _redirected(url: Url, response: Response) -> Url:
    target = response.headers.get("location", "")
    try:
        new = parse_url(urljoin(str(url), target))
    except (ConfigError, ValueError) as error:
        raise AttemptError(Kind.HOST, f"it redirects to {target[:100]!r}") from error
    if new.origin.scheme == "file" or (url.origin.scheme == "https" and new.origin.scheme != "https"):
        raise AttemptError(Kind.HOST, f"it redirects to {target[:100]!r}, which is refused")
    return new


def _drain(response: Response) -> None:
    """Reads the body of an error away, if short, so that the connection can be kept."""
    if response.length is not None and response.length <= _DRAIN:
        for _ in response.pieces():
            pass
