"""Telling live processes from dead ones by what they wrote down about themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from udk.base import process

DAY = 86400.0


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def identity_of(pid: int) -> dict[str, Any]:
    return {**process.own_identity(), "pid": pid, "start": process.start_time(pid)}


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    made = sleeper()
    yield made
    made.kill()
    made.wait()


def test_own_identity_is_complete_and_alive() -> None:
    own = process.own_identity()
    assert own["pid"] == os.getpid()
    assert own["start"] > 0
    assert own["pidns"] > 0
    assert len(own["boot"]) == 36
    assert process.is_alive(own, 0)
    assert process.is_alive(own, 1000 * DAY)  # age means nothing where /proc can be asked


def test_identity_survives_exec() -> None:
    code = (
        "import os, sys; from udk.base.process import own_identity as o\n"
        "if len(sys.argv) == 1: os.execv(sys.executable, [sys.executable, __file__, str(o()['start'])])\n"
        "assert str(o()['start']) == sys.argv[1]"
    )
    script = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"udk-exec-{os.getpid()}.py")
    with open(script, "w") as f:
        f.write(code)
    try:
        subprocess.run(
            [sys.executable, script], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
    finally:
        os.unlink(script)


def test_identity_is_made_anew_after_fork() -> None:
    process.own_identity()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if process.own_identity()["pid"] == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_stopped_is_alive_and_killed_is_dead(child: subprocess.Popen[bytes]) -> None:
    identity = identity_of(child.pid)
    assert process.is_alive(identity, 0)
    child.send_signal(signal.SIGSTOP)
    assert process.is_alive(identity, 0)
    child.kill()
    deadline = time.monotonic() + 5
    while process.start_time(child.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not process.is_alive(identity, 0)  # still a zombie: nobody has waited for it
    child.wait()
    assert not process.is_alive(identity, 0)


def test_reused_pid_is_somebody_else(child: subprocess.Popen[bytes]) -> None:
    identity = identity_of(child.pid)
    assert not process.is_alive({**identity, "start": identity["start"] - 1}, 0)


def test_rebooted_host_has_no_processes_left(child: subprocess.Popen[bytes]) -> None:
    assert not process.is_alive({**identity_of(child.pid), "boot": "other"}, 0)


@pytest.mark.parametrize("change", [{"host": "elsewhere/1"}, {"pidns": 1}])
def test_who_cannot_be_asked_lives_for_thirty_days(change: dict[str, Any]) -> None:
    identity = {**process.own_identity(), "pid": 2**22 - 1, **change}
    assert process.is_alive(identity, 29 * DAY)
    assert not process.is_alive(identity, 31 * DAY)
    assert not process.is_alive(identity, 2 * DAY, foreign_seconds=DAY)


@pytest.mark.parametrize("pid", [None, 0, -1, "1", 2**40])
def test_nonsense_is_dead(pid: object) -> None:
    assert not process.is_alive({**process.own_identity(), "pid": pid}, 0)


def test_name_with_spaces_and_parentheses() -> None:
    code = "import sys,time\nopen('/proc/self/comm','w').write(') 1 (x y'); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert process.start_time(child.pid) >= process.own_identity()["start"]
    finally:
        child.kill()
        child.communicate()
