"""Nodes that allow less: older kernels without the newer system calls, denied namespaces, denied mounts.

A seccomp filter installed before the guard answers the system calls in question with an errno: that is how
such kernels and outer containers look from within.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.engines.conftest import Box, marked
from udk.engines import select
from udk.engines.base import Engine
from udk.engines.namespace import NamespaceEngine
from udk.errors import EngineUnavailableError, UsageError
from udk.runtime.spec import Mount, Root, RunSpec

X86 = platform.machine() == "x86_64"
# numbers that differ between architectures, then those that do not
NUMBERS = {
    "mount": 165 if X86 else 40, "clone": 56 if X86 else 220, "memfd_create": 319 if X86 else 279,
    "pivot_root": 155 if X86 else 41, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431,
    "fsmount": 432, "pidfd_open": 434, "close_range": 436, "openat2": 437, "faccessat2": 439,
    "mount_setattr": 442,
}  # fmt: skip
NEW_CALLS = [
    "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "pidfd_open", "close_range", "openat2",
    "faccessat2", "mount_setattr",
]  # fmt: skip
CLONE_NEWUSER = 0x10000000


def deny(*calls: str, error: int = errno.ENOSYS, flags: int = 0) -> Callable[[], None]:
    """A preexec function after which the calls fail with ``error`` (``flags``: only when the first argument
    has one of them)."""

    def instruction(code: int, jt: int, jf: int, k: int) -> bytes:
        return struct.pack("=HBBI", code, jt, jf, k)

    program = [instruction(0x20, 0, 0, 0)]  # the call's number
    for name in calls:
        if flags:
            program.append(instruction(0x15, 0, 4, NUMBERS[name]))
            program.append(instruction(0x20, 0, 0, 16))  # first argument, low half
            program.append(instruction(0x45, 0, 1, flags))
            program.append(instruction(0x06, 0, 0, 0x00050000 | error))
            program.append(instruction(0x20, 0, 0, 0))
        else:
            program.append(instruction(0x15, 0, 1, NUMBERS[name]))
            program.append(instruction(0x06, 0, 0, 0x00050000 | error))
    program.append(instruction(0x06, 0, 0, 0x7FFF0000))
    code = ctypes.create_string_buffer(b"".join(program))
    libc = ctypes.CDLL(None, use_errno=True)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    filter_program = Program(len(program), ctypes.addressof(code))

    def install() -> None:
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        if libc.prctl(22, 2, ctypes.byref(filter_program), 0, 0):
            os._exit(99)
        _ = code

    return install


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = tmp_path / "da ta"
    made.mkdir()
    (made / "file").write_text("content")
    return made


def test_an_older_kernel(shell: Box, data: Path) -> None:
    """None of the calls that came after Linux 5.1: all that the engine offers is still there."""
    old = {"preexec_fn": deny(*NEW_CALLS)}
    mounts = (
        Mount(source=str(data), target="/data", readonly=True),
        Mount(source="/dev", target="/host dev", readonly=True),
        Mount(source=str(data / "file"), target="/etc/file", is_dir=False, readonly=True),
    )
    assert shell.output("cat", "/data/file", mounts=mounts, popen=old) == "content"
    for path in ("/data/file", "/etc/file"):
        assert b"Read-only" in shell.run("sh", "-c", f"echo x > '{path}'", mounts=mounts, popen=old).stderr
    text = shell.output("cat", "/proc/self/mountinfo", mounts=mounts, popen=old)
    on_top = {
        fields[4]: fields for fields in map(str.split, text.splitlines())
    }  # a later one covers an earlier
    lines = [fields for path, fields in on_top.items() if path.startswith("/host\\040dev")]
    assert len(lines) > 1
    assert all("ro" in fields[5].split(",") for fields in lines), lines
    root = Root(lower=(str(shell.lower),), readonly=True)
    assert b"Read-only" in shell.run("sh", "-c", "echo x > /x", root=root, popen=old).stderr
    assert marked(shell.mark) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errno.EPERM, "no user namespace: not permitted"),
        (errno.ENOSPC, "no user namespace: the limit is reached"),
        (errno.EINVAL, "no user namespace: this kernel has none"),
        (errno.EAGAIN, "the limit of processes"),
    ],
)
def test_no_user_namespaces(box: Box, error: int, words: str) -> None:
    popen = {"preexec_fn": deny("clone", error=error, flags=CLONE_NEWUSER)}
    status, text = box.failure("/hello", "uid", popen=popen)
    assert status == 125
    assert words in text
    assert list(box.scratch.glob("layer*")) == []


def test_namespaces_without_mounts(box: Box) -> None:
    """Ubuntu 24.04: the namespace is granted, what one wants it for is not."""
    status, text = box.failure("/hello", "uid", popen={"preexec_fn": deny("mount", error=errno.EACCES)})
    assert status == 125
    assert "mounts are denied in a user namespace: Permission denied" in text
    assert list(box.scratch.glob("layer*")) == []


def test_root_on_the_initial_ramfs(shell: Box) -> None:
    """pivot_root is refused there; the new root is moved over the old one."""
    popen = {"preexec_fn": deny("pivot_root", error=errno.EINVAL)}
    assert "hello" in shell.output("ls", "/", popen=popen).split()
    assert shell.output("sh", "-c", "cd /; cd ..; cd ../..; ls -d hello", popen=popen) == "hello\n"
    text = shell.output("cat", "/proc/self/mountinfo", popen=popen)
    assert str(shell.scratch) not in text


# ---- the choice of the engine -----------------------------------------------------------------------------


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory of this test's own, so that no probe is remembered."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("UDK_ENGINE_FAILED", raising=False)
    return tmp_path


class Fake(Engine):
    """An engine whose probe and abilities a test decides."""

    name = "fake"

    def __init__(self, reason: str = "", against: tuple[str, ...] = ()) -> None:
        self.reason = reason
        self.against = list(against)
        self.probes = 0

    def probe(self) -> str:
        self.probes += 1
        return self.reason

    def reasons_against(self, spec: RunSpec) -> list[str]:
        return self.against


@pytest.fixture
def spec() -> RunSpec:
    return RunSpec(argv=("x",), env={}, root=Root(lower=("/x",)))


def test_the_namespace_engine_works_here() -> None:
    assert NamespaceEngine().probe() == ""


def test_by_name_and_by_mode(runtime: Path) -> None:
    for name in ("namespace", "N1"):
        assert isinstance(select.by_name(name), NamespaceEngine)
    with pytest.raises(UsageError, match="no engine 'nonsense'"):
        select.by_name("nonsense")
    assert next(e.name for e in select.all_engines()) == "namespace"


def test_auto_takes_the_first_that_works(
    runtime: Path, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert select.choose(spec, "auto").name == "namespace"
    monkeypatch.setenv("UDK_ENGINE_FAILED", "namespace: overlay is refused")
    monkeypatch.setattr(select, "_AUTOMATIC", ("namespace",))
    with pytest.raises(EngineUnavailableError, match="namespace: overlay is refused"):
        select.choose(spec, "auto")


def test_every_reason_is_in_the_message(
    runtime: Path, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes: dict[str, Engine] = {"namespace": Fake("not here"), "trap": Fake(against=("no overlay", "no tty"))}
    monkeypatch.setattr(select, "_load", lambda module, cls: fakes.get(module.rpartition(".")[2]))
    with pytest.raises(EngineUnavailableError) as e:
        select.choose(spec, "auto")
    assert "namespace: not here" in str(e.value)
    assert "trap: no overlay; no tty" in str(e.value)


def test_an_engine_on_request_is_refused_for_what_it_cannot_do(
    runtime: Path, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "by_name", lambda name: Fake(against=("no network of its own",)))
    with pytest.raises(EngineUnavailableError, match="engine fake cannot run this: no network of its own"):
        select.choose(spec, "fake")


def test_probes_are_remembered(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Fake()
    assert [select.probe(engine) for _ in range(3)] == ["", "", ""]
    assert engine.probes == 1
    select.probe(engine, fresh=True)
    assert engine.probes == 2


def test_refusals_are_asked_again_after_a_minute(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Fake("mounts are denied\nhere")
    assert select.probe(engine) == "mounts are denied\nhere"
    assert select.probe(engine) == "mounts are denied here"
    assert engine.probes == 1
    import time

    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    select.probe(engine)
    assert engine.probes == 2


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe nonsense", b"a b c d e f\n" * 100, b"x" * 100000])
def test_a_damaged_memory_is_no_memory(runtime: Path, damage: bytes) -> None:
    (runtime / "udk").mkdir(mode=0o700)
    (runtime / "udk" / "probes").write_bytes(damage)
    engine = Fake()
    assert select.probe(engine) == ""
    assert engine.probes == 1
    assert select.probe(engine) == ""
    assert engine.probes == 1


def test_a_memory_that_others_can_write_is_not_believed(runtime: Path) -> None:
    (runtime / "udk").mkdir()
    (runtime / "udk").chmod(0o777)
    engine = Fake()
    select.probe(engine)
    select.probe(engine)
    assert engine.probes == 2
    assert list((runtime / "udk").iterdir()) == []


def test_a_third_partys_engine_is_looked_up_by_entry_point(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = runtime / "site"
    info = site / "third-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[udk.engines]\nmine = third_engine:Mine\n")
    (site / "third_engine.py").write_text(
        "from udk.engines.base import Engine\n"
        "class Mine(Engine):\n    name = 'mine'\n    def probe(self): return ''\n"
    )
    monkeypatch.syspath_prepend(str(site))
    found: Any = select.by_name("mine")
    assert (found.name, found.probe()) == ("mine", "")
