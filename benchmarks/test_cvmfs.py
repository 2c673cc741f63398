"""The CVMFS client beside local disk and beside itself without prefetching, on repositories that it has
published.

A tree of 50,000 small files, one of about 300 MB in thousands of files, and numpy with scipy as pip installs
them; served by a static server in another process, at once and with 20 ms before each answer. The client
runs in a fresh process; the figures are the seconds between opening the repository and the last byte. What
can be counted is asserted, times are printed, beside what the official client (cvmfs2 2.12, FUSE) took
on such a machine for the same, in a repository of 138,864 entries; where it did more of the same, its time is
given for as many entries:

``python -m pytest benchmarks/test_cvmfs.py -m '' -s``. The repositories are made once, in
``$UDK_TEST_CACHE``.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cvmfs_reader import FQRN
from benchmarks.staticserver import Server, serve
from cvmfs_client.publish import Options, RepositoryKeys, publish
from tests.cvmfs.test_publish_large import make_large_tree
from tests.support.needs import find, needs

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("UDK_BENCH_ROUNDS", "3"))
TOP = Path(__file__).resolve().parents[1]
READER = Path(__file__).with_name("cvmfs_reader.py")
IMPORTS = (
    "import numpy, scipy",
    "import numpy, scipy.linalg, scipy.sparse",
    "import numpy; import scipy.linalg, scipy.optimize, scipy.signal, scipy.stats",
)


def place() -> Path:
    path = Path(os.environ.get("UDK_TEST_CACHE") or Path.home() / ".cache" / "udk-test") / "cvmfs-2"
    path.mkdir(parents=True, exist_ok=True)
    RepositoryKeys.create(str(path / "keys"), FQRN)
    return path


def published(name: str, make: Callable[[Path], None]) -> Path:
    """<place>/<name>: tree/ and web/<fqrn>, made on first use."""
    final = place() / name
    if not final.exists():
        part = final.with_name(f"{name}.{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        (part / "tree").mkdir(parents=True)
        make(part / "tree")
        options = Options(whitelist_days=3650)
        publish(
            str(part / "tree"),
            str(part / "web" / FQRN),
            fqrn=FQRN,
            keys=str(place() / "keys"),
            options=options,
        )
        part.rename(final)
    return final


def make_copy_tree(top: Path) -> None:
    """Up to 9,000 files of this system, 300 MB."""
    files = size = 0
    for directory, names, found in os.walk("/usr"):
        names.sort()
        for name in sorted(found):
            source = os.path.join(directory, name)
            try:
                status = os.lstat(source)
                if os.path.islink(source) or not os.path.isfile(source) or status.st_size > 4 << 20:
                    continue
                target = top / os.path.relpath(source, "/usr")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            except OSError:
                continue
            files += 1
            size += status.st_size
            if files == 9_000 or size > 300_000_000:
                return


def make_python_tree(top: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--target",
        str(top),
        "numpy",
        "scipy",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"numpy and scipy cannot be had: {done.stderr.strip()[-200:]}")


# seconds that the official client takes, as root and in a user namespace
OFFICIAL = {
    "open": "0.07-0.16",
    "first": "0.07-0.19",
    "names": "1.0-1.5 (of 2.5-3.8)",
    "walk": "1.8-3.2 (of 4.7-8.2)",
    "reads cold": "2.4-4.7",
    "reads warm": "0.5-2.0",
    "copy cold": "6.0-9.1 (tar of 309 MB)",
    "copy warm": "1.6-2.4 (tar of 309 MB)",
    "import 20ms": "18.4 (numpy, scipy.linalg, networkx)",
}


class Run:
    """One run of the reader."""

    def __init__(self, server: Server, mode: str, cache: Path, prefetch: bool, argument: str) -> None:
        server.counts()
        key = str(place() / "keys" / f"{FQRN}.pub")
        arguments = [f"{server.url}/{FQRN}", key, str(cache), "yes" if prefetch else "no", argument]
        done = subprocess.run(
            [sys.executable, str(READER), mode, *arguments],
            env={**os.environ, "PYTHONPATH": str(TOP)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        self.seconds: float = told["seconds"]
        self.cpu: float = told["cpu"]
        self.memory: int = told["memory"]
        self.amount: int = told["amount"]
        self.requests, self.bytes = server.counts()


def measure(
    server: Server,
    mode: str,
    tmp: Path,
    *,
    warm: bool = False,
    prefetch: bool = True,
    argument: str = "",
    target: str = "",
) -> list[Run]:
    runs = []
    cache = tmp / f"cache-{mode}-{prefetch}"
    shutil.rmtree(cache, ignore_errors=True)
    if warm:
        Run(server, mode, cache, prefetch, argument)
    for _ in range(ROUNDS):
        if not warm:
            shutil.rmtree(cache, ignore_errors=True)
        if target:
            shutil.rmtree(target, ignore_errors=True)
        runs.append(Run(server, mode, cache, prefetch, argument))
    return runs


def show(label: str, runs: list[Run], official: str = "", **more: float) -> float:
    """Prints the fastest of the runs; other work on the machine only makes them slower."""
    best = min(runs, key=lambda r: r.seconds)
    extra = "".join(f"  {k} {v:.3f}" for k, v in more.items())
    memory = max(r.memory for r in runs)
    size = f"{best.bytes / 1e6:7.1f} MB"
    peer = f"  official {OFFICIAL[official]}" if official else ""
    print(
        f"\n{label:<42} {best.seconds:7.3f} s  cpu {best.cpu:6.3f} s  {best.requests:5} requests  {size}  "
        f"{memory:3} MB memory{extra}{peer}"
    )
    return best.seconds


def local(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@pytest.mark.parametrize("delay", [0.0, 0.02], ids=["loopback", "20ms"])
def test_open_and_first_byte(tmp_path: Path, delay: float) -> None:
    site = published("many", make_large_tree)
    path = "/" + str(next((site / "tree").rglob("file4321")).relative_to(site / "tree"))
    with serve(site / "web", delay) as server:
        cold = measure(server, "open", tmp_path)
        show(f"open, cold ({delay * 1000:.0f} ms)", cold, "" if delay else "open")
        # manifest, whitelist, certificate, root catalog
        assert cold[0].requests == 4
        first = measure(server, "first", tmp_path, argument=path)
        show(f"open and first byte, cold ({delay * 1000:.0f} ms)", first, "" if delay else "first")
        assert first[0].requests <= 7
        warm = measure(server, "first", tmp_path, warm=True, argument=path)
        show(f"open and first byte, warm ({delay * 1000:.0f} ms)", warm)
        assert warm[0].requests == 1


@pytest.mark.parametrize("delay", [0.0, 0.02], ids=["loopback", "20ms"])
def test_walk_of_50000_files(tmp_path: Path, delay: float) -> None:
    site = published("many", make_large_tree)
    disk = local(lambda: [os.lstat(os.path.join(d, n)) for d, s, f in os.walk(site / "tree") for n in s + f])
    with serve(site / "web", delay) as server:
        names = measure(server, "names", tmp_path)
        show(f"walk, cold ({delay * 1000:.0f} ms)", names, "names", disk=disk)
        names = measure(server, "names", tmp_path, warm=True)
        show(f"walk, warm ({delay * 1000:.0f} ms)", names, "names", disk=disk)
        cold = measure(server, "walk", tmp_path)
        show(f"walk and lstat, cold ({delay * 1000:.0f} ms)", cold, disk=disk)
        assert cold[0].amount > 50_000
        warm = measure(server, "walk", tmp_path, warm=True)
        show(f"walk and lstat, warm ({delay * 1000:.0f} ms)", warm, "walk", disk=disk)
        assert warm[0].requests == 1
        assert max(r.memory for r in cold + warm) < 100


@pytest.mark.parametrize("name", ["many", "copy"])
def test_3000_random_reads(tmp_path: Path, name: str) -> None:
    """Of 50,000 files of 1.6 kB, and of the small files of this system."""
    site = published(name, {"many": make_large_tree, "copy": make_copy_tree}[name])
    files = [p for p in sorted((site / "tree").rglob("*")) if p.is_file() and p.stat().st_size <= 64 << 10]
    paths = ["/" + str(p.relative_to(site / "tree")) for p in files]
    (tmp_path / "paths").write_text("\n".join(paths))
    disk = local(lambda: [(site / "tree" / p[1:]).read_bytes() for p in paths[:3000]])
    with serve(site / "web") as server:
        cold = measure(server, "reads", tmp_path, argument=str(tmp_path / "paths"))
        show(f"3,000 random reads, cold ({name})", cold, "reads cold", disk=disk)
        assert cold[0].requests < 3_400
        warm = measure(server, "reads", tmp_path, warm=True, argument=str(tmp_path / "paths"))
        show(f"3,000 random reads, warm ({name})", warm, "reads warm", disk=disk)
        assert warm[0].requests == 1
        assert max(r.memory for r in cold + warm) < 100


@pytest.mark.parametrize("delay", [0.0, 0.02], ids=["loopback", "20ms"])
def test_copy_of_300_megabytes(tmp_path: Path, delay: float) -> None:
    site = published("copy", make_copy_tree)
    target = str(tmp_path / "copied")
    disk = local(lambda: shutil.copytree(site / "tree", tmp_path / "local"))
    with serve(site / "web", delay) as server:
        cold = measure(server, "copy", tmp_path, argument=target, target=target)
        show(f"copy of 300 MB, cold ({delay * 1000:.0f} ms)", cold, "" if delay else "copy cold", disk=disk)
        assert cold[0].amount == 0
        warm = measure(server, "copy", tmp_path, warm=True, argument=target, target=target)
        show(f"copy of 300 MB, warm ({delay * 1000:.0f} ms)", warm, "copy warm", disk=disk)
        assert max(r.memory for r in cold + warm) < 100


def opened_by_import(tree: Path, tmp: Path, statement: str) -> list[str]:
    """Files of the tree in the order in which an interpreter opens them."""
    log = tmp / "strace"
    program = f"import sys; sys.path.insert(0, {str(tree)!r}); {statement}"
    strace = find("strace")
    assert strace is not None
    command = [
        strace,
        "-f",
        "-qq",
        "-e",
        "trace=open,openat",
        "-o",
        str(log),
        sys.executable,
        "-B",
        "-S",
        "-c",
        program,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the import cannot be traced here: {done.stderr.strip()[-200:]}")
    found: dict[str, None] = {}
    for line in log.read_text(errors="replace").split("\n"):
        at = line.find(f'"{tree}')
        if at < 0 or " = -1 " in line or "O_DIRECTORY" in line:
            continue
        path = posixpath.normpath(line[at + 1 :].split('"')[0])
        if os.path.isfile(path):
            found[path[len(str(tree)) :]] = None
    return list(found)


@needs("strace")
@pytest.mark.parametrize("statement", IMPORTS)
@pytest.mark.parametrize("delay", [0.0, 0.02], ids=["loopback", "20ms"])
def test_first_import_of_numpy_and_scipy(tmp_path: Path, delay: float, statement: str) -> None:
    """The order of opens of a real import, replayed; nothing was recorded before, and nothing knows what
    comes.
    """
    site = published("python", make_python_tree)
    order = opened_by_import(site / "tree", tmp_path, statement)
    assert len(order) > 90
    (tmp_path / "order").write_text("\n".join(order))
    with serve(site / "web", delay) as server:
        one_by_one: list[Run] = []
        ahead: list[Run] = []
        for _ in range(ROUNDS):
            for prefetch, runs in ((False, one_by_one), (True, ahead)):
                cache = tmp_path / f"cache-{prefetch}"
                shutil.rmtree(cache, ignore_errors=True)
                runs.append(Run(server, "trace", cache, prefetch, str(tmp_path / "order")))
        print(f"\n{statement}", end="")
        label = f"{len(order)} files, {ahead[0].amount / 1e6:.0f} MB"
        slow = show(f"import, one by one ({delay * 1000:.0f} ms, {label})", one_by_one)
        fast = show(f"import, ahead ({delay * 1000:.0f} ms)", ahead, "import 20ms" if delay else "")
        ratio = ahead[-1].bytes / one_by_one[-1].bytes
        print(f"{'':46} {slow / fast:7.1f} times faster, {ratio:.2f} times the bytes")
    assert max(r.bytes for r in ahead) <= 1.5 * one_by_one[0].bytes
    assert (
        one_by_one[0].amount == ahead[0].amount == sum((site / "tree" / p[1:]).stat().st_size for p in order)
    )
    assert max(r.memory for r in ahead) < 100


def figures() -> dict[str, Any]:
    """The machine, for the record."""
    return {"cpus": os.cpu_count(), "python": sys.version.split()[0], "load": os.getloadavg()}


def test_machine() -> None:
    print(f"\n{figures()}")
