"""The main job: a Debian image from Debian's own docker-registry, pulled and run by an ordinary user with
an empty home."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.test_real import start
from tests.support.needs import needs
from tests.support.roots import root_layout
from tests.support.udk import REPOSITORY, Udk
from udk.store.usage import disk_usage

pytestmark = [needs("docker-registry", "skopeo"), pytest.mark.slow]


class Debian:
    """A running docker-registry with ``image``; :meth:`stop` takes it away."""

    def __init__(self, process: subprocess.Popen[bytes], host: str) -> None:
        self.process = process
        self.image = f"{host}/debian:12"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    layout = root_layout("debian12")
    process, host = start(tmp_path_factory.mktemp("registry"))
    served = Debian(process, host)
    try:
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false",
             f"oci:{layout}:1", f"docker://{served.image}"],
            check=True,
        )  # fmt: skip
        yield served
    finally:
        served.stop()


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Udk:
    return Udk(tmp_path_factory.mktemp("caller"))


def test_the_main_job(caller: Udk, debian: Debian) -> None:
    """One test, because each step builds on the store that the one before left."""
    image = debian.image
    words = ("run", image, "cat", "/etc/os-release")
    many = [caller.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(8)]
    for process in many:  # nobody had it: one pulls, the others wait
        out, err = process.communicate(timeout=240)
        assert (process.returncode, err) == (0, b"") and b'VERSION_ID="12"' in out
    blobs = os.listdir(caller.store / "oci/blobs/sha256")
    assert len(blobs) == 3 and os.listdir(caller.store / "ingest") == []

    inspected = subprocess.run(
        ["skopeo", "inspect", f"oci:{caller.store}/oci:{image}"], stdout=subprocess.PIPE, check=True
    )
    assert json.loads(inspected.stdout)["Digest"] == json.loads(caller.ok("images", "--json"))[0]["digest"]

    debian.stop()  # offline from here, with HOME unset and PATH only
    bare = {name: None for name in caller.env if name not in ("PATH", "PYTHONPATH", "PYTHONPYCACHEPREFIX")}
    bare["UDK_HOME"] = str(caller.store)
    assert "bookworm" in caller.ok("run", image, "cat", "/etc/os-release", env=bare)

    assert caller("run", image, "sh", "-c", "exit 37").status == 37
    assert caller("run", image, "sh", "-c", "kill -9 $$").status == 137
    assert caller.ok("run", image, "python3", "-c", "import os, ssl, sqlite3; print(os.getuid())") == "0\n"
    assert caller.ok("run", "-u", "daemon", image, "id", "-un") == "daemon\n"
    assert caller.leftovers() == []


def test_a_payload_that_hides_dies_with_udk(caller: Udk, debian: Debian) -> None:
    """It double-forks, calls setsid, closes its descriptors and ignores signals."""
    code = (
        "import os, signal, sys, time\n"
        "if os.fork(): os.wait(); print('up', flush=True); time.sleep(1000)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 3, 13, 15)]\n"
        "os.closerange(0, 100)\n"
        "time.sleep(1000)\n"
    )
    process = caller.popen("run", debian.image, "python3", "-c", code, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"up\n"
    (layer,) = caller.layers()
    cookie = b"UDK_COOKIE=" + layer[4:].encode()
    assert len(_with(cookie)) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 5
    while _with(cookie) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _with(cookie) == []
    assert caller.ok("ps", "-a", "-q") == "" and caller.leftovers() == []


def test_three_containers_use_the_disk_of_one(caller: Udk, debian: Debian) -> None:
    one = disk_usage(str(caller.store))
    for name in ("a", "b", "c"):
        assert caller.ok("run", "--name", name, debian.image, "sh", "-c", "echo x > /root/x; ls /usr | wc -l")
    assert disk_usage(str(caller.store)) - one < 1 << 20
    caller.ok("rm", "a", "b", "c")


def _with(cookie: bytes) -> list[str]:
    found = []
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                if cookie in Path(f"/proc/{pid}/environ").read_bytes():
                    found.append(pid)
            except OSError:
                continue
    return found


def test_the_next_engine_takes_over(caller: Udk, debian: Debian, tmp_path: Path) -> None:
    """Within a container the upper layer is on an overlay, which no overlay can be mounted on: the set-up
    of the namespace engine fails after its probe succeeded. Name, id, cidfile and changed options survive
    the change."""
    script = r"""
set -e
udk() { python3 -m udk "$@"; }
udk run --cidfile /tmp/cid --name n --stats /tmp/stats udk/hello > /tmp/out
grep -q '"exit": 0' /tmp/stats
test "$(udk ps -aq --no-trunc)" = "$(cat /tmp/cid)"
udk start n | grep -q Hello
udk run -w /tmp n | grep -q 'directory: /tmp'
udk run --rm n | grep -q Hello
udk run --rm --name m udk/hello | grep -q Hello
udk --store /tmp/other run udk/hello | grep -q Hello
test -z "$(udk ps -aq)"
ls -A /tmp/s/containers /tmp/s/containers/.names /tmp/s/leases; ls -d /tmp/udk-*
"""
    out = caller.ok(
        "run", "-v", f"{REPOSITORY}:/src:ro", "-e", "PYTHONPATH=/src", "-e", "UDK_HOME=/tmp/s",
        "-e", "PYTHONPYCACHEPREFIX=/tmp/bytecode", "-w", "/root", debian.image, "bash", "-c", script,
    )  # fmt: skip
    assert out.split() == [
        "/tmp/s/containers:",
        ".names",
        "/tmp/s/containers/.names:",
        "/tmp/s/leases:",
        "/tmp/udk-run-0",
    ]
