"""Where runs keep their state: what is left when all of a run is killed at once, and who may remove it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Optional

import pytest

from tests.engines.conftest import Box, marked, wait_until
from tests.support.needs import needs
from udk.base import jsonlite
from udk.base.process import own_identity
from udk.engines import homes
from udk.engines.base import Engine
from udk.engines.guard import spawn
from udk.engines.select import by_name, probe
from udk.runtime.spec import Root


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        try:
            text = Path(f"/proc/{name}/stat").read_text() if name.isdigit() else ""
        except OSError:
            continue
        if text:
            children.setdefault(int(text[text.rfind(")") + 2 :].split()[1]), []).append(int(name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def kill_all_at_once(guard: subprocess.Popen[bytes]) -> None:
    """As the end of a batch job does: none of them gets to clean up after another."""
    found: list[int] = []
    for _ in range(2):  # the second time those that were forked meanwhile
        found = descendants(guard.pid)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    guard.wait()


def mine(parent: Path) -> set[str]:
    return {name for name in os.listdir(parent) if (parent / name).lstat().st_uid == os.geteuid()}


def is_locked(home: Path) -> bool:
    with open(home / "lease", "rb+") as lease:
        try:
            fcntl.flock(lease, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def works(name: str) -> Engine:
    engine = by_name(name)
    reason = probe(engine)
    if reason:
        pytest.skip(f"{name} does not work here: {reason}")
    return engine


@needs("busybox")
@pytest.mark.parametrize("name", ["trap", "ptrace", "runc"])
def test_what_killed_runs_left_in_memory_goes_with_the_next(
    shell: Box, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a layer the state is in /dev/shm (here a place that no other udk sweeps), where no lease of
    a store tells of it."""
    engine = works(name)
    assert homes.MEMORY == "/dev/shm"
    monkeypatch.setattr(homes, "MEMORY", str(tmp_path))
    monkeypatch.setattr(engine, "memory", (str(tmp_path),), raising=False)
    before = mine(tmp_path)
    spec = shell.spec("sh", "-c", "sleep 1000; true", root=Root(lower=(str(shell.lower),)))
    for run in range(3):
        guard = spawn(spec, engine.launch(spec), stdin=subprocess.DEVNULL)
        wait_until(lambda: bool(marked(shell.mark)))
        state = mine(Path(homes.MEMORY)) - before
        assert len(state) == 1, (run, state)  # the last one's was removed by the making of this one
        assert homes.sweep((homes.MEMORY,)) == 0  # a living run's stays
        kill_all_at_once(guard)
        wait_until(lambda: not marked(shell.mark))
        wait_until(
            lambda: not any(map(is_locked, tmp_path.glob("udk-*")))
        )  # what they had open is closed last
        assert mine(Path(homes.MEMORY)) - before == state
    assert homes.sweep((homes.MEMORY,)) == 1
    assert mine(Path(homes.MEMORY)) == before


def made(parent: Path) -> homes.Home:
    return homes.make("", "trap.", "trap", (str(parent),))


def test_the_lock_tells_who_lives(tmp_path: Path) -> None:
    """Not the pid: it may be that of another pid namespace, or another process's by now."""
    home = made(tmp_path)
    assert homes.sweep((str(tmp_path),)) == 0 and os.path.isdir(home.path)
    held = os.dup(home.fd)
    os.close(home.fd)
    assert homes.sweep((str(tmp_path),)) == 0 and os.path.isdir(home.path)
    os.close(held)
    assert homes.sweep((str(tmp_path), str(tmp_path))) == 1 and os.listdir(tmp_path) == []


@pytest.mark.parametrize("changed", ["host", "boot", None])
def test_other_hosts_are_not_judged(tmp_path: Path, changed: Optional[str]) -> None:
    """In a TMPDIR that several nodes share a lock may be known on one of them only; but a boot that is over
    holds none."""
    home = made(tmp_path)
    os.close(home.fd)
    who = {**own_identity(), **({changed: "another"} if changed else {})}
    Path(home.path, "lease").write_text(jsonlite.dumps(who))
    assert homes.sweep((str(tmp_path),)) == (0 if changed == "host" else 1)
    assert os.path.isdir(home.path) == (changed == "host")


def test_nothing_of_others_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that all users of a node write to: links to directories of ours, other kinds of files, leases
    that are no leases, names like ours."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    victim = made(elsewhere)
    os.close(victim.fd)
    place = tmp_path / "place"
    place.mkdir()
    (place / "udk-0123456789ab").symlink_to(victim.path)
    os.mkfifo(place / "udk-0123456789ac")
    for name, lease in (
        ("udk-0123456789ad", ""), ("udk-0123456789ae", "{"), ("udk-0123456789af", "[]"),
        ("udk-0123456789abcdef", jsonlite.dumps(own_identity())),  # a layer: leases in a store tell of it
        ("udk-notes", jsonlite.dumps(own_identity())),
    ):  # fmt: skip
        (place / name).mkdir()
        (place / name / "lease").write_text(lease)
    (place / "udk-0123456789b0").mkdir()
    os.mkfifo(place / "udk-0123456789b0" / "lease")
    (place / "udk-0123456789b1").mkdir()
    (place / "udk-0123456789b1" / "lease").symlink_to(f"{victim.path}/lease")
    before = sorted(os.listdir(place))
    assert homes.sweep((str(place), str(tmp_path / "missing"))) == 0
    assert sorted(os.listdir(place)) == before and os.path.isdir(victim.path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert homes.sweep((str(elsewhere),)) == 0
    assert homes.sweep((str(elsewhere),)) == 1


def test_a_second_sweeper_goes_on(tmp_path: Path) -> None:
    home = made(tmp_path)
    os.close(home.fd)
    other = os.open(f"{home.path}/lease", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    start = time.monotonic()
    assert homes.sweep((str(tmp_path),)) == 0 and time.monotonic() - start < 5
    os.close(other)
    assert homes.sweep((str(tmp_path),)) == 1
