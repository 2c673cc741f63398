"""Pull and unpack of an image of about 700 MB from Debian's docker-registry on loopback, beside skopeo +
umoci.

The image is made of this machine's own /usr (files, links and modes of a real system) in four layers, once,
in ``$UDK_TEST_CACHE``. Both sides start with an empty store and a warm page cache, and alternate.

``python -m pytest benchmarks/test_pull.py -m '' -s`` prints the ratio, and the peak memory of the process
tree."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import Layout
from tests.support.needs import find, needs
from tests.support.puller import ROOT

pytestmark = [needs("docker-registry", "skopeo", "umoci"), pytest.mark.slow]

MEGABYTES = int(os.environ.get("UDK_BENCH_MB", "700"))
ROUNDS = int(os.environ.get("UDK_BENCH_ROUNDS", "3"))
LAYERS = 4


def cache() -> Path:
    path = Path(os.environ.get("UDK_TEST_CACHE") or Path.home() / ".cache" / "udk-test") / f"pull-{MEGABYTES}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def system_layers() -> Iterator[bytes]:
    """Tars of about MEGABYTES in all, of what can be read of /usr, in the order of the directory tree."""
    limit = MEGABYTES * 1_000_000 // LAYERS
    out = io.BytesIO()
    tar = tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)
    made = 0
    for directory, names, files in os.walk("/usr"):
        names.sort()
        for path in [directory, *(f"{directory}/{name}" for name in sorted(files))]:
            try:
                info = tar.gettarinfo(path, path.lstrip("/"))
                if (
                    info is None
                    or info.size > limit // 2
                    or not (info.isfile() or info.isdir() or info.issym())
                ):
                    continue
                info.uname = info.gname = ""
                if info.isfile():
                    with open(path, "rb") as f:
                        tar.addfile(info, f)
                else:
                    tar.addfile(info)
            except OSError:
                continue
        if out.tell() > limit:
            tar.close()
            yield out.getvalue()
            made += 1
            if made == LAYERS:
                return
            out = io.BytesIO()
            tar = tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)
    tar.close()
    yield out.getvalue()


def make_image() -> Path:
    """The layout with the image, made on first use (a minute)."""
    final = cache() / "layout"
    if not final.exists():
        part = cache() / f"part-{os.getpid()}"
        Layout(part).add_image(list(system_layers()), "image")
        part.rename(final)
    return final


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("registry")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
    (directory / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        f"http:\n  addr: {host}\n"
    )
    program = find("docker-registry")
    assert program
    process = subprocess.Popen(
        [program, "serve", str(directory / "config.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(1)
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false",
             f"oci:{make_image()}:image", f"docker://{host}/bench/image:1"], check=True,
        )  # fmt: skip
        yield f"{host}/bench/image:1"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def run_udk(name: str, work: Path) -> subprocess.Popen[bytes]:
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "UDK_HOME": str(work / "udk"), "HOME": str(work)}
    return subprocess.Popen(
        [sys.executable, "-m", "udk", "pull", "-q", name], env=env, stdout=subprocess.DEVNULL
    )


def run_peers(name: str, work: Path) -> subprocess.Popen[bytes]:
    script = (
        f"skopeo --insecure-policy copy -q --src-tls-verify=false docker://{name} oci:{work}/oci:1"
        f" && umoci raw unpack --rootless --image {work}/oci:1 {work}/rootfs"
    )
    return subprocess.Popen(["sh", "-ec", script], stdout=subprocess.DEVNULL)


def timed(start: Any, name: str, work: Path) -> float:
    work.mkdir()
    before = time.perf_counter()
    process = start(name, work)
    assert process.wait() == 0
    took = time.perf_counter() - before
    subprocess.run(["chmod", "-R", "u+rwX", str(work)], check=False)
    subprocess.run(["rm", "-rf", str(work)], check=True)
    os.sync()
    return took


def test_pull_and_unpack_beside_skopeo_and_umoci(registry: str, tmp_path: Path) -> None:
    times: dict[str, list[float]] = {"udk": [], "peers": []}
    for n in range(ROUNDS):
        for side, start in (("udk", run_udk), ("peers", run_peers)):
            times[side].append(timed(start, registry, tmp_path / f"{side}{n}"))
    best = {side: min(t) for side, t in times.items()}
    result = {
        "MB": MEGABYTES,
        "udk pull [s]": round(best["udk"], 2),
        "skopeo copy + umoci unpack [s]": round(best["peers"], 2),
        "ratio of the best": round(best["udk"] / best["peers"], 2),
        "ratio of the medians": round(statistics.median(times["udk"]) / statistics.median(times["peers"]), 2),
    }
    print("\n" + json.dumps(result, indent=1))


def tree_pss(pid: int) -> int:
    """Bytes of memory of a process and its descendants, shared pages in proportion."""
    total, pending = 0, [pid]
    while pending:
        p = pending.pop()
        try:
            with open(f"/proc/{p}/smaps_rollup") as f:
                total += sum(int(line.split()[1]) << 10 for line in f if line.startswith("Pss:"))
            for task in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{task}/children") as f:
                    pending += [int(c) for c in f.read().split()]
        except OSError:
            continue
    return total


def peak_memory(process: subprocess.Popen[bytes]) -> int:
    """The largest PSS of the process tree until it ends, looked at every 20 ms."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, tree_pss(process.pid))
        time.sleep(0.02)
    return peak


def test_memory_of_the_process_tree(registry: str, tmp_path: Path) -> None:
    peaks = {}
    for side, start in (("udk", run_udk), ("skopeo and umoci", run_peers)):
        work = tmp_path / side.replace(" ", "-")
        work.mkdir()
        process = start(registry, work)
        peaks[side] = round(peak_memory(process) / 1e6)
        assert process.returncode == 0
        subprocess.run(["rm", "-rf", str(work)], check=False)
    print("\n" + json.dumps({"peak memory [MB]": peaks}))
    assert peaks["udk"] < 150
