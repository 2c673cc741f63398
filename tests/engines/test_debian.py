"""A whole distribution in the namespace engine, joining commands, and containers within containers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import ENGINE, Box, marked, wait_until
from tests.support.needs import needs
from tests.support.roots import root_tar
from udk.engines.guard import NATIVE, remove, spawn
from udk.engines.select import by_name
from udk.errors import EngineError
from udk.runtime.spec import Identity, Mount, Root

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def debian_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    tar = root_tar("debian12")
    root = tmp_path_factory.mktemp("debian") / "root"
    root.mkdir()
    subprocess.run(
        ["tar", "-xf", str(tar), "-C", str(root), "--exclude=./dev/*", "--no-same-owner"], check=True
    )
    yield root
    remove([str(root)])


@pytest.fixture
def debian(debian_root: Path, tmp_path: Path) -> Iterator[Box]:
    made = Box(debian_root, tmp_path)
    yield made
    made.close()


ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


@pytest.mark.slow
def test_a_distribution(debian: Box) -> None:
    assert "bookworm" in debian.output("cat", "/etc/os-release", env=ENV)
    assert debian.output("bash", "-c", "echo $BASH_VERSION $UID; cat <(echo substituted)", env=ENV).endswith(
        " 0\nsubstituted\n"
    )
    assert debian.output("python3", "-c", "import ssl, json, ctypes; print(6 * 7)", env=ENV) == "42\n"
    # the manager of packages, as root of one mapped id: configure, divert, change owners it cannot
    script = """
        set -e
        dpkg --audit; dpkg -l | grep -c ^ii >/dev/null
        mkdir -p /tmp/p/DEBIAN /tmp/p/opt; echo x > /tmp/p/opt/file
        cd /tmp/p/DEBIAN
        echo Package: p >> control; echo Version: 1 >> control; echo Architecture: all >> control
        echo 'Maintainer: m <m@m>' >> control; echo Description: d >> control
        dpkg-deb --root-owner-group -b /tmp/p /tmp/p.deb >/dev/null
        dpkg -i /tmp/p.deb >/dev/null; cat /opt/file
        apt-get --version >/dev/null; ldconfig; useradd -m somebody; id -u somebody
    """
    assert debian.output("bash", "-c", script, env=ENV).splitlines() == ["x", "1000"]


@pytest.mark.slow
def test_a_distributions_users_with_subordinate_ids(debian: Box) -> None:
    if not shutil.which("newuidmap"):
        pytest.skip("needs newuidmap")
    who = Identity(subids=True)
    script = "useradd -m u && su u -c 'id -u; touch ~/f' && stat -c %U ~u/f && setpriv --reuid=33 id -un"
    assert debian.output("bash", "-c", script, env=ENV, identity=who).split() == ["1000", "u", "www-data"]


@pytest.mark.slow
def test_eight_at_once(debian: Box) -> None:
    guards = [debian.start("python3", "-c", f"print({i})", env=ENV) for i in range(8)]
    assert [g.communicate(timeout=60)[0] for g in guards] == [b"%d\n" % i for i in range(8)]


# ---- joining --------------------------------------------------------------------------------------------


def join(box: Box, guard: subprocess.Popen[bytes], *argv: str, **changes: Any) -> subprocess.Popen[bytes]:
    spec = box.spec(*argv, root=Root(lower=("/unused",)), cleanup=(), **changes)
    launch = by_name(ENGINE).join(spec, guard.pid)
    joined: subprocess.Popen[bytes] = spawn(
        spec, launch, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    box.guards.append(joined)
    return joined


def joined_output(box: Box, guard: subprocess.Popen[bytes], *argv: str, **changes: Any) -> str:
    process = join(box, guard, *argv, **changes)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, b"")
    return out.decode()


@pytest.mark.parametrize("pid", ["private", "host"])
def test_joining_a_container(shell: Box, pid: str) -> None:
    guard = shell.start(
        "sh",
        "-c",
        "echo made > /made; echo ready; exec sleep 1000",
        hostname="joined",
        network="none",
        pid=pid,
    )
    assert guard.stdout
    assert guard.stdout.readline() == b"ready\n"
    assert joined_output(shell, guard, "cat", "/made") == "made\n"
    assert joined_output(shell, guard, "hostname") == "joined\n"
    assert joined_output(shell, guard, "ls", "/sys/class/net") == "lo\n"
    assert joined_output(shell, guard, "sh", "-c", "cd /etc; pwd", cwd="/tmp") == "/etc\n"
    assert joined_output(shell, guard, "pwd", cwd="/tmp") == "/tmp\n"
    assert joined_output(shell, guard, "id", "-u") == "0\n"
    if pid == "private":
        assert "sleep 1000" in joined_output(shell, guard, "ps")
    failed = join(shell, guard, "sh", "-c", "exit 9")
    assert failed.wait(10) == 9
    missing = join(shell, guard, "nothing")
    assert b"executable file not found in $PATH" in missing.communicate(timeout=10)[1]
    assert missing.returncode == 127
    caps = joined_output(shell, guard, "grep", "CapEff", "/proc/self/status")
    assert caps == "CapEff:\t00000000a80425fb\n"
    assert guard.poll() is None  # the end of a joining command is not the container's
    guard.terminate()
    assert guard.wait(2) == 143


def test_the_end_of_a_joining_command(shell: Box) -> None:
    guard = shell.start("sleep", "1000")
    joined = join(shell, guard, "sleep", "2000")
    wait_until(lambda: len(marked(shell.mark)) == 2)
    joined.terminate()
    assert joined.wait(2) == 143
    assert guard.poll() is None
    joined = join(shell, guard, "/hello", "outlive", "1000000")
    wait_until(lambda: len(marked(shell.mark)) == 3)
    joined.kill()
    wait_until(lambda: guard.poll() is None and len(marked(shell.mark)) <= 2, 1.0)
    # the container's end is everybody's
    joined = join(shell, guard, "sleep", "2000")
    guard.terminate()
    assert guard.wait(2) == 143
    assert joined.wait(2) in (137, 125)
    wait_until(lambda: not marked(shell.mark), 1.0)


def test_joining_what_is_not_there(shell: Box) -> None:
    guard = shell.start("true")
    guard.wait(10)
    with pytest.raises(EngineError, match=f"process {guard.pid} is gone"):
        by_name(ENGINE).join(shell.spec("true"), guard.pid)


# ---- containers in containers ---------------------------------------------------------------------------


@needs("bwrap")
def test_in_a_container_that_masks_proc(box: Box, tmp_path: Path) -> None:
    """A fresh /proc is refused there: the outer one is bound. The rest is as ever."""
    script = (
        "import sys; from udk.runtime.spec import RunSpec; from udk.engines.guard import exec_guard\n"
        "from udk.engines.namespace import NamespaceEngine\n"
        "spec = RunSpec.from_json(sys.argv[1]); exec_guard(spec, NamespaceEngine().launch(spec))\n"
    )
    spec = box.spec("/hello", "cat", "/proc/self/mounts")
    outer = [
        "bwrap", "--unshare-user", "--unshare-pid", "--dev-bind", "/", "/", "--proc", "/proc",
        "--tmpfs", "/proc/acpi", "--setenv", "PYTHONPATH", str(TOP),
    ]  # fmt: skip
    done = subprocess.run(
        [*outer, sys.executable, "-c", script, spec.to_json()], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    mounted = [line.split()[1] for line in done.stdout.decode().splitlines()]
    assert "/proc" in mounted


def test_udk_in_udk(box: Box, tmp_path: Path) -> None:
    """The whole thing inside itself: the host's file system as outer root, made writable by an overlay."""
    inner = box.spec("/hello", "uid", cleanup=())
    inner = inner.replace(root=Root(lower=(str(box.lower),)), identity=Identity(uid=7, gid=7))
    script = (
        "import sys; from udk.runtime.spec import RunSpec; from udk.engines.guard import exec_guard\n"
        "from udk.engines.namespace import NamespaceEngine\n"
        "spec = RunSpec.from_json(sys.argv[1]); exec_guard(spec, NamespaceEngine().launch(spec))\n"
    )
    parts = sorted({"usr", "lib", "lib64", "bin", "etc"} & set(os.listdir("/")))
    roots = {str(TOP), sys.prefix, sys.base_prefix, os.path.dirname(NATIVE), str(box.lower)}
    mounts = [Mount(source=f"/{name}", target=f"/{name}", readonly=True) for name in parts]
    mounts += [
        Mount(source=path, target=path, readonly=True)
        for path in sorted(roots)
        if not path.startswith("/usr")
    ]
    done = box.run(
        sys.executable, "-c", script, inner.to_json(), mounts=tuple(mounts), env={"PYTHONPATH": str(TOP)}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"7\n", b"")
