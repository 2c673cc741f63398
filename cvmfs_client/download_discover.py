"""Finding proxies (auto-configuration) and the nearest servers (Geo-API)."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from typing import Callable

from .download_attempt import Attempt, AttemptError, Kind, Settings
from .download_hosts import Host
from .download_http import Pool, Response
from .download_proxy import DIRECT, ProxyChain, Switch, parse_groups
from .download_url import TransferError, parse_url
from .errors import ConfigError, ProxyError
from .interfaces import Config

_LIMIT = 1 << 20
_WPAD = "http://wpad/wpad.dat"
_GEO_ATTEMPTS = 3


def _any_name() -> str:
    """Where there is no proxy to name, the Geo-API is given something that no cache has seen."""
    import uuid

    return str(uuid.uuid4())


def _body(response: Response) -> bytes:
    pieces, size = [], 0
    for piece in response.pieces():
        size += len(piece)
        if size > _LIMIT:
            raise AttemptError(Kind.HOST, "the answer is too large")
        pieces.append(piece)
    return b"".join(pieces)


class Discovery:
    """Replaces `auto` among the groups of CVMFS_HTTP_PROXY by what the environment or a PAC file says.

    ``recall`` and ``remember`` keep the last answer for a start without the server of the PAC file."""

    def __init__(
        self, config: Config, pool: Pool, resolve: Callable[[str], list[str]], log: Callable[[Switch], object]
    ) -> None:
        self._config = config
        self._pool = pool
        self._resolve = resolve
        self._log = log
        self.recall: Callable[[], str] = str
        self.remember: Callable[[str], object] = str

    def proxies(self, text: str, hosts: Sequence[str]) -> list[list[str]]:
        """Groups of proxies; [] where nothing is configured or found. Raises ProxyError."""
        groups: list[list[str]] = []
        for group in parse_groups(text):
            if group != ["auto"]:
                groups.append(group)
                continue
            found, reasons = self._automatic(hosts)
            if found:
                self.remember(found)
            else:
                found = self.recall()
            groups.extend(parse_groups(found))
            if not found and text.strip() == "auto":
                raise ProxyError(
                    f"no proxy was discovered: {reasons}",
                    "set CVMFS_PAC_URLS or CVMFS_HTTP_PROXY, or use --proxy",
                )
        return groups

    def _automatic(self, hosts: Sequence[str]) -> tuple[str, str]:
        """(text of proxies, why there are none)."""
        environment = os.environ.get("http_proxy", "")
        if environment:
            return environment, ""
        from .download_pac import PacError

        reasons = []
        for url in self._config.items("CVMFS_PAC_URLS", ";"):
            url = _WPAD if url == "auto" else url
            try:
                return self._from_pac(url, hosts), ""
            except (AttemptError, PacError, ConfigError) as error:
                reasons.append(f"{url}: {error}")
                self._log(Switch(time.time(), "proxy", "auto", "none", f"{url}: {error}"))
        return "", "; ".join(reasons) or "neither http_proxy nor CVMFS_PAC_URLS is set"

    def _from_pac(self, url: str, hosts: Sequence[str]) -> str:
        from .download_pac import PacError, find_proxy
        from .download_pacrun import pac_functions

        # the file that says how to reach proxies is itself fetched directly
        attempt = Attempt(self._pool, Settings.of(self._config), dict)
        base, _, path = url.rpartition("/")
        text = attempt.run(base, path, None, {}, _body).decode("utf-8", "replace")
        host = next((h for h in hosts if not h.startswith("file:")), "")
        target = parse_url(f"{host}/.cvmfspublished")
        answer = find_proxy(text, str(target), target.origin.host, pac_functions(self._resolve))
        proxies = translate(answer)
        if not proxies:
            raise PacError(f"no usable proxy in its answer {answer[:200]!r}")
        self._log(Switch(time.time(), "proxy", "auto", proxies, f"found by {url}"))
        return proxies


def translate(answer: str) -> str:
    """What FindProxyForURL gives, in the syntax of CVMFS_HTTP_PROXY: SOCKS proxies are left out."""
    found = []
    for item in answer.split(";"):
        kind, _, name = item.strip().partition(" ")
        if kind.upper() == DIRECT and not name:
            found.append(DIRECT)
        elif kind.upper() in ("PROXY", "HTTP") and name.strip():
            found.append(name.strip())
    return ";".join(found)


def order_by_geo(
    config: Config,
    pool: Pool,
    settings: Settings,
    hosts: Sequence[Host],
    proxies: ProxyChain,
    log: Callable[[Switch], object],
) -> dict[str, int]:
    """URL of host -> rank, nearest 0; {} where no host answered usably."""
    names = [parse_url(h.url).origin.host for h in hosts]
    proxy = proxies.choose()
    place = config.get("CVMFS_PROXY_TEMPLATE") or (
        proxy.url.origin.host if proxy is not None and proxy.url is not None else _any_name()
    )
    attempt = Attempt(pool, settings, dict)
    asked = random.sample(list(hosts), min(len(hosts), _GEO_ATTEMPTS))
    for host in asked:
        path = f"api/v1.0/geo/{place}/{','.join(names)}"
        try:
            reply = attempt.run(host.url, path, proxy, {}, _body)
            order = parse_geo_reply(reply, len(hosts))
            return {hosts[index].url: rank for rank, index in enumerate(order)}
        except (AttemptError, TransferError, ValueError) as error:
            log(Switch(time.time(), "host", "Geo-API", "order as configured", f"{host.url}: {error}"))
    return {}


def parse_geo_reply(reply: bytes, count: int) -> list[int]:
    """`2,1,3` as 0-based indices, nearest first. Raises ValueError for what is no permutation of 1..count."""
    try:
        order = [int(part) - 1 for part in reply.decode("ascii").strip().split(",")]
    except ValueError:
        order = []
    if sorted(order) != list(range(count)):
        raise ValueError(f"unusable answer {reply[:60]!r} from the Geo-API")
    return order
