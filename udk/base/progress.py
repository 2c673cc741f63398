"""Progress of long work: nothing by default, one bar a task on a terminal."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from udk.base.text import human_size, one_line

if TYPE_CHECKING:
    from typing import TextIO

_INTERVAL = 0.1  # seconds between two drawings
_LINES = 12  # tasks shown at once


class Task:
    """One piece of work of ``total`` units. May be used from any thread."""

    def __init__(self, owner: Progress, label: str, total: int) -> None:
        self.label = one_line(label, 40)
        self.total = total
        self.count = 0
        self.state = ""
        self._owner = owner

    def set(self, count: int) -> None:
        """``count`` units are done."""
        self.count = count
        self._owner.changed()

    def finish(self, state: str = "done") -> None:
        """The work has ended; ``state`` is what is left to say about it."""
        self.state = state
        self._owner.changed()


class Progress:
    """Progress that nobody watches; the base of the others."""

    def task(self, label: str, total: int) -> Task:
        """Announces a piece of work."""
        return Task(self, label, total)

    def note(self, text: str) -> None:
        """Tells something in passing, one clean line; nobody hears it where nobody watches."""

    def changed(self) -> None:
        """A task has new numbers."""

    def close(self) -> None:
        """Draws the final state. Idempotent."""


class Bars(Progress):
    """A line a task, redrawn in place on the terminal ``stream``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tasks: list[Task] = []
        self._notes: list[str] = []
        self._drawn = 0
        self._last = 0.0
        self._closed = False
        self._guard = threading.Lock()

    def task(self, label: str, total: int) -> Task:
        made = super().task(label, total)
        with self._guard:
            self._tasks.append(made)
        return made

    def note(self, text: str) -> None:
        with self._guard:
            self._notes.append(text)

    def changed(self) -> None:
        now = time.monotonic()
        if now - self._last < _INTERVAL or not self._guard.acquire(blocking=False):
            return
        try:
            self._last = now
            self._draw(final=False)
        finally:
            self._guard.release()

    def close(self) -> None:
        with self._guard:
            if not self._closed:
                self._closed = True
                self._draw(final=True)

    def _draw(self, final: bool) -> None:
        if self._closed and not final:
            return
        try:
            width = os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            width = 80
        active = [t for t in self._tasks if not t.state]
        lines = [self._line(t, width - 1) for t in (self._tasks if final else active[:_LINES])]
        lines += self._notes if final else []
        if not final and self._tasks:
            done = len(self._tasks) - len(active)
            lines.append(f"{done} of {len(self._tasks)} done"[: width - 1])
        text = f"\x1b[{self._drawn}A" if self._drawn else ""
        text += "".join(f"\r\x1b[K{line}\n" for line in lines) + "\x1b[J"
        self._drawn = len(lines)
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._closed = True  # a terminal that went away must not end the work

    @staticmethod
    def _line(task: Task, width: int) -> str:
        share = min(1.0, task.count / task.total) if task.total else 1.0
        amount = task.state or f"{human_size(task.count)} of {human_size(task.total)}"
        room = max(0, width - len(task.label) - len(amount) - 6)
        filled = int(min(room, 40) * share)
        bar = f" [{'#' * filled}{' ' * (min(room, 40) - filled)}]" if room >= 8 and not task.state else ""
        return f"{task.label}{bar} {amount}"[:width]


def progress_for(stream: TextIO, quiet: bool = False) -> Progress:
    """Bars where ``stream`` is a terminal that can move its cursor, else nothing."""
    try:
        terminal = stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")
    except ValueError:
        terminal = False
    return Bars(stream) if terminal and not quiet else Progress()
