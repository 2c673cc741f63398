"""How far predictions may be ahead of the reader, in bytes."""

from __future__ import annotations

import threading


class Window:
    """Counts what was fetched ahead and not read yet. Thread-safe.

    Sure predictions may be ``ahead`` bytes in front, and half of what was used; guesses ``guess`` bytes, and
    ``share`` of what was used."""

    def __init__(self, ahead: int, guess: int, share: float) -> None:
        self._limit = ahead
        self._guess_limit = guess
        self._share = share
        self._lock = threading.Lock()
        self._sizes: dict[bytes, tuple[int, bool]] = {}
        self._ahead = 0
        self._guessed = 0
        self._used = 0

    @property
    def ahead(self) -> int:
        """Bytes predicted and not used yet."""
        return self._ahead

    def admits(self, size: int, *, guess: bool) -> bool:
        """Whether a file of this size may be fetched now; one that nothing else is ahead of always may."""
        with self._lock:
            if guess:
                return self._guessed + size <= self._guess_limit + self._share * self._used
            return self._ahead == 0 or self._ahead + size <= self._limit + self._used / 2

    def started(self, path: bytes, size: int, *, guess: bool) -> None:
        """A file is being fetched ahead."""
        with self._lock:
            self._sizes[path] = (size, guess)
            self._ahead += size
            if guess:
                self._guessed += size

    def used(self, path: bytes) -> None:
        """The reader has opened it."""
        with self._lock:
            size, guess = self._sizes.pop(path, (0, False))
            self._ahead -= size
            self._used += size
            if guess:
                self._guessed -= size

    def ascertained(self, path: bytes) -> None:
        """A guess has become a sure prediction."""
        with self._lock:
            size, guess = self._sizes.get(path, (0, False))
            if guess:
                self._guessed -= size
                self._sizes[path] = (size, False)
