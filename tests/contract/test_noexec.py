"""A tree on a file system mounted noexec: the trap engine maps code by copying it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.conftest import Arena
from tests.support.needs import needs
from udk.runtime.spec import Root


@pytest.mark.slow
@needs("unshare")
def test_image_and_layer_on_a_noexec_mount(arena: Arena, programs: dict[str, str], tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    spec = arena.spec(programs["glibc"], env={"CONTRACT_FAKE_ROOT": "1", "CONTRACT_NOEXEC": "1"})
    spec = spec.replace(
        root=Root(
            lower=(f"{mount}/root",), upper=f"{mount}/layer/upper", work=f"{mount}/layer/work",
            changes=f"{mount}/layer/changes", volatile=True,
        ),
        cleanup=(),
    )  # fmt: skip
    script = (
        f"mount -t tmpfs -o noexec none {mount} && cp -a {arena.root} {mount}/root"
        f" && mkdir -p {mount}/layer/upper {mount}/layer/work"
        f" && exec {sys.executable} -m tests.contract.start trap"
    )
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    if subprocess.run([*command[:4], "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces, for a noexec mount")
    done = subprocess.run(
        command, input=spec.to_json(), capture_output=True, text=True, check=False, timeout=250
    )  # fmt: skip
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL ")]
    assert not failed and " passed, 0 failed" in done.stdout, done.stdout + done.stderr
    shutil.rmtree(mount, ignore_errors=True)
