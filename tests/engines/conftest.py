"""Containers for the engines' tests: a root with the probe program (and busybox), run by the real guard."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.support.needs import find, require
from udk.engines import guard as guard_module
from udk.engines.guard import NATIVE, spawn
from udk.engines.select import by_name
from udk.runtime.spec import Identity, Mount, Root, RunSpec

# test_native.py runs these tests with a guard that checks itself.
guard_module.GUARD = os.environ.get("UDK_TEST_GUARD", guard_module.GUARD)

HELLO = f"{NATIVE}/udk-hello"

# These tests are the namespace engine's; what another does differently is in docs/engines.md.
ENGINE = os.environ.get("UDK_TEST_ENGINE") or "namespace"

SYSTEM = (
    Mount(kind="proc", target="/proc"),
    Mount(kind="dev", target="/dev"),
    Mount(kind="sys", target="/sys"),
)


def wait_until(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """Polls until the condition holds; its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.01)


def marked(mark: str) -> list[int]:
    """Processes alive with MARK=mark in their environment, by /proc."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                environ = Path(f"/proc/{name}/environ").read_bytes()
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"MARK={mark}".encode() in environ.split(b"\0") and state not in "ZX":
                found.append(int(name))
    return found


class Box:
    """Makes and runs containers on one root. ``run`` waits, ``start`` gives the running guard."""

    def __init__(self, lower: Path, scratch: Path) -> None:
        self.lower = lower
        self.scratch = scratch
        self.mark = uuid.uuid4().hex
        self.guards: list[subprocess.Popen[bytes]] = []
        self.count = 0

    def layer(self) -> tuple[str, str, str]:
        """A new private layer: its directory, upper and work."""
        self.count += 1
        home = self.scratch / f"layer{self.count}"
        for name in ("upper", "work"):
            (home / name).mkdir(parents=True, mode=0o755)
        return str(home), str(home / "upper"), str(home / "work")

    def spec(
        self, *argv: str, mounts: tuple[Mount, ...] = (), system: bool = True, **changes: Any
    ) -> RunSpec:
        if "root" not in changes:
            home, upper, work = self.layer()
            changes["root"] = Root(lower=(str(self.lower),), upper=upper, work=work, volatile=True)
            changes.setdefault("cleanup", (home,))
        env = {"PATH": "/bin:/", "MARK": self.mark, **changes.pop("env", {})}
        fixed = {"mounts": (SYSTEM if system else ()) + mounts, "env": env, "cookie": self.mark[:16]}
        return RunSpec(argv=argv, **{**fixed, **changes})

    def start(
        self, *argv: str, popen: Optional[dict[str, Any]] = None, **changes: Any
    ) -> subprocess.Popen[bytes]:
        options: dict[str, Any] = {
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
            **(popen or {}),
        }  # fmt: skip
        spec = self.spec(*argv, **changes)
        guard: subprocess.Popen[bytes] = spawn(spec, by_name(ENGINE).launch(spec), **options)
        self.guards.append(guard)
        return guard

    def run(self, *argv: str, data: bytes = b"", **changes: Any) -> subprocess.CompletedProcess[bytes]:
        popen = {"stdin": subprocess.PIPE, **changes.pop("popen", {})}
        guard = self.start(*argv, popen=popen, **changes)
        out, err = guard.communicate(data, timeout=60)
        return subprocess.CompletedProcess(argv, guard.returncode, out, err)

    def output(self, *argv: str, **changes: Any) -> str:
        """What a command that must succeed silently prints."""
        done = self.run(*argv, **changes)
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout.decode()

    def failure(self, *argv: str, **changes: Any) -> tuple[int, str]:
        """Status and the one line of a run that must fail with udk's own message."""
        done = self.run(*argv, **changes)
        text = done.stderr.decode()
        assert done.stdout == b"" and text.startswith("udk: error: ") and text.count("\n") == 1, done
        return done.returncode, text[len("udk: error: ") : -1]

    def close(self) -> None:
        for guard in self.guards:
            if guard.poll() is None:
                guard.kill()
            guard.wait()
            for stream in (guard.stdin, guard.stdout, guard.stderr):
                if stream:
                    stream.close()


def as_root(**changes: Any) -> Identity:
    return Identity(**changes)


def make_root(path: Path) -> Path:
    for name in ("etc", "tmp", "bin", "home", "root"):
        (path / name).mkdir(parents=True)
    (path / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    shutil.copy(HELLO, path / "hello")
    return path


@pytest.fixture(scope="session", autouse=True)
def signals_of_a_foreground_job() -> None:
    """A shell's background job ignores SIGINT and SIGQUIT, and so would every payload."""
    for sig in (signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(sig) == signal.SIG_IGN:
            signal.signal(sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def hello_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the static probe program as /hello."""
    assert os.path.exists(guard_module.GUARD), "build the C programs first: python setup.py native"
    return make_root(tmp_path_factory.mktemp("hello") / "root")


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with busybox and its applets in /bin."""
    require("busybox")
    root = make_root(tmp_path_factory.mktemp("busybox") / "root")
    busybox = find("busybox")
    assert busybox
    if b"ld-linux" in Path(busybox).read_bytes()[:4096]:
        pytest.skip("needs a static busybox (busybox-static)")
    shutil.copy(busybox, root / "bin" / "busybox")
    for applet in subprocess.check_output([busybox, "--list"], text=True).split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    return root


@pytest.fixture
def box(hello_root: Path, tmp_path: Path) -> Iterator[Box]:
    made = Box(hello_root, tmp_path)
    yield made
    made.close()


@pytest.fixture
def shell(busybox_root: Path, tmp_path: Path) -> Iterator[Box]:
    """A box with a shell."""
    made = Box(busybox_root, tmp_path)
    yield made
    made.close()
