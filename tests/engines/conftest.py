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

# These tests are the namespace engine's. With UDK_TEST_ENGINE=runc (and UDK_OCI_RUNTIME) or singularity they
# are another's, but for those named here by a part of their id; docs/engines.md tells the same to readers.
ENGINE = os.environ.get("UDK_TEST_ENGINE") or "namespace"
_BY_A_RUNTIME = {
    "host-pids": "no --pid host",
    "[host]": "no --pid host",
    "test_random_kills_leave_nothing": "half of its runs have --pid host",
    "test_payload_stays_in_session_and_group": "the runtime demands a session of the payload's own",
    "test_a_stopped_payload_is_continued": "nobody in the payload's session could continue it",
    "test_nothing_can_be_typed": "no controlling terminal: TIOCSTI fails with EPERM",
    "test_few_and_small_processes": "the runtime's processes come on top",
    "test_proc_is_the_containers_own": "our init and the runtime's have process ids there",
    "test_nothing_of_the_host_is_left": "the mount of our init names its place",
    "test_root_on_the_initial_ramfs": "the root cannot be changed there by the runtime, or its mounts show",
    "test_bad_binds_are_named": "said before a process is started",
    "test_without_any_system_mounts": "the init needs /dev, apptainer mounts /proc",
}
_ELSEWHERE: dict[str, dict[str, str]] = {
    "runc": {
        **_BY_A_RUNTIME,
        "test_an_older_kernel": "what the runtime may use is told by the kernel's release",
        "test_a_plain_directory_as_root": "refused",
        "test_a_loop_of_links_is_named": "the runtime's words",
        "test_a_bind_of_what_holds_the_image": "the root that the runtime enters shows through such a bind",
        "test_tmpfs": "has the mode of the image's directory",
        "test_order_of_system_mounts": "the runtime wants /dev/null as soon as a mount covers /dev",
        "test_signals_to_the_keeper": "the outer keeper's payload is the runtime",
    },
    "singularity": {
        **_BY_A_RUNTIME,
        "test_links_in_the_image_are_followed_inside_it[links5": "a link that leads above the root",
        "test_odd_names": "no line break in a bind's path",
        "test_bad_tmpfs_options_are_named": "by its number",
        "test_shm_size_and_host_shm": "/dev is mounted as a whole, so is what is below",
    },
    "crun": {
        "test_links_in_the_image_are_followed_inside_it[links4": "a link that leads nowhere",
        "test_bad_tmpfs_options_are_named": "the runtime's words",
        "test_dev": "has /dev/core, too",
    },
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    exceptions = dict(_ELSEWHERE.get(ENGINE, {}))
    if ENGINE == "runc" and os.path.basename(os.environ.get("UDK_OCI_RUNTIME", "")) == "crun":
        exceptions.update(_ELSEWHERE["crun"])
    for item in items:
        if "tests/engines/" not in item.nodeid:
            continue
        for part, reason in exceptions.items():
            if part in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=f"{ENGINE}: {reason}"))
                break


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
