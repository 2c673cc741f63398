"""The command lines that workflow engines and batch systems really send, as they send them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.udk import Udk


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job's directory with an input file."""
    for name in ("out", "tmp", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "in.txt").write_text("input\n")
    return tmp_path


def test_cwltool(udk: Udk, box: str, job: Path) -> None:
    staged = "/var/lib/cwl/stg1-2-3/in.txt"
    with open(job / "result", "wb") as result:
        done = udk(
            "run", f"--volume={job}/out:/BtnsqR", f"--volume={job}/tmp:/tmp",
            f"--volume={job}/in.txt:{staged}", "--workdir=/BtnsqR", "--rm",
            "--env=FOO=a b", "--env=TMPDIR=/tmp", "--env=HOME=/BtnsqR",
            "--shm-size=1m", box, "sh", "-c", f"cat {staged}; echo $FOO $HOME $TMPDIR $PWD; touch made",
            stdout=result, input=b"", cwd=job / "out",
        )  # fmt: skip
    assert (done.status, done.err) == (0, b"")
    assert (job / "result").read_text() == "input\na b /BtnsqR /tmp /BtnsqR\n" and (job / "out/made").exists()


def test_cwltool_quiet_and_docker_mode(udk: Udk, box: str, job: Path) -> None:
    assert udk.ok("--quiet", "run", "--nobanner", f"--volume={job}/out:/x:rw", box, "echo", "x") == "x\n"
    out = udk.ok(
        "run", "-i", f"--mount=type=bind,source={job}/out,target=/out",
        f"--mount=type=bind,source={job}/in.txt,target=/in.txt,readonly", "--workdir=/out",
        "--read-only=true", "--net=none", "--log-driver=none", f"--user={os.getuid()}:{os.getgid()}", "--rm",
        f"--cidfile={job}/cid", "--env=TMPDIR=/tmp", "--memory=512m", "--cpus=1", box, "sh", "-c",
        "cat /in.txt; id -u; touch here; touch /no 2>/dev/null || echo read-only",
    )  # fmt: skip
    assert out == f"input\n{os.getuid()}\nread-only\n"
    assert (job / "out/here").stat().st_uid == os.getuid() and len((job / "cid").read_text()) == 64


def test_miniwdl(udk: Udk, box: str, job: Path) -> None:
    assert udk.ok("--allow-root", "--version").startswith("udk version ")
    assert udk.ok("--allow-root", "pull", box)
    (job / "command").write_text("echo out; echo err >&2; cat _miniwdl_inputs/0/in.txt; exit 3\n")
    for name in ("stdout.txt", "stderr.txt"):
        (job / name).touch()
    top = "/mnt/miniwdl_task_container"
    work = f"{top}/work"
    done = udk(
        "--allow-root", "run", "--workdir", work, "--nobanner", "--rm",
        "-v", f"{job}/command:{top}/command", "-v", f"{job}/stdout.txt:{top}/stdout.txt",
        "-v", f"{job}/stderr.txt:{top}/stderr.txt",
        "-v", f"{job}/in.txt:{work}/_miniwdl_inputs/0/in.txt:ro", "-v", f"{job}/work:{work}",
        box, "/bin/sh", "-c", "/bin/sh ../command >> ../stdout.txt 2>> ../stderr.txt",
    )  # fmt: skip
    assert done == (3, b"", b"")
    assert (job / "stdout.txt").read_text() == "out\ninput\n" and (job / "stderr.txt").read_text() == "err\n"


def test_snakemake(udk: Udk, box: str, job: Path) -> None:
    """`-v PATH` alone, a path given twice, and docker's URL form of the image."""
    out = udk.ok(
        "run", "--rm", "--nobanner", "--env", "TINI_SUBREAPER=1", "-w", str(job),
        "-v", f"{job}/tmp:{job}/tmp", "-v", f"{job}:{job}", "-v", str(job), f"docker://{box}",
        "sh", "-c", "cat in.txt; which sh; which nosuch || echo no",
    )  # fmt: skip
    assert out == "input\n/bin/sh\nno\n"


def test_nextflow(udk: Udk, box: str, job: Path) -> None:
    out = udk.ok(
        "run", "-i", "--cpu-shares", "1024", "--memory", "123m", "-e", "NXF_TASK_WORKDIR", "-e", "K=V",
        "-v", f"{job}:{job}", "-w", f"{job}/work", "--entrypoint", "/bin/sh", "--name", "nxf-1", "--rm", box,
        "-ue", "-c", "echo $NXF_TASK_WORKDIR $K $PWD", env={"NXF_TASK_WORKDIR": "w"},
    )  # fmt: skip
    assert out == f"w V {job}/work\n"
    assert any(line.startswith(f"{box} ") for line in udk.ok("images").splitlines())
    ident = udk.ok("create", box).splitlines()[-1]
    assert (
        udk.ok(
            "run", "--rm", "-e", "K=V", "-v", f"{job}:{job}", "-w", str(job), ident, "sh", "-c", "cat in.txt"
        )
        == "input\n"
    )
    assert udk.ok("ps", "-aq") == ""


def test_condor_docker_universe(udk: Udk, box: str, job: Path) -> None:
    udk.ok(
        "create", f"--cidfile={job}/cid", "--cpu-shares=100", "--memory=100m", "--cap-drop=all",
        "--cap-add=SYS_PTRACE", "--security-opt", "no-new-privileges", "--init", "--name", "HTCJob1_0",
        "--label=org.htcondorproject=True", "--log-driver", "none", "-e", "K=V", "--volume", f"{job}:/job:ro",
        "--workdir", "/job", "--user", "0:0", "--group-add", "10", "--network=host", "--hostname", "node1",
        "--pull", "missing", "--shm-size", "2m", box, "sh", "-c", "cat in.txt; exit 37",
    )  # fmt: skip
    done = udk("start", "-a", "HTCJob1_0")
    assert done == (37, b"input\n", b"")
    (described,) = json.loads(udk.ok("inspect", "HTCJob1_0"))
    assert described["State"]["ExitCode"] == 37 and not described["State"]["Running"]
    assert described["Name"] == "/HTCJob1_0" and described["Id"] == (job / "cid").read_text()
    assert udk.ok("rm", "-f", "-v", "HTCJob1_0") == "HTCJob1_0\n"
