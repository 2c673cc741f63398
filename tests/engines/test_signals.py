"""Signals reach the payload once, and nothing outlives udk: also not a payload that does its best to."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.engines.conftest import HELLO, Box, marked, wait_until
from udk.engines.base import Launch
from udk.engines.guard import spawn


def read_line(guard: subprocess.Popen[bytes]) -> bytes:
    assert guard.stdout
    return guard.stdout.readline()


def finish(guard: subprocess.Popen[bytes], seconds: float = 1.5) -> tuple[int, bytes]:
    out, err = guard.communicate(timeout=seconds)
    assert err == b""
    return guard.returncode, out


def host_program(box: Box, *argv: str, **popen: object) -> subprocess.Popen[bytes]:
    """The guard as the engines without a pid namespace use it: a program of the host."""
    spec = box.spec(HELLO, *argv, cleanup=())
    env = dict(spec.env)
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
    guard: subprocess.Popen[bytes] = spawn(spec, Launch([HELLO, *argv], env), **options)
    box.guards.append(guard)
    return guard


MODES = ["namespace", "host-pids", "host-program"]


def start(box: Box, mode: str, *argv: str, **popen: object) -> subprocess.Popen[bytes]:
    if mode == "host-program":
        return host_program(box, *argv, **popen)
    return box.start("/hello", *argv, pid="private" if mode == "namespace" else "host", popen=popen)


@pytest.mark.parametrize("mode", MODES)
def test_term_ends_a_payload_without_a_handler(box: Box, mode: str) -> None:
    guard = start(box, mode, "sleep", "1000000")
    wait_until(lambda: len(marked(box.mark)) == 1, what="payload")
    guard.send_signal(signal.SIGTERM)
    assert finish(guard, 1.0) == (143, b"")
    assert marked(box.mark) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH, 40]
)
def test_a_handler_gets_the_signal_once_and_its_status_wins(box: Box, mode: str, sig: int) -> None:
    guard = start(box, mode, "await", str(int(sig)), "11")
    assert read_line(guard) == b"ready\n"
    guard.send_signal(sig)
    assert finish(guard) == (11, b"1\n")


@pytest.mark.parametrize("mode", MODES)
def test_a_signal_to_the_process_group_arrives_once(box: Box, mode: str) -> None:
    """Batch systems and timeout(1) signal the whole group: guard, keeper and payload."""
    guard = start(box, mode, "await", str(int(signal.SIGUSR2)), "12", preexec_fn=os.setpgrp)
    assert read_line(guard) == b"ready\n"
    os.killpg(guard.pid, signal.SIGUSR2)
    assert finish(guard) == (12, b"1\n")


@pytest.mark.parametrize("mode", MODES)
def test_signals_to_the_keeper_are_for_the_payload(box: Box, mode: str) -> None:
    guard = start(box, mode, "await", str(int(signal.SIGTERM)), "13")
    assert read_line(guard) == b"ready\n"
    os.kill(chain(guard)[-2], signal.SIGTERM)
    assert finish(guard) == (13, b"1\n")


@pytest.mark.parametrize("mode", MODES)
def test_payload_stays_in_session_and_group(box: Box, mode: str) -> None:
    guard = start(box, mode, "sleep", "1000000")
    payload = wait_until(lambda: marked(box.mark))[0]
    assert os.getsid(payload) == os.getsid(0)
    assert os.getpgid(payload) == os.getpgid(0)
    assert Path(f"/proc/{payload}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()
    guard.kill()


def chain(guard: subprocess.Popen[bytes]) -> list[int]:
    """The guard and its only descendants, each the child of the one before; the payload is the last."""
    pids = [guard.pid]
    while True:
        children = Path(f"/proc/{pids[-1]}/task/{pids[-1]}/children").read_text().split()
        if not children:
            return pids
        assert len(children) == 1
        pids.append(int(children[0]))


@pytest.mark.parametrize("mode", MODES)
def test_few_and_small_processes(box: Box, mode: str) -> None:
    guard = start(box, mode, "sleep", "1000000")
    (payload,) = wait_until(lambda: marked(box.mark))
    pids = chain(guard)
    assert len(pids) == (3 if mode == "namespace" else 4)
    assert pids[-1] == payload
    for pid in pids[:-1]:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert int(status["VmRSS"].split()[0]) < 400  # kB


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("victim", ["guard", "watcher", "keeper", "group", "guard and keeper"])
def test_sigkill_leaves_nothing(box: Box, mode: str, victim: str) -> None:
    """The payload double-forks, calls setsid, ignores all signals and closes its descriptors."""
    guard = start(box, mode, "outlive", "1000000", stdout=subprocess.DEVNULL, preexec_fn=os.setpgrp)
    wait_until(lambda: len(marked(box.mark)) == 2, what="the payload and its daemon")
    pids = guards(guard)
    if victim == "group":  # what batch systems do: all but the daemon are in it
        os.killpg(guard.pid, signal.SIGKILL)
    else:
        chosen = {"guard": pids[:1], "watcher": pids[1:2], "keeper": pids[-1:]}
        for pid in chosen.get(victim, [pids[0], pids[-1]]):
            kill(pid)
    wait_until(lambda: not marked(box.mark), 1.0, "nothing is left")
    assert guard.wait(2) == (-9 if victim in ("guard", "group", "guard and keeper") else 137)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it was quicker
        pass


def guards(guard: subprocess.Popen[bytes]) -> list[int]:
    """Guard, watcher if there is one, and keeper."""
    pids = [guard.pid]
    while True:
        for name in os.listdir("/proc"):
            try:
                comm = Path(f"/proc/{name}/comm").read_text()
                parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if parent == str(pids[-1]) and comm.startswith("udk-") and comm != "udk-hello\n":
                pids.append(int(name))
                break
        else:
            return pids


def test_random_kills_leave_nothing(box: Box) -> None:
    """At random moments, of random processes: set-up, start, a payload that forks, the end."""
    chance = random.Random(17)
    for _ in range(60):
        mode = chance.choice(MODES)
        guard = start(box, mode, "outlive", "1000000", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.random() * 0.03)
        pids = guards(guard)
        for pid in chance.sample(pids, chance.choice([1, 1, 2]) if len(pids) > 2 else 1):
            kill(pid)
        wait_until(lambda: not marked(box.mark), 1.5, f"nothing is left, {mode}, {pids}")
        assert guard.wait(3) in (-9, 125, 137)


@pytest.mark.parametrize("mode", ["private", "host"])
def test_sigkill_of_udk_with_daemons(shell: Box, mode: str) -> None:
    guard = shell.start("sh", "-c", "/hello daemon 1000000; /hello daemon 1000000; exec sleep 1000", pid=mode)
    wait_until(lambda: len(marked(shell.mark)) == 3, what="two daemons and the payload")
    guard.kill()
    wait_until(lambda: not marked(shell.mark), 1.0, "nothing is left")


@pytest.mark.parametrize("mode", ["private", "host"])
def test_daemons_end_with_the_payload(shell: Box, mode: str) -> None:
    done = shell.run("sh", "-c", "/hello daemon 1000000; /hello daemon 1000000; exit 5", pid=mode)
    assert done.returncode == 5
    assert marked(shell.mark) == []


def test_an_ignored_signal_does_not_end_the_set_up(box: Box) -> None:
    """nohup: the caller's session may go at any moment."""

    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    for i in range(20):
        guard = box.start("/hello", "exit", "0", popen={"preexec_fn": prepare})
        time.sleep(i * 0.0002)
        guard.send_signal(signal.SIGHUP)
        assert finish(guard, 10) == (0, b"")


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_no_signal_is_lost_during_set_up(box: Box, sig: signal.Signals) -> None:
    """At any moment of the set-up: the container ends with the signal, and its layer is removed."""
    for i in range(40):
        guard = box.start("/hello", "sleep", "1000000")
        time.sleep(i * 0.0002)
        guard.send_signal(sig)
        assert finish(guard) == (128 + sig, b"")
    assert [p for p in box.scratch.iterdir() if p.name.startswith("layer")] == []
    assert marked(box.mark) == []


def test_sigkill_during_set_up(box: Box) -> None:
    for i in range(40):
        guard = box.start("/hello", "sleep", "1000000")
        time.sleep(i * 0.0002)
        guard.kill()
        guard.wait(2)
    wait_until(lambda: not marked(box.mark), 1.0)


def test_closed_output_ends_the_payload(shell: Box) -> None:
    guard = shell.start("yes")
    assert guard.stdout
    assert guard.stdout.readline() == b"y\n"
    guard.stdout.close()
    guard.stdout = None
    assert guard.wait(2) == 128 + signal.SIGPIPE


def test_end_of_output_is_seen_when_the_payload_closes_it(shell: Box) -> None:
    guard = shell.start("sh", "-c", "echo x; exec >&-; exec sleep 1000")
    assert guard.stdout
    assert guard.stdout.read() == b"x\n"  # and not after 1000 s: neither guard nor keeper holds it open
    guard.terminate()
    assert guard.wait(2) == 143


def test_a_stopped_payload_is_continued(box: Box) -> None:
    # in a group of its own: one whose parents are gone, as a batch system's may be, is not stopped by SIGTSTP
    guard = box.start("/hello", "sleep", "1000000", popen={"preexec_fn": os.setpgrp})
    payload = wait_until(lambda: marked(box.mark))[0]

    def state() -> str:
        return Path(f"/proc/{payload}/stat").read_text().rpartition(")")[2].split()[0]

    guard.send_signal(signal.SIGTSTP)
    wait_until(lambda: state() == "T")
    wait_until(lambda: Path(f"/proc/{guard.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    guard.send_signal(signal.SIGCONT)
    wait_until(lambda: state() == "S")
    guard.terminate()
    assert finish(guard) == (143, b"")


def test_kill_from_inside_does_not_end_pid_1(shell: Box) -> None:
    """What is sent to pid 1 is for the payload, as with docker's --init."""
    assert shell.run("sh", "-c", "trap 'exit 9' TERM; kill -TERM 1; sleep 5 & wait").returncode == 9
    assert shell.output("sh", "-c", "kill -KILL 1; echo alive") == "alive\n"
