"""Completion works in a real bash, and the scripts of the other shells are well-formed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.needs import needs
from tests.support.udk import Udk

DRIVER = """
eval "$(udk completion bash)"
COMP_WORDS=({words})
COMP_CWORD={index}
COMP_LINE="{words}"
_udk_completion udk
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def complete(udk: Udk, tmp_path: Path, *words: str) -> list[str]:
    """What bash would offer for the last word."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir(exist_ok=True)
    script = bin_dir / "udk"
    script.write_text(f'#!/bin/sh\nexec {udk.python} -m udk "$@"\n')
    script.chmod(0o755)
    quoted = " ".join(f"'{w}'" for w in ("udk", *words))
    code = DRIVER.format(words=quoted.replace('"', ""), index=len(words))
    code = code.replace('COMP_LINE="' + quoted + '"', "COMP_LINE=''")
    done = subprocess.run(
        ["bash", "--norc", "-c", "compopt() { :; }; " + code],
        env=udk.environ({"PATH": f"{bin_dir}:/usr/bin:/bin"}), capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == b"", done
    return done.stdout.decode().split()


@needs("bash")
@pytest.mark.parametrize(
    "words, offered",
    [
        (["im"], ["images"]),
        (["sto"], ["store"]),
        (["run", "--networ"], ["--network"]),
        (["run", "--network", ""], ["host", "none"]),
        (["run", "--pull", "n"], ["never"]),
        (["store", "f"], ["fsck"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["images", "--js"], ["--json"]),
        (["run", "--engine", "name"], ["namespace"]),
        (["rm", "--"], ["--force", "--help"]),
    ],
    ids=lambda v: " ".join(v) if v else "-",
)
def test_bash(udk: Udk, tmp_path: Path, words: list[str], offered: list[str]) -> None:
    assert complete(udk, tmp_path, *words) == offered


@needs("bash")
def test_images_and_containers(udk: Udk, box: str, tmp_path: Path) -> None:
    assert box in complete(udk, tmp_path, "run", "")
    assert complete(udk, tmp_path, "run", "-it", box[:-3]) != []
    udk.ok("create", "--name", "some-container", box)
    try:
        assert complete(udk, tmp_path, "rm", "some") == ["some-container"]
        assert complete(udk, tmp_path, "inspect", "some") == ["some-container"]
    finally:
        udk.ok("rm", "some-container")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_well_formed(udk: Udk, shell: str) -> None:
    script = udk.ok("completion", shell)
    assert "_UDK_COMPLETE" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script.encode(), check=True)


def test_no_such_shell(udk: Udk) -> None:
    assert "no completion for 'csh'" in udk.fails("completion", "csh")
    assert "_UDK_COMPLETE=zsh_complete" in udk.ok("completion", env={"SHELL": "/usr/bin/zsh"})
