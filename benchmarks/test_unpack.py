"""Unpacking the layers of a system image, beside umoci and GNU tar, in the same run.

    python -m pytest benchmarks/test_unpack.py -m '' --benchmark-columns=min,median,rounds

Every round unpacks into a new directory and nothing is removed in between: ext4 avoids the inodes of files
removed within the last half minute, and looking for others takes longer than unpacking. ``UDK_BENCH_MB``
is the image's size, ``UDK_BENCH_ROUNDS`` how often each side has its turn. Each side is a process of its
own, start-up included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.test_pull import MEGABYTES, ROUNDS, make_image
from tests.support.needs import needs
from tests.support.puller import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [needs("umoci", "tar"), pytest.mark.slow]

OURS = """
import json, os, sys
from udk.layers.tree import TreeBuilder
layout, out = sys.argv[1:]
blob = lambda digest: os.path.join(layout, "blobs", *digest.split(":"))
manifest = json.load(open(blob(json.load(open(f"{layout}/index.json"))["manifests"][0]["digest"])))
config = json.load(open(blob(manifest["config"]["digest"])))
os.mkdir(out)
with TreeBuilder(out) as builder:
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"]):
        builder.apply(blob(layer["digest"]), layer["mediaType"], diff_id)
    builder.finish()
"""


def udk(layout: Path, out: str) -> None:
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", OURS, str(layout), out], check=True, env=env)


def udk_without_isal(layout: Path, out: str) -> None:
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    code = "import sys; sys.modules['isal'] = None\n" + OURS
    subprocess.run([sys.executable, "-c", code, str(layout), out], check=True, env=env)


def umoci(layout: Path, out: str) -> None:
    argv = ["umoci", "unpack", "--rootless", "--image", f"{layout}:image", out]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def umoci_raw(layout: Path, out: str) -> None:
    """Without the manifest of file digests that umoci's own bundles have."""
    argv = ["umoci", "raw", "unpack", "--rootless", "--image", f"{layout}:image", out]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def gnu_tar(layout: Path, out: str) -> None:
    """No digests, no whiteouts, no safety: what the disk allows."""
    os.mkdir(out)
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"].replace(":", "/")
    for layer in json.loads((layout / "blobs" / digest).read_text())["layers"]:
        blob = layout / "blobs" / layer["digest"].replace(":", "/")
        subprocess.run(["tar", "-xzf", str(blob), "-C", out], check=True)


@pytest.mark.parametrize("side", [udk, udk_without_isal, umoci, umoci_raw, gnu_tar], ids=lambda f: f.__name__)
@pytest.mark.benchmark(group=f"unpack {MEGABYTES} MB")
def test_unpack(benchmark: Any, tmp_path: Path, side: Any) -> None:
    layout = make_image()
    made: list[str] = []

    def fresh() -> tuple[tuple[Path, str], dict[str, Any]]:
        made.append(str(tmp_path / f"out{len(made)}"))
        os.sync()
        return (layout, made[-1]), {}

    benchmark.pedantic(side, setup=fresh, rounds=ROUNDS)
    assert len(os.listdir(made[-1])) > 0
    subprocess.run(["chmod", "-R", "u+rwX", *made], check=False)
