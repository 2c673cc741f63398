"""Locks between processes: killed holders, stopped holders, removed files, file systems without flock."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from udk.base import jsonlite, locks
from udk.base.locks import Lock
from udk.base.process import own_identity

HOLD = """
import sys, time
from udk.base.locks import Lock
lock = Lock(sys.argv[1], patience=float(sys.argv[2]))
lock.acquire()
print(lock.generation, flush=True)
time.sleep(60)
"""


@contextmanager
def holder(path: Path, patience: float = 120.0) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lock."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(patience)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "0"
        yield child
    finally:
        child.kill()
        child.communicate()


def test_patience_exceeds_a_minute_of_being_stopped() -> None:
    assert locks.PATIENCE >= 90
    assert locks.HEARTBEAT * 5 < locks.PATIENCE


def test_killed_holder_frees_it_at_once(tmp_path: Path) -> None:
    lock = Lock(str(tmp_path / "l"))
    with holder(tmp_path / "l") as child:
        assert not lock.try_acquire()
        child.kill()
        child.wait()
        assert lock.try_acquire()
    assert lock.generation == 0
    lock.release()


def test_waiter_gets_it_when_the_holder_dies(tmp_path: Path) -> None:
    with holder(tmp_path / "l") as child:
        threading.Timer(0.3, child.kill).start()
        with Lock(str(tmp_path / "l")) as lock:
            assert lock.held
            assert lock.generation == 0


def test_threads_exclude_one_another(tmp_path: Path) -> None:
    inside, most = [], []

    def work() -> None:
        with Lock(str(tmp_path / "l")):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert most == [1] * 5


def test_enough_ends_the_wait(tmp_path: Path) -> None:
    asked: list[int] = []

    def enough() -> bool:
        asked.append(1)
        return len(asked) > 2

    with holder(tmp_path / "l"):
        lock = Lock(str(tmp_path / "l"))
        assert lock.acquire(enough) is False
        assert not lock.held


def test_stopped_holder_is_passed_over_and_the_others_wait_for_the_second(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with holder(path) as child:
        child.send_signal(signal.SIGSTOP)
        second = Lock(str(path), patience=0.3)
        assert second.acquire()
        assert second.generation == 1
        third = Lock(str(path), patience=0.3)
        assert not third.acquire(lambda: third.generation == 1)  # it waits for the second now
        assert not third.try_acquire()
        second.release()
        assert third.acquire()
        assert third.generation == 1
        third.release()
        child.send_signal(signal.SIGCONT)


def test_live_holder_is_never_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.05)
    monkeypatch.setattr(locks, "_pulse", None)  # one that beats at the usual rate may be running
    with Lock(str(tmp_path / "l")):
        waiter = Lock(str(tmp_path / "l"), patience=0.4)
        end = time.monotonic() + 1.5
        assert waiter.acquire(lambda: time.monotonic() > end) is False
        assert waiter.generation == 0


def test_time_in_which_the_waiter_itself_was_stopped_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(tmp_path / "l") as child:
        child.send_signal(signal.SIGSTOP)
        clock = [0.0]

        def jump() -> float:
            clock[0] += 100.0  # between any two looks, as after SIGCONT
            return clock[0]

        monkeypatch.setattr(time, "monotonic", jump)
        waiter = Lock(str(tmp_path / "l"), patience=50.0)
        looks: list[int] = []
        assert waiter.acquire(lambda: looks.append(1) or len(looks) > 10) is False  # type: ignore[func-returns-value]
        assert waiter.generation == 0


def test_removed_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "l"
    first = Lock(str(path), remove=True)
    assert first.try_acquire()
    opened = os.open(path, os.O_RDWR)
    first.release()
    assert not path.exists()
    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a lock on a file that has no name
    with Lock(str(path)) as second:
        assert second.held
    os.close(opened)


def test_many_processes_one_at_a_time(tmp_path: Path) -> None:
    code = """
import os, sys
from udk.base.locks import Lock
for _ in range(20):
    with Lock(sys.argv[1] + "/l", remove=True):
        n = int(open(sys.argv[1] + "/n").read())
        open(sys.argv[1] + "/n", "w").write(str(n + 1))
"""
    (tmp_path / "n").write_text("0")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=env) for _ in range(6)]
    assert [c.wait() for c in children] == [0] * 6
    assert (tmp_path / "n").read_text() == "120"


class TestWithoutFlock:
    """Lustre without ``-o flock``: a file that names its owner stands in."""

    @pytest.fixture(autouse=True)
    def no_flock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(fd: int, how: int) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(fcntl, "flock", refuse)

    def test_excludes(self, tmp_path: Path) -> None:
        first, second = Lock(str(tmp_path / "l")), Lock(str(tmp_path / "l"))
        assert first.try_acquire()
        assert not second.try_acquire()
        first.release()
        assert second.try_acquire()
        second.release()

    def test_dead_owner_is_replaced(self, tmp_path: Path) -> None:
        owner = tmp_path / "l.owner"
        owner.write_text(jsonlite.dumps({**own_identity(), "pid": 2**22 - 1, "start": 1}))
        lock = Lock(str(tmp_path / "l"))
        assert lock.acquire(lambda: False)
        lock.release()
        assert sorted(os.listdir(tmp_path)) == ["l"]

    def test_owner_on_another_host_is_respected(self, tmp_path: Path) -> None:
        owner = tmp_path / "l.owner"
        owner.write_text(jsonlite.dumps({**own_identity(), "host": "elsewhere", "pid": 1}))
        assert not Lock(str(tmp_path / "l")).try_acquire()
