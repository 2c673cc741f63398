"""SIGTERM, SIGHUP and SIGINT during long work in Python: an exception that unwinds, then death by the same
signal."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Ended(BaseException):
    """A signal asked this process to end; not an Exception, so that nothing retries it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # the second one must not interrupt the unwinding
    raise Ended(number)


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Inside, those signals unwind the work (partial downloads stay resumable) and then end the process as
    they would have: silently, with the status of the signal. Signals that the caller ignores stay
    ignored."""
    before = {}
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, _raise)
    try:
        yield
    except Ended as e:
        signal.signal(e.number, signal.SIG_DFL)
        os.kill(os.getpid(), e.number)
        raise SystemExit(128 + e.number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
