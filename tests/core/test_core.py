"""The core as a library: unit tests under the sanitizers."""

from __future__ import annotations

import subprocess
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


@needs("gcc")
def test_unit(tmp_path: Path) -> None:
    program = tmp_path / "unit"
    subprocess.run(
        ["gcc", *FLAGS, "-fsanitize=address,undefined", *SOURCES, str(HERE / "unit.c"), "-o", str(program)],
        check=True,
    )
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run([str(program), str(home)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 wrong\n", "")
