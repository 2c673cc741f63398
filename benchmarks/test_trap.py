"""The engines without namespaces beside a chroot, bubblewrap, PRoot, fakechroot: calls, programs, workloads.

Every tool runs the same commands in the same Debian root, alternating; the smallest CPU time of the whole
process tree counts, less that of starting ``true``. ``python -m pytest benchmarks/test_trap.py -m '' -s``
prints a table; ``UDK_BENCH_REPORT=FILE`` also writes it there.

The root is ``$UDK_TEST_CACHE/bench.tar`` (``mmdebstrap --variant=minbase
--include=python3,git,gcc,libc6-dev bookworm bench.tar``), else that of ``ci/roots``, without what it has no
programs for. ``UDK_BENCH_PROOT`` is the command of the PRoot to compare with, ``UDK_BENCH_TOOLS`` a list
of the tools (names of the table, with commas).
"""

from __future__ import annotations

import os
import platform
import resource
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.needs import find, needs
from tests.support.roots import cache, root_tar
from udk.engines.guard import remove
from udk.engines.select import by_name
from udk.layers.index import write_index
from udk.layers.record import RecordWriter
from udk.runtime.spec import Mount, Root, RunSpec

pytestmark = [needs("bwrap", "gcc"), pytest.mark.slow, pytest.mark.timeout(3600)]

OURS = ("trap", "preload", "ptrace")
ROUNDS = int(os.environ.get("UDK_BENCH_ROUNDS", "5"))
HERE = Path(__file__).parent
LOOP = "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done"
# name -> script, program that the root must have
WORKLOADS: Mapping[str, tuple[str, str]] = {
    "tar c /usr": ("tar cf - /usr/share /usr/bin /usr/lib 2>/dev/null | cat >/dev/null", "tar"),
    "find /": ("for i in 1 2 3 4 5; do find / -xdev >/dev/null; done", "find"),
    "stat storm (find -size)": ("for i in 1 2 3; do find /usr -size +1000k >/dev/null; done", "find"),
    "ls -lR /usr": ("ls -lR /usr >/dev/null", "ls"),
    "git status, 2700 files": (
        "cd /bench/src && for i in 0 1 2 3 4 5 6 7 8 9 10; do git status >/dev/null; done",
        "git",
    ),
    "gcc -O1 -c": (
        "cd /bench && for i in 1 2 3 4 5; do gcc -O1 -c hello.c -o /tmp/hello.o; done", "gcc",
    ),
    "Python imports": (
        "for i in 1 2 3 4 5; do python3 -c 'import json,email,http.client,asyncio,unittest'; done", "python3",
    ),
    "shell loop, 200 programs": (LOOP, "sh"),
    "8 jobs of 40 programs": (
        f"for j in 1 2 3 4 5 6 7 8; do ({LOOP.replace('200', '40')}) & done; wait", "sh",
    ),
}  # fmt: skip
ENV = {"PATH": "/bench:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    where = cache()
    bench = where / "bench.tar" if where else None
    tar = bench if bench and bench.exists() else root_tar("debian12")
    made = tmp_path_factory.mktemp("debian") / "rootfs"
    made.mkdir()
    subprocess.run(
        ["tar", "-xf", str(tar), "-C", str(made), "--exclude=./dev/*", "--no-same-owner"], check=True
    )
    (made / "bench").mkdir()
    (made / "bench/hello.c").write_text(
        '#include <stdio.h>\n#include <stdlib.h>\nint main(void) { return puts("hello"); }\n'
    )
    inside = [*bwrap(made), "sh", "-c"]
    shutil.copy(HERE / "calls.c", made / "bench/calls.c")
    (made / "bench/true.c").write_text("int main(void) { return 0; }\n")
    for name, flags in (("calls", ""), ("true", "-static")):
        build = f"gcc -O2 {flags} -o {name} {name}.c"
        if subprocess.run([*inside, f"cd /bench && {build}"], env=ENV, check=False).returncode:
            subprocess.run(build, shell=True, cwd=made / "bench", check=True)  # noqa: S602
    sources = (
        "mkdir -p /bench/src && cd /bench/src && git init -q . && git config core.checkStat minimal && "
        "for d in $(seq 90); do mkdir s$d; "
        "for f in $(seq 30); do echo $d $f >s$d/file$f.c; done; done; git add -A && "
        "git -c user.name=a -c user.email=a@b commit -qm all"
    )
    subprocess.run([*inside, sources], env=ENV, check=False)
    RecordWriter(f"{made.parent}/record").close()
    write_index(str(made.parent))
    yield made
    remove([str(made)])


def bwrap(root: Path) -> list[str]:
    return ["bwrap", "--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev"]


class Tools:
    """How each tool runs a command in the root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        proot = os.environ.get("UDK_BENCH_PROOT", "proot")
        known = {
            "chroot": ["unshare", "-r", "chroot", str(root)],
            "bubblewrap": bwrap(root),
            "PRoot": [
                "env", "PROOT_NO_SECCOMP=1", *shlex.split(proot), "-r", str(root), "-b", "/proc",
                "-b", "/dev",
            ],
            "fakechroot": ["fakechroot", "chroot", str(root)],
        }  # fmt: skip
        self.known = {name: words for name, words in known.items() if find(_program(words))}
        self.known.update({name: [] for name in OURS if not by_name(name).probe()})
        wanted = os.environ.get("UDK_BENCH_TOOLS")
        if wanted:
            self.known = {name: self.known[name] for name in wanted.split(",")}

    def run(self, tool: str, *argv: str) -> tuple[float, float, str]:
        """CPU and wall seconds of a command with all its descendants, and its output."""
        if tool in OURS:
            return self._ours(tool, argv)
        return _measure([*self.known[tool], *argv], ENV, ())

    def _ours(self, tool: str, argv: tuple[str, ...]) -> tuple[float, float, str]:
        """With what a run has by default: union, owners, fake root, in a fresh private layer."""
        home = Path(f"/tmp/udk-bench-{uuid.uuid4().hex[:8]}")
        for name in ("upper", "work"):
            (home / name).mkdir(parents=True)
        spec = RunSpec(
            argv=argv, env=ENV,
            root=Root(
                lower=(str(self.root),), upper=f"{home}/upper", work=f"{home}/work",
                changes=f"{home}/changes", records=(f"{self.root.parent}/record",),
            ),
            mounts=(Mount(kind="proc", target="/proc"), Mount(kind="dev", target="/dev")),
            cookie=uuid.uuid4().hex[:16],
        )  # fmt: skip
        launch = by_name(tool).launch(spec)
        try:
            return _measure(launch.argv, launch.env, launch.fds)
        finally:
            for fd in launch.fds:
                os.close(fd)
            remove([str(home)])


def _program(words: list[str]) -> str:
    return words[2] if words[0] == "env" else words[0]


def _measure(argv: list[str], env: Mapping[str, str], fds: tuple[int, ...]) -> tuple[float, float, str]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        argv, env=dict(env), pass_fds=fds, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
        text=True, cwd="/",
    )  # fmt: skip
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, wall, done.stdout if done.returncode == 0 else ""


def _row(name: str, unit: str, best: Mapping[str, float], tools: list[str]) -> str:
    """A table's line: the figure of each tool, then trap's ratio to bubblewrap and PRoot's to trap."""
    cells = []
    for tool in tools:
        value = best.get(tool)
        cells.append("-" if value is None else f"{value:.0f}")
    ours, peer, proot = best.get("trap"), best.get("bubblewrap"), best.get("PRoot")
    cells.append(f"{ours / peer:.2f}" if ours and peer else "-")
    cells.append(f"{proot / ours:.1f}" if ours and proot else "-")
    return f"| {name}, {unit} | {' | '.join(cells)} |"


def test_table(root: Path) -> None:
    tools = Tools(root)
    names = list(tools.known)
    rows = [
        f"| | {' | '.join(names)} | trap / bubblewrap | PRoot / trap |",
        "|---|" + "---|" * (len(names) + 2),
    ]
    calls: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for tool in names:
            text = tools.run(tool, "/bench/calls")[2]
            for program in ("/bin/true", "/bench/true"):
                text += tools.run(tool, "/bench/calls", "spawn", "20", program)[2]
            for what, figure in (line.split() for line in text.splitlines()):
                best = calls.setdefault(what, {})
                best[tool] = min(float(figure), best.get(tool, 1e9))
    for what, best in calls.items():
        rows.append(
            _row(
                *(
                    (what, "ns")
                    if what[0] != "/"
                    else (f"exec of {'a static program' if 'bench' in what else what}", "us CPU")
                ),
                best,
                names,
            )
        )
    start: dict[str, float] = {}
    for _ in range(2 * ROUNDS):
        for tool in names:
            start[tool] = min(tools.run(tool, "sh", "-c", "true")[0], start.get(tool, 1e9))
    rows.append(_row("start of `true`", "ms CPU", {t: 1000 * s for t, s in start.items()}, names))
    for name, (script, program) in WORKLOADS.items():
        if not any((root / d / program).exists() for d in ("usr/bin", "bin")):
            continue
        spent: dict[str, float] = {}
        for _ in range(ROUNDS):
            for tool in names:
                cpu, _wall, _ = tools.run(tool, "sh", "-c", f"{script}\necho")
                spent[tool] = min(cpu, spent.get(tool, 1e9))
        rows.append(
            _row(name, "ms CPU", {t: max(1000 * (s - start[t]), 0.1) for t, s in spent.items()}, names)
        )
        print(rows[-1], flush=True)
    head = (
        f"Linux {platform.release()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, "
        f"{time.strftime('%Y-%m-%d', time.gmtime())}; smallest of {ROUNDS} interleaved rounds."
    )
    report = "\n".join(["", head, "", *rows, ""])
    print(report)
    if os.environ.get("UDK_BENCH_REPORT"):
        Path(os.environ["UDK_BENCH_REPORT"]).write_text(report)
