"""How far predictions may be ahead of the reader, in bytes."""

from __future__ import annotations

import threading
import time

_STALE = 60.0  # s after which a prediction that was not used is given up
_LOOK_EVERY = 2.0  # s between looks for such


class Window:
    """Counts what was fetched ahead and not read yet. Thread-safe.

    Sure predictions may be ``ahead`` bytes in front, and half of what was used; guesses ``guess`` bytes, and
    ``share`` of what was used."""

    def __init__(self, ahead: int, guess: int, share: float) -> None:
        self._limit = ahead
        self._guess_limit = guess
        self._share = share
        self._lock = threading.Lock()
        self._sizes: dict[bytes, tuple[int, bool, float]] = {}
        self._ahead = 0
        self._guessed = 0
        self._used = 0
        self._looked = 0.0

    @property
    def ahead(self) -> int:
        """Bytes predicted and not used yet."""
        return self._ahead

    def admits(self, size: int, *, guess: bool) -> bool:
        """Whether a file of this size may be fetched now; one that nothing else is ahead of always may."""
        with self._lock:
            if self._fits(size, guess):
                return True
            now = time.monotonic()
            if now - self._looked < _LOOK_EVERY:
                return False
            self._looked = now
            limit = now - _STALE
            for path in [p for p, (_, _, since) in self._sizes.items() if since < limit]:
                self._drop(path)
            return self._fits(size, guess)

    def _fits(self, size: int, guess: bool) -> bool:
        if guess:
            return self._guessed + size <= self._guess_limit + self._share * self._used
        return self._ahead == 0 or self._ahead + size <= self._limit + self._used / 2

    def _drop(self, path: bytes) -> int:
        size, guess, _ = self._sizes.pop(path, (0, False, 0.0))
        self._ahead -= size
        if guess:
            self._guessed -= size
        return size

    def started(self, path: bytes, size: int, *, guess: bool) -> None:
        """A file is being fetched ahead."""
        with self._lock:
            self._sizes[path] = (size, guess, time.monotonic())
            self._ahead += size
            if guess:
                self._guessed += size

    def used(self, path: bytes) -> None:
        """The reader has opened it."""
        with self._lock:
            self._used += self._drop(path)

    def ascertained(self, path: bytes) -> None:
        """A guess has become a sure prediction."""
        with self._lock:
            size, guess, since = self._sizes.get(path, (0, False, 0.0))
            if guess:
                self._guessed -= size
                self._sizes[path] = (size, False, since)
