"""What unpacking costs, counted: system calls, flushes, threads and memory."""

from __future__ import annotations

import re
import subprocess
import sys
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.support import tarmaker as t
from tests.support.needs import needs
from udk.layers.decompress import LONG
from udk.layers.longzstd import library

if TYPE_CHECKING:
    from pathlib import Path

UNPACK = """
import sys
from udk.layers.tree import TreeBuilder
with TreeBuilder(sys.argv[1]) as builder:
    for path in sys.argv[2:]:
        builder.apply(path, "", None)
    builder.finish()
"""

# Of this program alone: getrusage's figure has the parent's in it until exec
PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def many(count: int) -> bytes:
    """Directories with 50 small files each, as in a package."""
    entries = []
    for i in range(count):
        if i % 50 == 0:
            entries.append(t.directory(b"usr/lib/package%d" % (i // 50)))
        entries.append(t.file(b"usr/lib/package%d/file%d" % (i // 50, i), b"contents %d" % i))
    return t.tar(*entries)


def calls(tmp_path: Path, layer: bytes) -> dict[str, int]:
    staging = tmp_path / "s"
    staging.mkdir()
    (tmp_path / "layer").write_bytes(t.gz(layer))
    log = tmp_path / "strace"
    subprocess.run(
        ["strace", "-f", "-o", str(log), sys.executable, "-c", UNPACK, str(staging), str(tmp_path / "layer")],
        check=True,
    )
    count: dict[str, int] = {}
    started = False
    for line in log.read_text(errors="replace").splitlines():
        started = started or '"rootfs"' in line or "/rootfs" in line
        found = re.match(r"\d+ +(\w+)\(", line)
        if found and started:
            count[found[1]] = count.get(found[1], 0) + 1
    return count


@needs("strace")
def test_a_file_takes_five_system_calls(tmp_path: Path) -> None:
    files, dirs = 1000, 20
    count = calls(tmp_path, many(files))
    slack = 60
    assert files <= count["write"] <= files + slack
    assert files + dirs <= count["utimensat"] <= files + dirs + slack
    assert files + dirs <= count["openat"] <= files + 3 * dirs + 2 * slack
    assert count["close"] <= count["openat"] + slack
    assert count.get("mkdirat", 0) + count.get("mkdir", 0) <= dirs + 10
    assert sum(count.get(c, 0) for c in ("fchmod", "fchmodat", "chmod")) <= 10
    looks = sum(count.get(c, 0) for c in ("newfstatat", "fstat", "lstat", "stat", "statx"))
    assert files <= looks <= files + 2 * dirs + 2 * slack  # for the index
    assert not any("xattr" in c and n > dirs + slack for c, n in count.items())
    # Durability is the publisher's business, and not once a file
    assert sum(count.get(c, 0) for c in ("fsync", "fdatasync", "sync", "syncfs")) == 0
    assert sum(count.get(c, 0) for c in ("clone", "clone3")) <= 1
    assert sum(count.get(c, 0) for c in ("fork", "vfork", "execve")) == 0


MEMORY = (
    """
import sys
from tests.support import tarmaker as t
from udk.layers.tree import TreeBuilder

class Made:
    def __init__(self, count):
        self.entries = self.make(count)
        self.rest = b""
    def make(self, count):
        for i in range(count):
            yield t.file(b"usr/share/doc/d%d/a-rather-long-name-of-a-file-%d" % (i // 500, i), uid=1000)
            if i % 10 == 0:
                yield t.directory(b"usr/share/dirs/d%d/e%d" % (i // 5000, i), uid=1000)
                yield t.hardlink(b"links/l%d" % i, b"usr/share/doc/d%d/a-rather-long-name-of-a-file-%d" %
                (i // 500, i))
        for i in range(0, count, 10):
            yield t.file(b"usr/share/doc/d%d/.wh.nothing-%d" % (i // 500, i))
        yield t.END
    def read(self, size):
        while len(self.rest) < size:
            entry = next(self.entries, None)
            if entry is None:
                break
            self.rest += entry
        out, self.rest = self.rest[:size], self.rest[size:]
        return out

with TreeBuilder(sys.argv[1]) as builder:
    builder.apply(Made(10), "", None)
    builder.apply(Made(int(sys.argv[2])), "", None)
    builder.finish()
"""
    + PEAK
)


def peak(tmp_path: Path, count: int) -> int:
    staging = tmp_path / str(count)
    staging.mkdir()
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, str(staging), str(count)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    subprocess.run(["rm", "-rf", str(staging)], check=True)
    return int(out.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_entries(tmp_path: Path) -> None:
    """Twenty bytes an entry at most, where each has an owner to remember: a million stay below 50 MB more."""
    few, lots = peak(tmp_path, 2_000), peak(tmp_path, 30_000)
    assert lots - few < 16 << 10  # KiB; the buffers that spill are most of it
    assert lots < 50 << 10


@pytest.mark.slow
@pytest.mark.parametrize(("log", "most"), [(24, 50), (25, 70), (26, 70), (27, 70)])
def test_a_long_window_does_not_stay_in_memory(tmp_path: Path, log: int, most: int) -> None:
    """With contents that refer to all of it, all the time. In MiB, the interpreter's 20 or so included."""
    import zstandard

    if log >= LONG and library() is None:
        pytest.skip("needs libzstd.so.1")
    params = zstandard.ZstdCompressionParameters.from_level(1, window_log=log, enable_ldm=True)
    engine = zstandard.ZstdCompressor(compression_params=params).compressobj()
    random = Random(log)
    base = random.randbytes(90 << 20)
    pieces = 15_000
    with open(tmp_path / "layer", "wb") as out:
        out.write(engine.compress(t.header(b"big", size=len(base) + pieces * 4096)))
        out.write(engine.compress(base))
        for _ in range(pieces):
            at = random.randrange(len(base) - 4096)
            out.write(engine.compress(base[at : at + 4096]))
        out.write(engine.compress(t.END) + engine.flush())
    (tmp_path / "s").mkdir()
    run = [sys.executable, "-c", UNPACK + PEAK, str(tmp_path / "s"), str(tmp_path / "layer")]
    out_text = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert int(out_text) < most << 10
