"""What `udk run` of a cached image imports: the exact list of our own modules, and a bound on the standard
library's.

An import costs 0.1 to 10 ms; the whole start has 10 to 20. A change here is a decision: say so in the commit.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.needs import needs
from tests.support.udk import Udk

OURS = {
    "udk", "udk.base", "udk.base.files", "udk.base.jsonlite", "udk.base.process", "udk.cli", "udk.cli.main",
    "udk.cli.parse", "udk.cli.run", "udk.cli.table", "udk.config", "udk.engines", "udk.engines.base",
    "udk.engines.guard", "udk.engines.homes", "udk.engines.identity", "udk.engines.namespace",
    "udk.engines.plan", "udk.engines.select", "udk.engines.trap", "udk.errors",
    "udk.oci", "udk.oci.digest", "udk.oci.record", "udk.oci.reference", "udk.oci.text", "udk.runtime",
    "udk.runtime.container", "udk.runtime.environ", "udk.runtime.launch", "udk.runtime.mounts",
    "udk.runtime.resolve", "udk.runtime.rootfs", "udk.runtime.spec", "udk.runtime.users",
    "udk.runtime.values", "udk.store", "udk.store.leases", "udk.store.location", "udk.store.refs",
    "udk.store.settle", "udk.store.store",
}  # fmt: skip
# beyond what `python -c pass` loads; some of them only in some versions of Python
STANDARD = {
    "__future__",
    "_json",
    "_signal",
    "errno",
    "fcntl",  # built in: the lock of a run's state
    "encodings.ascii",
    "time",
    "_stat",
    "stat",
    "_collections_abc",
}


def imported(udk: Udk, *args: str) -> set[str]:
    code = "from udk.cli.main import console; console()" if args else "pass"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *args],
        env=udk.environ(),
        cwd=udk.base,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    lines = done.stderr.decode().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


@pytest.fixture
def start(udk: Udk, box: str) -> set[str]:
    udk.ok("run", box, "true")  # the engine's probe is cached now, as for all but the first run on a node
    return imported(udk, "run", box, "true") - imported(udk)


def test_our_own_modules(start: set[str]) -> None:
    assert {name for name in start if name.split(".")[0] == "udk"} == OURS


def test_the_standard_library(start: set[str]) -> None:
    assert {name for name in start if name.split(".")[0] != "udk"} <= STANDARD


def test_options_import_nothing_more(udk: Udk, box: str) -> None:
    udk.ok("run", box, "true")
    args = ["-v", "/tmp:/x:ro", "-e", "A=1", "-u", "ann", "--tmpfs", "/t", "-w", "/x", "--read-only", "--rm"]
    loaded = imported(udk, "run", *args, box, "true") - imported(udk)
    assert loaded <= OURS | STANDARD


@pytest.mark.parametrize("args", [["version"], ["store", "path"], ["--version"]])
def test_light_commands(udk: Udk, args: list[str]) -> None:
    assert not imported(udk, *args) & {
        "click",
        "requests",
        "urllib3",
        "cryptography",
        "subprocess",
        "asyncio",
    }


@needs("strace")
def test_processes_and_programs(udk: Udk, box: str) -> None:
    """One exec for the guard, one for the payload; the processes of the guard; nothing is flushed to disk."""
    trace = udk.base / "trace"
    code = "from udk.cli.main import console; console()"
    calls = "trace=execve,fsync,fdatasync,syncfs,sync,clone,fork,vfork,clone3"
    for _ in range(2):  # the first finds out which engines work under a tracer
        subprocess.run(
            ["strace", "-f", "-qq", "-o", str(trace), "-e", calls,
             sys.executable, "-c", code, "run", box, "true"],
            env=udk.environ(), cwd=udk.base, stdin=subprocess.DEVNULL, check=True,
        )  # fmt: skip
    lines = trace.read_text().splitlines()
    executed = [line for line in lines if "execve(" in line]
    assert len(executed) == 3 and "udk-guard" in executed[1] and '"true"' in executed[2], executed
    assert not [line for line in lines if "sync(" in line or "syncfs(" in line]
    started = [line for line in lines if "clone" in line or "fork" in line]
    assert len([line for line in started if "resumed" not in line]) <= 3, started
