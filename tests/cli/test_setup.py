"""``udk setup``: the engine of a container; and what ``udk doctor`` says of engines."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.needs import needs, require
from tests.support.udk import Udk

pytestmark = needs("busybox")
MODES = {
    "P1": "ptrace", "P2": "ptrace", "F1": "preload", "F2": "preload", "F3": "preload", "F4": "preload",
    "R1": "runc", "R2": "runc", "R3": "runc", "S1": "singularity", "N1": "namespace", "T1": "trap",
}  # fmt: skip


def test_every_mode_of_udockers_is_taken_and_kept(udk: Udk, box: str) -> None:
    udk.ok("create", "--name", "mode", box, "true")
    assert udk.ok("setup", "mode") == "execmode: auto\n"
    for mode, engine in MODES.items():
        assert udk.ok("setup", f"--execmode={mode}", "mode") == ""
        said = json.loads(udk.ok("setup", "--json", "mode"))
        assert (said["execmode"], said["engine"]) == (mode, engine)
    udk.ok("rm", "mode")


def test_the_chosen_engine_is_used_unless_a_call_names_another(udk: Udk, box: str) -> None:
    works = {row["engine"] for row in json.loads(udk("doctor", "--json").out) if row["works"]}
    if not {"trap", "namespace"} <= works:
        pytest.skip("trap or namespace does not work here")
    udk.ok("create", "--name", "mode", box, "readlink", "/proc/self/ns/user")
    here = udk.ok("run", "--engine", "T1", "mode")  # no user namespace of its own
    udk.ok("setup", "--execmode", "T1", "mode")
    assert udk.ok("start", "mode") == here
    assert udk.ok("run", "mode") == here
    assert udk.ok("run", "--engine", "N1", "mode") != here
    udk.ok("rm", "mode")


def test_bad_modes_are_refused(udk: Udk, box: str) -> None:
    udk.ok("create", "--name", "mode", box, "true")
    assert "no engine 'Z9'" in udk.fails("setup", "--execmode=Z9", "mode")
    assert udk.ok("setup", "mode") == "execmode: auto\n"
    udk.ok("rm", "mode")
    assert "no container" in udk.fails("setup", "--execmode=P1", "nosuch")


def test_doctor_measures_starts(udk: Udk) -> None:
    rows = json.loads(udk("doctor", "--json").out)
    assert {row["engine"] for row in rows} == set(MODES.values())
    for row in rows:
        if not row["works"]:
            assert row["start_ms"] is None and row["reason"]
        else:
            assert 0 < row["start_ms"] < 60000


LAUNCHER = Path(__file__).parents[1] / "contract" / "launcher.c"


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> str:
    require("gcc")
    target = tmp_path_factory.mktemp("launcher") / "launcher"
    subprocess.run(["gcc", "-O1", str(LAUNCHER), "-o", str(target)], check=True)
    return str(target)


@pytest.mark.parametrize("mode, engine, refused", [
    ("denied", "trap", {"namespace", "ptrace", "runc"}),
    ("noseccomp", "ptrace", {"namespace", "trap", "runc"}),
    ("nothing", "", {"namespace", "trap", "ptrace", "runc"}),
    ("onlyseccomp", "namespace", {"trap"}),
])  # fmt: skip
def test_a_worse_node(
    udk: Udk, box: str, launcher: str, mode: str, engine: str, refused: set[str], tmp_path: Path
) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[bytes]:
        # with a runtime directory of its own: what works on the node itself is not remembered there
        env = {**udk.environ(), "XDG_RUNTIME_DIR": str(tmp_path)}
        return subprocess.run(
            [launcher, mode, *udk.argv(*args)], env=env, cwd=udk.base, capture_output=True, timeout=100
        )

    doctor = run("doctor", "--json")
    rows = {row["engine"]: row for row in json.loads(doctor.stdout)}
    assert all(rows[name]["reason"] and not rows[name]["works"] for name in refused)
    assert rows["preload"]["works"]
    done = run("run", box, "sh", "-c", "echo ran; exit 7")
    if engine:
        assert (done.stdout, done.returncode) == (b"ran\n", 7), done.stderr
    else:  # a static program needs one of those that are refused, and is not run against the host's files
        assert done.returncode == 125 and b"static program" in done.stderr and done.stdout == b""
    if engine and engine in rows:
        assert next(r for r in rows.values() if r["works"])["engine"] == engine


def test_an_engine_that_is_refused_meanwhile_hands_over(udk: Udk, box: str, launcher: str) -> None:
    """What the probe found is remembered; a job may be started with less."""
    assert udk.ok("run", box, "echo", "here") == "here\n"
    done = subprocess.run(
        [launcher, "denied", *udk.argv("run", box, "sh", "-c", "echo ran; exit 7")],
        env=udk.environ(), cwd=udk.base, capture_output=True, timeout=100,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == (b"ran\n", 7), done.stderr
    done = subprocess.run(
        [launcher, "onlyseccomp", *udk.argv("run", "--engine", "N1", box, "sh", "-c", "echo ran; exit 7")],
        env=udk.environ(), cwd=udk.base, capture_output=True, timeout=100,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == (b"ran\n", 7), done.stderr


def test_jobs_under_other_filters_hand_over(udk: Udk, box: str, launcher: str, tmp_path: Path) -> None:
    """That they are others cannot be seen: what one found is believed by the other, until it fails."""
    env = {**udk.environ(), "XDG_RUNTIME_DIR": str(tmp_path)}
    script = ("sh", "-c", "cat; echo ran; exit 7")
    for mode in ("denied", "noseccomp", "denied"):
        done = subprocess.run(
            [launcher, mode, *udk.argv("run", "-i", box, *script)],
            env=env, cwd=udk.base, capture_output=True, timeout=100, input=b"in\n",
        )  # fmt: skip
        assert (done.stdout, done.stderr, done.returncode) == (b"in\nran\n", b"", 7), mode
    probes = (tmp_path / "udk/probes").read_text().splitlines()
    assert any(line.split()[1] == "trap" and len(line.split()) == 3 for line in probes)
    failed = subprocess.run(
        [launcher, "noseccomp", *udk.argv("run", "--engine", "trap", box, *script)],
        env=env, cwd=udk.base, capture_output=True, timeout=100,
    )  # fmt: skip
    assert failed.returncode == 125 and failed.stdout == b"" and failed.stderr.count(b"\n") == 1
    assert b"this node refuses the system-call filter" in failed.stderr


def test_what_a_restricted_job_found_is_not_believed_by_others(udk: Udk, box: str, launcher: str) -> None:
    """Of one user, on one node, at one time: a job under filters, and one without."""
    words = ["run", "--engine", "N1", box, "sh", "-c", "touch /f; chown 3:4 /f; ls -ln /f"]
    before = udk.ok(*words).split()[2:4]
    subprocess.run(
        [launcher, "nothing", *udk.argv("doctor")],
        env=udk.environ(), cwd=udk.base, capture_output=True, timeout=100, check=True,
    )  # fmt: skip
    assert udk.ok(*words).split()[2:4] == before == ["3", "4"]
    doctor = json.loads(udk.ok("doctor", "--json"))
    assert next(row for row in doctor if row["engine"] == "trap")["works"]
