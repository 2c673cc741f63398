"""The chain of servers: which one is in use, why it was changed, and how near each is."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Callable, Optional

from .download_proxy import Switch
from .forksafe import ForkSafe


class Host:
    """One server: the base URL of the repository there."""

    __slots__ = ("geo", "rtt_ms", "url")

    def __init__(self, url: str) -> None:
        self.url = url
        self.rtt_ms: Optional[float] = None  # None: not measured; infinity: did not answer
        self.geo: Optional[int] = None  # rank by the Geo-API, 0 is the nearest


class HostChain(ForkSafe):
    """Servers in order of preference. The first is used until it fails, then the next, and the first again
    when ``reset_after`` s have passed. Thread-safe."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        reset_after: float = 1800.0,
        log: Callable[[Switch], object] = lambda _: None,
    ) -> None:
        super().__init__()
        self._hosts = [Host(u.rstrip("/")) for u in dict.fromkeys(urls)]
        self._reset_after = reset_after
        self._log = log
        self._lock = threading.Lock()
        self._current = 0
        self._since = 0.0
        self.failovers = 0

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._hosts)

    def order(self) -> list[Host]:
        """All hosts, the one in use first, then those after it, then those before."""
        with self._lock:
            if self._since and self._reset_after and time.monotonic() - self._since >= self._reset_after:
                self._move(0, f"{self._reset_after:.0f} s have passed since the switch")
            return self._hosts[self._current :] + self._hosts[: self._current]

    def failed(self, host: Host, reason: str, successor: Optional[Host] = None) -> None:
        """Moves on from ``host``, to ``successor`` where that is known to be better; nothing happens if
        another thread has moved on already."""
        with self._lock:
            if len(self._hosts) < 2 or self._hosts[self._current] is not host:
                return
            index = (self._current + 1) % len(self._hosts)
            if successor is not None and successor in self._hosts:
                index = self._hosts.index(successor)
            self.failovers += 1
            self._move(index, reason)

    def switch(self, reason: str = "asked to") -> None:
        """On to the next host (`host switch`)."""
        with self._lock:
            if len(self._hosts) > 1:
                self._move((self._current + 1) % len(self._hosts), reason)

    def replace(self, urls: Sequence[str], reason: str) -> None:
        """A new chain; what is known about hosts that stay is kept."""
        with self._lock:
            known = {h.url: h for h in self._hosts}
            old = self._hosts[self._current].url if self._hosts else "none"
            self._hosts = [known.get(u.rstrip("/")) or Host(u.rstrip("/")) for u in dict.fromkeys(urls)]
            self._current, self._since = 0, 0.0
            new = self._hosts[0].url if self._hosts else "none"
            if new != old:
                self._log(Switch(time.time(), "host", old, new, reason))

    def sort(self, key: Callable[[Host], float], reason: str) -> None:
        """Orders the chain anew, nearest first."""
        ordered = sorted(self._hosts, key=key)
        self.replace([h.url for h in ordered], reason)

    def truncate(self, count: int) -> None:
        """Keeps the first ``count`` hosts."""
        with self._lock:
            if 0 < count < len(self._hosts):
                self._hosts = self._hosts[:count]
                self._current = min(self._current, count - 1)

    def status(self) -> list[dict[str, object]]:
        """{url, rtt_ms, geo, active} of each."""
        with self._lock:
            return [
                {
                    "url": h.url,
                    "rtt_ms": h.rtt_ms if h.rtt_ms != float("inf") else None,
                    "geo": h.geo,
                    "active": i == self._current,
                }
                for i, h in enumerate(self._hosts)
            ]

    def _move(self, index: int, reason: str) -> None:
        old = self._hosts[self._current].url
        self._current = index
        self._since = time.monotonic() if index else 0.0
        if self._hosts[index].url != old:
            self._log(Switch(time.time(), "host", old, self._hosts[index].url, reason))
