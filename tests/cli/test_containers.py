"""Containers that stay: create, start, exec, ps, rm, inspect."""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Served
from tests.support.needs import needs
from tests.support.udk import Udk
from udk.base.process import own_identity
from udk.engines.select import by_name, probe


@pytest.fixture
def running(udk: Udk, box: str):  # type: ignore[no-untyped-def]
    """A container named r that runs until the test is over."""
    process = udk.popen(
        "run", "--name", "r", "-e", "A=1", "-w", "/tmp", box, "sh", "-c", "echo up; exec sleep 1000",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == b"up\n"
    yield process
    udk("rm", "-f", "r")
    process.wait(20)
    process.stdout.close()


def states(udk: Udk) -> dict[str, str]:
    return {c["name"]: c["state"] for c in json.loads(udk.ok("ps", "-a", "--json"))}


def test_a_named_container_stays(udk: Udk, box: str) -> None:
    try:
        assert udk("run", "--name", "work", box, "sh", "-c", "echo data > /file; exit 3").status == 3
        assert udk.ok("run", "work", "cat", "/file") == "data\n"
        assert udk.ok("run", "-e", "A=2", "work", "sh", "-c", "echo $A") == "2\n"
        assert udk("start", "work").status == 3  # as it was made
        (row,) = json.loads(udk.ok("ps", "-a", "--json"))
        assert (row["name"], row["state"], row["exit_code"], row["engine"]) == (
            "work",
            "exited",
            3,
            "namespace",
        )
        assert "exited (3)" in udk.ok("ps", "-a") and "work" not in udk.ok("ps")
        assert "the name work is taken" in udk.fails("run", "--name", "work", box, "true")
        assert udk.ok("ps", "-aq").strip() == row["id"][:12]
        assert udk.ok("ps", "-aq", "--no-trunc").strip() == row["id"]
    finally:
        assert udk.ok("rm", "work") == "work\n"
    assert states(udk) == {}


def test_create_and_start(udk: Udk, box: str, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("from=file\n")
    ident = udk.ok(
        "create",
        "--label-file",
        str(tmp_path / "labels"),
        "--label",
        "a=b",
        "--cidfile",
        str(tmp_path / "c"),
        "-v",
        f"{tmp_path}:/h",
        box,
        "cat",
        "/h/c",
    )
    assert ident == (tmp_path / "c").read_text() + "\n" and len(ident) == 65
    assert udk.ok("start", "-ai", ident.strip()) == ident.strip()
    assert udk.ok("start", ident[:12]) == ident.strip()
    (described,) = json.loads(udk.ok("inspect", ident[:8]))
    assert described["Id"] == ident.strip() and described["State"]["ExitCode"] == 0
    assert described["Config"]["Labels"] == {"a": "b", "from": "file"}
    assert {"Source": str(tmp_path), "Destination": "/h"}.items() <= described["Mounts"][0].items()
    assert udk.ok("rm", ident[:12]) == ident[:12] + "\n"
    assert "no container" in udk.fails("start", ident[:12])


def test_name_and_rm(udk: Udk, box: str) -> None:
    assert udk.ok("run", "--name", "gone", "--rm", box, "true") == ""
    assert udk.ok("create", "--name", "gone", "--rm", box, "true")
    assert udk.ok("start", "gone") == "" and states(udk) == {}
    assert os.listdir(udk.store / "containers/.names") == []
    for bad in ("a/b", "-x", ".", "a b", "a" * 300):
        assert "cannot be a container's name" in udk.fails("run", f"--name={bad}", box, "true")


def test_running(udk: Udk, running: subprocess.Popen[bytes]) -> None:
    (row,) = json.loads(udk.ok("ps", "--json"))
    assert (row["name"], row["state"], row["pid"]) == ("r", "running", running.pid)
    assert f"running (pid {running.pid})" in udk.ok("ps")
    assert "is running" in udk.fails("rm", "r")
    assert "use `udk exec`" in udk.fails("start", "r")
    assert "is running" in udk.fails("inspect", "-p", "r")
    assert udk.ok("rm", "-f", "r") == "r\n"
    assert running.wait(20) == 143 and states(udk) == {}


def test_exec(udk: Udk, running: subprocess.Popen[bytes]) -> None:
    assert (
        udk.ok("exec", "r", "sh", "-c", "echo $A $PWD; cat /proc/1/comm >/dev/null; id -u") == "1 /tmp\n0\n"
    )
    assert udk.ok("exec", "-e", "A=2", "-w", "/bin", "-u", "0", "r", "sh", "-c", "echo $A $PWD") == "2 /bin\n"
    assert "sleep 1000" in udk.ok("exec", "r", "ps")
    assert udk("exec", "r", "sh", "-c", "exit 9").status == 9
    assert udk("exec", "-i", "r", "cat", input=b"through").out == b"through"
    assert "nosuch" in udk.fails("exec", "r", "nosuch", status=127)
    udk.ok("exec", "r", "touch", "/made")
    assert udk.ok("exec", "r", "ls", "/made") == "/made\n"


def test_exec_needs_a_running_container(udk: Udk, box: str) -> None:
    udk.ok("create", "--name", "idle", box, "true")
    assert "is not running" in udk.fails("exec", "idle", "true")
    assert "no container" in udk.fails("exec", "nosuch", "true")
    assert "too few" in udk.fails("exec", "idle")
    udk.ok("rm", "idle")


def test_a_killed_named_container_is_dead_and_starts_again(udk: Udk, box: str) -> None:
    process = udk.popen(
        "run", "--name", "k", box, "sh", "-c", "echo x >> /f; wc -l < /f; sleep 2", stdout=subprocess.PIPE
    )
    assert process.stdout and process.stdout.readline() == b"1\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert states(udk) == {"k": "dead"}
    assert udk.ok("start", "k") == "2\n" and states(udk) == {"k": "exited"}
    udk.ok("rm", "k")


def test_two_starts_at_once(udk: Udk, box: str) -> None:
    udk.ok("create", "--name", "once", box, "sleep", "2")
    many = [udk.popen("start", "once", stderr=subprocess.PIPE) for _ in range(4)]
    ends = sorted((p.wait(30), p.stderr.read() if p.stderr else b"") for p in many)
    for p in many:
        assert p.stderr
        p.stderr.close()
    assert [status for status, _ in ends] == [0, 125, 125, 125]
    assert all(b"is running" in error for _, error in ends[1:])
    udk.ok("rm", "once")


def test_rm_many_and_force(udk: Udk, box: str) -> None:
    udk.ok("create", "--name", "a", box)
    udk.ok("create", "--name", "b", box)
    done = udk("rm", "a", "nosuch", "b")
    assert done.status == 125 and done.text == "a\nb\n" and done.error.count("\n") == 1
    assert udk.ok("rm", "-f", "nosuch") == ""


def test_a_container_keeps_its_image(new_udk: Udk, served: Served) -> None:
    new_udk.ok("run", "--name", "w", served.box, "sh", "-c", "echo x > /f")
    assert "is used by container w" in new_udk.fails("rmi", served.box)
    new_udk.ok("tag", served.box, "other:1")
    new_udk.ok("rmi", served.box)  # it still has a name
    assert "is used by container w" in new_udk.fails("rmi", "other:1")
    new_udk.ok("rmi", "-f", "other:1")
    new_udk.ok("store", "gc")
    assert new_udk.ok("run", "w", "cat", "/f") == "x\n"
    new_udk.ok("rm", "w")
    new_udk.ok("store", "gc")
    assert os.listdir(new_udk.store / "trees") == []


def test_plain_tree(udk: Udk, box: str) -> None:
    udk.ok(
        "run",
        "--name",
        "p",
        box,
        "sh",
        "-c",
        "rm -r /home; mkdir /home; echo x > /home/f; rm /script; ln /bin/busybox /b2",
    )
    path = Path(udk.ok("inspect", "-p", "p").strip())
    assert (path / "home/f").read_text() == "x\n" and os.listdir(path / "home") == ["f"]
    assert not (path / "script").exists() and (path / "bin/sh").is_symlink()
    assert (path / "root").stat().st_mode & 0o7777 == 0o700 and (
        path / "tmp"
    ).stat().st_mode & 0o7777 == 0o1777
    marks = [p for p in path.rglob("*") if p.is_char_device() or p.name.startswith(".wh.")]
    assert marks == []
    (path / "etc/added").write_text("from outside\n")
    assert udk.ok("run", "p", "cat", "/etc/added") == "from outside\n"
    assert udk.ok("inspect", "-p", "p").strip() == str(path)
    assert "is an image" in udk.fails("inspect", "-p", box)
    lower = Path(udk.ok("inspect", "--lower", "p").strip())
    assert (lower / "script").exists() and not (lower / "etc/added").exists()
    udk.ok("rm", "p")


def test_damaged_record(udk: Udk, box: str) -> None:
    ident = udk.ok("create", box, "true").strip()
    record = udk.store / "containers" / ident / "container.json"
    record.write_text("{")
    assert "cannot be read" in udk.fails("start", ident)
    assert udk.ok("ps", "-a", "-q") == ""
    assert udk.ok("rm", "-f", ident) == ident + "\n"


def test_terminal(udk: Udk, box: str) -> None:
    import pty

    master, slave = pty.openpty()
    process = udk.popen("run", "-it", box, "sh", "-c", "tty; stty size; echo $TERM; read x; echo got $x",
                        stdin=slave, stdout=slave, stderr=slave)  # fmt: skip
    os.close(slave)
    seen = b""
    deadline = time.monotonic() + 30
    sent = False
    while time.monotonic() < deadline:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
        if b"xterm" in seen and not sent:
            os.write(master, b"hello\n")
            sent = True
    os.close(master)
    assert process.wait(10) == 0
    lines = seen.replace(b"\r", b"").split(b"\n")
    assert lines[0].startswith(b"/dev/pts/") and b"xterm" in lines and b"got hello" in lines


def test_interrupt_from_the_keyboard(udk: Udk, box: str) -> None:
    script = "trap 'echo int; exit 4' INT; echo up; while :; do sleep 0.1; done"
    process = udk.popen("run", box, "sh", "-c", script,
                        stdout=subprocess.PIPE, start_new_session=True)  # fmt: skip
    assert process.stdout and process.stdout.readline() == b"up\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout.read() == b"int\n" and process.wait(10) == 4
    process.stdout.close()


def test_a_container_that_could_not_be_started_leaves_nothing(udk: Udk, box: str, tmp_path: Path) -> None:
    for args in (["--engine", "nosuch"], ["-u", "nobody"], ["--cidfile", "/proc/x"]):
        for flags in (["--name", "failed"], ["--name", "failed", "--scratch", str(tmp_path)], []):
            assert "udk: error" in udk.fails("run", *flags, *args, box, "true")
            assert udk.leftovers() == [] and os.listdir(tmp_path) == []
    assert udk("run", "--name", "failed", box, "nosuch").status == 127
    assert udk.ok("ps", "-a", "-q") != "" and udk.ok("rm", "failed") == "failed\n"


def test_what_a_kill_while_making_leaves_is_swept(udk: Udk, box: str, tmp_path: Path) -> None:
    """A container without a record: its directory, its name, its layer outside, and the lease of a dead
    process."""
    ident = "ab" * 32
    containers, layer = udk.store / "containers", udk.scratch / f"udk-{ident[:16]}"
    (containers / ident).mkdir()
    (containers / ".names").mkdir(exist_ok=True)
    os.symlink(ident, containers / ".names/half")
    (layer / "upper").mkdir(parents=True)
    dead = subprocess.Popen(["true"])
    dead.wait()
    identity = dict(own_identity())
    identity.update(
        pid=dead.pid, kind="container", target=ident, layer=str(layer), ephemeral=False, name="half"
    )
    (udk.store / f"leases/container-{ident}-{dead.pid:x}-x").write_text(json.dumps(identity))
    assert udk.ok("run", "--name", "half", "--rm", box, "true") == ""
    assert not layer.exists() and not (containers / ident).exists()
    (containers / ident).mkdir()  # the same without a lease: a full sweep finds it
    os.symlink(ident, containers / ".names/half")
    assert udk.ok("ps", "-a", "-q") == ""
    assert not (containers / ident).exists() and not os.path.lexists(containers / ".names/half")


@needs("newuidmap")
def test_layers_with_files_of_subordinate_ids_are_removed(udk: Udk, box: str) -> None:
    """They belong to others: neither rm nor the sweep after a kill could remove them as the caller."""
    if f"\n{getpass.getuser()}:" not in "\n" + Path("/etc/subuid").read_text():
        pytest.skip("needs subordinate ids for this user in /etc/subuid and /etc/subgid")
    script = "mkdir -p /d/e; touch /d/e/f; chown -R 7:7 /d; chmod 700 /d; echo made; exec sleep 100"
    process = udk.popen("run", "--subids", box, "sh", "-c", script, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"made\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(list(udk.scratch.glob("udk-*"))) == 1
    udk.ok("ps", "-a")
    assert list(udk.scratch.glob("udk-*")) == []
    script = script.replace("echo made; exec sleep 100", "exit 3")
    assert udk("run", "--subids", "--name", "mapped", box, "sh", "-c", script).status == 3
    udk.ok("rm", "mapped")
    assert [p.name for p in (udk.store / "containers").iterdir() if not p.name.startswith(".")] == []
    assert list((udk.store / "trash").glob("*")) == []


@pytest.mark.parametrize("engine", ["namespace", "trap", "runc"])
def test_a_killed_run_leaves_its_layer_only(udk: Udk, box: str, engine: str, tmp_path: Path) -> None:
    """All processes of a named container's run die at once: the layer stays, the state of the run goes with
    the next command, its sockets' directory elsewhere included."""
    from tests.engines.test_homes import kill_all_at_once

    reason = probe(by_name(engine))
    if reason:
        pytest.skip(reason)
    script = "echo x > /kept; (nc -lU /tmp/s || nc -l -p 1 local:/tmp/s) 2>/dev/null & echo up; sleep 1000"
    process = udk.popen("run", "--engine", engine, "--name", "killed", box, "sh", "-c", script, stdout=-1)
    try:
        assert process.stdout and process.stdout.readline() == b"up\n"
        (layer,) = udk.store.glob("containers/*/layer")
        running = set(os.listdir(layer))
        assert running > {"upper", "work", "changes"}
        assert udk.ok("ps", "-q") and set(os.listdir(layer)) == running  # nothing of a living run's goes
        kill_all_at_once(process)
        process.stdout.close()
        assert udk.ok("ps", "-q") == ""
        assert sorted(os.listdir(layer)) == ["changes", "upper", "work"]
        assert not {f".udk-{name[-12:]}" for name in running} & set(os.listdir("/tmp"))
        assert udk.ok("run", "killed", "cat", "/kept") == "x\n"
    finally:
        udk("rm", "-f", "killed")
