"""The runc engine, with runc and with crun: the bundle, and that a run means what it means elsewhere."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.engines.conftest import SYSTEM, Box, marked, wait_until
from tests.engines.test_streams import Terminal
from tests.support.needs import find, require
from udk.engines.guard import spawn
from udk.engines.runc import RuncEngine, bundle
from udk.errors import EngineError, EngineUnavailableError
from udk.runtime.spec import Identity, Limits, Mount, Root, RunSpec

# What the OCI runtime specification 1.0.2 demands of the parts that we write (config.md, config-linux.md).
_ABSOLUTE = {"type": "string", "pattern": "^/"}
_NAMESPACE = {"enum": ["pid", "network", "mount", "ipc", "uts", "user", "cgroup"]}
_CAPABILITIES = {"type": "array", "items": {"type": "string", "pattern": "^CAP_[A-Z_]+$"}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["ociVersion", "process", "root", "mounts", "linux"],
    "properties": {
        "ociVersion": {"type": "string", "pattern": r"^1\.\d+\.\d+$"},
        "hostname": {"type": "string"},
        "root": {
            "type": "object",
            "required": ["path"],
            "properties": {"path": _ABSOLUTE, "readonly": {"type": "boolean"}},
            "additionalProperties": False,
        },
        "process": {
            "type": "object",
            "required": ["cwd", "args", "user"],
            "properties": {
                "terminal": {"type": "boolean"},
                "cwd": _ABSOLUTE,
                "args": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                "env": {"type": "array", "items": {"type": "string", "pattern": "^[^=]+=.*$"}},
                "user": {
                    "type": "object",
                    "required": ["uid", "gid"],
                    "properties": {k: {"type": "integer", "minimum": 0} for k in ("uid", "gid", "umask")},
                    "additionalProperties": False,
                },
                "capabilities": {
                    "type": "object",
                    "properties": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
                    "additionalProperties": False,
                },
                "noNewPrivileges": {"type": "boolean"},
            },
            "additionalProperties": False,
        },
        "mounts": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["destination"],
                "properties": {
                    "destination": _ABSOLUTE,
                    "type": {"type": "string"},
                    "source": {"type": "string"},
                    "options": {"type": "array", "items": {"type": "string"}},
                },
                "additionalProperties": False,
            },
        },
        "linux": {
            "type": "object",
            "properties": {
                "namespaces": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type"],
                        "properties": {"type": _NAMESPACE},
                        "additionalProperties": False,
                    },
                }
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    require(request.param)
    monkeypatch.setenv("UDK_OCI_RUNTIME", request.param)
    return str(request.param)


def start(
    box: Box, *argv: str, popen: dict[str, Any] | None = None, **changes: Any
) -> subprocess.Popen[bytes]:
    options: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    spec = box.spec(*argv, **changes)
    guard: subprocess.Popen[bytes] = spawn(spec, RuncEngine().launch(spec), **{**options, **(popen or {})})
    box.guards.append(guard)
    return guard


def run(box: Box, *argv: str, data: bytes = b"", **changes: Any) -> tuple[int, str, str]:
    guard = start(box, *argv, popen={"stdin": subprocess.PIPE}, **changes)
    out, err = guard.communicate(data, timeout=60)
    return guard.returncode, out.decode("utf-8", "surrogateescape"), err.decode()


def bundles() -> set[str]:
    """Our directories of bundles; those of other engines' runs have no ``bundle`` in them."""
    ours = (p for p in Path("/dev/shm").glob("udk-*") if p.stat().st_uid == os.getuid())
    return {str(p) for p in ours if (p / "bundle").exists()}


def test_the_bundle_is_what_the_specification_demands(box: Box, tmp_path: Path) -> None:
    mounts = (
        Mount(source=str(tmp_path), target="/data", readonly=True),
        Mount(kind="file", target="/etc/made", content="x", is_dir=False),
        Mount(kind="tmpfs", target="/scratch", options=("size=1m", "mode=700")),
        Mount(source="/nonexistent", target="/optional", options=("optional",)),
    )
    spec = box.spec("/hello", mounts=mounts, network="none", hostname="name")
    config = bundle(spec, str(tmp_path))
    jsonschema.validate(config, SCHEMA)
    made = {m["destination"]: m for m in config["mounts"]}
    assert made["/data"]["options"] == ["rbind", "rprivate", "ro", "rro"]
    assert {"mode=700", "size=1m", "nosuid", "nodev"} <= set(made["/scratch"]["options"])
    assert "/optional" not in made
    assert {n["type"] for n in config["linux"]["namespaces"]} == {"mount", "pid", "ipc", "uts", "network"}
    assert config["hostname"] == "name"
    assert len({m["destination"] for m in config["mounts"]}) == len(config["mounts"])


def test_probe_leaves_nothing(runtime: str) -> None:
    before = bundles()
    assert RuncEngine().probe() == ""
    assert bundles() - before == set()


def test_probe_does_the_real_thing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UDK_OCI_RUNTIME", str(tmp_path / "none"))
    assert "cannot be executed" in RuncEngine().probe()
    failing = tmp_path / "runc"
    failing.write_text("#!/bin/sh\necho something is refused here >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("UDK_OCI_RUNTIME", str(failing))
    assert "something is refused here" in RuncEngine().probe()


def test_without_any_runtime(monkeypatch: pytest.MonkeyPatch, box: Box) -> None:
    monkeypatch.setenv("UDK_OCI_RUNTIME", "no-such-runtime")
    assert "no-such-runtime" in RuncEngine().probe()
    with pytest.raises(EngineUnavailableError):
        RuncEngine().launch(box.spec("/hello"))


@pytest.mark.parametrize("status", [0, 1, 37, 125, 255])
def test_exit_status(box: Box, runtime: str, status: int) -> None:
    assert run(box, "/hello", "exit", str(status)) == (status, "", "")


def test_errors_and_signals_have_the_usual_statuses(box: Box, runtime: str) -> None:
    status, out, err = run(box, "/nowhere")
    assert (status, out) == (127, "") and err.startswith("udk: error: ") and err.count("\n") == 1
    assert run(box, "/etc/passwd")[0] == 126
    assert run(box, "/hello", "raise", "9")[0] == 137


def test_words_environment_and_directory(box: Box, runtime: str) -> None:
    words = ["", "a b", "'", "$HOME", "\n", b"\xff\xfe".decode("utf-8", "surrogateescape")]
    assert run(box, "/hello", "args", *words)[1] == "".join(f"[{w}]\n" for w in words)
    lines = run(box, "/hello", "env", env={"EMPTY": "", "EQUAL": "a=b"})[1].splitlines()
    assert set(lines) == {
        "EMPTY=",
        "EQUAL=a=b",
        "PATH=/bin:/",
        f"MARK={box.mark}",
        f"UDK_COOKIE={box.mark[:16]}",
    }
    assert run(box, "/hello", "cwd", cwd="/made/for/me")[1] == "/made/for/me\n"


def test_input_and_output(box: Box, shell: Box, runtime: str) -> None:
    data = os.urandom(300_000)
    status, out, _ = run(shell, "sha256sum", data=data)
    assert (status, out.split()[0]) == (0, hashlib.sha256(data).hexdigest())


def test_the_image_is_never_written(shell: Box, runtime: str, tmp_path: Path) -> None:
    before = {p: p.lstat() for p in shell.lower.rglob("*")}
    _, upper, work = shell.layer()
    root = Root(lower=(str(shell.lower),), upper=upper, work=work)
    script = "echo new > /etc/new; rm /etc/passwd; chmod 700 /etc; cat /etc/new"
    assert run(shell, "sh", "-c", script, root=root) == (0, "new\n", "")
    assert (Path(upper) / "etc/new").read_text() == "new\n"
    assert {p: p.lstat().st_mtime_ns for p in shell.lower.rglob("*")} == {
        p: s.st_mtime_ns for p, s in before.items()
    }
    assert run(shell, "sh", "-c", "cat /etc/new; ls /etc", root=root) == (0, "new\nnew\n", "")


def test_mounts(shell: Box, runtime: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("bound")
    mounts = (
        Mount(source=str(tmp_path / "in"), target="/rw"),
        Mount(source=str(tmp_path / "in"), target="/ro", readonly=True),
        Mount(kind="file", target="/etc/made", content="made", is_dir=False),
        Mount(kind="tmpfs", target="/scratch", options=("size=1m",)),
    )
    script = (
        "cat /rw/file /etc/made; echo x > /rw/out; echo y > /ro/out || echo refused; df -k /scratch | tail -1"
    )
    status, out, _ = run(shell, "sh", "-c", script, mounts=mounts)
    assert (status, out.splitlines()[0]) == (0, "boundmaderefused")
    assert out.splitlines()[1].split()[1] == "1024"
    assert (tmp_path / "in" / "out").read_text() == "x\n"
    with pytest.raises(EngineError, match="/nowhere does not exist"):
        RuncEngine().launch(shell.spec("sh", mounts=(Mount(source="/nowhere", target="/x"),)))


def test_read_only_to_the_bottom_without_mount_setattr(
    shell: Box, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux 5.11, and older ones with later things in them: each mount by itself."""
    from udk.engines import runc

    def shown() -> list[tuple[str, bool]]:
        done = start(shell, runtime, "cat", "/proc/self/mountinfo")
        lines = [line.split() for line in done.communicate(timeout=20)[0].decode().splitlines()]
        return [(line[4], "ro" in line[5].split(",")) for line in lines if line[4].startswith("/sys")]

    new = shown()
    monkeypatch.setattr(runc, "_release", lambda: (5, 11))
    old = dict(shown())
    assert all(readonly for _, readonly in new) and all(old.values()), old
    assert set(old) == {path for path, _ in new}


def test_read_only_root(shell: Box, runtime: str) -> None:
    _, upper, work = shell.layer()
    root = Root(lower=(str(shell.lower),), upper=upper, work=work, readonly=True)
    script = (
        "echo x > /etc/x || echo refused; mount -o remount,rw / 2>/dev/null || echo refused; cat /etc/passwd"
    )
    out = run(shell, "sh", "-c", script, root=root)[1]
    assert out.splitlines()[:2] == ["refused", "refused"]
    assert "root:x:0" in out


def test_identity_names_network_and_limits(shell: Box, runtime: str) -> None:
    assert run(shell, "id", "-u")[1] == "0\n"
    assert run(shell, "id", "-u", identity=Identity(uid=1000, gid=100))[1] == "1000\n"
    assert run(shell, "id", "-g", identity=Identity(uid=1000, gid=100))[1] == "100\n"
    assert run(shell, "hostname", hostname="a-name")[1] == "a-name\n"
    assert run(shell, "ls", "/sys/class/net", network="none")[1] == "lo\n"
    out = run(shell, "sh", "-c", "cat /proc/net/dev | grep -c :", network="none")[1]
    assert out == "1\n"
    assert run(shell, "sh", "-c", "ulimit -n", limits=Limits(rlimits=(("nofile", 123, 456),)))[1] == "123\n"
    assert run(shell, "sh", "-c", "echo /proc/[0-9]*")[1].count("/proc/") <= 4


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_arrive_once(box: Box, runtime: str, sig: signal.Signals) -> None:
    guard = start(box, "/hello", "await", str(int(sig)), "11")
    assert guard.stdout
    assert guard.stdout.readline() == b"ready\n"
    guard.send_signal(sig)
    out, err = guard.communicate(timeout=20)
    assert (guard.returncode, out, err) == (11, b"1\n", b"")


def slow_runtime(where: Path, runtime: str) -> str:
    """The runtime, but its set-up takes a while."""
    wrapper = where / runtime
    real = find(runtime)
    wrapper.write_text(f'#!/bin/sh\ntouch {where}/at-work\nsleep 0.5\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def test_signals_during_the_set_up(
    box: Box, runtime: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that ends a set-up does so at once, any other waits for the payload; the whole group may get it."""
    monkeypatch.setenv("UDK_OCI_RUNTIME", slow_runtime(tmp_path, runtime))
    guard = start(box, "/hello", "sleep", "1000000", popen={"start_new_session": True})
    wait_until(lambda: (tmp_path / "at-work").exists())
    os.killpg(guard.pid, signal.SIGTERM)
    assert (guard.wait(20), guard.communicate()) == (143, (b"", b""))
    (tmp_path / "at-work").unlink()
    guard = start(box, "/hello", "sleep", "1000000", popen={"start_new_session": True})
    wait_until(lambda: (tmp_path / "at-work").exists())
    os.killpg(guard.pid, signal.SIGUSR1)
    assert guard.wait(20) == 138


def test_a_runtime_that_fails(
    box: Box, runtime: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line, status 125, and the last thing that the runtime said."""
    failing = tmp_path / runtime
    failing.write_text("#!/bin/sh\necho starting >&2\necho no cgroups today >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("UDK_OCI_RUNTIME", str(failing))
    said = f"udk: error: {runtime} cannot set up the container: no cgroups today\n"
    assert run(box, "/hello", "exit", "0") == (125, "", said)
    failing.write_text("#!/bin/sh\nexit 3\n")
    assert "ended with status 3 and said nothing" in run(box, "/hello", "exit", "0")[2]


def test_inherited_descriptors(shell: Box, runtime: str) -> None:
    """A batch system's (PMI_FD, a jobserver) reach the payload under their numbers, what is udk's own does
    not; and a pipe's end is seen when the payload has closed it."""
    read, write = os.pipe()
    guard = start(shell, "sh", "-c", f"echo given >&{write}; ls /proc/self/fd", popen={"pass_fds": (write,)})
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == "given\n"
    out, err = guard.communicate(timeout=20)
    numbers = set(map(int, out.split()))
    assert err == b"" and {0, 1, 2, write} <= numbers and len(numbers) == 5  # and the directory's own


@pytest.mark.parametrize("victim", ["guard", "keeper"])
def test_sigkill_leaves_nothing(box: Box, runtime: str, victim: str) -> None:
    guard = start(box, "/hello", "outlive", "1000000", popen={"stdout": subprocess.DEVNULL})
    wait_until(lambda: len(marked(box.mark)) == 2, what="the payload and its daemon")
    pid = guard.pid
    if victim == "keeper":
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not marked(box.mark), 2.0, "nothing is left")
    assert guard.wait(20) == (-9 if victim == "guard" else 137)


def test_the_bundle_is_removed(box: Box, runtime: str) -> None:
    home, upper, work = box.layer()
    spec = box.spec("/hello", "sleep", "1000000", root=Root(lower=(str(box.lower),), upper=upper, work=work))
    guard = spawn(spec, RuncEngine().launch(spec))
    box.guards.append(guard)
    wait_until(lambda: marked(box.mark))
    link = os.readlink(f"{home}/runc")
    assert os.path.dirname(link) == str(home)  # beside the layer, which the sweep removes as a whole
    assert os.path.exists(f"{link}/bundle/config.json")
    guard.kill()
    guard.wait()
    wait_until(lambda: not marked(box.mark))
    assert os.path.exists(link)  # who was killed cleans up nothing: the sweeper does
    RuncEngine().cleanup(spec)
    RuncEngine().cleanup(spec)
    assert not os.path.exists(link)
    assert run(box, "/hello", "exit", "0")[0] == 0


@pytest.mark.parametrize("uid", [0, 1000])
def test_exec_into_a_running_container(shell: Box, runtime: str, uid: int) -> None:
    _, upper, work = shell.layer()
    root = Root(lower=(str(shell.lower),), upper=upper, work=work)
    who = Identity(uid=uid, gid=uid)
    guard = start(shell, "sh", "-c", "echo here > /tmp/mine; exec sleep 1000", root=root, identity=who)
    wait_until(lambda: (Path(upper) / "tmp/mine").exists())
    spec: RunSpec = shell.spec(
        "sh", "-c", "cat /tmp/mine; id -u; hostname; exit 7", root=root, cookie="", cleanup=(), identity=who
    )
    joining = spawn(spec, RuncEngine().join(spec, guard.pid), stdout=subprocess.PIPE)
    shell.guards.append(joining)
    assert joining.communicate(timeout=20)[0].startswith(f"here\n{uid}\n".encode())
    assert joining.returncode == 7
    assert guard.poll() is None


def test_what_it_cannot_do_is_said(box: Box) -> None:
    def against(**changes: Any) -> str:
        return "; ".join(RuncEngine().reasons_against(box.spec("/hello", **changes)))

    assert against() == ""
    assert "pid namespace" in against(pid="host")
    assert "identity layer" in against(engine="R2")
    assert "/dev" in against(mounts=(SYSTEM[0],), system=False)
    odd = b"/tmp/\xff".decode("utf-8", "surrogateescape")
    assert "UTF-8" in against(mounts=(Mount(source=odd, target="/x"),))
    with pytest.raises(EngineError, match="pid namespace"):
        RuncEngine().launch(box.spec("/hello", pid="host"))


def test_terminal(shell: Box, runtime: str) -> None:
    class Runc(Box):
        def start(self, *argv: str, popen: dict[str, Any] | None = None, **changes: Any) -> Any:
            return start(self, *argv, popen=popen, **changes)

    box = Runc(shell.lower, shell.scratch)
    shell.guards = box.guards
    t = Terminal(box, "sh", "-c", "tty; stty size; read x; echo got $x; exit 6", size=(31, 97))
    t.expect(b"31 97")
    assert b"/dev/pts/0" in t.text
    t.write(b"word\n")
    t.expect(b"got word")
    status, mode = t.end()
    assert (status, mode) == (6, t.before)
