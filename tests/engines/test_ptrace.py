"""The ptrace engine's own matters: its tracer. What it shares with the trap engine is tested there."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import Box, marked, wait_until
from tests.engines.test_trap import layer
from tests.support.needs import needs
from udk.engines.guard import spawn
from udk.engines.select import by_name, probe

MODES = ("P1", "P2")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    reason = probe(by_name(request.param), fresh=True)
    if reason:
        if os.environ.get("UDK_CI") == "1":
            pytest.fail(f"{request.param}: {reason}")
        pytest.skip(f"{request.param} does not work here: {reason}")
    yield request.param


def start(box: Box, mode: str, *argv: str, **changes: Any) -> subprocess.Popen[bytes]:
    spec = box.spec(*argv, **changes)
    # in a group of its own: one whose parents are gone, as a batch system's may be, is not stopped by SIGTSTP
    guard: subprocess.Popen[bytes] = spawn(
        spec, by_name(mode).launch(spec), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        preexec_fn=os.setpgrp,
    )  # fmt: skip
    box.guards.append(guard)
    return guard


def field(pid: int, name: str) -> str:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(name + ":"))


def tracer_of(pid: int) -> int:
    return int(field(pid, "TracerPid"))


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def payload(box: Box) -> int:
    """The process of the payload when its program runs."""

    return int(wait_until(lambda: asleep(box))[0])


def asleep(box: Box) -> list[int]:
    found = []
    for pid in marked(box.mark):
        try:
            if tracer_of(pid) and field(pid, "Name") == "sleep":
                found.append(pid)
        except OSError:
            continue
    return found


@needs("busybox")
def test_nothing_is_left_when_the_tracer_is_killed(shell: Box, mode: str) -> None:
    guard = start(shell, mode, "sh", "-c", "(setsid sleep 1000 &); exec sleep 1000")
    victim = payload(shell)
    os.kill(tracer_of(victim), signal.SIGKILL)
    assert guard.wait(10) == 137
    wait_until(lambda: not marked(shell.mark))


@needs("busybox")
def test_the_tracer_goes_with_the_last_process(shell: Box, mode: str) -> None:
    guard = start(shell, mode, "sleep", "1000")
    tracer = tracer_of(payload(shell))
    guard.terminate()
    assert guard.wait(10) == 143
    wait_until(lambda: not os.path.exists(f"/proc/{tracer}"))


@needs("busybox")
def test_the_tracer_holds_nothing(shell: Box, mode: str) -> None:
    """A reader sees the end of the payload's output when the payload closes it."""
    guard = start(shell, mode, "sh", "-c", "exec >&- 2>&-; exec sleep 1000")
    assert guard.stdout and guard.stdout.read() == b""
    victim = payload(shell)
    tracer = tracer_of(victim)
    assert field(tracer, "SigBlk").endswith("fffffffffffbfeff")  # all but KILL and STOP
    assert os.getsid(tracer) == tracer and guard.poll() is None


@needs("busybox")
def test_a_stopped_payload_stops_its_caller(shell: Box, mode: str) -> None:
    guard = start(shell, mode, "sleep", "1000")
    payload(shell)
    guard.send_signal(signal.SIGTSTP)
    wait_until(lambda: state(guard.pid) == "T")
    guard.send_signal(signal.SIGCONT)
    wait_until(lambda: state(guard.pid) == "S")
    guard.terminate()
    assert guard.wait(10) == 143


@needs("busybox")
def test_what_is_not_translated_does_not_stop(shell: Box) -> None:
    """Under P1: 40000 reads and writes, a handful of the tracer's wake-ups."""
    start(shell, "P1", "sh", "-c", "dd if=/dev/zero of=/dev/null bs=1 count=20000; exec sleep 1000")
    tracer = tracer_of(payload(shell))
    assert int(field(tracer, "voluntary_ctxt_switches")) < 2000


@needs("busybox")
def test_hot_calls_do_not_stop_either(shell: Box) -> None:
    start(
        shell,
        "P1",
        "sh",
        "-c",
        "i=0; while [ $i -lt 5000 ]; do test -e /etc/passwd; i=$((i+1)); done; exec sleep 1000",
    )
    tracer = tracer_of(payload(shell))
    assert int(field(tracer, "voluntary_ctxt_switches")) < 2000


@needs("busybox")
def test_join_has_a_tracer_of_its_own(shell: Box, mode: str) -> None:
    root = layer(shell)
    guard = start(shell, mode, "sh", "-c", "echo here > /made; exec sleep 1000", root=root)
    first = payload(shell)
    spec = shell.spec("sh", "-c", "cat /made; exec sleep 999", root=root).replace(cleanup=())
    other = spawn(
        spec, by_name("ptrace").join(spec, guard.pid), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    shell.guards.append(other)
    assert other.stdout and other.stdout.readline() == b"here\n"
    wait_until(lambda: [p for p in asleep(shell) if p != first])
    other.terminate()
    assert other.wait(10) == 143 and guard.poll() is None
    time.sleep(0.1)
    assert tracer_of(first)


def test_names_and_modes() -> None:
    assert [by_name(name).mode for name in ("ptrace", *MODES)] == ["", "P1", "P2"]
    assert {by_name(name).name for name in ("ptrace", *MODES)} == {"ptrace"}
