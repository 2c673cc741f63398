"""SIGKILL at random moments of one pull, and a disk that fills: little is lost, nothing is broken."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.images import Layout
from tests.support.needs import needs
from tests.support.puller import ROOT, Warm, start_puller
from tests.support.registry import FaultyRegistry
from udk.runtime.downloads import FLUSH_UNIT
from udk.store import Store

KILLS = 50


def settled(registry: FaultyRegistry) -> int:
    """Bytes served once the registry has noticed that nobody listens any more."""
    served = -1
    while served != registry.bytes_of():
        served = registry.bytes_of()
        time.sleep(0.3)
    return served


def partial_bytes(store: Path) -> int:
    """Bytes of blobs that are there, whole or in part."""
    total = 0
    # not Path.glob: it fails when a directory vanishes while it looks
    for pattern in ("ingest/*/data*", "oci/blobs/sha256/*"):
        for path in glob.glob(str(store / pattern)):
            with contextlib.suppress(OSError):
                total += os.stat(path).st_size
    return total


@pytest.mark.slow
def test_fifty_kills_at_random_moments_of_one_pull(tmp_path: Path) -> None:
    rng = random.Random(int(os.environ.get("UDK_SEED", "5")))
    layout = Layout(tmp_path / "layout")
    layers = [{f"d{n}/f{i}": rng.randbytes(1_000_000) for i in range(12)} for n in range(4)]
    image = layout.add_image([*layers, {"small": b"1"}], "1", compression="")
    store = tmp_path / "s"
    with FaultyRegistry({"team/app": layout.path}) as registry, Warm() as warm:
        name = f"{registry.url.partition('//')[2]}/team/app:1"
        # A pace at which fifty kills fit into one pull.
        registry.fault("/blobs/", "slow", rate=3_000_000)
        kills, lost = 0, []
        while kills < KILLS:
            before, served = partial_bytes(store), registry.bytes_of()
            pid = warm.start(store, name)
            deadline = time.monotonic() + 30
            while partial_bytes(store) <= before and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.12))
            os.kill(pid, signal.SIGKILL)
            assert warm.wait() == -9, f"it ended after {kills} kills"
            kills += 1
            time.sleep(0.06)  # the registry notices, and writes its log
            lost.append(registry.bytes_of() - served - (partial_bytes(store) - before))
            checked = Store.open(str(store))
            assert [str(p) for p in checked.fsck(hashes=kills % 10 == 0) if p.serious] == []
            assert checked.images() == []
            assert list(store.glob("trees/*")) == []
        registry._faults.clear()
        out, err = start_puller(store, name).communicate()
        assert json.loads(out)["digest"] == image.digest, err
        assert registry.bytes_of() <= image.size + KILLS * FLUSH_UNIT
    assert max(lost) <= FLUSH_UNIT
    assert sum(lost) < image.size  # and in fact far less
    checked = Store.open(str(store))
    checked.gc()
    assert [str(p) for p in checked.fsck()] == []
    assert os.listdir(store / "ingest") == []
    assert os.listdir(store / "staging") == []


@pytest.mark.slow
def test_kills_at_full_speed_lose_less_than_a_flush_unit(tmp_path: Path) -> None:
    """As fast as loopback goes, where the kernels hold the most."""
    rng = random.Random(6)
    layout = Layout(tmp_path / "layout")
    piece = rng.randbytes(8_000_000)
    layers = [{f"d{n}/f{i}": bytes([i]) + piece for i in range(4)} for n in range(5)]
    layout.add_image([{**layer, "n": str(n)} for n, layer in enumerate(layers)], "1", compression="")
    with FaultyRegistry({"team/app": layout.path}) as registry, Warm() as warm:
        name = f"{registry.url.partition('//')[2]}/team/app:1"
        lost = []
        for n in range(8):
            store = tmp_path / f"s{n}"
            registry.clear()
            pid = warm.start(store, name)
            while partial_bytes(store) < 1_000_000 * (1 + 10 * n):
                time.sleep(0.001)
            os.kill(pid, signal.SIGKILL)
            assert warm.wait() == -9
            time.sleep(0.1)
            lost.append(registry.bytes_of() - partial_bytes(store))
            subprocess.run(["rm", "-rf", str(store)], check=True)
    assert max(lost) <= FLUSH_UNIT, lost


FULL_DISK = """
import json, os, subprocess, sys
from pathlib import Path
store, name, size = sys.argv[1:4]
os.makedirs(store, exist_ok=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m,mode=700", "tmpfs", store], check=True)
filler = open(store + "/.filler", "wb")
os.posix_fallocate(filler.fileno(), 0, (100 << 20) - int(size))
from udk.errors import UdkError
from udk.oci.reference import Reference
from udk.runtime.pull import pull
from udk.store import Store

s = Store.open(store)
out = {}
try:
    pull(s, Reference.parse(name))
except UdkError as e:
    out["error"], out["kind"], out["status"] = str(e), type(e).__name__, e.status
here = Path(store)
out["trees"], out["staging"] = os.listdir(here / "trees"), os.listdir(here / "staging")
out["images"] = len(s.images())
out["partial"] = sum(p.stat().st_size for p in here.glob("ingest/*/data"))
out["blobs"] = sum(p.stat().st_size for p in here.glob("oci/blobs/sha256/*"))
out["problems"] = [str(p) for p in s.fsck() if p.serious]
print(json.dumps(out), flush=True)
sys.stdin.readline()
filler.truncate(0)
image = pull(s, Reference.parse(name))
s.gc()
print(json.dumps({"digest": image.digest, "problems": [str(p) for p in s.fsck()]}), flush=True)
"""


@needs("unshare", "mount")
@pytest.mark.parametrize("size", ["3000000", "13000000"], ids=["while downloading", "while unpacking"])
def test_full_disk_keeps_the_partial_and_the_pull_completes_with_room(tmp_path: Path, size: str) -> None:
    rng = random.Random(7)
    layout = Layout(tmp_path / "layout")
    image = layout.add_image(
        [{"a": rng.randbytes(6_000_000)}, {"b": rng.randbytes(2_000_000)}], "1", compression=""
    )
    with FaultyRegistry({"team/app": layout.path}) as registry:
        name = f"{registry.url.partition('//')[2]}/team/app:1"
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            ["unshare", "-rm", sys.executable, "-c", FULL_DISK, str(tmp_path / "s"), name, size], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=env,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        first = json.loads(line)
        assert first["kind"] == "DiskFullError"
        assert first["status"] == 125
        assert "no space left" in first["error"]
        assert "\n" not in first["error"]
        assert (first["trees"], first["staging"], first["images"], first["problems"]) == ([], [], 0, [])
        kept = first["partial"] + first["blobs"]
        assert kept > 1_000_000
        before = settled(registry)
        assert before - kept < 6_000_000
        out, err = process.communicate("\n")
        assert process.returncode == 0, err
        second = json.loads(out)
        assert second == {"digest": image.digest, "problems": []}
        # What was kept was not fetched again.
        assert registry.bytes_of() - before <= image.size + len(image.manifest) + 400 - kept
