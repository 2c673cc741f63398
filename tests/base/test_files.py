"""Atomic writes and what the system's errors become."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from udk.base import files
from udk.errors import DiskFullError, StoreError


def test_content_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with open(path, "rb") as before:
        files.atomic_write(str(path), b"new" * 1000)
        assert before.read() == b"old"  # who has it open keeps what it had
    assert path.read_bytes() == b"new" * 1000
    assert os.listdir(tmp_path) == ["f"]


def test_pieces_are_one_content_or_none(tmp_path: Path) -> None:
    path = tmp_path / "f"
    files.atomic_write(str(path), (b"%d," % n for n in range(3)))
    assert path.read_bytes() == b"0,1,2,"

    def broken() -> Iterator[bytes]:
        yield b"new"
        raise ValueError

    with pytest.raises(ValueError):
        files.atomic_write(str(path), broken())
    assert path.read_bytes() == b"0,1,2,"
    assert os.listdir(tmp_path) == ["f"]


def test_failure_leaves_the_old_content_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.atomic_write(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_durable_flushes_content_and_name_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(os.path.isdir(f"/proc/self/fd/{fd}")))
    files.atomic_write(str(tmp_path / "a"), b"x", durable=False)
    assert flushed == []
    files.atomic_write(str(tmp_path / "b"), b"x")
    assert flushed == [False, True]  # the file before its name exists, the directory after


def test_exclusive_does_not_replace(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    files.atomic_write(path, b"1", exclusive=True)
    with pytest.raises(FileExistsError):
        files.atomic_write(path, b"2", exclusive=True)
    assert files.read_file(path) == b"1"
    assert os.listdir(tmp_path) == ["f"]


def test_part_is_made_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, target = tmp_path / "parts", tmp_path / "target"
    parts.mkdir()
    target.mkdir()
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(os.listdir(target)))
    files.atomic_write(str(target / "f"), b"x", part_dir=str(parts))
    assert seen[0] == []  # nothing was there before the rename
    assert (target / "f").read_bytes() == b"x"


def test_read_file_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    assert files.read_file(str(path), 100) == b"x" * 100
    with pytest.raises(StoreError, match="100 bytes"):
        files.read_file(str(path), 99)


def test_read_file_reads_what_has_no_size() -> None:
    assert b"Pid:" in files.read_file("/proc/self/status")


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (errno.ENOSPC, DiskFullError, "no space left"),
        (errno.EDQUOT, DiskFullError, "quota"),
        (errno.EFBIG, StoreError, "file size limit"),
        (errno.EACCES, StoreError, "Permission denied"),
    ],
)
def test_errors_of_the_disk(number: int, kind: type[StoreError], text: str) -> None:
    with pytest.raises(kind, match=text) as caught, files.disk_errors("/store"):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind
    assert "/store" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unique_differs_between_processes_and_calls() -> None:
    names = {files.unique() for _ in range(100)}
    code = "import udk.base.files as f; print(f.unique())"
    names.add(subprocess.check_output([sys.executable, "-c", code], text=True).strip())
    assert len(names) == 101
    assert not any("/" in n for n in names)
