"""Start-up of a cached image, from a clean virtual environment with the wheel installed, beside the
interpreter alone and bubblewrap.

    python -m pytest benchmarks/test_startup.py --benchmark-columns=min,median,rounds

The aim is 3 times `python -I -c pass`, the bound 5 times; the figure is printed, not asserted.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import Layout
from tests.support.needs import needs, require
from tests.support.registry import FaultyRegistry
from tests.support.udk import REPOSITORY, Udk, busybox_layer

ROUNDS = 40


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with udk's wheel and nothing else: the run path needs no dependency."""
    base = tmp_path_factory.mktemp("venv")
    source = base / "source"
    unwanted = shutil.ignore_patterns("_native", "__pycache__")
    for name in ("udk", "cvmfs_client", "csrc", "scripts"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    quiet = ["-q", "--disable-pip-version-check"]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            *quiet,
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(base),
            str(source),
        ],
        check=True,
    )
    (wheel,) = base.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(base / "venv")], check=True)
    python = base / "venv/bin/python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", *quiet, "--no-deps", str(wheel)],
        check=True,
    )
    return base / "venv/bin"


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> tuple[Udk, str]:
    """A caller whose store has a busybox image."""
    require("busybox")
    layout = Layout(tmp_path_factory.mktemp("layout"))
    layout.add_image([busybox_layer()], "1", run={"Cmd": ["sh"], "Env": ["PATH=/bin"]})
    udk = Udk(tmp_path_factory.mktemp("udk"))
    with FaultyRegistry({"box": layout.path}) as registry:
        image = f"{registry.host}/box:1"
        udk.ok("pull", "-q", image)
    udk.ok("run", image, "true")
    return udk, image


def caller(udk: Udk) -> dict[str, str]:
    return udk.environ({"PYTHONPATH": None, "PYTHONPYCACHEPREFIX": None, "UDK_HOME": str(udk.store)})


def commands(installed: Path, image: str) -> dict[str, list[str]]:
    return {
        "python": [str(installed / "python"), "-I", "-c", "pass"],
        "udk": [str(installed / "udk"), "run", image, "true"],
        "bwrap": ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--die-with-parent", "/bin/true"],
    }


@pytest.mark.parametrize("what", ["python", "udk", "bwrap"])
def test_start(benchmark: Any, installed: Path, ready: tuple[Udk, str], what: str) -> None:
    udk, image = ready
    if what == "bwrap":
        require("bwrap")
    argv, env = commands(installed, image)[what], caller(udk)
    benchmark.pedantic(
        lambda: subprocess.run(argv, env=env, check=True, stdin=subprocess.DEVNULL),
        rounds=ROUNDS,
        warmup_rounds=3,
    )


@needs("bwrap")
def test_ratios(installed: Path, ready: tuple[Udk, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Interleaved rounds, so that a noisy machine is noisy for all."""
    udk, image = ready
    env = caller(udk)
    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, argv in commands(installed, image).items():
            began = time.perf_counter()
            subprocess.run(argv, env=env, check=True, stdin=subprocess.DEVNULL)
            times.setdefault(name, []).append(time.perf_counter() - began)
    best = {name: min(t) for name, t in times.items()}
    middle = {name: statistics.median(t) for name, t in times.items()}
    with capsys.disabled():
        load = os.getloadavg()[0]
        print(f"\nstart of a cached image, {ROUNDS} interleaved rounds, load {load:.1f}:")
        for name in times:
            low, mid = best[name], middle[name]
            print(
                f"  {name:7s} min {low * 1e3:6.1f} ms  median {mid * 1e3:6.1f} ms  "
                f"{low / best['python']:5.2f}x python (min), {mid / middle['python']:5.2f}x (median)"
            )


@pytest.fixture(scope="session")
def large(ready: tuple[Udk, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of 700 MB in 14,000 files, in the same store."""
    udk, _ = ready
    files = [(f"data/{n // 100}/{n}", n.to_bytes(4, "little") * 12500, 0o644) for n in range(14000)]
    layout = Layout(tmp_path_factory.mktemp("large"))
    layout.add_image([busybox_layer(files)], "1", run={"Cmd": ["sh"], "Env": ["PATH=/bin"]})
    with FaultyRegistry({"large": layout.path}) as registry:
        image = f"{registry.host}/large:1"
        udk.ok("pull", "-q", image)
    udk.ok("run", image, "true")
    return image


@pytest.mark.timeout(900)
def test_size_of_the_image(
    installed: Path, ready: tuple[Udk, str], large: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An ephemeral container in an image of 2 MB and of 700 MB, by each engine of ours."""
    udk, small = ready
    env = caller(udk)
    argv = {"python": [str(installed / "python"), "-I", "-c", "pass"]}
    for engine in ("namespace", "trap"):
        for size, image in (("2 MB", small), ("700 MB", large)):
            argv[f"{engine}, {size}"] = [str(installed / "udk"), "run", "--engine", engine, image, "true"]
    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, words in argv.items():
            began = time.perf_counter()
            done = subprocess.run(words, env=env, check=False, stdin=subprocess.DEVNULL)
            if done.returncode == 0:
                times.setdefault(name, []).append(time.perf_counter() - began)
    with capsys.disabled():
        print(f"\nstart by size of the image, {ROUNDS} interleaved rounds, load {os.getloadavg()[0]:.1f}:")
        for name, all_of_it in times.items():
            ratio = min(all_of_it) / min(times["python"])
            print(
                f"  {name:18s} min {min(all_of_it) * 1e3:6.1f} ms  "
                f"median {statistics.median(all_of_it) * 1e3:6.1f} ms  {ratio:5.2f}x python (min)"
            )
