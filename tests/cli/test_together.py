"""Many runs of one named container at once: on one node they share it, on another node it is refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import add_libraries
from tests.support.images import Layout
from tests.support.needs import apptainer, needs, require
from tests.support.udk import Udk

pytestmark = needs("busybox")


@pytest.fixture(scope="module")
def works(shared_udk: Udk) -> dict[str, str]:
    rows = json.loads(shared_udk("doctor", "--json").out)
    return {row["engine"]: row["reason"] for row in rows}


@pytest.fixture(scope="module")
def dynamic_box(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with the host's own shell and tools, which are not static."""
    require("readelf")
    root = tmp_path_factory.mktemp("dynamic")
    (root / "bin").mkdir()
    for name in ("sh", "sleep", "chown", "cat", "stat", "true"):
        program = shutil.which(name)
        assert program
        shutil.copy(os.path.realpath(program), root / "bin" / name)
        add_libraries(root / "bin" / name, root)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, str(path.relative_to(root)), recursive=False)
    layout = Layout(tmp_path_factory.mktemp("dynamic-layout"))
    layout.add_image([out.getvalue()], "1", run={"Env": ["PATH=/bin"]})
    return f"oci:{layout.path}:1"


ENGINES = ("namespace", "trap", "ptrace", "runc", "preload")
PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


@pytest.mark.parametrize(
    "engine, confined",
    [
        *(pytest.param(e, (), id=e) for e in ENGINES),
        *(pytest.param(e, ("--confine",), id=f"{e}-confined") for e in ENGINES),
    ],
)
def test_eight_at_once(
    udk: Udk, box: str, dynamic_box: str, works: dict[str, str], engine: str, confined: tuple[str, ...]
) -> None:
    if engine == "runc":
        require("runc")
    if works.get(engine, "is not there"):
        pytest.skip(f"{engine}: {works.get(engine)}")
    image = box
    if engine == "preload":
        image = dynamic_box
        udk.ok("pull", "-q", image)
    udk.ok("create", "--name", "many", image, "true")
    script = "echo $0 begins; sleep 0.$(($0 * 3 % 8)); echo $0 > /f$0; chown $0 /f$0; echo $0 ends; exit $0"
    runs = [
        udk.popen(
            "run", *confined, "--engine", engine, "many", "sh", "-c", script, str(number),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for number in range(8)
    ]  # fmt: skip
    ends = [(run.communicate(timeout=100)[0].decode(), run.returncode) for run in runs]
    assert ends == [(f"{number} begins\n{number} ends\n", number) for number in range(8)]
    said = udk.ok("run", "--engine", engine, "many", "sh", "-c", "stat -c %u /f?; cat /f?")
    assert said.split() == [str(number) for number in range(8)] * 2
    udk.ok("rm", "many")


def test_the_last_one_out_ends_the_container(udk: Udk, box: str) -> None:
    udk.ok("create", "--name", "last", box, "true")
    first = udk.popen("run", "last", "sh", "-c", "echo up; sleep 1; exit 3", stdout=subprocess.PIPE)
    assert first.stdout and first.stdout.readline() == b"up\n"
    second = udk("run", "last", "sh", "-c", "sleep 2; exit 4")
    assert (second.status, first.wait(30)) == (4, 3)
    first.stdout.close()
    assert json.loads(udk.ok("inspect", "last"))[0]["State"]["Status"] == "exited"
    udk.ok("rm", "last")


@pytest.mark.parametrize("engine", ["namespace", "runc", "singularity"])
def test_who_joins_a_confined_container_has_its_owners(
    udk: Udk, box: str, works: dict[str, str], engine: str
) -> None:
    """Each is in a Landlock domain of its own, from which the first one's processes cannot be looked at."""
    if engine == "singularity":
        udk.env["UDK_SINGULARITY"] = apptainer()
    elif works.get(engine, "is not there") or works["trap"]:
        pytest.skip(f"{engine}: {works.get(engine)}")
    udk.ok("create", "--name", "own", box, "true")
    words = ("run", "--confine", "--engine", engine, "own", "sh", "-c")
    first = udk.popen(*words, "chown 3 /bin; mkdir /d /e; echo up; read line; stat -c %u /bin /d /e", **PIPES)
    assert first.stdin and first.stdout and first.stdout.readline() == b"up\n"
    again = "sh -c 'exec stat -c %u /bin'"  # a program that a program of the joined one's starts
    assert udk.ok("run", "own", "sh", "-c", f"chown 4 /d; {again}") == "3\n"
    assert udk.ok("exec", "own", "sh", "-c", f"chown 5 /e; {again}; grep Seccomp: /proc/self/status") == (
        "3\nSeccomp:\t2\n"
    )
    said, _ = first.communicate(b"go\n", timeout=60)
    assert (said, first.returncode) == (b"3\n4\n5\n", 0)
    assert udk.ok(*words, "stat -c %u /bin /d /e") == "3\n4\n5\n"
    udk.ok("rm", "own")


def test_who_joins_a_confined_container_is_in_a_domain(udk: Udk, box: str, works: dict[str, str]) -> None:
    from udk.engines.confine import kernel_abi

    if works["namespace"] or works["trap"] or kernel_abi() < 6:
        pytest.skip("Landlock has something to add to namespaces from its version 6 on")
    udk.ok("create", "--name", "apart", box, "true")
    script = "readlink /proc/1/cwd >/dev/null && echo seen; read line"
    first = udk.popen("run", "--confine", "--engine", "namespace", "apart", "sh", "-c", script, **PIPES)
    assert first.stdin and first.stdout and first.stdout.readline() == b"seen\n"
    second = udk("run", "apart", "readlink", "/proc/1/cwd")
    first.communicate(b"go\n", timeout=60)
    udk.ok("rm", "apart")
    assert second.status == 1


@pytest.mark.parametrize("engine", ["trap", "ptrace"])
def test_who_joins_is_confined_like_the_first(
    udk: Udk, box: str, works: dict[str, str], engine: str, tmp_path: Path
) -> None:
    if works.get(engine, "is not there"):
        pytest.skip(f"{engine}: {works.get(engine)}")
    udk.ok("create", "--name", "closed", box, "true")
    held = os.open(tmp_path, os.O_RDONLY)  # what a caller left open
    try:
        with_that = {"pass_fds": (held,)}
        first = udk.popen(
            "run", "--confine", "--network", "none", "--engine", engine, "closed",
            "sh", "-c", "echo up; sleep 3",
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert first.stdout and first.stdout.readline() == b"up\n"
        second = udk.popen(
            "run", "closed", "sh", "-c",
            "cat /proc/self/status; ls /proc/self/fd; wget -q -T 2 http://127.0.0.1:9 -O -",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **with_that,
        )  # fmt: skip
        said = second.communicate(timeout=60)[0].decode()
    finally:
        os.close(held)
    assert second.returncode and "\nSeccomp:\t2\n" in said and "refused" not in said, said
    assert f"\n{held}\n" not in said, said
    assert first.wait(30) == 0
    first.stdout.close()
    udk.ok("rm", "closed")


def test_what_a_running_container_has_not(udk: Udk, box: str, tmp_path: Path) -> None:
    """A run that asks for more than the running container has is refused, not run without it."""
    data = tmp_path / "data"
    data.mkdir()
    udk.ok("create", "--name", "busy", box, "true")
    volume = f"{data}:/data"
    first = udk.popen("run", "-v", volume, "busy", "sh", "-c", "echo up; sleep 4", stdout=subprocess.PIPE)
    assert first.stdout and first.stdout.readline() == b"up\n"
    (engine,) = (row["engine"] for row in json.loads(udk.ok("ps", "--json")) if row["name"] == "busy")
    other = "trap" if engine != "trap" else "ptrace"
    for words, what in (
        (("--confine",), "--confine"),
        (("--engine", other), f"--engine {other} (it is {engine})"),
        (("--network", "none"), "--network none"),
        (("-v", f"{data}:/more"), "the mount at /more"),
        (("-v", f"{tmp_path}:/data"), "the mount at /data"),
    ):
        error = udk.fails("run", *words, "busy", "true")
        assert f"container busy is running without {what};" in error and error.count("\n") <= 1, error
    udk.ok("run", "-v", volume, "-e", "A=b", "busy", "sh", "-c", "test $A = b && test -d /data")
    assert first.wait(30) == 0
    first.stdout.close()
    udk.ok("rm", "busy")


@pytest.mark.parametrize("key, value", [("host", "node17/abc"), ("boot", ""), ("pidns", 4711)])
def test_another_nodes_container(udk: Udk, box: str, key: str, value: object) -> None:
    udk.ok("create", "--name", "far", box, "true")
    running = udk.popen("run", "far", "sh", "-c", "echo up; sleep 60", stdout=subprocess.PIPE)
    assert running.stdout and running.stdout.readline() == b"up\n"
    (record,) = udk.store.glob("containers/*/container.json")
    lease = json.loads(record.read_text())["run"]["lease"]
    with open(lease) as f:
        data = json.load(f)
    data[key] = value
    if key == "boot":
        data["host"] = "node17/abc"
    with open(lease, "w") as f:
        json.dump(data, f)
    try:
        error = udk.fails("run", "far", "true")
        assert "is running on" in error and error.count("\n") <= 1
        assert (str(data["host"]).partition("/")[0] in error) and f"process {data['pid']}" in error
    finally:
        running.kill()
        running.wait()
        running.stdout.close()
        os.unlink(lease)
        udk("rm", "-f", "far")
