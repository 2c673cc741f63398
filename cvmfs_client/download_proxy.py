"""Proxies: the syntax of CVMFS_HTTP_PROXY, and which proxy is in use (formats reference 10)."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional
from urllib.parse import urlsplit

from .download_url import Origin, TransferError, Url, parse_url
from .errors import ProxyError
from .forksafe import ForkSafe

DIRECT = "DIRECT"


class Proxy(NamedTuple):
    """One proxy at one address. ``url`` None stands for no proxy at all; ``address`` "" for the name's
    own.
    """

    url: Optional[Url]
    address: str = ""

    def __str__(self) -> str:
        """For people: without the password."""
        if self.url is None:
            return DIRECT
        origin = self.url.origin
        text = f"{origin.scheme}://{origin.host}:{origin.port}"
        return f"{text} ({self.address})" if self.address and self.address != origin.host else text


NO_PROXY = Proxy(None)


def parse_groups(text: str) -> list[list[str]]:
    """`a|b;c;DIRECT` as lists of names, white space around members removed, empty members left out."""
    groups = []
    for part in text.split(";"):
        members = [m.strip() for m in part.split("|")]
        members = [m for m in members if m]
        if members:
            groups.append(list(dict.fromkeys(members)))
    return groups


def plan_groups(main: Sequence[Sequence[str]], fallback: Sequence[Sequence[str]]) -> list[list[str]]:
    """The main groups, then the fallback groups. With fallback proxies nothing is fetched directly: DIRECT
    is taken out of both."""
    if not fallback:
        return [list(g) for g in main]
    groups = [[m for m in g if m.upper() != DIRECT] for g in [*main, *fallback]]
    return [g for g in groups if g]


def proxy_url(text: str) -> Url:
    """The URL of a proxy; http:// where no scheme is given, port 3128 where no port is. Raises ProxyError."""
    full = text if "://" in text else f"http://{text}"
    try:
        url = parse_url(full)
    except Exception as error:
        raise ProxyError(
            f"{text[:200]!r} is not a proxy", "write it like http://squid.example.org:3128"
        ) from error
    if url.origin.scheme != "http":
        raise ProxyError(
            f"the proxy {text[:200]!r} is not reached by http", "only http:// proxies are supported"
        )
    if urlsplit(full).port is None:
        url = url._replace(origin=Origin("http", url.origin.host, 3128))
    return url


class Switch(NamedTuple):
    """A change of proxy or host and its reason."""

    time: float  # s since the epoch
    kind: str  # "proxy", "proxy group", "host"
    old: str
    new: str
    reason: str


class ProxyChain(ForkSafe):
    """Groups of equivalent proxies. Within a group one is chosen at random (by URL with sharding); one that
    fails is set aside, and when a whole group is, the next is used until ``reset_after`` s have passed.

    Thread-safe. ``resolve`` gives the addresses of a name: one with several is a group of its own making."""

    def __init__(
        self,
        groups: Sequence[Sequence[str]],
        resolve: Callable[[str], list[str]],
        *,
        shard: bool = False,
        reset_after: float = 300.0,
        max_addresses: int = 0,
        log: Callable[[Switch], object] = lambda _: None,
        generator: Optional[random.Random] = None,
    ) -> None:
        super().__init__()
        self._names = [list(g) for g in groups]
        self._urls = [[None if m.upper() == DIRECT else proxy_url(m) for m in g] for g in groups]
        self._alone = [len(g) for g in groups] == [1]
        self._resolve = resolve
        self._shard = shard
        self._reset_after = reset_after
        self._max_addresses = max_addresses
        self._log = log
        self._random = generator or random.SystemRandom()
        self._lock = threading.Lock()
        self._group = 0
        self._burned: dict[Proxy, str] = {}  # set aside -> reason
        self._since = (
            0.0  # monotonic time at which the first failure changed anything; 0: nothing has changed
        )
        self._current: Optional[Proxy] = None
        self._expanded: dict[int, list[Proxy]] = {}
        self.failovers = 0

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Proxies in all groups, as far as their names have been looked up."""
        return sum(len(self._expanded.get(i, self._names[i])) for i in range(len(self._names)))

    @property
    def first_names(self) -> list[str]:
        """Host names of the first group's proxies, for the Geo-API."""
        return [u.origin.host for u in self._urls[0] if u is not None] if self._urls else []

    @property
    def groups(self) -> list[str]:
        """The groups as CVMFS_HTTP_PROXY writes them, the one in use first."""
        texts = ["|".join(g) for g in self._names]
        return texts[self._group :] + texts[: self._group]

    def choose(self, path: str = "", avoid: frozenset[Proxy] = frozenset()) -> Optional[Proxy]:
        """The proxy to use now; None when all but ``avoid`` (tried already by this job) are exhausted."""
        current = self._current
        if current is not None and current.url is None and self._alone and not avoid:
            return current  # nothing but DIRECT
        with self._lock:
            self._reset_if_due()
            for index in [*range(self._group, len(self._names)), *range(self._group)]:
                healthy = [p for p in self._members(index) if p not in avoid]
                usable = [p for p in healthy if p not in self._burned]
                if index != self._group and not usable:
                    continue
                if not usable:
                    continue
                if self._shard and path:
                    return max(usable, key=lambda p: _weight(p, path))
                if self._current in usable:
                    return self._current
                pick = self._random.choice(usable)
                if self._current is None or self._current in self._burned:
                    self._current = pick  # else the one in use stays so for others: this job alone avoids it
                return pick
            # everything was set aside at some time: try again what this job has not
            left = [p for i in range(len(self._names)) for p in self._members(i) if p not in avoid]
            return left[0] if left else None

    def failed(self, proxy: Proxy, reason: str) -> None:
        """Sets ``proxy`` aside, unless another thread has done so already."""
        with self._lock:
            if proxy in self._burned:
                return
            self._burned[proxy] = reason
            self._since = self._since or time.monotonic()
            self.failovers += 1
            old_group = self._group
            while self._group < len(self._names) and all(
                p in self._burned for p in self._members(self._group)
            ):
                self._group += 1
            if self._group == len(self._names):
                # all are: start over, rather than never to be well again
                self._group = 0
                self._burned = {}
                self._since = 0.0
                self._current = None
                self._log(
                    Switch(
                        time.time(), "proxy group", str(proxy), "the first group", f"{reason}; none is left"
                    )
                )
                return
            if proxy != self._current and self._current is not None and old_group == self._group:
                self._log(Switch(time.time(), "proxy", str(proxy), str(self._current), reason))
                return
            usable = [p for p in self._members(self._group) if p not in self._burned]
            self._current = self._random.choice(usable)
            kind = "proxy" if old_group == self._group else "proxy group"
            self._log(Switch(time.time(), kind, str(proxy), str(self._current), reason))

    def reset(self, reason: str) -> None:
        """Back to the first group, all proxies eligible, a new random choice (`proxy rebalance`)."""
        with self._lock:
            self._reset(reason)

    def next_group(self, reason: str) -> None:
        """`proxy group switch`."""
        with self._lock:
            if not self._names:
                return
            old = self._current
            self._group = (self._group + 1) % len(self._names)
            self._since = time.monotonic() if self._group else 0.0
            self._current = None
            self._log(
                Switch(time.time(), "proxy group", str(old), "|".join(self._names[self._group]), reason)
            )

    def status(self) -> list[list[dict[str, object]]]:
        """Groups of {url, active, failed}."""
        with self._lock:
            return [
                [
                    {"url": str(p), "active": p == self._current, "failed": self._burned.get(p, "")}
                    for p in self._expanded.get(i) or [Proxy(u) for u in self._urls[i]]
                ]
                for i in range(len(self._names))
            ]

    def _reset_if_due(self) -> None:
        if self._since and self._reset_after and time.monotonic() - self._since >= self._reset_after:
            self._reset(f"{self._reset_after:.0f} s have passed since the first failure")

    def _reset(self, reason: str) -> None:
        old = self._current
        self._group, self._burned, self._since, self._current = 0, {}, 0.0, None
        self._expanded = {}
        first = "|".join(self._names[0]) if self._names else "none"
        self._log(Switch(time.time(), "proxy group", str(old) if old else "none", first, reason))

    def _members(self, index: int) -> list[Proxy]:
        """The proxies of a group, names with several addresses expanded (once, until the next reset)."""
        known = self._expanded.get(index)
        if known is not None:
            return known
        members: list[Proxy] = []
        complete = True
        for url in self._urls[index]:
            if url is None:
                members.append(NO_PROXY)
                continue
            try:
                addresses = self._resolve(url.origin.host)
            except TransferError:
                complete = False
                members.append(Proxy(url))  # using it gives the error with its reason
                continue
            if self._max_addresses > 0:
                addresses = addresses[: self._max_addresses]
            members.extend(Proxy(url, a) for a in addresses)
        if complete:
            self._expanded[index] = members
        return members


def _weight(proxy: Proxy, path: str) -> bytes:
    """Rendezvous hashing: each path has an order of proxies, and one that fails moves only its own paths."""
    return hashlib.blake2b(f"{proxy}\0{path}".encode(), digest_size=16).digest()
