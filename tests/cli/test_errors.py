"""Errors: one line on stderr, the right status, never a traceback, whatever is wrong."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.udk import Udk


@pytest.mark.parametrize(
    "args, text",
    [
        (["nosuch"], "no such command: nosuch"),
        (["--nosuch"], "unknown option --nosuch of `udk`"),
        (["images", "a", "b"], "too many arguments"),
        (["tag", "a"], "too few arguments; usage: udk tag [OPTIONS] IMAGE NAME"),
        (["pull"], "too few arguments"),
        (["pull", ""], "the image name is empty"),
        (["pull", "UPPER"], "UPPER"),
        (["pull", "-a", "x"], "udk tags"),
        (["run", "a\nb"], "a\\nb"),
        (["rm", "\x1b[31m"], "no container"),
        (["inspect", "--type", "volume", "x"], "--type volume is unknown"),
        (["help", "a", "b"], "too many arguments"),
        (["--store", "/proc/nope", "images"], "/proc/nope"),
        (["--store", "/dev/null", "images"], "/dev/null"),
    ],
    ids=lambda v: " ".join(v).encode("unicode_escape").decode() if isinstance(v, list) else None,
)
def test_one_line(new_udk: Udk, args: list[str], text: str) -> None:
    line = new_udk.fails(*args)
    assert text in line and line.isprintable()


def test_refused_connections_are_one_line(new_udk: Udk) -> None:
    line = new_udk.fails("run", "127.0.0.1:1/x:1", "true")
    assert "127.0.0.1:1" in line


def test_internal_errors(new_udk: Udk, tmp_path: Path) -> None:
    """A bug of ours (here: a module that is broken) is one line too, and a traceback on request."""
    broken = tmp_path / "broken/udk"
    subprocess.run(["cp", "-r", f"{Path(__file__).parents[2]}/udk", str(broken.parent) + "/"], check=False)
    broken.parent.mkdir(exist_ok=True)
    subprocess.run(["cp", "-r", f"{Path(__file__).parents[2]}/udk", str(broken)], check=True)
    (broken / "cli/system.py").write_text("raise RuntimeError('two\\nlines')\n")
    env = {"PYTHONPATH": str(broken.parent)}
    line = new_udk.fails("version", env=env)
    assert line == (
        "udk: error: internal error: RuntimeError: two lines; set UDK_DEBUG=1 to see where, and report it"
    )
    for done in (new_udk("version", env={**env, "UDK_DEBUG": "1"}), new_udk("-D", "version", env=env)):
        assert done.status == 125 and "Traceback" in done.error and "RuntimeError: two" in done.error


def test_debug_shows_where_an_ordinary_error_comes_from(new_udk: Udk) -> None:
    done = new_udk("rm", "nosuch", env={"UDK_DEBUG": "1"})
    assert (
        done.status == 125
        and "Traceback" in done.error
        and done.error.splitlines()[-1].startswith("udk: error: ")
    )


def test_damaged_store(new_udk: Udk) -> None:
    new_udk.ok("images")
    (new_udk.store / "version").write_text("udk-store 99\n")
    assert "a format that this udk does not know" in new_udk.fails("images")


def test_unwritable_store(new_udk: Udk, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    assert "udk: error" in new_udk.fails("--store", str(closed / "store"), "images")


def test_no_place_for_errors(new_udk: Udk) -> None:
    with open("/dev/full", "wb") as full:
        assert new_udk("nosuch", stderr=full).status == 125
    read, write = os.pipe()
    os.close(read)
    assert new_udk("nosuch", stderr=write).status == 125
    os.close(write)


def test_odd_locale(new_udk: Udk) -> None:
    line = new_udk.fails("rm", "é", env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert line.startswith("udk: error: no container")


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(new_udk: Udk, redirect: str) -> None:
    words = " ".join(f"'{w}'" for w in new_udk.argv("images"))
    done = subprocess.run(["sh", "-c", f"{words} {redirect}"], env=new_udk.environ(), capture_output=True)
    assert done.returncode == 0 and done.stderr == b""
