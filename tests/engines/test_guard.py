"""The guard's own work: time limits, the stats file, removal of layers and leases, the next engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import HELLO, Box, marked, wait_until
from udk.engines import guard as guard_module
from udk.engines import plan
from udk.engines.base import Launch
from udk.engines.guard import compile_plan, dry_run, kill_by_cookie, remove, spawn
from udk.engines.namespace import NamespaceEngine
from udk.errors import EngineError, UdkError
from udk.runtime.spec import Limits, Root


def stats(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


# ---- limits and stats -----------------------------------------------------------------------------------


def test_timeout_sends_the_stop_signal(box: Box, tmp_path: Path) -> None:
    out = tmp_path / "stats.json"
    limits = Limits(timeout=0.2, kill_after=20)
    done = box.run("/hello", "await", "10", "17", limits=limits, stop_signal=10, stats=str(out))
    assert (done.returncode, done.stdout) == (17, b"ready\n1\n")
    assert stats(out)["timed_out"] is True
    assert stats(out)["exit"] == 17
    done = box.run("/hello", "sleep", "1000000", limits=limits)
    assert done.returncode == 143


@pytest.mark.parametrize("pid", ["private", "host"])
def test_kill_after(box: Box, tmp_path: Path, pid: str) -> None:
    out = tmp_path / "stats.json"
    done = box.run(
        "/hello", "outlive", "1000000", limits=Limits(timeout=0.2, kill_after=0.2), stats=str(out), pid=pid
    )
    assert done.returncode == 137
    assert marked(box.mark) == []
    assert (stats(out)["signal"], stats(out)["timed_out"]) == (9, True)
    assert list(box.scratch.glob("layer*")) == []


def test_timeout_of_a_stopped_payload(shell: Box) -> None:
    done = shell.run("sh", "-c", "kill -STOP $$", limits=Limits(timeout=0.2))
    assert done.returncode == 143


def test_no_timeout_when_the_payload_is_quick(box: Box, tmp_path: Path) -> None:
    out = tmp_path / "stats.json"
    assert box.run("/hello", "exit", "3", limits=Limits(timeout=30), stats=str(out)).returncode == 3
    assert stats(out)["timed_out"] is False


def test_stats(shell: Box, tmp_path: Path) -> None:
    out = tmp_path / "stats.json"
    script = "dd if=/dev/zero of=/dev/null bs=30000000 count=3 2>/dev/null; kill -9 $$"
    done = shell.run("sh", "-c", script, stats=str(out))
    assert done.returncode == 137
    read = stats(out)
    assert read["version"] == 1
    assert (read["exit"], read["signal"], read["core"], read["ran"], read["error"]) == (
        137,
        9,
        False,
        True,
        "",
    )
    assert 0 < read["user"] + read["system"] <= read["wall"] * os.cpu_count()
    assert read["maxrss"] > 20_000_000  # bytes: dd's buffer
    assert set(read) == {
        "version", "exit", "signal", "core", "timed_out", "ran", "wall", "user", "system", "maxrss", "minflt",
        "majflt", "inblock", "oublock", "nvcsw", "nivcsw", "error",
    }  # fmt: skip


def test_stats_of_what_never_ran(box: Box, tmp_path: Path) -> None:
    out = tmp_path / "stats.json"
    status, text = box.failure('/no "thing"\x01', stats=str(out))
    assert status == 127
    assert (stats(out)["exit"], stats(out)["ran"], stats(out)["error"]) == (127, False, text)
    box.failure("/hello", stats=str(out), root=Root(lower=("/nowhere",)))
    assert stats(out)["exit"] == 125


def test_stats_that_cannot_be_written(box: Box, tmp_path: Path) -> None:
    done = box.run("/hello", "uid", stats=str(tmp_path / "no" / "where"))
    assert (done.returncode, done.stdout) == (0, b"0\n")
    assert b"the stats file cannot be written" in done.stderr


# ---- removal --------------------------------------------------------------------------------------------


def test_everything_is_removed_and_in_order(shell: Box, tmp_path: Path) -> None:
    """Whatever the payload left: closed directories, deep ones, odd names, many files."""
    lease = tmp_path / "lease"
    lease.write_text("{}")
    script = """
        mkdir -p /a/b/c; touch /a/b/c/f; chmod 000 /a/b/c /a/b; chmod 500 /a
        i=0; while [ $i -lt 3000 ]; do : > "/many-$i"; i=$((i+1)); done
        touch "$(printf '/new\\nline')"; mkfifo /fifo; ln -s /nowhere /link; mkdir /etc/sub; rm -r /etc
    """
    spec = shell.spec("sh", "-c", script)
    guard = spawn(spec, NamespaceEngine().launch(spec), leases=(str(lease),), stderr=subprocess.PIPE)
    _, err = guard.communicate(timeout=30)
    assert (guard.returncode, err) == (0, b"")
    assert not lease.exists()
    assert list(shell.scratch.glob("layer*")) == []


def test_a_very_deep_tree_is_removed(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(600):  # longer than any path can be
        os.mkdir("directory", dir_fd=fd)
        below = os.open("directory", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove([str(tmp_path / "directory")])
    assert list(tmp_path.iterdir()) == []


def test_remove(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (top / "a" / "link").symlink_to(outside)
    (top / "a" / "b").chmod(0)
    remove([str(top), str(tmp_path / "missing")])
    assert not top.exists()
    assert (outside / "kept").exists()
    file = tmp_path / "file"
    file.touch()
    remove([str(file)])
    assert not file.exists()
    with pytest.raises(EngineError, match="/proc/self/status cannot be removed"):
        remove(["/proc/self/status"])


def test_a_killed_udk_leaves_a_layer_that_can_be_removed(shell: Box) -> None:
    guard = shell.start("sh", "-c", "touch /x; exec sleep 1000")
    wait_until(lambda: list(shell.scratch.glob("layer1/upper/x")))
    guard.kill()
    guard.wait()
    wait_until(lambda: not marked(shell.mark), 1.0)
    layer = shell.scratch / "layer1"
    assert (layer / "work" / "work").stat().st_mode & 0o777 == 0  # overlay's: why rm -r fails
    remove([str(layer)])
    assert not layer.exists()


def test_kill_by_cookie(box: Box) -> None:
    env = {"UDK_COOKIE": box.mark[:16], "MARK": box.mark}
    process = subprocess.Popen([HELLO, "outlive", "1000000"], env=env)
    other = subprocess.Popen([HELLO, "sleep", "1000000"], env={"UDK_COOKIE": box.mark[:15], "NOT": "this"})
    try:
        wait_until(lambda: len(marked(box.mark)) == 2)
        kill_by_cookie(box.mark[:16])
        wait_until(lambda: process.poll() is not None and not marked(box.mark), 1.0)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
        process.wait()


# ---- the next engine ------------------------------------------------------------------------------------


def fail_set_up(box: Box, tmp_path: Path, first: str = "") -> tuple[subprocess.CompletedProcess[bytes], Path]:
    """A run whose engine cannot do it: an upper layer on a file system that overlay refuses (proc)."""
    out = tmp_path / "told"
    script = f"import os, pathlib; pathlib.Path({str(out)!r}).write_text(os.environ['UDK_ENGINE_FAILED'])"
    spec = box.spec("/hello", root=Root(lower=(str(box.lower),), upper="/proc/self", work="/proc/self"))
    layer = box.layer()[0]
    spec = spec.replace(cleanup=(layer,))
    guard = spawn(
        spec,
        NamespaceEngine().launch(spec),
        fallback=("namespace", sys.executable, "-c", script),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **({"UDK_ENGINE_FAILED": first} if first else {})},
    )
    pid = guard.pid
    text, err = guard.communicate(timeout=20)
    assert os.path.exists(layer)  # the command starts the same container again
    assert guard.pid == pid
    return subprocess.CompletedProcess([], guard.returncode, text, err), out


def test_a_failed_engine_hands_over(box: Box, tmp_path: Path) -> None:
    done, told = fail_set_up(box, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert told.read_text().startswith(
        "namespace: overlay cannot be mounted with its upper layer in /proc/self"
    )
    done, told = fail_set_up(box, tmp_path, first="other: reason")
    assert told.read_text().split("\n")[0] == "other: reason"
    assert told.read_text().split("\n")[1].startswith("namespace: overlay")


def test_a_command_that_cannot_run_is_not_the_engines_fault(box: Box, tmp_path: Path) -> None:
    spec = box.spec("/nothing")
    told = tmp_path / "told"
    guard = spawn(
        spec, NamespaceEngine().launch(spec), fallback=("namespace", "/usr/bin/touch", str(told)),
        stderr=subprocess.PIPE,
    )  # fmt: skip
    guard.communicate(timeout=20)
    assert guard.returncode == 127
    assert not told.exists()


def test_refused_overlay_is_named(box: Box) -> None:
    root = Root(lower=(str(box.lower),), upper="/proc/self", work="/proc/self")
    status, text = box.failure("/hello", root=root, cleanup=())
    assert status == 125
    assert "upper layer in /proc/self" in text
    assert "--scratch" in text


# ---- plans ----------------------------------------------------------------------------------------------


def run_plan(data: bytes) -> tuple[int, str]:
    fd = plan.to_descriptor(data)
    try:
        done = subprocess.run(
            ["udk-guard", "run", str(fd)],
            executable=guard_module.GUARD,
            pass_fds=(fd,),
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(fd)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0", b"udk-plan\0", b"udk-plan\0" + b"2\0", b"udk-plan\0" + b"1\0", b"udk-plan\0" + b"1\0arg",
        b"udk-plan\0" + b"1\0nonsense\0", b"udk-plan\0" + b"1\0arg\0",
        b"udk-plan\0" + b"1\0limit\0a\0b\0c\0arg\0x\0",
        b"udk-plan\0" + b"1\0cwd\0relative\0arg\0x\0", b"udk-plan\0" + b"1\0remove\0/\0arg\0x\0",
        b"udk-plan\0" + b"1\0map-uid\0" + b"1\0" + b"2\0" + b"99999999999\0arg\0x\0",
        b"udk-plan\0" + b"1\0confine\0z\0arg\0x\0", b"udk-plan\0" + b"1\0landlock\0" + b"7\0q\0arg\0x\0",
        b"udk-plan\0" + b"1\0landlock-path\0relative\0r\0arg\0x\0",
        b"udk-plan\0" + b"1\0landlock-path\0/\0Z\0arg\0x\0", b"udk-plan\0" + b"1\0keep-fd\0-1\0arg\0x\0",
        b"udk-plan\0" + b"1\0gate\0/a\0b\0arg\0x\0", b"udk-plan\0" + b"1\0through\0g\0arg\0x\0",
        b"udk-plan\0" + b"1\0clone\0" + b"0\0arg\0x\0", b"udk-plan\0" + b"1\0stop-signal\0" + b"65\0arg\0x\0",
    ],
)  # fmt: skip
def test_bad_plans_are_refused_before_anything_is_done(data: bytes) -> None:
    status, text = run_plan(data)
    assert status == 125
    assert text.startswith("udk: error: ")
    assert text.count("\n") == 1


def test_every_mutilated_plan_ends_in_a_message(box: Box) -> None:
    """No plan makes the guard crash: a valid one with every word in turn dropped or replaced."""
    spec = box.spec("/hello", "exit", "0")
    words = plan.encode([*compile_plan(spec, NamespaceEngine().launch(spec)), ("dry",)]).split(b"\0")[:-1]
    for i in range(2, len(words)):
        if words[i] == b"remove" or words[i - 1] == b"remove":
            continue
        for replacement in ([], [b""], [b"x" * 5000]):
            status, _ = run_plan(b"\0".join(words[:i] + replacement + words[i + 1 :]) + b"\0")
            assert status in (0, 125, 126, 127), (i, words[i], replacement)


def test_encode() -> None:
    assert plan.encode([("arg", "a"), ("tty",)]) == b"udk-plan\0" + b"1\0arg\0a\0tty\0"
    assert plan.encode([("arg", "\udcff")]).endswith(b"arg\0\xff\0")
    with pytest.raises(UdkError, match="NUL byte in arg"):
        plan.encode([("arg", "a\0b")])


def test_the_guard_is_for_udk_only() -> None:
    for argv in ([], ["run"], ["run", "x"], ["kill", ""], ["--help"]):
        done = subprocess.run([guard_module.GUARD, *argv], stderr=subprocess.PIPE, check=False)
        assert done.returncode == 125
        assert done.stderr.startswith(b"udk: error: ")


def test_a_guard_that_is_not_there_is_named(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "GUARD", "/nowhere/udk-guard")
    spec = box.spec("/hello")
    launch = NamespaceEngine().launch(spec)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for call in (guard_module.exec_guard, spawn):
        with pytest.raises(EngineError, match="/nowhere/udk-guard cannot be executed: No such file"):
            call(spec, launch)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert "/nowhere/udk-guard cannot be executed" in NamespaceEngine().probe()


def test_an_engine_without_namespaces_of_its_own(box: Box) -> None:
    """A host program as other engines launch it: descriptors, environment and status are its own."""
    spec = box.spec("unused", cleanup=())
    read, write = os.pipe()
    os.write(write, b"via fd")
    os.close(write)
    guard = spawn(
        spec, Launch([HELLO, "cat", f"/proc/self/fd/{read}"], {"A": "b"}, fds=(read,)), stdout=subprocess.PIPE
    )
    os.close(read)
    assert guard.communicate(timeout=10)[0] == b"via fd"
    done = spawn(spec, Launch(["/nowhere/engine"], {}), stderr=subprocess.PIPE)
    assert b"/nowhere/engine" in done.communicate(timeout=10)[1]
    assert done.returncode == 125


def test_dry_run(box: Box) -> None:
    assert dry_run([("clone", "30020000"), ("map-uid", "0", str(os.geteuid()), "1"),
                    ("map-gid", "0", str(os.getegid()), "1"), ("lower", str(box.lower))]) == ""  # fmt: skip
    error = dry_run([("clone", "30020000"), ("map-uid", "0", str(os.geteuid() + 1), "1"),
                     ("map-gid", "0", "0", "1"), ("lower", str(box.lower))])  # fmt: skip
    assert error == "/proc/self/uid_map cannot be written: Operation not permitted"


def test_killed_before_it_started_leaves_signal_statuses(box: Box) -> None:
    guard = box.start("/hello", "sleep", "1000000", limits=Limits(timeout=1000))
    guard.send_signal(signal.SIGHUP)
    assert guard.wait(5) == 129
