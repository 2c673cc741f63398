"""Finding and replacing system-call instructions, beside a disassembler on this machine's own programs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Optional

import pytest

from tests.support.needs import find, needs

CSRC = Path(__file__).resolve().parents[2] / "csrc"
SOURCES = [CSRC / "preload" / f"{name}.c" for name in ("insn", "elf", "sites", "rewrite")]
_KNOWN = ("/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/lib64/ld-linux-x86-64.so.2")
LIBRARIES = sorted({os.path.realpath(p) for p in (*_KNOWN, "/lib/ld-musl-x86_64.so.1") if os.path.exists(p)})
TOUCHES = re.compile(r"^\s*([0-9a-f]+):\t([0-9a-f ]+)\t(.*)$")
ROWS, NOISE = range(64), 0x9E3779B97F4A7C15
LEFT, TRAPPED = 0, 3

pytestmark = [
    needs("gcc", "objdump"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="x86-64 only"),
]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> str:
    program = tmp_path_factory.mktemp("sites") / "sites"
    subprocess.run(
        ["gcc", "-g", "-O1", "-std=gnu11", "-ffreestanding", "-DUDK_HOSTED", f"-I{CSRC}", "-Wall", "-Wextra",
         "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined",
         str(Path(__file__).parent / "sites.c"), *map(str, SOURCES), str(CSRC / "sys/mem.c"),
         str(CSRC / "sys/io.c"), "-o", str(program)],
        check=True,
    )  # fmt: skip
    return str(program)


class Listing:
    """What objdump sees: instructions by address, targets of jumps."""

    def __init__(self, path: str) -> None:
        text = subprocess.run(
            ["objdump", "-d", "-w", "--insn-width=16", path], capture_output=True, text=True, check=True
        ).stdout
        self.lengths: dict[int, int] = {}
        self.calls: set[int] = set()
        self.targets: set[int] = set()
        for line in text.splitlines():
            found = TOUCHES.match(line)
            if not found:
                continue
            address, words = int(found[1], 16), found[3].split()
            if (
                not words
                or "(bad)" in words
                or words[0].startswith((".", "rex"))
                or found[2].startswith("9b")
            ):
                continue  # data, a prefix by itself, fwait that is shown as one with what follows
            if (
                len(words) == 1
                and len(found[2].split()) == 1
                and words[0] in ("repz", "lock", "fwait", "data16")
            ):
                continue
            self.lengths[address] = len(found[2].split())
            if words[0] in ("syscall", "sysenter") or (words[0] == "int" and words[1] == "$0x80"):
                self.calls.add(address)
            if words[0].startswith(("j", "loop", "call", "bnd", "notrack", "xbegin")):
                for word in words[1:2]:
                    if re.fullmatch(r"[0-9a-f]+,?", word):
                        self.targets.add(int(word.rstrip(","), 16))


def found_in(sites: str, path: str) -> dict[int, tuple[int, int, int, int]]:
    done = subprocess.run([sites, path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    rows = (line.split() for line in done.stdout.splitlines())
    return {int(r[0], 16): (int(r[1]), int(r[2]), int(r[3]), int(r[4])) for r in rows}


@pytest.fixture(scope="module", params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> tuple[str, Listing]:
    return request.param, Listing(request.param)


@pytest.mark.slow
def test_all_are_found_and_nothing_else(sites: str, library: tuple[str, Listing]) -> None:
    path, listing = library
    assert set(found_in(sites, path)) == listing.calls


@pytest.mark.slow
def test_windows_are_whole_instructions_that_nothing_jumps_into(
    sites: str, library: tuple[str, Listing]
) -> None:
    path, listing = library
    last = 0
    for address, (method, _, before, behind) in sorted(found_in(sites, path).items()):
        if method == LEFT:
            continue
        start, end = address - before, address + behind
        assert start >= last and start in listing.lengths and end - start >= 2
        last, at = end, start
        while at < end:
            at += listing.lengths[at]
        assert at == end, hex(address)
        assert not {t for t in listing.targets if start < t < end}, hex(address)


@pytest.mark.slow
def test_nearly_all_need_no_signal(sites: str) -> None:
    """Changed into jumps, or left: in the C libraries no call at all goes by SIGILL."""
    for path in LIBRARIES:
        assert not [s for s in found_in(sites, path).values() if s[0] == TRAPPED], path


@pytest.mark.slow
def test_lengths(sites: str, library: tuple[str, Listing]) -> None:
    path, listing = library
    offset = text_offset(path)
    assert offset is not None
    addresses = sorted(listing.lengths)
    asked = "".join(f"{a + offset:x}\n" for a in addresses)
    done = subprocess.run([sites, path, "lengths"], input=asked, capture_output=True, text=True, check=True)
    lengths = list(map(int, done.stdout.split()))
    wrong = [hex(a) for a, n in zip(addresses, lengths) if listing.lengths[a] != n]
    assert len(lengths) == len(addresses) and not wrong, wrong[:20]


def text_offset(path: str) -> Optional[int]:
    """What is added to an address of .text for the offset in the file."""
    headers = subprocess.run(["objdump", "-h", path], capture_output=True, text=True, check=True).stdout
    for line in headers.splitlines():
        words = line.split()
        if len(words) > 6 and words[1] == ".text":
            return int(words[5], 16) - int(words[3], 16)
    return None


def test_tables_in_code_stay(sites: str, tmp_path: Path) -> None:
    """The bytes of a call in a table, an operand, another instruction's middle are none."""
    source = tmp_path / "tables.s"
    source.write_text(
        ".text\n.globl f\n.type f,@function\nf:\n.cfi_startproc\n"
        "mov $0x1050f, %eax\nlea 0x50f(%rdi), %rax\nmov $21, %eax\nsyscall\nret\n.cfi_endproc\n.size f,.-f\n"
        + "table:\n" + "".join(f".quad {0x50F00050F << i % 4}, {i * NOISE % 2**64}\n" for i in ROWS)
        + "".join(f"g{i}:\n.cfi_startproc\nret\n.cfi_endproc\n" for i in range(8))
    )  # fmt: skip
    library = tmp_path / "tables.so"
    subprocess.run(["gcc", "-shared", "-nostdlib", "-o", str(library), str(source)], check=True)
    assert len(found_in(sites, str(library))) == 1


@pytest.mark.parametrize("cut", (0, 64, 5000))
def test_broken_files(sites: str, tmp_path: Path, cut: int) -> None:
    """Any file may be mapped: headers that point nowhere harm nobody."""
    compiler = find("gcc")
    assert compiler
    real = Path(compiler).resolve().read_bytes()[:60000]
    short = tmp_path / "short"
    short.write_bytes(real[: cut or 4])
    subprocess.run([sites, str(short)], check=True, stdout=subprocess.DEVNULL)
    for at in range(16, 200, 9):
        wrong = tmp_path / "wrong"
        wrong.write_bytes(real[:at] + b"\xff" * 8 + real[at + 8 : 20000 + cut])
        subprocess.run([sites, str(wrong)], check=True, stdout=subprocess.DEVNULL)
