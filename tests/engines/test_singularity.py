"""The singularity engine with the real apptainer: that a run means what it means elsewhere."""

from __future__ import annotations

import hashlib
import os
import pwd
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import Box, marked, wait_until
from tests.engines.test_streams import Terminal
from tests.support.needs import apptainer, needs
from udk.engines import singularity
from udk.engines.guard import spawn
from udk.engines.runc import RuncEngine
from udk.engines.singularity import SingularityEngine
from udk.engines.trap import TrapEngine
from udk.errors import EngineError
from udk.runtime.spec import Identity, Limits, Mount, Root, RunSpec

ENGINE = SingularityEngine()


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> str:
    path = apptainer()
    monkeypatch.setenv("UDK_SINGULARITY", path)
    return path


def start(
    box: Box, *argv: str, popen: dict[str, Any] | None = None, **changes: Any
) -> subprocess.Popen[bytes]:
    options: dict[str, Any] = {
        "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
    }  # fmt: skip
    spec = box.spec(*argv, **changes)
    guard: subprocess.Popen[bytes] = spawn(spec, ENGINE.launch(spec), **{**options, **(popen or {})})
    box.guards.append(guard)
    return guard


def run(box: Box, *argv: str, data: bytes = b"", **changes: Any) -> tuple[int, str, str]:
    guard = start(box, *argv, popen={"stdin": subprocess.PIPE}, **changes)
    out, err = guard.communicate(data, timeout=60)
    return guard.returncode, out.decode("utf-8", "surrogateescape"), err.decode()


def test_probe_does_the_real_thing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    assert ENGINE.probe() == ""
    assert set(os.listdir("/dev/shm")) <= before
    failing = tmp_path / "apptainer"
    failing.write_text(
        "#!/bin/sh\nprintf '\\033[31mFATAL:\\033[0m   not on this node\\n\\033[0m\\n' >&2\nexit 255\n"
    )
    failing.chmod(0o755)
    monkeypatch.setenv("UDK_SINGULARITY", str(failing))
    assert ENGINE.probe() == "apptainer cannot set up the container: FATAL:   not on this node"
    monkeypatch.setenv("UDK_SINGULARITY", "no-such-program")
    assert "no-such-program is installed" in ENGINE.probe()


def test_status_and_streams(box: Box, shell: Box) -> None:
    assert run(box, "/hello", "exit", "37") == (37, "", "")
    status, out, err = run(box, "/nowhere")
    assert (status, out) == (127, "") and err.startswith("udk: error: ") and err.count("\n") == 1
    assert run(box, "/etc/passwd")[0] == 126
    assert run(box, "/hello", "raise", "9")[0] == 137
    data = os.urandom(300_000)
    status, out, _ = run(shell, "sha256sum", data=data)
    assert (status, out.split()[0]) == (0, hashlib.sha256(data).hexdigest())


def test_environment_words_and_directory_are_exact(box: Box) -> None:
    lines = run(box, "/hello", "env", env={"EMPTY": "", "EQUAL": "a=b"})[1].splitlines()
    wanted = {"EMPTY=", "EQUAL=a=b", "PATH=/bin:/", f"MARK={box.mark}", f"UDK_COOKIE={box.mark[:16]}"}
    assert set(lines) == wanted  # nothing of apptainer's own
    words = ["", "a b", "'", "$HOME", "`id`", "\n", b"\xff\xfe".decode("utf-8", "surrogateescape")]
    assert run(box, "/hello", "args", *words)[1] == "".join(f"[{w}]\n" for w in words)
    assert run(box, "/hello", "cwd", cwd="/tmp")[1] == "/tmp\n"


def test_identity_names_network_and_limits(shell: Box) -> None:
    assert run(shell, "id", "-u")[1] == "0\n"
    assert run(shell, "id", "-u", identity=Identity(uid=1000, gid=100))[1] == "1000\n"
    mine = Identity(uid=os.geteuid(), gid=os.getegid())
    assert run(shell, "id", "-u", identity=mine)[1] == f"{os.geteuid()}\n"
    assert run(shell, "hostname", hostname="a-name")[1] == "a-name\n"
    assert run(shell, "sh", "-c", "grep -c : /proc/net/dev", network="none")[1] == "1\n"
    assert run(shell, "sh", "-c", "ulimit -n", limits=Limits(rlimits=(("nofile", 123, 456),)))[1] == "123\n"
    assert run(shell, "sh", "-c", "echo /proc/[0-9]*")[1].count("/proc/") <= 4
    assert run(shell, "cat", "/etc/passwd")[1] == "root:x:0:0:root:/root:/bin/sh\n"  # the image's own


@needs("newuidmap")
def test_subordinate_ids(shell: Box) -> None:
    if f"{pwd.getpwuid(os.geteuid()).pw_name}:" not in Path("/etc/subuid").read_text():
        pytest.skip("this user has no subordinate ids")
    script = "touch /x; chown 1:2 /x; stat -c %u:%g /x; chown 0:0 /x"
    assert run(shell, "sh", "-c", script, identity=Identity(subids=True)) == (0, "1:2\n", "")


def test_layer_and_mounts(shell: Box, tmp_path: Path) -> None:
    (tmp_path / "in, out").mkdir()
    (tmp_path / "in, out" / "file").write_text("bound")
    source = str(tmp_path / "in, out")
    mounts = (
        Mount(source=source, target="/rw"),
        Mount(source=source, target="/r:o", readonly=True),
        Mount(kind="file", target="/etc/made", content="made", is_dir=False),
        Mount(kind="tmpfs", target="/scratch"),
    )
    _, upper, work = shell.layer()
    root = Root(lower=(str(shell.lower),), upper=upper, work=work)
    script = (
        "cat /rw/file /etc/made; echo x > /rw/out; echo y > /r:o/out || echo refused; echo z > /scratch/z"
    )
    status, out, err = run(shell, "sh", "-c", script + "; echo k > /kept", mounts=mounts, root=root)
    assert (status, out) == (0, "boundmaderefused\n"), err
    assert (tmp_path / "in, out" / "out").read_text() == "x\n"
    assert run(shell, "cat", "/kept", root=root)[1] == "k\n"
    assert not (Path(shell.lower) / "kept").exists() and "kept" in os.listdir(upper)
    readonly = Root(lower=(str(shell.lower),), upper=upper, work=work, readonly=True)
    assert (
        run(shell, "sh", "-c", "cat /kept; echo x > /etc/x || echo refused", root=readonly)[1]
        == "k\nrefused\n"
    )
    with pytest.raises(EngineError, match="/nowhere does not exist"):
        ENGINE.launch(shell.spec("sh", mounts=(Mount(source="/nowhere", target="/x"),)))


def test_owners_are_recorded(shell: Box) -> None:
    home, upper, work = shell.layer()
    root = Root(lower=(str(shell.lower),), upper=upper, work=work, changes=f"{home}/changes")
    script = "touch /x; chown 1:2 /x; chmod 4755 /x; stat -c '%u:%g %a' /x"
    for command in (script, "stat -c '%u:%g %a' /x"):  # in the next run, too
        assert run(shell, "sh", "-c", command, root=root) == (0, "1:2 4755\n", "")
    assert Path(upper, "x").stat().st_mode & 0o7777 == 0o755


def test_a_link_that_a_payload_changed_is_not_believed(shell: Box, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    _, upper, work = shell.layer()
    spec = shell.spec("sh", root=Root(lower=(str(shell.lower),), upper=upper, work=work), cleanup=())
    for name in ("singularity", "trap", "runc"):
        os.symlink(precious, f"{os.path.dirname(upper)}/{name}")
    for engine in (ENGINE, TrapEngine(), RuncEngine()):
        engine.cleanup(spec)
    assert precious.exists() and not os.path.lexists(f"{os.path.dirname(upper)}/runc")


@pytest.mark.parametrize("set_id", [False, True])
def test_a_plain_tree(shell: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_id: bool) -> None:
    """An installation with set-id programs can do no other; here it is one only by our word."""
    monkeypatch.setattr(singularity, "_is_set_id", lambda runtime: set_id)
    tree = tmp_path / "tree"
    subprocess.run(["cp", "-a", str(shell.lower), str(tree)], check=True)
    mounts = (Mount(source=str(tmp_path), target="/made/for/it"),)
    script = "echo x > /etc/new; rm -r /home; ls /made/for/it"
    root = Root(lower=(), upper=str(tree))
    done = run(shell, "sh", "-c", script, root=root, mounts=mounts)
    assert done[0] == 0 and "tree" in done[1].split(), done
    assert (tree / "etc/new").read_text() == "x\n" and not (tree / "home").exists()
    assert not (tree / ".udk").exists()
    if set_id:
        assert "set-id programs" in "; ".join(ENGINE.reasons_against(shell.spec("/hello")))


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGUSR1, signal.SIGWINCH])
def test_signals_arrive_once(box: Box, sig: signal.Signals) -> None:
    guard = start(box, "/hello", "await", str(int(sig)), "11", popen={"start_new_session": True})
    assert guard.stdout and guard.stdout.readline() == b"ready\n"
    os.killpg(guard.pid, sig)
    out, err = guard.communicate(timeout=20)
    assert (guard.returncode, out, err) == (11, b"1\n", b"")


def test_a_signal_that_ends_the_set_up(box: Box, runtime: str, monkeypatch: Any, tmp_path: Path) -> None:
    slow = tmp_path / "apptainer"
    slow.write_text(f'#!/bin/sh\ntouch {tmp_path}/at-work\nsleep 1\nexec {runtime} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("UDK_SINGULARITY", str(slow))
    guard = start(box, "/hello", "sleep", "1000000")
    wait_until(lambda: (tmp_path / "at-work").exists())
    guard.terminate()
    assert (guard.wait(20), guard.communicate()) == (143, (b"", b""))


@pytest.mark.parametrize("victim", ["guard", "keeper"])
def test_sigkill_leaves_nothing(box: Box, victim: str) -> None:
    guard = start(box, "/hello", "outlive", "1000000", popen={"stdout": subprocess.DEVNULL})
    wait_until(lambda: len(marked(box.mark)) == 2, what="the payload and its daemon")
    pid = guard.pid
    if victim == "keeper":
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not marked(box.mark), 3.0, "nothing is left")
    guard.wait(20)


def test_what_it_made_is_removed(box: Box) -> None:
    home, upper, work = box.layer()
    spec: RunSpec = box.spec(
        "/hello", "exit", "0", root=Root(lower=(str(box.lower),), upper=upper, work=work)
    )
    guard = spawn(spec, ENGINE.launch(spec))
    link = os.readlink(f"{home}/singularity")
    assert os.path.dirname(link) == str(home)  # beside the layer, which the sweep removes as a whole
    assert guard.wait(20) == 0 and not os.path.exists(link)
    ENGINE.cleanup(spec)
    ENGINE.cleanup(spec)


def test_exec_terminal_and_descriptors(shell: Box) -> None:
    _, upper, work = shell.layer()
    root = Root(lower=(str(shell.lower),), upper=upper, work=work)
    guard = start(shell, "sh", "-c", "echo here > /tmp/mine; exec sleep 1000", root=root)
    wait_until(lambda: (Path(upper) / "tmp/mine").exists())
    spec: RunSpec = shell.spec("sh", "-c", "cat /tmp/mine; exit 7", root=root, cookie="", cleanup=())
    joining = spawn(spec, ENGINE.join(spec, guard.pid), stdout=subprocess.PIPE)
    shell.guards.append(joining)
    assert (joining.communicate(timeout=20)[0], joining.returncode) == (b"here\n", 7)
    read, write = os.pipe()
    guard = start(shell, "sh", "-c", f"echo given >&{write}; ls /proc/self/fd", popen={"pass_fds": (write,)})
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == "given\n"
    assert len(guard.communicate(timeout=20)[0].split()) == 5  # 0, 1, 2, the pipe's, the directory's own

    class Mine(Box):
        def start(self, *argv: str, popen: dict[str, Any] | None = None, **changes: Any) -> Any:
            return start(self, *argv, popen=popen, **changes)

    box = Mine(shell.lower, shell.scratch / "terminal")
    box.guards = shell.guards
    t = Terminal(box, "sh", "-c", "tty; stty size; read x; echo got $x; exit 6", size=(31, 97))
    t.expect(b"31 97")
    t.write(b"word\n")
    t.expect(b"got word")
    assert t.end() == (6, t.before)


def test_what_it_cannot_do_is_said(box: Box) -> None:
    def against(**changes: Any) -> str:
        return "; ".join(ENGINE.reasons_against(box.spec("/hello", **changes)))

    assert against() == ""
    assert "pid namespace" in against(pid="host")
    assert "proc is at /proc" in against(mounts=(Mount(kind="proc", target="/elsewhere"),))


def test_devices_of_gpus(box: Box) -> None:
    """They are bound, and its own options bring the libraries."""
    names = ("nvidia0", "nvidiactl", "kfd")
    mounts = tuple(Mount(source="/dev/null", target=f"/dev/{name}", is_dir=False) for name in names)
    spec = box.spec("/hello", "ls", "/dev", mounts=mounts)
    launch = ENGINE.launch(spec)
    assert launch.argv.count("--nv") == 1 and launch.argv.count("--rocm") == 1
    guard = spawn(spec, launch, stdout=subprocess.PIPE, text=True)
    out, _ = guard.communicate(timeout=20)
    assert guard.returncode == 0 and {*names, "null", "full", "pts", "shm"} <= set(out.split())


def test_what_is_mounted_is_as_asked_for(shell: Box, tmp_path: Path) -> None:
    mounts = (
        Mount(kind="tmpfs", target="/small", options=("size=1m", "mode=750")),
        Mount(source="/dev", target="/host", readonly=True),  # with mounts below
        Mount(source=str(tmp_path), target="/rw"),
        Mount(kind="file", target="/rw/below/made", content="made", is_dir=False),
    )
    script = (
        "df -k /small | tail -1 | awk '{print $2}'; stat -c %a /small; "
        "grep ' /host' /proc/mounts | grep -cv ' ro,'; cat /rw/below/made; ls /sys/class/net"
    )
    done = run(shell, "sh", "-c", script, mounts=mounts, network="none")
    assert done == (0, "1024\n750\n0\nmadelo\n", "")
