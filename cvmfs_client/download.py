"""Downloads with failover: over proxies and hosts, past stale caches, with a reason for every switch."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Sequence
from typing import Any, Callable, Optional, TypeVar

from .download_attempt import Attempt, Settings
from .download_body import receive
from .download_discover import Discovery, order_by_geo
from .download_dns import Resolver
from .download_hosts import Host, HostChain
from .download_http import Pool, Response
from .download_job import Channel, Job
from .download_proxy import DIRECT, ProxyChain, Switch, parse_groups, plan_groups
from .download_tls import make_context
from .errors import (
    IntegrityError,
    NetworkError,
    ObjectNotFoundError,
    ProxyError,
    show,
)
from .forksafe import ForkSafe
from .interfaces import LIMIT_SMALL, Config, External, Request

T = TypeVar("T")

_AGENT = "cvmfs udk"
_UNESCAPED = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/:.@+-_~[],")
_LOG_LENGTH = 1000
_SLOW_FAILURE = 1.0  # s; a failure that took longer is not repeated by each caller
_QUIET_AFTER_FAILURE = 5.0  # s for which callers then make one quick try only


class HttpFetcher(ForkSafe):
    """The :class:`~cvmfs_client.interfaces.Fetcher` over HTTP, HTTPS and file URLs.

    ``servers``: base URLs of the repository, in order of preference. ``proxy``: the text of
    CVMFS_HTTP_PROXY; None or "" is an error when something is to be fetched: nothing is ever fetched
    directly unless DIRECT is configured. ``credentials``: called for https hosts, gives further request
    headers (``Authorization``).
    """

    def __init__(self, config: Config, *, servers: Sequence[str], proxy: Optional[str]) -> None:
        super().__init__()
        self._config = config
        self._lock = threading.Lock()
        self._log: collections.deque[Switch] = collections.deque(maxlen=_LOG_LENGTH)
        self._counters: collections.Counter[str] = collections.Counter()
        self._offline_since: Optional[float] = None
        self._last_failure = ""
        self._quiet_until = 0.0
        self.credentials: Callable[[], dict[str, str]] = dict
        self.client_certificate = ""  # path of a PEM file with certificate and key, for https
        self._resolver = Resolver(
            server=config.get("CVMFS_DNS_SERVER"),
            timeout=config.integer("CVMFS_DNS_TIMEOUT", 3),
            retries=config.integer("CVMFS_DNS_RETRIES", 1),
            minimum_ttl=config.integer("CVMFS_DNS_MIN_TTL", 60),
            maximum_ttl=config.integer("CVMFS_DNS_MAX_TTL", 86400),
            prefer=config.integer("CVMFS_IPFAMILY_PREFER", 4),
        )
        self._pool = Pool(self._resolver, agent=_AGENT)
        self._pool.tls = lambda: make_context(config, self.client_certificate)
        self._discovery = Discovery(config, self._pool, self._resolver, self._log.append)
        settings = Settings.of(config)
        hosts = HostChain(
            servers, reset_after=config.integer("CVMFS_HOST_RESET_AFTER", 1800), log=self._log.append
        )
        self.configured = (list(servers), proxy or "")
        self._proxy_text = proxy
        self._proxies: Optional[ProxyChain] = None
        self._external_proxies: Optional[ProxyChain] = None
        self._main = Channel(hosts, self._main_proxies, settings)
        external = HostChain(config.items("CVMFS_EXTERNAL_URL", ";"), log=self._log.append)
        self._external = Channel(external, self._outer_proxies, settings.external(config))
        self._geo_due = config.boolean("CVMFS_USE_GEOAPI") and len(hosts) > 1
        self._max_servers = config.integer("CVMFS_MAX_SERVERS", 0)
        if not self._geo_due:
            hosts.truncate(self._max_servers)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    # --- what interfaces.Fetcher promises

    def get(self, path: str, check: Callable[[bytes], T], *, limit: int = LIMIT_SMALL) -> T:
        """See :class:`~cvmfs_client.interfaces.Fetcher`."""

        def handle(response: Response) -> T:
            pieces, size = [], 0
            for piece in response.pieces():
                size += len(piece)
                if size > limit:
                    raise IntegrityError(f"{path} is larger than {limit} bytes")
                pieces.append(piece)
            self._counters["bytes"] += size
            return check(b"".join(pieces))

        return self._run(self._main, path, path, handle)

    def fetch(self, request: Request, sink: Callable[[bytes], Any], restart: Callable[[], Any]) -> None:
        """See :class:`~cvmfs_client.interfaces.Fetcher`."""
        given = False

        def note(data: bytes) -> None:
            nonlocal given
            given = True
            sink(data)

        def handle(response: Response) -> None:
            nonlocal given
            if given:
                restart()
                given = False
            self._counters["bytes"] += receive(response, request, note)

        headers = {}
        if request.path and self._config.boolean("CVMFS_SEND_INFO_HEADER"):
            headers["cvmfs-info"] = escape(request.path)
        what = f"{show(request.path)} ({request.hash.name})" if request.path else request.hash.name
        if request.external is not None:
            self._fetch_external(request.external, what, handle, headers)
            return
        if request.alternative:
            try:
                self._run(self._main, request.alternative, what, handle, headers)
                return
            except ObjectNotFoundError:
                pass
        self._run(self._main, request.hash.path, what, handle, headers)

    def _fetch_external(
        self, external: External, what: str, handle: Callable[[Response], None], headers: dict[str, str]
    ) -> None:
        if not len(self._external.hosts):
            raise NetworkError(f"{what} is an external file", "set CVMFS_EXTERNAL_URL")
        if not external.whole:
            headers["Range"] = f"bytes={external.offset}-{external.offset + external.length - 1}"
        self._run(self._external, escape(external.path), what, handle, headers)

    def use_hosts(self, hosts: Sequence[str]) -> None:
        """See :class:`~cvmfs_client.interfaces.Fetcher`."""
        self._main.hosts.replace(hosts, "asked to")

    def status(self) -> dict[str, Any]:
        """See :class:`~cvmfs_client.interfaces.Fetcher`."""
        proxies = self._proxies
        counters = dict.fromkeys(("requests", "bytes", "retries", "no_cache_retries"), 0) | dict(
            self._counters
        )
        counters["connects"] = self._pool.connects
        counters["host_failovers"] = self._main.hosts.failovers + self._external.hosts.failovers
        counters["proxy_failovers"] = proxies.failovers if proxies is not None else 0
        return {
            "hosts": self._main.hosts.status(),
            "proxies": proxies.status() if proxies is not None else self._configured_proxies(),
            "external_hosts": self._external.hosts.status(),
            "online": self._offline_since is None,
            "offline_since": self._offline_since,
            "last_failure": self._last_failure,
            "switches": [
                {"time": s.time, "kind": s.kind, "from": s.old, "to": s.new, "reason": s.reason}
                for s in list(self._log)
            ],
            "counters": counters,
        }

    def probe(self) -> None:
        """Measures all hosts at once and orders them by round-trip time."""
        hosts = self._main.hosts.order()

        def measure(host: Host) -> None:
            start = time.monotonic()
            attempt = Attempt(self._pool, self._main.settings, self.credentials)
            try:
                proxy = self._main_proxies().choose()
                attempt.run(host.url, ".cvmfspublished", proxy, {}, lambda r: [len(p) for p in r.pieces()])
                host.rtt_ms = round((time.monotonic() - start) * 1000, 1)
            except Exception:
                host.rtt_ms = float("inf")

        threads = [threading.Thread(target=measure, args=(host,), daemon=True) for host in hosts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._main.hosts.sort(lambda h: h.rtt_ms or 0.0, "round-trip times measured")

    def in_use(self) -> tuple[list[str], list[str]]:
        """The servers and the groups of proxies, those in use first."""
        return [h.url for h in self._main.hosts.order()], self._main_proxies().groups

    def probe_geo(self) -> None:
        """Orders the hosts by the Geo-API (`host probe geo`)."""
        self._order_by_geo()

    def switch_host(self) -> None:
        """On to the next host."""
        self._main.hosts.switch()

    def switch_proxy_group(self) -> None:
        """On to the next group of proxies."""
        self._main_proxies().next_group("asked to")

    def rebalance_proxies(self) -> None:
        """Back to the first group, with a new random choice."""
        self._resolver.forget()
        self._main_proxies().reset("asked to")

    def use_proxies(self, text: str) -> None:
        """Replaces the proxies (`proxy set`)."""
        with self._lock:
            self._proxy_text, self._proxies = text, None

    def close(self) -> None:
        """Closes idle connections."""
        self._pool.close()

    # --- proxies and hosts

    def _configured_proxies(self) -> list[list[dict[str, Any]]]:
        groups = parse_groups(self._proxy_text or "")
        return [[{"url": m, "active": False} for m in g] for g in groups]

    def _main_proxies(self) -> ProxyChain:
        with self._lock:
            chain = self._proxies
        if chain is not None:
            return chain
        config = self._config
        hosts = self._main.hosts.order()
        if all(h.url.startswith("file:") for h in hosts):
            groups = [[DIRECT]]
        else:
            groups = self._discovery.proxies(self._proxy_text or "", [h.url for h in hosts])
        groups = plan_groups(groups, parse_groups(config.get("CVMFS_FALLBACK_PROXY")))
        if not groups:
            raise ProxyError(
                f"no proxy for {config.fqrn} is configured or discovered",
                "set CVMFS_HTTP_PROXY (DIRECT for none), or use --proxy",
            )
        chain = self._chain(groups, shard=config.boolean("CVMFS_PROXY_SHARD"))
        with self._lock:
            self._proxies = self._proxies or chain
            return self._proxies

    def _outer_proxies(self) -> ProxyChain:
        with self._lock:
            chain = self._external_proxies
        if chain is None:
            groups = parse_groups(self._config.get("CVMFS_EXTERNAL_HTTP_PROXY", DIRECT))
            fallback = parse_groups(self._config.get("CVMFS_EXTERNAL_FALLBACK_PROXY"))
            chain = self._external_proxies = self._chain(plan_groups(groups, fallback) or [[DIRECT]])
        return chain

    def _chain(self, groups: list[list[str]], *, shard: bool = False) -> ProxyChain:
        return ProxyChain(
            groups,
            self._resolver,
            shard=shard,
            reset_after=self._config.integer("CVMFS_PROXY_RESET_AFTER", 300),
            max_addresses=self._config.integer("CVMFS_MAX_IPADDR_PER_PROXY", 0),
            log=self._log.append,
        )

    def _order_by_geo(self) -> None:
        """Failing to ask leaves the order as it is: servers further away are better than none."""
        hosts = self._main.hosts
        ranks = order_by_geo(
            self._config,
            self._pool,
            self._main.settings,
            hosts.order(),
            self._main_proxies(),
            self._log.append,
        )
        if ranks:
            for host in hosts.order():
                host.geo = ranks.get(host.url)
            hosts.sort(lambda h: ranks.get(h.url, len(ranks)), "ordered by the Geo-API")
        hosts.truncate(self._max_servers)

    # --- the one loop that everything goes through

    def _run(
        self,
        channel: Channel,
        path: str,
        what: str,
        handle: Callable[[Response], T],
        headers: Optional[dict[str, str]] = None,
    ) -> T:
        with self._lock:
            geo_due, self._geo_due = self._geo_due, False
        if geo_due:
            self._order_by_geo()
        settings = channel.settings
        if time.monotonic() < self._quiet_until:
            # one quick try per caller, so that thousands of files do not take thousands of time-outs
            settings = settings.hasty()
        while True:
            job = Job(Attempt(self._pool, settings, self.credentials), channel, path, handle, headers or {})
            start = time.monotonic()
            try:
                result = job.run(what)
            except NetworkError as error:
                if settings.indefinitely:
                    time.sleep(settings.backoff_max)
                    continue
                if channel is self._main:
                    self._gave_up(time.monotonic() - start, error.message)
                raise
            finally:
                self._counters.update(job.counters)
            if channel is self._main and (self._offline_since is not None or self._quiet_until):
                self._offline_since, self._quiet_until = None, 0.0
            return result

    def _gave_up(self, seconds: float, summary: str) -> None:
        if self._offline_since is None:
            self._offline_since = time.time()
        self._last_failure = summary
        if seconds > _SLOW_FAILURE:
            self._quiet_until = time.monotonic() + _QUIET_AFTER_FAILURE


def escape(path: bytes) -> str:
    """Percent-escapes what URLs of repositories escape: all but letters, digits and ``/:.@+-_~[],``."""
    return "".join(chr(c) if c in _UNESCAPED else f"%{c:02X}" for c in path)
