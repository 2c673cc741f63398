"""How often and how patiently things are tried again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from udk.errors import NetworkError, RateLimitError, RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from udk.registry.options import RegistryOptions

MAX_PAUSE = 30.0


class Throttled(RateLimitError):
    """429; ``wait`` is how many seconds the registry asks for, None if it does not say."""

    wait: float | None = None


class Unavailable(NetworkError):
    """5xx; ``wait`` as for Throttled."""

    wait: float | None = None


class Unreachable(NetworkError):
    """Nobody took the connection."""


FIRST_CONTACT = 3  # attempts to reach a registry that may just be misspelt
MIRROR = 2  # attempts at a place that is not the only one


class Retry:
    """Decides, and waits, after each failure of one piece of work. ``wait`` pauses for some seconds.

    Pauses double with each failure, and are random so that 64 jobs do not return together. What a registry
    asks to wait counts against the patience configured, for the piece of work as a whole."""

    def __init__(
        self,
        options: RegistryOptions,
        wait: Callable[[float], None],
        *,
        mirror: bool = False,
        begun: bool = False,
    ) -> None:
        """``mirror``: there are other places. ``begun``: the registry was there a moment ago."""
        self.options = options
        self._attempts = min(MIRROR, options.attempts) if mirror else options.attempts
        self._contacts = self._attempts if begun else min(FIRST_CONTACT, self._attempts)
        self.failures = 0
        self._waited = 0.0
        self._wait = wait

    def progress(self) -> None:
        """The work advanced: earlier failures do not count any more."""
        self.failures = 0

    def failed(self, error: RegistryError) -> None:
        """Waits until the next attempt is due; raises ``error`` when there is none."""
        wait = getattr(error, "wait", None)
        if isinstance(error, RateLimitError):
            pause = self._pause() * 2 if wait is None else wait
        elif isinstance(error, NetworkError) and self.failures + 1 < self._limit(error):
            pause = max(self._pause(), wait or 0.0)
        else:
            raise error
        if wait is not None or isinstance(error, RateLimitError):
            self._waited += pause
            if self._waited > self.options.patience:
                if wait is not None and wait < float("inf"):
                    error.message += f", and asks to wait {wait:.0f} s"
                raise error
        self.failures += 1
        self._wait(pause)

    def _limit(self, error: NetworkError) -> int:
        return self._contacts if isinstance(error, Unreachable) else self._attempts

    def _pause(self) -> float:
        return random.uniform(0.5, 1.0) * min(MAX_PAUSE, self.options.backoff * 2.0 ** min(self.failures, 16))
