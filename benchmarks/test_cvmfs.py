"""The CVMFS client beside local disk and beside itself without prefetching, on repositories that it has
published.

A tree of 50,000 small files, one of about 300 MB in thousands of files, and numpy with scipy as pip installs
them; served by a static server in another process, at once and with 20 ms before each answer. The client
runs in a fresh process; the figures are the seconds between opening the repository and the last byte. What
can be counted is asserted, times are printed:

``python -m pytest benchmarks/test_cvmfs.py -m '' -s``. The repositories are made once, in
``$UDK_TEST_CACHE``.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import statistics
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
IMPORTS = "import numpy; import scipy.linalg, scipy.optimize, scipy.signal, scipy.stats"


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


def show(label: str, runs: list[Run], **more: float) -> float:
    middle = statistics.median(r.seconds for r in runs)
    extra = "".join(f"  {k} {v:.3f}" for k, v in more.items())
    memory = max(r.memory for r in runs)
    size = f"{runs[-1].bytes / 1e6:7.1f} MB"
    print(f"\n{label:<46} {middle:7.3f} s  {runs[-1].requests:5} requests  {size}  {memory:4} MB{extra}")
    return middle


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
        show(f"open, cold ({delay * 1000:.0f} ms)", cold)
        # manifest, whitelist, certificate, root catalog
        assert cold[0].requests == 4
        first = measure(server, "first", tmp_path, argument=path)
        show(f"open and first byte, cold ({delay * 1000:.0f} ms)", first)
        assert first[0].requests <= 7
        warm = measure(server, "first", tmp_path, warm=True, argument=path)
        show(f"open and first byte, warm ({delay * 1000:.0f} ms)", warm)
        assert warm[0].requests == 1


@pytest.mark.parametrize("delay", [0.0, 0.02], ids=["loopback", "20ms"])
def test_walk_of_50000_files(tmp_path: Path, delay: float) -> None:
    site = published("many", make_large_tree)
    disk = local(lambda: [os.lstat(os.path.join(d, n)) for d, s, f in os.walk(site / "tree") for n in s + f])
    with serve(site / "web", delay) as server:
        cold = measure(server, "walk", tmp_path)
        show(f"walk and lstat, cold ({delay * 1000:.0f} ms)", cold, disk=disk)
        assert cold[0].amount > 50_000
        warm = measure(server, "walk", tmp_path, warm=True)
        show(f"walk and lstat, warm ({delay * 1000:.0f} ms)", warm, disk=disk)
        assert warm[0].requests == 1
        assert max(r.memory for r in cold + warm) < 100


def test_3000_random_reads(tmp_path: Path) -> None:
    site = published("many", make_large_tree)
    paths = ["/" + str(p.relative_to(site / "tree")) for p in sorted((site / "tree").rglob("file*"))]
    (tmp_path / "paths").write_text("\n".join(paths))
    disk = local(lambda: [(site / "tree" / p[1:]).read_bytes() for p in paths[:3000]])
    with serve(site / "web") as server:
        cold = measure(server, "reads", tmp_path, argument=str(tmp_path / "paths"))
        show("3,000 random reads, cold", cold, disk=disk)
        assert cold[0].requests < 3_400
        warm = measure(server, "reads", tmp_path, warm=True, argument=str(tmp_path / "paths"))
        show("3,000 random reads, warm", warm, disk=disk)
        assert warm[0].requests == 1
        assert max(r.memory for r in cold + warm) < 100


@pytest.mark.parametrize("delay", [0.0, 0.02], ids=["loopback", "20ms"])
def test_copy_of_300_megabytes(tmp_path: Path, delay: float) -> None:
    site = published("copy", make_copy_tree)
    target = str(tmp_path / "copied")
    disk = local(lambda: shutil.copytree(site / "tree", tmp_path / "local"))
    with serve(site / "web", delay) as server:
        cold = measure(server, "copy", tmp_path, argument=target, target=target)
        show(f"copy of 300 MB, cold ({delay * 1000:.0f} ms)", cold, disk=disk)
        assert cold[0].amount == 0
        warm = measure(server, "copy", tmp_path, warm=True, argument=target, target=target)
        show(f"copy of 300 MB, warm ({delay * 1000:.0f} ms)", warm, disk=disk)
        assert max(r.memory for r in cold + warm) < 100


def opened_by_import(tree: Path, tmp: Path) -> list[str]:
    """Files of the tree in the order in which an interpreter opens them."""
    log = tmp / "strace"
    program = f"import sys; sys.path.insert(0, {str(tree)!r}); {IMPORTS}"
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
@pytest.mark.parametrize("delay", [0.0, 0.02], ids=["loopback", "20ms"])
def test_first_import_of_numpy_and_scipy(tmp_path: Path, delay: float) -> None:
    """The order of opens of a real import, replayed; nothing was recorded before, and nothing knows what
    comes.
    """
    site = published("python", make_python_tree)
    order = opened_by_import(site / "tree", tmp_path)
    assert len(order) > 300
    (tmp_path / "order").write_text("\n".join(order))
    with serve(site / "web", delay) as server:
        one_by_one: list[Run] = []
        ahead: list[Run] = []
        for _ in range(ROUNDS):
            for prefetch, runs in ((False, one_by_one), (True, ahead)):
                cache = tmp_path / f"cache-{prefetch}"
                shutil.rmtree(cache, ignore_errors=True)
                runs.append(Run(server, "trace", cache, prefetch, str(tmp_path / "order")))
        label = f"{len(order)} files, {ahead[0].amount / 1e6:.0f} MB"
        slow = show(f"import, one by one ({delay * 1000:.0f} ms, {label})", one_by_one)
        fast = show(f"import, ahead ({delay * 1000:.0f} ms)", ahead)
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
