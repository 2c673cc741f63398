"""Removal of trees that were made to resist it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from udk.base.remove import remove_tree


def test_directories_without_permissions(tmp_path: Path) -> None:
    top = tmp_path / "t"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "f").write_text("x")
    (top / "a" / "g").write_text("x")
    for path, mode in ((top / "a" / "b", 0), (top / "a", 0o111), (top, 0o555)):
        path.chmod(mode)
    remove_tree(str(top))
    assert os.listdir(tmp_path) == []


def test_links_are_removed_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "precious").write_text("x")
    top = tmp_path / "t"
    top.mkdir()
    (top / "dir").symlink_to(outside)
    (top / "file").symlink_to(outside / "precious")
    (top / "broken").symlink_to("nowhere")
    os.link(outside / "precious", top / "hard")
    os.mkfifo(top / "fifo")
    remove_tree(str(top))
    assert os.listdir(tmp_path) == ["outside"]
    assert (outside / "precious").read_text() == "x"
    remove_tree(str(tmp_path / "missing"))
    (tmp_path / "link").symlink_to(outside)
    remove_tree(str(tmp_path / "link"))
    assert (outside / "precious").exists()


def test_deeper_than_a_path_can_say(tmp_path: Path) -> None:
    top = tmp_path / "t"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    name = "d" * 100
    for n in range(200):
        os.mkdir(name, dir_fd=fd)
        os.close(os.open(f"f{n}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.fchmod(fd, 0)
    os.close(fd)
    open_before = len(os.listdir("/proc/self/fd"))
    remove_tree(str(top))
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_deep_and_without_permissions(tmp_path: Path) -> None:
    top = tmp_path / "t"
    path = top
    chain = []
    for _ in range(70):
        path = path / "d"
        chain.append(path)
    path.mkdir(parents=True)
    for p in reversed(chain):
        p.chmod(0)
    remove_tree(str(top))
    assert os.listdir(tmp_path) == []


def test_hostile_names(tmp_path: Path) -> None:
    top = os.fsencode(tmp_path / "t")
    os.mkdir(top)
    for name in (b"\xff\xfe", b"new\nline", b"-rf", b"a" * 255, b"\x1b[2J"):
        os.mkdir(top + b"/" + name)
        with open(top + b"/" + name + b"/" + name, "wb"):
            pass
    remove_tree(os.fsdecode(top))
    assert os.listdir(tmp_path) == []


def test_what_cannot_go_does_not_keep_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = tmp_path / "t"
    for n in range(3):
        (top / f"d{n}").mkdir(parents=True)
        (top / f"d{n}" / "f").write_text("x")
    real = os.unlink

    def unlink(path: str, *, dir_fd: int) -> None:
        if "d1" in os.readlink(f"/proc/self/fd/{dir_fd}"):
            raise OSError(5, "Input/output error")
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(OSError, match="Input/output"):
        remove_tree(str(top))
    assert os.listdir(top) == ["d1"]


def test_cost_is_a_few_system_calls_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = tmp_path / "t"
    for d in range(20):
        (top / f"d{d}").mkdir(parents=True)
        for f in range(50):
            (top / f"d{d}" / f"f{f}").touch()
    calls: list[str] = []
    for name in ("unlink", "rmdir", "open", "stat", "lstat", "chmod", "scandir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _r=real, _n=name, **k: (calls.append(_n), _r(*a, **k))[1])
    start = time.monotonic()
    remove_tree(str(top))
    assert time.monotonic() - start < 30
    assert len(calls) <= 1000 + 21 * 4 + 10
    assert not top.exists()


def test_entries_that_a_listing_passed_over_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "t"
    top.mkdir()
    for n in range(10):
        (top / f"f{n}").touch()
    real = os.scandir
    looks: list[int] = []

    class Forgetful:
        def __init__(self, fd: int) -> None:
            looks.append(fd)
            self.entries = list(real(fd))[: 4 if len(looks) < 3 else None]

        def __enter__(self) -> object:
            return iter(self.entries)

        def __exit__(self, *exc: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Forgetful)
    remove_tree(str(top))
    assert not top.exists()
    assert len(looks) == 3
