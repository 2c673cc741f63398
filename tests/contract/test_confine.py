"""``--confine`` and ``--network none``: what a hostile program can do outside, under every engine, is exactly
what ``docs/security.md`` says."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import Arena, add_libraries
from tests.support.needs import require
from udk.engines import confine
from udk.engines.base import Engine
from udk.engines.guard import spawn
from udk.engines.select import by_name
from udk.errors import UsageError
from udk.runtime.spec import Identity, Mount, Root

SHM_KEY = 0x55000000 | os.getpid()
IPC_CREAT, IPC_RMID = 0o1000, 0


class Outside:
    """What there is to be reached: files, sockets, a process, shared memory, a terminal; and the program."""

    def __init__(self, where: Path) -> None:
        self.where = where / "outside"
        self.inside = where / "inside"
        self.inside.mkdir()
        require("gcc")
        self.programs = {}
        for name, flags in (("static", ["-static"]), ("dynamic", [])):
            self.programs[name] = where / f"escape-{name}"
            source = str(Path(__file__).parent / "escape.c")
            command = ["gcc", "-O1", "-w", *flags, source, "-o", str(self.programs[name])]
            subprocess.run(command, check=True)
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.sockets: list[socket.socket] = []
        self.fill()
        self.target = subprocess.Popen(
            [self.where / "program", "target"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.target.stdout
        self.address = self.target.stdout.readline().strip()
        self.shm = self._shared_memory()
        self.master, self.slave = os.openpty()
        self.abstract = f"udk-test-{os.getpid()}"
        self._listen(socket.AF_UNIX, "\0" + self.abstract)
        self.tcp = self._listen(socket.AF_INET, ("127.0.0.1", 0)).getsockname()[1]
        self.udp = self._echo()

    def fill(self) -> None:
        """The files as they were; the sockets too."""
        shutil.rmtree(self.where, ignore_errors=True)
        for name in ("taken", "linked"):
            (self.inside / name).unlink(missing_ok=True)
        (self.where / "victim-dir").mkdir(parents=True)
        for name in ("file", "victim", "renamed", "moved", "truncated"):
            (self.where / name).write_text("secret")
        (self.where / "link").symlink_to("file")
        shutil.copy(self.programs["static"], self.where / "program")
        self._listen(socket.AF_UNIX, str(self.where / "stream"))
        datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        datagram.bind(str(self.where / "datagram"))
        self.sockets.append(datagram)

    def _listen(self, family: int, address: Any) -> socket.socket:
        listening = socket.socket(family)
        listening.bind(address)
        listening.listen(64)
        self.sockets.append(listening)
        if family == socket.AF_INET:
            threading.Thread(target=self._answer, args=(listening,), daemon=True).start()
        return listening

    def _answer(self, listening: socket.socket) -> None:
        try:
            while True:
                connection, _ = listening.accept()
                connection.sendall(b"heard")
                connection.close()
        except OSError:
            pass  # closed: the tests are over

    def _echo(self) -> int:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        self.sockets.append(udp)

        def answer() -> None:
            try:
                while True:
                    _, sender = udp.recvfrom(64)
                    udp.sendto(b"heard", sender)
            except OSError:
                pass

        threading.Thread(target=answer, daemon=True).start()
        port: int = udp.getsockname()[1]
        return port

    def _shared_memory(self) -> int:
        self.libc.shmat.restype = ctypes.c_void_p
        ident: int = self.libc.shmget(SHM_KEY, 4096, IPC_CREAT | 0o600)
        assert ident >= 0
        at = self.libc.shmat(ident, None, 0)
        ctypes.memmove(at, b"secret\0", 7)
        self.libc.shmdt(ctypes.c_void_p(at))
        return ident

    def words(self, descriptor: int, inside: str) -> list[str]:
        facts = {
            "outside": self.where, "inside": inside, "fd": descriptor, "abstract": self.abstract,
            "terminal": os.ttyname(self.slave), "tcp": self.tcp, "udp": self.udp, "pid": self.target.pid,
            "address": self.address, "shm": SHM_KEY,
        }  # fmt: skip
        return [f"{key}={value}" for key, value in facts.items()]

    def close(self) -> None:
        self.libc.shmctl(self.shm, IPC_RMID, None)
        for s in self.sockets:
            s.close()
        os.close(self.master)
        os.close(self.slave)
        self.target.communicate("")


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    made = Outside(tmp_path_factory.mktemp("esc"))
    yield made
    made.close()


def may_lack(outside: Outside) -> set[str]:
    """What a node may do without: a kernel built without x32, a file system without attributes."""
    lacks = {"x32", "int80", "io-uring"}
    try:
        os.setxattr(outside.where / "file", "user.test", b"x")
    except OSError:
        lacks.add("setxattr")
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as f:
            if int(f.read()) > 1:
                lacks |= {"ptrace", "proc-root"}
    except FileNotFoundError:
        pass
    return lacks


def natively(outside: Outside, program: str = "static") -> set[str]:
    """What succeeds without a container."""
    outside.fill()
    descriptor = os.open(outside.where, os.O_RDONLY | os.O_DIRECTORY)
    try:
        words = outside.words(descriptor, str(outside.inside))
        done = subprocess.run(
            [outside.programs[program], "try", *words], pass_fds=(descriptor,), stdout=subprocess.PIPE,
            text=True, check=True,
        )  # fmt: skip
    finally:
        os.close(descriptor)
    return successes(done.stdout)


def successes(text: str) -> set[str]:
    assert text.startswith("ways "), text
    return {line.split()[1] for line in text.splitlines() if line.startswith("could ")}


def attempt(engine: Engine, arena: Arena, outside: Outside, **changes: Any) -> set[str]:
    """The attempts that succeeded under an engine."""
    outside.fill()
    program = outside.programs["dynamic" if engine.name == "preload" else "static"]
    (arena.root / "opt/escape").unlink(missing_ok=True)
    shutil.copy(program, arena.root / "opt/escape")
    if engine.name == "preload":
        add_libraries(program, arena.root)
    descriptor = os.open(outside.where, os.O_RDONLY | os.O_DIRECTORY)
    try:
        words = outside.words(descriptor, "/inside")
        spec = arena.spec("/opt/escape", "try", *words, **changes)
        spec = spec.replace(mounts=(*spec.mounts, Mount(source=str(outside.inside), target="/inside")))
        assert engine.reasons_against(spec) == []
        guard = spawn(
            spec, engine.launch(spec), pass_fds=(descriptor,), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        out, _ = guard.communicate(timeout=120)
    finally:
        os.close(descriptor)
    assert guard.returncode == 0, out
    # an engine in the payload's address space is gone round, too
    # (under others the identity layer may be there)
    ways = 3 if engine.name in ("trap", "ptrace", "preload") else int(out[5:6])
    assert out.startswith(f"ways {ways}\n") and ways in (2, 3), out
    return successes(out)


def expected(engine: Engine, abi: int, **changes: Any) -> set[str]:
    from udk.runtime.spec import RunSpec

    spec = RunSpec(argv=("x",), env={}, root=Root(lower=()), **changes)
    return set(confine.level(spec, engine.boundary, abi)["not_stopped"])


@pytest.mark.parametrize("program", ("static", "dynamic"))
def test_without_a_container_all_of_it_succeeds(outside: Outside, program: str) -> None:
    """Else the tests below would prove nothing."""
    lacking = {row[0] for row in confine.ROWS} - natively(outside, program)
    assert lacking <= may_lack(outside)


def check(engine: Engine, arena: Arena, outside: Outside, abi: int, **changes: Any) -> None:
    """All that the page says about one engine and one level."""
    if engine.boundary == confine.LANDLOCK and confine.kernel_abi() < 2:
        pytest.skip("needs Landlock in the kernel")
    wanted = expected(engine, abi, **changes) & natively(outside)
    assert attempt(engine, arena, outside, **changes) == wanted


@pytest.mark.parametrize(
    "changes",
    ({}, {"network": "none"}, {"confine": confine.ALLOW_UNIX}, {"pid": "host"}),
    ids=("plain", "no-network", "allow-unix", "pid-host"),
)
def test_the_security_page_is_true(
    engine: Engine, arena: Arena, outside: Outside, changes: dict[str, str]
) -> None:
    changes = {"confine": confine.ON, **changes}
    if engine.name in ("runc", "singularity") and changes.get("pid") == "host":
        pytest.skip(f"{engine.name} has no --pid host")
    check(engine, arena, outside, confine.kernel_abi(), **changes)


@pytest.mark.parametrize("abi", (5, 3, 2))
def test_older_landlocks(
    engine: Engine, arena: Arena, outside: Outside, abi: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if confine.kernel_abi() < abi:
        pytest.skip(f"needs Landlock {abi} in the kernel")
    monkeypatch.setattr(confine, "MAX_ABI", abi)
    assert confine.kernel_abi() == abi
    check(engine, arena, outside, abi, confine=confine.ON)


def test_a_node_that_cannot_confine_refuses(arena: Arena, launcher: str, tmp_path: Path) -> None:
    """Neither Landlock nor namespaces: never a weaker level, but status 125 and the reason; by the choice of
    engines, and by the guard when it is asked all the same."""
    ask = (
        "from udk.engines.select import choose; from udk.runtime.spec import RunSpec, Root; import sys\n"
        "spec = RunSpec(argv=('x',), env={}, root=Root(lower=('/',)), confine='on')\n"
        "try: choose(spec, sys.argv[1])\n"
        "except Exception as e: print(type(e).__name__, e.status, e)\n"
    )
    home = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}  # what is known of this node is not of that one
    for wanted in ("auto", "trap"):
        said = subprocess.run(
            [launcher, "nolandlock", sys.executable, "-c", ask, wanted], stdout=subprocess.PIPE, text=True,
            check=True, env=home,
        ).stdout  # fmt: skip
        assert said.startswith("EngineUnavailableError 125 ") and "needs Landlock" in said, said
    done = arena.run(by_name("trap"), "/x", confine="on", launcher=(launcher, "nolandlock"))
    assert done.returncode == 125, done.stdout
    assert done.stdout.startswith("udk: error: --confine needs Landlock") and done.stdout.count("\n") == 1


def test_a_directory_as_a_stream_is_refused(engine: Engine, arena: Arena) -> None:
    """From it `..` would lead outside."""
    here = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        spec = arena.spec("/x", confine="on")
        guard = spawn(
            spec, engine.launch(spec), stdin=here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        out, _ = guard.communicate(timeout=60)
    finally:
        os.close(here)
    assert guard.returncode == 125 and "standard stream 0 is a directory" in out and out.count("\n") == 1


@pytest.mark.parametrize(
    "value, parsed", [(True, "on"), ("true", "on"), (False, ""), ("allow-unix", "allow-unix")]
)
def test_values_of_the_option(value: object, parsed: str) -> None:
    assert confine.parse(value) == parsed
    with pytest.raises(UsageError, match="--confine=weakly is unknown"):
        confine.parse("weakly")


def test_the_first_landlock_is_refused_with_a_private_layer(
    engine: Engine, arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confine, "MAX_ABI", 1)
    reasons = engine.reasons_against(arena.spec("/x", confine="on"))
    if engine.boundary == confine.NAMESPACES:
        assert reasons == []
    else:
        assert "first version of Landlock" in "; ".join(reasons) or confine.kernel_abi() == 0


def test_confinement_with_subordinate_ids(engine: Engine, arena: Arena, outside: Outside) -> None:
    """Set-id programs work then (no no_new_privs), and confinement must be in force before that."""
    if engine.boundary != confine.NAMESPACES:
        pytest.skip("subordinate ids need user namespaces")
    if f"{pwd.getpwuid(os.geteuid()).pw_name}:" not in Path("/etc/subuid").read_text():
        pytest.skip("this user has no subordinate ids")
    require("newuidmap")
    changes: dict[str, Any] = {"confine": confine.ON, "identity": Identity(subids=True)}
    wanted = expected(engine, confine.kernel_abi(), **changes) & natively(outside)
    assert attempt(engine, arena, outside, **changes) == wanted


def test_no_network_without_confinement(engine: Engine, arena: Arena, outside: Outside) -> None:
    assert not attempt(engine, arena, outside, network="none") & {"tcp", "udp"}
