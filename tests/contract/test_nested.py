"""udk inside udk: the trap engine's program, started by a guest of it, makes a container of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.contract.conftest import Arena
from udk.engines.guard import NATIVE
from udk.engines.trap import TrapEngine
from udk.runtime.spec import Mount

RO, FILE, UNION, PROC, CACHE = 1, 2, 4, 8, 16  # csrc/core/core.h: enum mount_flags
OPTIONS = 1 | 2 | 4 | 8  # patch, fast return, fake root, owners


def description(mounts: list[tuple[int, str, str, str]], **texts: str) -> int:
    """A descriptor with the words of csrc/core/plan.c."""
    words = [w for flags, *paths in mounts for w in ("mount", str(flags), *paths)]
    words += [w for pair in texts.items() for w in pair]
    fd = os.memfd_create("description")
    os.write(fd, b"".join(w.encode() + b"\0" for w in words))
    os.set_inheritable(fd, True)
    return fd


@pytest.mark.slow
@pytest.mark.parametrize("build", ("glibc", "static"))
def test_cases_in_a_container_in_a_container(arena: Arena, programs: dict[str, str], build: str) -> None:
    """The image is a bind, the layer lies in the outer's own; a directory of both layers is bound too."""
    inner = arena.where / f"inner-{build}"
    for name in ("upper", "work"):
        (inner / name).mkdir(parents=True)
    fd = description(
        [
            (CACHE | UNION, "", "/inner/upper", "/image"),
            (PROC, "/proc", "/proc", ""), (0, "/dev", "/dev", ""), (0, "/sys", "/sys", ""),
            (0, "/rw", "/rw", ""), (0, "/rw/nested", "/rw/nested", ""), (RO, "/ro", "/ro", ""),
            (FILE, "/lower/bound", "/rw/file", ""), (0, "/both", "/lower/dir", ""),
        ],
        loader="/engine/udk-trap", state="/inner/state", work="/inner/work", changes="/inner/changes",
        options=str(OPTIONS), uid="0", gid="0",
    )  # fmt: skip
    try:
        done = arena.run(
            TrapEngine(), "/engine/udk-trap", "run", str(fd), programs[build],
            env={"CONTRACT_FAKE_ROOT": "1"}, pass_fds=(fd,),
            mounts=(
                *arena.mounts(), Mount(source=str(arena.root), target="/image", readonly=True),
                Mount(source=str(inner), target="/inner"),
                Mount(source=NATIVE, target="/engine", readonly=True),
            ),
        )  # fmt: skip
    finally:
        os.close(fd)
    failed = {line for line in done.stdout.splitlines() if line.startswith("FAIL ")}
    assert not failed, done.stdout
    assert " passed, " in done.stdout, done.stdout


def test_a_tree_in_both_layers_is_refused(arena: Arena, programs: dict[str, str], tmp_path: Path) -> None:
    fd = description(
        [(CACHE | UNION, "", "/inner/upper", "")], loader="/engine/udk-trap", state="/inner/state",
        work="/inner/work", changes="/inner/changes", options=str(OPTIONS), uid="0", gid="0",
    )  # fmt: skip
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    try:
        done = arena.run(
            TrapEngine(), "/engine/udk-trap", "run", str(fd), programs["static"], pass_fds=(fd,),
            mounts=(
                Mount(source=str(tmp_path), target="/inner"),
                Mount(source=NATIVE, target="/engine", readonly=True),
            ),
        )  # fmt: skip
    finally:
        os.close(fd)
    assert done.returncode == 125
    assert done.stdout.startswith("udk: error: inside a container of the trap engine, "), done.stdout
    assert len(done.stdout.splitlines()) == 1
