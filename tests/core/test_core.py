"""The core as a library: unit tests under the sanitizers, and a short run of the fuzzer from its seeds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.needs import needs

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"
SOURCES = [
    str(HERE / "hosted.c"),
    *map(str, sorted((CSRC / "core").glob("*.c"))),
    *(str(CSRC / "sys" / name) for name in ("fmt.c", "io.c", "mem.c")),
]
FLAGS = [
    "-std=gnu11", "-ffreestanding", "-g", "-O1", "-DUDK_HOSTED", f"-I{CSRC}", f"-I{HERE}", "-Wall", "-Wextra",
    "-Werror", "-fno-sanitize-recover=undefined",
]  # fmt: skip


def compile_with(compiler: str, source: str, sanitizers: str, target: Path) -> Path:
    subprocess.run(
        [compiler, *FLAGS, f"-fsanitize={sanitizers}", *SOURCES, str(HERE / source), "-o", str(target)],
        check=True,
    )
    return target


@needs("gcc")
def test_unit(tmp_path: Path) -> None:
    program = compile_with("gcc", "unit.c", "address,undefined", tmp_path / "unit")
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run([str(program), str(home)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 wrong\n", "")


@pytest.mark.slow
@needs("clang")
def test_fuzz(tmp_path: Path) -> None:
    """``UDK_FUZZ_SECONDS`` makes it longer. Nothing found, and the lower tree as it was."""
    program = compile_with("clang", "fuzz.c", "fuzzer,address,undefined", tmp_path / "fuzz")
    home, corpus = tmp_path / "home", tmp_path / "corpus"
    home.mkdir()
    corpus.mkdir()
    seconds = os.environ.get("UDK_FUZZ_SECONDS", "6")
    done = subprocess.run(
        [
            str(program), f"-max_total_time={seconds}", "-max_len=600", f"-artifact_prefix={tmp_path}/",
            str(corpus), str(HERE / "seeds"),
        ],
        env={**os.environ, "FUZZ_HOME": str(home)}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
