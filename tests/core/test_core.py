"""The core as a library: unit tests under the sanitizers."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

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


def unit(compiler: str, options: Sequence[str], runner: Sequence[str], tmp_path: Path) -> None:
    program, home = str(tmp_path / "unit"), tmp_path / "home"
    subprocess.run([compiler, *FLAGS, *options, *SOURCES, str(HERE / "unit.c"), "-o", program], check=True)
    home.mkdir()
    done = subprocess.run(
        [*runner, program, str(home)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 wrong\n", "")


@needs("gcc")
def test_unit(tmp_path: Path) -> None:
    unit("gcc", ["-fsanitize=address,undefined"], [], tmp_path)


@needs("aarch64-linux-gnu-gcc", "qemu-aarch64")
def test_unit_on_arm64(tmp_path: Path) -> None:
    """The other table of numbers, the other layouts of what calls fill in; no sanitizer runs under qemu."""
    unit("aarch64-linux-gnu-gcc", ["-static"], ["qemu-aarch64"], tmp_path)
