"""Bars on a terminal, silence elsewhere."""

from __future__ import annotations

import io
import os
import pty
import threading
from collections.abc import Iterator

import pytest

from udk.base.progress import Bars, Progress, progress_for


class Terminal:
    """A pseudo terminal whose output is collected."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w")

    def text(self) -> str:
        os.set_blocking(self.master, False)
        out = b""
        try:
            while data := os.read(self.master, 65536):
                out += data
        except (BlockingIOError, OSError):
            pass
        return out.decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self.master)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal()
    yield made
    made.close()


def test_nothing_without_a_terminal() -> None:
    stream = io.StringIO()
    progress = progress_for(stream)
    task = progress.task("x", 10)
    task.set(5)
    task.finish()
    progress.close()
    assert type(progress) is Progress
    assert stream.getvalue() == ""


def test_nothing_on_a_dumb_terminal_or_when_quiet(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type(progress_for(terminal.stream, quiet=True)) is Progress
    monkeypatch.setenv("TERM", "dumb")
    assert type(progress_for(terminal.stream)) is Progress


def test_bars(terminal: Terminal) -> None:
    progress = progress_for(terminal.stream)
    assert isinstance(progress, Bars)
    first, second = progress.task("aaaa", 2_000_000), progress.task("bbbb", 100)
    first.set(1_000_000)
    shown = terminal.text()
    assert "aaaa [" in shown
    assert "1.00 MB of 2.00 MB" in shown
    assert "0 of 2 done" in shown
    first.finish()
    second.finish("already there")
    progress.close()
    shown = terminal.text()
    assert "aaaa done" in shown
    assert "bbbb already there" in shown
    assert "[" not in shown.rsplit("\x1b[", 4)[-1].split("\n")[0]


def test_redraws_are_few(terminal: Terminal) -> None:
    progress = progress_for(terminal.stream)
    task = progress.task("x", 100_000)
    threads = [threading.Thread(target=lambda: [task.set(n) for n in range(2000)]) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert terminal.text().count("x [") < 50


def test_hostile_label_and_vanished_terminal(terminal: Terminal) -> None:
    progress = progress_for(terminal.stream)
    task = progress.task("\x1b]0;title\x07", 10)
    task.set(1)
    assert "\x1b]0" not in terminal.text()
    terminal.stream.close()
    progress.close()
    task.set(2)


def test_notes_come_last(terminal: Terminal) -> None:
    bars = Bars(terminal.stream)
    bars.note("the registry moves")
    bars.task("layer", 10).finish()
    assert "moves" not in terminal.text()
    bars.close()
    assert terminal.text().splitlines()[-2].endswith("the registry moves")
    Progress().note("nobody hears this")
