"""Every case, for every build of the program and every engine; and the image untouched by all of it."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.conftest import BUILDS, Arena
from tests.support.needs import require
from udk.engines.base import Engine
from udk.engines.select import by_name
from udk.runtime.spec import Identity, Root

# Where guest root may do what root may; elsewhere its owners are shown.
EMULATING = ("trap", "ptrace", "preload")
# Engines that refuse programs without an interpreter.
DYNAMIC_ONLY = ("preload",)
# There is one id, whatever is shown: the kernel denies nothing to another user of the guest's, and tells its
# own ids; the host's name is refused, as by docker.
ONE_ID = {
    "threads_and_groups_of_other_users", "signals_between_users", "credentials_of_other_users",
    "status_shows_the_guests_ids", "several_users", "host_name", "what_is_mounted_belongs_to_whoever_made_it",
}  # fmt: skip
# What an engine does differently, and why that is right for it.
EXPECTED: dict[str, set[str]] = {
    "namespace": ONE_ID,
    "trap": set(),
    "ptrace": {"traced_child", "who_sent_a_signal"},
    "preload": {"code_that_is_mapped_shared_is_the_file"},  # no filter would see the calls in it
    "runc": ONE_ID,
    "singularity": ONE_ID,
}
# Where a file system gives 32-bit positions, these cannot be told from those of both layers.
I386 = {"a_listing_of_what_changes"}
# And what --confine keeps from it: /dev/shm is then a directory of the run's own on the image's device: there
# it cannot be told what an ordinary guest user's descriptor leads to.
_SHM = {"what_is_mounted_belongs_to_whoever_made_it"}
CONFINED: dict[str, set[str]] = {"trap": _SHM, "ptrace": _SHM, "preload": _SHM}


def snapshot(tree: Path) -> str:
    """All that can be seen of a tree, access times left out."""
    digest = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        st = path.lstat()
        digest.update(
            repr(
                (path, st.st_mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_nlink, st.st_ino)
            ).encode("utf-8", "surrogateescape")
        )
        if path.is_file() and not path.is_symlink():
            digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.fixture
def core_files() -> Iterator[None]:
    """As far as they are allowed here."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest.mark.slow
@pytest.mark.usefixtures("core_files")
@pytest.mark.parametrize("build", BUILDS)
def test_cases(engine: Engine, arena: Arena, programs: dict[str, str], build: str) -> None:
    if build == "i386" and engine.name != "ptrace":
        pytest.skip("the kernel's own or an emulator's there: only ptrace translates them")
    if build not in programs:
        require(BUILDS[build][0])
    if engine.mode == "P2" and build not in ("glibc", "musl-static", "i386"):
        pytest.skip("the handler is P1's, which runs all of them")
    before = snapshot(arena.root)
    env = {"CONTRACT_FAKE_ROOT": "1" if engine.name in EMULATING else "shown"}
    done = arena.run(engine, programs[build], env=env)
    if "static" in build and engine.name in DYNAMIC_ONLY:
        assert done.returncode == 125 and "is a static program" in done.stdout, done.stdout
        assert done.stdout.count("\n") == 1 and snapshot(arena.root) == before
        return
    failed = {line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("FAIL ")}
    assert failed <= EXPECTED[engine.name] | (I386 if build == "i386" else set()), done.stdout
    assert " passed, " in done.stdout, done.stdout
    assert snapshot(arena.root) == before


@pytest.mark.slow
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="code is changed on x86-64 only")
@pytest.mark.parametrize("build", ("glibc", "musl"))
def test_cases_with_a_changed_c_library(
    arena: Arena, programs: dict[str, str], build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As containers have it from the first program on, when another has run some before."""
    from udk.engines.trap import TrapEngine

    if build not in programs:
        require(BUILDS[build][0])
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    time.sleep(max(0, 3.1 - (time.time() - max(p.stat().st_ctime for p in arena.root.glob("lib*/**/*")))))
    assert arena.run(TrapEngine(), programs[build], "--often", "40").returncode == 0
    assert sum(len(files) for _, _, files in os.walk(tmp_path / "udk")) == (2 if build == "glibc" else 1)
    done = arena.run(TrapEngine(), programs[build], env={"CONTRACT_FAKE_ROOT": "1"})
    failed = {line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("FAIL ")}
    assert failed <= EXPECTED["trap"], done.stdout
    assert " passed, " in done.stdout, done.stdout


@pytest.mark.slow
def test_cases_in_confinement(engine: Engine, arena: Arena, programs: dict[str, str]) -> None:
    """A payload that stays inside notices little of it."""
    env = {"CONTRACT_FAKE_ROOT": "1" if engine.name in EMULATING else "shown"}
    done = arena.run(engine, programs["glibc"], env=env, confine="allow-unix")
    failed = {line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("FAIL ")}
    assert failed <= EXPECTED[engine.name] | CONFINED.get(engine.name, set()), done.stdout
    assert " passed, " in done.stdout, done.stdout


@pytest.mark.slow
def test_cases_on_two_file_systems(arena: Arena, programs: dict[str, str]) -> None:
    """The private layer on another device than the image: what a file is stays the same by every call."""
    from udk.engines.trap import TrapEngine

    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == arena.root.stat().st_dev:
        pytest.skip("no second file system that all may write to")
    with tempfile.TemporaryDirectory(dir=memory, prefix="udk-test-") as home:
        for name in ("upper", "work"):
            (Path(home) / name).mkdir()
        root = Root(
            lower=(str(arena.root),), upper=f"{home}/upper", work=f"{home}/work", changes=f"{home}/changes",
            records=arena.records(), volatile=True,
        )  # fmt: skip
        env = {"CONTRACT_FAKE_ROOT": "1"}
        done = arena.run(TrapEngine(), programs["glibc"], env=env, root=root, cleanup=())
    failed = {line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("FAIL ")}
    # /dev/shm is bound from the layer's own device here, which by descriptor cannot be told.
    assert failed <= EXPECTED["trap"] | {"what_is_mounted_belongs_to_whoever_made_it"}, done.stdout
    assert " passed, " in done.stdout, done.stdout


def test_a_directory_from_outside_has_no_names(
    arena: Arena, programs: dict[str, str], tmp_path: Path
) -> None:
    """What is below and above a descriptor that leads out of the container stays out of reach."""
    from udk.engines.trap import TrapEngine

    (tmp_path / "outside/sub").mkdir(parents=True)
    for name in ("secret", "sub/secret"):
        (tmp_path / "outside" / name).write_text("secret")
    fd = os.open(tmp_path / "outside", os.O_RDONLY)
    try:
        done = arena.run(
            TrapEngine(), programs["glibc"], "a_directory_from_outside_has_no_names",
            env={"CONTRACT_OUTSIDE": str(fd)}, pass_fds=(fd,),
        )  # fmt: skip
    finally:
        os.close(fd)
    assert "1 passed, 0 failed" in done.stdout, done.stdout
    assert not (tmp_path / "outside/new").exists()


def test_modes_close_to_an_ordinary_user(engine: Engine, arena: Arena, programs: dict[str, str]) -> None:
    """A container that starts as one: its own files are open to him as far as their modes say, and the times
    of others' are not his to set."""
    who = Identity(uid=1000, gid=1000, fake_root=False)
    cases = (
        "made_without_bits", "below_a_closed_directory", "nothing_leads_through_a_closed_directory",
        "owners_and_times",
    )  # fmt: skip
    done = arena.run(engine, programs["glibc"], *cases, identity=who)
    assert "4 passed, 0 failed" in done.stdout, done.stdout


# Natively absent on such a node, or what the cases use themselves to judge.
OLD = {
    "traced_child", "exec_by_descriptor", "exec_of_a_memfd", "statx_agrees_with_stat",
    "other_architectures_do_not_pass",
}  # fmt: skip


# What a guest installs itself. P1 leaves renameat2 to the filters that were there before.
FILTERS = {
    "filter_errno", "filter_traps", "filter_kills", "filter_allow_list", "filter_sees_arguments",
    "filter_errno_on_a_path_call",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mode", ("denied", "old"))
def test_trap_on_a_worse_node(arena: Arena, programs: dict[str, str], launcher: str, mode: str) -> None:
    """Neither namespaces nor ptrace, or no system call younger than Linux 3.10: the trap engine works."""
    from udk.engines.trap import TrapEngine

    done = arena.run(
        TrapEngine(), programs["glibc"], env={"CONTRACT_FAKE_ROOT": "1"}, launcher=(launcher, mode)
    )
    failed = {line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("FAIL ")}
    assert failed <= ({"traced_child"} if mode == "denied" else OLD), done.stdout
    assert " passed, " in done.stdout, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("mode", ("noseccomp", "oldptrace", "old"))
def test_ptrace_on_a_worse_node(arena: Arena, programs: dict[str, str], launcher: str, mode: str) -> None:
    """Neither namespaces nor filters, or no system call younger than Linux 3.10: the ptrace engine works."""
    from udk.engines.ptrace import PtraceEngine

    done = arena.run(
        PtraceEngine(), programs["glibc"], env={"CONTRACT_FAKE_ROOT": "1"}, launcher=(launcher, mode)
    )
    failed = {line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("FAIL ")}
    expected = EXPECTED["ptrace"] | ({*OLD, "union_rename"} if mode == "old" else FILTERS)
    assert failed <= expected, done.stdout
    assert " passed, " in done.stdout, done.stdout


@pytest.mark.parametrize(
    "mode, engine",
    [("denied", "trap"), ("noseccomp", "ptrace"), ("oldptrace", "ptrace"), ("nothing", "preload")],
)
def test_auto_on_a_worse_node(
    arena: Arena, programs: dict[str, str], launcher: str, mode: str, engine: str, tmp_path: Path
) -> None:
    """The first engine that works is found, and doctor says why the ones before it do not."""
    ask = (
        "import sys; from udk.engines.select import choose, all_engines, probe\n"
        "from udk.runtime.spec import RunSpec\n"
        "print(choose(RunSpec.from_json(sys.stdin.read())).name)\n"
        "for e in all_engines(): print(e.name, probe(e) or 'works')\n"
    )
    home = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}  # what is known of this node is not of that one
    said = subprocess.run(
        [launcher, mode, sys.executable, "-c", ask], input=arena.spec("/x").to_json(), stdout=subprocess.PIPE,
        text=True, check=True, env=home,
    ).stdout.splitlines()  # fmt: skip
    assert said[0] == engine
    works = dict(line.split(" ", 1) for line in said[1:])
    order = ("namespace", "trap", "ptrace", "preload")
    assert [works[e] == "works" for e in order[: order.index(engine) + 1]] == [False] * order.index(
        engine
    ) + [True]
    done = arena.run(
        by_name(engine), programs["glibc"], "registers_are_kept", "union_rename", launcher=(launcher, mode)
    )
    assert done.stdout.endswith("passed, 0 failed\n"), done.stdout
