"""The trap and preload engines beside bubblewrap, PRoot and fakechroot: CPU time of whole workloads.

Every tool runs the same commands in the same Debian root (``ci/roots``), alternating; the smallest CPU time
of the process tree counts, less that of starting ``true``. ``python -m pytest benchmarks/test_trap.py -m ''
-s`` prints it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.needs import find, needs
from tests.support.roots import root_tar
from udk.engines.guard import remove

pytestmark = [needs("bwrap"), pytest.mark.slow]

OURS = ("trap", "preload")
ROUNDS = int(os.environ.get("UDK_BENCH_ROUNDS", "5"))
LOOP = "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done"
WORKLOADS = {
    "tar": "tar cf - /usr 2>/dev/null | cat >/dev/null",
    "find": "find / -xdev >/dev/null",
    "stat storm": "ls -lR /usr >/dev/null 2>&1",
    "shell loop": LOOP,
    "8 jobs": f"for j in 1 2 3 4 5 6 7 8; do ({LOOP.replace('200', '40')}) & done; wait",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    tar = root_tar("debian12")
    made = tmp_path_factory.mktemp("debian") / "root"
    made.mkdir()
    subprocess.run(
        ["tar", "-xf", str(tar), "-C", str(made), "--exclude=./dev/*", "--no-same-owner"], check=True
    )
    yield made
    remove([str(made)])


def cpu(command: list[str], env: dict[str, str]) -> float:
    """CPU seconds of a command with all its descendants."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commands(root: Path) -> dict[str, list[str]]:
    """Each tool's command line, to be followed by the payload."""
    here = [sys.executable, "-m", "benchmarks.trap_start"]
    found = {
        "bwrap": ["bwrap", "--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev"],
        "trap": [*here, "trap", str(root)],
        "preload": [*here, "preload", str(root)],
        "proot": ["env", "PROOT_NO_SECCOMP=1", "proot", "-r", str(root), "-b", "/proc", "-b", "/dev"],
        "fakechroot": ["fakechroot", "chroot", str(root)],
    }
    return {tool: words for tool, words in found.items() if tool in OURS or find(tool)}


def test_workloads(root: Path) -> None:
    tools = commands(root)
    env = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    best: dict[tuple[str, str], float] = {}
    for name, text in {"": "true", **WORKLOADS}.items():
        for _ in range(ROUNDS):
            for tool, words in tools.items():
                spent = cpu([*words, "sh", "-c", text], env)
                best[tool, name] = min(spent, best.get((tool, name), spent))
    for name in WORKLOADS:
        net = {tool: max(best[tool, name] - best[tool, ""], 0.0001) for tool in tools}
        line = "  ".join(f"{tool} {1000 * net[tool]:.0f} ms" for tool in tools)
        print(f"\n{name}: {line}", end="")
        for ours in OURS:
            others = ", ".join(f"{net[ours] / net[tool]:.2f}x {tool}" for tool in tools if tool not in OURS)
            print(f"  ({ours} is {others})", end="")
    print()
