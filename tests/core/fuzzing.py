"""The fuzzers of the C core: building them, running them from their seeds, and what they cover.

``ci/fuzz`` is the command; ``test_fuzz.py`` runs a short version. Each fuzzer is ``fuzz/NAME.c`` with its
corpus in ``seeds/NAME.tar.xz``; all are libFuzzer's, under the address and undefined-behaviour sanitizers.
With ``FUZZ_TRACE`` in the environment those that play calls tell each one; with ``FUZZ_SCENES=DIRECTORY``
they make inputs of all scenes (``fuzz/scenes.c``) there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"
SEEDS = HERE / "seeds"

FLAGS = (
    "-std=gnu11", "-ffreestanding", "-g", "-O1", "-fno-omit-frame-pointer", "-DUDK_HOSTED", "-DUDK_CHECKED",
    f"-I{CSRC}", f"-I{HERE}", "-Wall", "-Wextra", "-Werror",
)  # fmt: skip
SANITIZERS = ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined")
CANNOT = 78
"""The exit status of a fuzzer that lacks something here: user namespaces."""
COVERAGE = ("-fsanitize=fuzzer", "-fprofile-instr-generate", "-fcoverage-mapping")


@dataclass(frozen=True)
class Fuzzer:
    name: str
    max_len: int
    covers: tuple[str, ...]
    """What its figures are about: folders and files below ``csrc/``."""
    link: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """Beyond ``fuzz/NAME.c``."""


PLAY = ("play", "acts", "words", "scenes", "mutate")
"""Of the fuzzers that play a guest's calls."""

FUZZERS = {
    f.name: f
    for f in (
        Fuzzer("calls", 8 + 40 * 16, ("core",), sources=PLAY),
        Fuzzer("identity", 8 + 40 * 16, ("core",), sources=(*PLAY, "inside")),
        Fuzzer("plan", 1500, ("core",)),
        Fuzzer("program", 700, ("core", "trap/load.c"), ("-no-pie", "-Wl,--unresolved-symbols=ignore-all")),
        Fuzzer("filter", 400, ("trap/seccomp.c",)),
    )
}  # fmt: skip


def objects(where: Path, flags: Sequence[str]) -> list[str]:
    """Compiles what all fuzzers share."""
    sources = [
        *(HERE / name for name in ("hosted.c", "fuzz/world.c", "fuzz/trees.c", "fuzz/checked.c")),
        *sorted((CSRC / "core").glob("*.c")),
        *(CSRC / "sys" / name for name in ("fmt.c", "io.c", "mem.c")),
    ]  # fmt: skip
    where.mkdir(parents=True, exist_ok=True)
    made, jobs = [], []
    for source in sources:
        target = where / (source.stem + ".o")
        made.append(str(target))
        jobs.append([*FLAGS, *flags, "-c", str(source), "-o", str(target)])
    for i in range(0, len(jobs), 2):
        running = [subprocess.Popen(["clang", *job]) for job in jobs[i : i + 2]]
        if [p.wait() for p in running].count(0) != len(running):
            raise SystemExit("a fuzzer does not compile")
    return made


def plant(shared: Sequence[str], source: Path, planted: Path, where: Path) -> list[str]:
    """The objects with the one of ``source`` made from another file."""
    target = where / f"{source.stem}.planted.o"
    subprocess.run(
        ["clang", *FLAGS, *SANITIZERS, "-Wno-error", "-c", str(planted), "-o", str(target)], check=True
    )
    return [str(target) if Path(s).stem == source.stem else s for s in shared]


def link(name: str, shared: Sequence[str], flags: Sequence[str], target: Path) -> Path:
    """The fuzzer, of the shared objects; its own are made beside these when they are not there yet."""
    fuzzer, own = FUZZERS[name], []
    for part in (name, *fuzzer.sources):
        made = Path(shared[0]).with_name(f"fuzz-{part}.o")
        if not made.exists():
            source = HERE / "fuzz" / f"{part}.c"
            subprocess.run(["clang", *FLAGS, *flags, "-c", str(source), "-o", str(made)], check=True)
        own.append(str(made))
    subprocess.run(["clang", *flags, *own, *shared, *fuzzer.link, "-o", str(target)], check=True)
    return target


def unpack_seeds(name: str, where: Path) -> Path:
    where.mkdir(parents=True, exist_ok=True)
    with tarfile.open(SEEDS / f"{name}.tar.xz") as archive:
        for member in archive:
            data = archive.extractfile(member)
            assert data
            (where / f"seed-{Path(member.name).name}").write_bytes(data.read())
    return where


def pack_seeds(name: str, corpus: Path) -> None:
    """The archive is the same for the same corpus."""
    with tarfile.open(SEEDS / f"{name}.tar.xz", "w:xz", preset=9) as archive:
        for i, path in enumerate(sorted(corpus.iterdir(), key=lambda p: (p.stat().st_size, p.read_bytes()))):
            member = tarfile.TarInfo(f"{i:04}")
            member.size = path.stat().st_size
            with path.open("rb") as data:
                archive.addfile(member, data)


def run(program: Path, args: Sequence[str], scratch: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a fuzzer in a fresh home, in memory where that is possible: it makes many small files."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else scratch
    with tempfile.TemporaryDirectory(prefix="udk-fuzz.", dir=parent) as home:
        try:
            return subprocess.run(
                [str(program), "-timeout=30", "-rss_limit_mb=3000", f"-artifact_prefix={scratch}/", *args],
                env={"PATH": os.environ["PATH"], "FUZZ_HOME": home, "ASAN_OPTIONS": "detect_leaks=0",
                     "UBSAN_OPTIONS": "print_stacktrace=1", **env},
                cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                check=False,
            )  # fmt: skip
        finally:
            subprocess.run(["chmod", "-R", "u+rwx", home], check=False, capture_output=True)


@dataclass(frozen=True)
class Figures:
    """Of one source file: edges are the two ways out of each condition."""

    file: str
    lines: int
    lines_hit: int
    edges: int
    edges_hit: int


COUNTS = ("lines", "lines_hit", "edges", "edges_hit")


def coverage(profiles: Sequence[Path], programs: Sequence[Path], of: Sequence[str]) -> list[Figures]:
    """``llvm-cov``'s branch coverage of the sources ``of`` csrc, per file."""
    merged = profiles[0].with_name("all.profdata")
    subprocess.run(
        [tool("llvm-profdata"), "merge", "-sparse", *map(str, profiles), "-o", str(merged)], check=True
    )
    more = [arg for p in programs[1:] for arg in ("-object", str(p))]
    out = subprocess.run(
        [tool("llvm-cov"), "export", "-summary-only", f"-instr-profile={merged}", str(programs[0]), *more],
        check=True, stdout=subprocess.PIPE,
    ).stdout  # fmt: skip
    figures = []
    for entry in json.loads(out)["data"][0]["files"]:
        path, s = Path(entry["filename"]), entry["summary"]
        if path.suffix == ".c" and {path, path.parent} & {CSRC / f for f in of}:
            figures.append(
                Figures(
                    str(path.relative_to(CSRC)), s["lines"]["count"], s["lines"]["covered"],
                    s["branches"]["count"], s["branches"]["covered"],
                )
            )  # fmt: skip
    return sorted(figures, key=lambda f: f.file)


def tool(name: str) -> str:
    """LLVM's tools have the version in their names on some hosts."""
    found = shutil.which(name)
    if found:
        return found
    version = subprocess.run(["clang", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    match = re.search(r"version (\d+)", version)
    for candidate in (f"{name}-{match[1]}", f"/usr/lib/llvm-{match[1]}/bin/{name}") if match else ():
        if shutil.which(candidate):
            return candidate
    raise SystemExit(f"{name} is not installed (Debian: llvm)")


def report(figures: Sequence[Figures]) -> float:
    """Prints a table; the percentage of edges over all of the core."""
    core = [f for f in figures if f.file.startswith("core/")]
    total = Figures("the core", *(sum(getattr(f, n) for f in core) for n in COUNTS))
    for f in (*core, *([total] if core else []), *(f for f in figures if f not in core)):
        lines, edges = 100 * f.lines_hit / max(f.lines, 1), 100 * f.edges_hit / max(f.edges, 1)
        print(f"{f.file:28} lines {lines:5.1f} %   edges {f.edges_hit:5}/{f.edges:<5} {edges:5.1f} %")
    return 100 * total.edges_hit / max(total.edges, 1)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="ci/fuzz", description="Fuzzes the C core and prints what was covered."
    )
    parser.add_argument("fuzzers", nargs="*", metavar="NAME", help=f"of {', '.join(FUZZERS)}; default: all")
    parser.add_argument(
        "--seconds", type=int, default=60, help="for each fuzzer; 0: only the seeds (default 60)"
    )
    parser.add_argument("--keep", action="store_true", help="minimise what was found into the seeds")
    parser.add_argument("--corpus", type=Path, help="a directory to keep and extend the corpora in")
    args = parser.parse_args()
    names = args.fuzzers or list(FUZZERS)
    unknown = sorted(set(names) - set(FUZZERS))
    if unknown:
        parser.error(f"{unknown[0]} is no fuzzer: {', '.join(FUZZERS)}")
    with tempfile.TemporaryDirectory(prefix="udk-fuzz.") as name:
        return fuzz(names, args.seconds, args.keep, args.corpus, Path(name))


def fuzz(names: Sequence[str], seconds: int, keep: bool, corpora: Path | None, where: Path) -> int:
    checked = objects(where / "checked", SANITIZERS)
    counted = objects(where / "counted", COVERAGE)
    profiles, programs = [], []
    for name in names:
        fuzzer = FUZZERS[name]
        corpus = unpack_seeds(name, (corpora or where / "corpus").absolute() / name)
        program = link(name, checked, SANITIZERS, where / name)
        limits = [f"-max_len={fuzzer.max_len}", f"-max_total_time={seconds}"] if seconds else ["-runs=0"]
        done = run(program, [*limits, str(corpus)], where)
        if done.returncode == CANNOT:
            print(f"{name}: {done.stdout.strip()}", flush=True)
            continue
        print(
            f"{name}: {done.stdout.strip().splitlines()[-1] if done.stdout.strip() else 'no word'}",
            flush=True,
        )
        if done.returncode:
            print(done.stdout[-6000:])
            for found in (
                p for p in where.iterdir() if p.name.startswith(("crash-", "timeout-", "oom-", "slow-"))
            ):
                shutil.copy(found, found.name)
                print(f"the input is kept: ./{found.name}")
            return 1
        if keep:
            small = where / "small" / name
            small.mkdir(parents=True)
            run(program, ["-merge=1", f"-max_len={fuzzer.max_len}", str(small), str(corpus)], where)
            pack_seeds(name, small)
        program = link(name, counted, COVERAGE, where / f"{name}.counted")
        profiles.append(where / f"{name}.profraw")
        programs.append(program)
        run(program, ["-runs=0", str(corpus)], where, LLVM_PROFILE_FILE=str(profiles[-1]))
    report(coverage(profiles, programs, sorted({folder for n in names for folder in FUZZERS[n].covers})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
