"""One thing to fetch, over as many proxies and hosts as it takes.

Who is to blame is often unclear at first: a time-out seen through a proxy may be the proxy's or the host's.
What is sure changes the shared state at once; the rest is tried elsewhere and blamed when something else has
worked.
"""

from __future__ import annotations

import collections
import random
import time
from typing import Callable, Generic, NamedTuple, Optional, TypeVar

from .download_attempt import Attempt, AttemptError, Kind, Settings
from .download_body import BadDataError
from .download_hosts import Host, HostChain
from .download_http import Response
from .download_proxy import Proxy, ProxyChain
from .errors import CvmfsError, IntegrityError, NetworkError, ObjectNotFoundError

T = TypeVar("T")

_BUDGET = 60.0  # s that failing attempts of one job may take together
_ROUNDS = 3  # times that all hosts may be asked, each through other proxies
_PAST_CACHES = {"Cache-Control": "no-cache", "Pragma": "no-cache"}


class Channel(NamedTuple):
    """Hosts with the proxies to reach them: one for the repository, one for external files."""

    hosts: HostChain
    proxies: Callable[[], ProxyChain]
    settings: Settings


class Failure(NamedTuple):
    """Why one attempt failed."""

    kind: Kind
    host: Host
    proxy: Proxy
    reason: str


class Job(Generic[T]):
    """Runs once. ``handle`` gets each answer that may be the right one."""

    def __init__(
        self,
        attempt: Attempt,
        channel: Channel,
        path: str,
        handle: Callable[[Response], T],
        headers: dict[str, str],
    ) -> None:
        self.counters: collections.Counter[str] = collections.Counter()
        self._attempt = attempt
        self._hosts = channel.hosts
        self._proxies = channel.proxies()
        self._settings = attempt.settings
        self._path = path
        self._handle = handle
        self._headers = headers
        self._failures: list[Failure] = []
        self._refusal: Optional[CvmfsError] = None  # the first raised by the handler
        self._done_hosts: set[Host] = set()
        self._done_proxies: set[Proxy] = set()
        self._unclear: set[tuple[Proxy, Host]] = set()
        self._round = 1
        self._spent = 0.0

    def run(self, what: str) -> T:
        """The handler's result. Raises NetworkError, ObjectNotFoundError, IntegrityError, or what it
        raised.
        """
        while self._spent < _BUDGET:
            place = self._next_place()
            if place is None:
                break
            host, proxy = place
            failure = None
            try:
                result = self._try(host, proxy)
            except AttemptError as error:
                failure = Failure(error.kind, host, proxy, error.reason)
            except BadDataError as error:
                failure = Failure(Kind.BAD, host, proxy, str(error))
            except CvmfsError as error:
                self._refusal = self._refusal or error
                failure = Failure(Kind.BAD, host, proxy, error.message)
            if failure is None:
                self._confirm(host, proxy)
                return result
            self._note(failure)
        raise self._conclusion(what)

    def _next_place(self) -> Optional[tuple[Host, Proxy]]:
        while True:
            place = self._place_of_this_round()
            if place is not None or not self._another_round():
                return place

    def _place_of_this_round(self) -> Optional[tuple[Host, Proxy]]:
        hosts = [h for h in self._hosts.order() if h not in self._done_hosts]
        while hosts:
            proxy = self._proxies.choose(self._path, frozenset(self._done_proxies))
            if proxy is None:
                return None
            for host in hosts:
                if (proxy, host) not in self._unclear:
                    return host, proxy
            self._done_proxies.add(proxy)
        return None

    def _another_round(self) -> bool:
        """Whether the hosts are worth asking again: when all of them seem bad, what they were asked through
        may be what is bad."""
        suspects = {f.proxy for f in self._failures if f.kind is not Kind.PROXY and f.proxy.url is not None}
        if self._round >= _ROUNDS or not suspects - self._done_proxies:
            return False
        self._done_proxies |= suspects
        self._done_hosts.clear()
        self._round += 1
        return self._proxies.choose(self._path, frozenset(self._done_proxies)) is not None

    def _try(self, host: Host, proxy: Proxy) -> T:
        """Attempts at one place: again after what may pass, and once past caches when the data are bad."""
        headers = self._headers
        retries = 0
        while True:
            start = time.monotonic()
            self.counters["requests"] += 1
            try:
                return self._attempt.run(host.url, self._path, proxy, headers, self._handle)
            except AttemptError as error:
                self._spent += time.monotonic() - start
                elsewhere = len(self._proxies) > 1 or len(self._hosts) > 1
                if (
                    not error.transient
                    or retries >= self._settings.retries
                    or (error.unreached and elsewhere)
                ):
                    raise
                retries += 1
                self.counters["retries"] += 1
                self._back_off(retries)
            except (BadDataError, CvmfsError):
                self._spent += time.monotonic() - start
                if headers is not self._headers:
                    raise
                headers = {**headers, **_PAST_CACHES}
                self.counters["no_cache_retries"] += 1

    def _back_off(self, retries: int) -> None:
        first = random.uniform(0.001, max(0.001, self._settings.backoff_init))
        pause = min(first * 2 ** (retries - 1), self._settings.backoff_max)
        self._spent += pause
        time.sleep(pause)

    def _note(self, failure: Failure) -> None:
        self._failures.append(failure)
        if failure.kind is Kind.PROXY:
            self._done_proxies.add(failure.proxy)
            self._proxies.failed(failure.proxy, failure.reason)
        elif failure.kind is Kind.EITHER:
            self._unclear.add((failure.proxy, failure.host))
        else:
            self._done_hosts.add(failure.host)
            if failure.kind is Kind.HOST:
                self._hosts.failed(failure.host, failure.reason)

    def _confirm(self, host: Host, proxy: Proxy) -> None:
        """Something worked: now it is clear who was to blame for what did not."""
        for failure in self._failures:
            if failure.proxy != proxy and (failure.kind is Kind.EITHER or self._round > 1):
                self._proxies.failed(failure.proxy, failure.reason)
            elif failure.kind is not Kind.PROXY and failure.host is not host:
                self._hosts.failed(failure.host, failure.reason, host)

    def _conclusion(self, what: str) -> CvmfsError:
        if self._refusal is not None:
            return self._refusal
        kinds = {f.kind for f in self._failures}
        tried = "; ".join(
            dict.fromkeys(f"{f.host.url} by {f.proxy}: {f.reason}" for f in self._failures[-6:])
        )  # fmt: skip
        if Kind.BAD in kinds:
            return IntegrityError(f"wrong data for {what}: {tried}", "tell the operators of these servers")
        if kinds == {Kind.MISSING}:
            return ObjectNotFoundError(f"no server has {what}: {tried}")
        if not len(self._hosts):
            return NetworkError(
                f"no server is configured for {what}", "set CVMFS_SERVER_URL, or use --server"
            )
        remedy = "look at the network, proxies and servers"
        return NetworkError(f"cannot fetch {what}: {tried or 'time is up'}", remedy)
