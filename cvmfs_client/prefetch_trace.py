"""What earlier runs have read: kept per first file opened, so that the same program finds all of it under
way.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator

from .errors import CvmfsError
from .interfaces import Store

_LONGEST = 5_000
_SHORTEST = 8  # opens that are worth being remembered
_START = 60.0  # s that the start of a program may take: what comes later is its work, different each time
_PAUSE = 5.0  # s without an open after which it has started


class Trace:
    """Records the order of opens and recalls that of the last run with the same beginning. Thread-safe."""

    def __init__(self, store: Store, fqrn: str) -> None:
        self._store = store
        self._fqrn = fqrn
        self._lock = threading.Lock()
        self._paths: dict[bytes, None] = {}
        self._recalled: list[bytes] | None = None
        self._saved = 0
        self._first = self._last = 0.0
        self._ended = False

    def opened(self, path: bytes) -> None:
        """Notes an open."""
        paths = self._paths
        if self._ended or path in paths:
            return
        now = time.monotonic()
        if not paths:
            self._first = self._last = now
        if now - self._first > _START or now - self._last > _PAUSE or len(paths) >= _LONGEST:
            self._ended = True
            return
        self._last = now
        paths[path] = None

    def expected(self) -> Iterator[bytes]:
        """Paths of the last run, once; nothing where there was none."""
        with self._lock:
            if self._recalled is not None or not self._paths:
                return
            self._recalled = self._load(next(iter(self._paths)))
        yield from self._recalled

    def _load(self, first: bytes) -> list[bytes]:
        try:
            data = self._store.load_state(self._fqrn, _name(first))
        except CvmfsError:
            return []
        lines = (data or b"").split(b"\0")
        return [line for line in lines[:_LONGEST] if line.startswith(b"/")]

    def save(self) -> None:
        """Keeps this run's order, if it is new. Never raises."""
        paths = list(self._paths)
        if len(paths) < _SHORTEST or len(paths) == self._saved:
            return
        known = self._recalled if self._recalled is not None else self._load(paths[0])
        if set(paths) <= set(known):
            return
        self._saved = len(paths)
        # what this run did not come to may be read by the next
        merged = list(dict.fromkeys(paths + known))[:_LONGEST]
        try:
            self._store.save_state(self._fqrn, _name(paths[0]), b"\0".join(merged))
        except CvmfsError:
            pass


def _name(first: bytes) -> str:
    return "trace-" + hashlib.blake2b(first, digest_size=12).hexdigest()
