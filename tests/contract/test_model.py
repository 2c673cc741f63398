"""Random walks over file-system calls: the trap engine's union against the kernel's overlayfs."""

from __future__ import annotations

import difflib
import os
import subprocess
from pathlib import Path

import pytest

from tests.contract.conftest import Arena
from udk.engines.namespace import NamespaceEngine
from udk.engines.select import probe
from udk.engines.trap import TrapEngine

SEEDS = int(os.environ.get("UDK_MODEL_SEEDS", "12"))
STEPS = 1500


@pytest.fixture(scope="module")
def model(arena: Arena) -> str:
    """The walker in the image, with a tree to walk on."""
    reason = probe(NamespaceEngine())
    if reason:
        pytest.skip(f"needs overlayfs to compare with: {reason}")
    source = Path(__file__).parent / "model.c"
    target = arena.root / "opt/contract/model"
    subprocess.run(["gcc", "-O1", "-static", "-Wall", "-Werror", str(source), "-o", str(target)], check=True)
    tree = arena.root / "m"
    for name in ("a/b/c", "d/deep/a", "d/b"):
        (tree / name).mkdir(parents=True)
    for name in ("f", "a/f", "a/b/f", "d/g", "d/deep/a/f"):
        (tree / name).write_text(name)
    for name, to in (("l", "a/b"), ("d/l", "/m/a"), ("a/l", "../d/g"), ("g", "none"), ("d/deep/l", "../..")):
        (tree / name).symlink_to(to)
    return "/opt/contract/model"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_walks_agree(arena: Arena, model: str, seed: int) -> None:
    outputs = []
    for engine in (NamespaceEngine(), TrapEngine()):
        done = arena.run(engine, model, str(seed), str(STEPS))
        assert done.returncode == 0, done.stdout
        outputs.append(done.stdout.splitlines())
    different = list(difflib.unified_diff(*outputs, "overlayfs", "trap", n=3, lineterm=""))
    assert not different, "\n".join(different[:40])
