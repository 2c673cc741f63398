"""Pauses between attempts: growing, and not in step with everybody else's."""

from __future__ import annotations

from random import random

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def delays(
    first: float = 0.5, factor: float = 2.0, longest: float = 30.0, jitter: float = 0.5
) -> Iterator[float]:
    """Seconds to wait before the second, third ... attempt, endlessly: each ``factor`` times the one before,
    at most ``longest``, shortened at random by up to ``jitter`` of itself."""
    delay = first
    while True:
        yield delay * (1 - jitter * random())
        delay = min(longest, delay * factor)
