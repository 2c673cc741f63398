"""The C programs themselves: under sanitizers, for the other architecture, and what they consist of."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.engines.conftest import HELLO
from tests.support.needs import needs
from udk.engines.guard import NATIVE

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def setup_py() -> ModuleType:
    spec = importlib.util.spec_from_file_location("udk_setup", TOP / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sources(setup_py: ModuleType, program: str) -> list[str]:
    directories, _ = setup_py.PROGRAMS[program]
    return sorted(str(p) for d in directories for p in (TOP / "csrc" / d).glob("*.c"))


@pytest.mark.slow
@needs("gcc")
def test_under_sanitizers(setup_py: ModuleType, tmp_path: Path) -> None:
    """The tests once more, with a guard in which address and undefined-behaviour checks are fatal."""
    checked = tmp_path / "udk-guard"
    subprocess.run(
        [
            "gcc", "-std=c11", "-ffreestanding", "-O1", "-g", "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all", "-DUDK_HOSTED", "-Wall", "-Wextra", "-Werror", f"-I{TOP}/csrc",
            *sources(setup_py, "udk-guard"), "-o", str(checked),
        ],
        check=True,
    )  # fmt: skip
    tests = [f"{TOP}/tests/engines/test_{name}.py" for name in ("guard", "mounts", "streams")]
    env = {**os.environ, "UDK_TEST_GUARD": str(checked), "PYTHONPATH": str(TOP)}
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", *tests,
            "--basetemp", str(tmp_path / "t"),
        ],
        env=env, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]


@needs("aarch64-linux-gnu-gcc", "qemu-aarch64")
def test_for_arm64(setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All programs build without a warning; the probe program's output is the same under emulation."""
    monkeypatch.setenv("CC", "aarch64-linux-gnu-gcc")
    monkeypatch.setattr(setup_py, "NATIVE", tmp_path)
    monkeypatch.setattr(setup_py, "WARNINGS", ["-Wall", "-Wextra", "-Werror"])
    setup_py.build_native()
    for program in setup_py.PROGRAMS:
        assert (tmp_path / program).read_bytes()[18:20] == b"\xb7\x00", program  # EM_AARCH64
    config = next(p for p in (tmp_path / "hello/blobs/sha256").iterdir() if b'"diff_ids"' in p.read_bytes())
    assert json.loads(config.read_text())["architecture"] == "arm64"
    (tmp_path / "root").mkdir()
    (tmp_path / "udk-hello-loaded").rename(tmp_path / "root/hello")  # its interpreter, looked for below -L
    for words in (["args", "a", "", "b c"], ["lstat", "/etc/passwd"], ["cat", "/etc/passwd"], ["exit", "3"]):
        real = subprocess.run([HELLO, *words], stdout=subprocess.PIPE, check=False)
        for program in ("udk-hello", "root/hello"):
            emulated = subprocess.run(
                ["qemu-aarch64", "-L", str(tmp_path / "root"), str(tmp_path / program), *words],
                stdout=subprocess.PIPE, check=False,
            )  # fmt: skip
            assert (emulated.returncode, emulated.stdout) == (real.returncode, real.stdout)


@needs("readelf")
@pytest.mark.parametrize("program", ["udk-guard", "udk-hello"])
def test_programs_are_static_and_small(program: str) -> None:
    path = f"{NATIVE}/{program}"
    headers = subprocess.check_output(["readelf", "-lW", path], text=True)
    assert "INTERP" not in headers
    assert "DYNAMIC" not in headers
    assert "RWE" not in headers
    assert os.stat(path).st_size < 100_000
    assert os.stat(path).st_mode & 0o777 == 0o755


def test_the_embedded_image_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("hello_layout", TOP / "csrc" / "hello" / "layout.py")
    assert spec and spec.loader
    layout = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layout)
    contents = []
    for name in ("one", "two"):
        layout.write(tmp_path / name, Path(HELLO), "x86_64")
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        contents.append({str(p.relative_to(tmp_path / name)): p.read_bytes() for p in files})
    assert contents[0] == contents[1]
    (tmp_path / "one" / "blobs" / "sha256" / ("0" * 64)).touch()
    layout.write(tmp_path / "one", Path(HELLO), "x86_64")
    assert len(list((tmp_path / "one" / "blobs" / "sha256").iterdir())) == 3


@needs("skopeo", "umoci")
def test_the_embedded_image_is_an_image(tmp_path: Path) -> None:
    """Other tools read it too."""
    subprocess.run(["skopeo", "inspect", f"oci:{NATIVE}/hello:latest"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", f"{NATIVE}/hello:latest", str(tmp_path / "bundle")],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    unpacked = tmp_path / "bundle" / "rootfs" / "hello"
    assert unpacked.read_bytes() == Path(f"{NATIVE}/udk-hello-loaded").read_bytes()
