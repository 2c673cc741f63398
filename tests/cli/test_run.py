"""`udk run` end to end: real images, the real engine, as an ordinary user."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Served
from tests.support.udk import Udk


def test_first_run_pulls_and_the_second_needs_no_registry(new_udk: Udk, served: Served) -> None:
    assert new_udk.ok("run", served.box, "cat", "/etc/os-release") == 'NAME="test"\n'
    before = len(served.registry.requests())
    assert new_udk.ok("run", served.box, "cat", "/etc/os-release") == 'NAME="test"\n'
    assert len(served.registry.requests()) == before
    assert new_udk.leftovers() == []


@pytest.mark.parametrize(
    "command, status",
    [
        (["sh", "-c", "exit 37"], 37),
        (["true"], 0),
        (["false"], 1),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["/bin/sh", "-c", "exit 255"], 255),
    ],
)
def test_status(udk: Udk, box: str, command: list[str], status: int) -> None:
    done = udk("run", box, *command)
    assert (done.status, done.out, done.err) == (status, b"", b"")


@pytest.mark.parametrize(
    "command, status",
    [("nosuch", 127), ("/no/such", 127), ("/etc/passwd", 126), ("/etc", 126), ("/bad-interpreter", 127)],
)
def test_commands_that_cannot_be_run(udk: Udk, box: str, command: str, status: int) -> None:
    assert command in udk.fails("run", box, command, status=status)


def test_confinement_is_told_and_done(udk: Udk, box: str) -> None:
    said = json.loads(udk.ok("run", "--confine", "--dry-run", box, "true"))
    assert said["confine"] == "on" and said["confinement"]["engine"] in ("namespace", "trap")
    assert said["confinement"]["not_stopped"] and "read" not in said["confinement"]["not_stopped"]
    done = udk("run", "--confine", "--network", "none", box, "sh", "-c", "echo x > /new; cat /new; exit 3")
    assert (done.status, done.out, done.err) == (3, b"x\n", b"")
    assert "weakly" in udk.fails("run", "--confine=weakly", box, "true")
    rows = {row["engine"]: row for row in json.loads(udk.ok("doctor", "--json"))}
    assert rows["namespace"]["confine"].startswith("by namespaces")
    assert "by Landlock" in rows["trap"]["confine"] or rows["trap"]["confine"].startswith("no")


def test_arguments_arrive_as_they_are(udk: Udk, box: str) -> None:
    words = ["", " ", "a b", "-v", "--rm", "é", "$HOME", "*", "\n", "\udcff"]
    done = udk("run", box, "sh", "-c", 'for a; do printf "[%s]" "$a"; done', "sh", *words)
    assert done.out == "".join(f"[{w}]" for w in words).encode("utf-8", "surrogateescape") and not done.err


def test_a_script_with_an_interpreter(udk: Udk, box: str) -> None:
    assert udk.ok("run", box, "/script", "x", "y z") == "script x y z\n"


def test_output_is_complete_and_apart(udk: Udk, box: str) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done"
    done = udk("run", box, "sh", "-c", script)
    assert done.out == b"".join(b"out %d\n" % i for i in range(20000))
    assert done.err == b"".join(b"err %d\n" % i for i in range(20000))


def test_stdin_and_binary_output(udk: Udk, box: str) -> None:
    data = os.urandom(300_000)
    done = udk("run", "-i", box, "sh", "-c", "tee /copy | sha256sum; cat /copy", input=data)
    digest, _, rest = done.out.partition(b"\n")
    assert digest.split()[0].decode() == hashlib.sha256(data).hexdigest() and rest == data


def test_closed_reader_ends_the_payload(udk: Udk, box: str) -> None:
    process = udk.popen("run", box, "yes", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(10) == 141 and process.stderr and process.stderr.read() == b""


@pytest.mark.parametrize("closed", [0, 1, 2, (0, 1, 2)])
def test_closed_streams(udk: Udk, box: str, closed: object, tmp_path: Path) -> None:
    redirect = " ".join(f"{fd}>&-" for fd in (closed if isinstance(closed, tuple) else (closed,)))
    words = " ".join(
        f"'{w}'" for w in udk.argv("run", "-v", f"{tmp_path}:/out", box, "sh", "-c", "echo x >/out/f")
    )
    done = subprocess.run(["sh", "-c", f"{words} {redirect}"], env=udk.environ(), stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and (tmp_path / "f").read_text() == "x\n"


def test_sigterm_ends_both(udk: Udk, box: str) -> None:
    process = udk.popen("run", box, "sh", "-c", "echo up; exec sleep 1000", stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"up\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert time.monotonic() - began < 5
    process.stdout.close()


def test_handler_wins(udk: Udk, box: str) -> None:
    script = 'trap "echo caught; exit 7" TERM; echo up; while :; do sleep 0.1; done'
    process = udk.popen("run", box, "sh", "-c", script, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == b"caught\n" and process.wait(10) == 7
    process.stdout.close()


def test_nothing_is_left_after_sigkill_and_the_next_command_sweeps(udk: Udk, box: str) -> None:
    script = "trap '' TERM HUP INT; (setsid sleep 1234 </dev/null >/dev/null 2>&1 &); echo up; sleep 1234"
    process = udk.popen("run", box, "sh", "-c", script, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"up\n"
    (layer,) = udk.layers()
    cookie = layer[4:].encode()
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 5
    while _carrying(cookie) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _carrying(cookie) == []
    assert udk.layers() == [layer]  # nobody was left to remove it
    assert udk.ok("run", box, "true") == ""
    assert udk.leftovers() == []


def _carrying(cookie: bytes) -> list[str]:
    """Processes with the cookie in their environment."""
    found = []
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                if b"UDK_COOKIE=" + cookie in Path(f"/proc/{pid}/environ").read_bytes():
                    found.append(pid)
            except OSError:
                continue
    return found


def env_of(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


def test_environment(udk: Udk, box: str, tmp_path: Path) -> None:
    (tmp_path / "vars").write_text("# comment\nFILE=1\nBOTH=file\nHOSTVAR\nUNSET\n")
    out = udk.ok(
        "run", "-e", "A=1", "--env=EMPTY=", "-e", "BOTH=flag", "-e", "UNSET", "-e", "FROM", "--env-file",
        str(tmp_path / "vars"), box, "env", env={"HOSTVAR": "host", "SECRET": "x"},
    )  # fmt: skip
    env = env_of(out)
    assert len(env.pop("UDK_COOKIE")) == 64 and env.pop("HOSTNAME") == os.uname().nodename
    assert env == {
        "PATH": "/bin", "HOME": "/root", "A": "1", "EMPTY": "", "BOTH": "flag", "FILE": "1",
        "HOSTVAR": "host",
    }  # fmt: skip


def test_image_config(udk: Udk, served: Served) -> None:
    assert udk.ok("run", served.entry) == "entry cmd\n"
    assert udk.ok("run", served.entry, "", "x") == "entry  x\n"
    assert udk.ok("run", "--entrypoint", "", served.entry, "pwd") == "/opt/app\n"
    out = udk.ok(
        "run", "--entrypoint", "sh", served.entry, "-c", "id -u; id -g; pwd; echo $HOME; cat data; ls -d /vol"
    )
    assert out == "1000\n1000\n/opt/app\n/home/ann\nfrom image/vol\n"


def test_read_only_with_volumes(udk: Udk, served: Served) -> None:
    script = "touch /no 2>/dev/null || echo ro; touch /opt/app/yes /vol/yes /tmp2/yes && cat /opt/app/data"
    out = udk.ok(
        "run",
        "--read-only",
        "--tmpfs",
        "/tmp2:size=1m",
        "--entrypoint",
        "sh",
        "-u",
        "0",
        served.entry,
        "-c",
        script,
    )
    assert out == "ro\nfrom image"


@pytest.mark.parametrize(
    "user, ids",
    [("0", "0 0"), ("ann", "1000 1000"), ("1000:wheel", "1000 10"), ("4242", "4242 0"), ("7:8", "7 8")],
)
def test_user(udk: Udk, box: str, user: str, ids: str) -> None:
    assert udk.ok("run", "-u", user, box, "sh", "-c", "echo $(id -u) $(id -g); touch /tmp/f") == ids + "\n"


def test_volumes(udk: Udk, box: str, tmp_path: Path) -> None:
    data, single = tmp_path / "data", tmp_path / "single"
    (data / "sub").mkdir(parents=True)
    single.write_text("one\n")
    script = "cat /f; echo two >> /f; echo new > /deep/er/new; touch /ro/x 2>/dev/null || echo ro; ls /deep"
    out = udk.ok(
        "run", "-v", f"{single}:/f", "-v", f"{data}/sub:/deep/er/sub", f"--volume={data}:/deep/er",
        "--mount", f"type=bind,source={data},target=/ro,readonly", box, "sh", "-c", script,
    )  # fmt: skip
    assert out == "one\nro\ner\n"
    assert single.read_text() == "one\ntwo\n" and (data / "new").read_text() == "new\n"


def test_missing_sources(udk: Udk, box: str, tmp_path: Path) -> None:
    assert udk.ok("run", "-v", f"{tmp_path}/made:/x", box, "touch", "/x/y") == ""
    assert (tmp_path / "made/y").exists()
    line = udk.fails("run", "--mount", f"type=bind,source={tmp_path}/not,target=/x", box, "true")
    assert f"{tmp_path}/not does not exist" in line
    assert "named volumes" in udk.fails("run", "-v", "cache:/x", box, "true")


def test_workdir_is_made(udk: Udk, box: str) -> None:
    assert udk.ok("run", "-w", "/new/dir", box, "pwd") == "/new/dir\n"
    assert "is not absolute" in udk.fails("run", "-w", "x", box, "pwd")


def test_hostname_network_pid(udk: Udk, box: str) -> None:
    out = udk.ok(
        "run",
        "--hostname",
        "node7",
        "--network",
        "none",
        box,
        "sh",
        "-c",
        "hostname; cat /etc/hostname; ls /sys/class/net",
    )
    assert out == "node7\nnode7\nlo\n"
    assert udk.ok("run", box, "sh", "-c", "echo $$") in ("1\n", "2\n")
    assert int(udk.ok("run", "--pid", "host", box, "sh", "-c", "echo $$")) > 2
    assert udk.ok("run", "--add-host", "db:10.1.2.3", box, "grep", "db", "/etc/hosts") == "10.1.2.3\tdb\n"
    out = udk.ok("run", "--dns", "9.9.9.9", box, "grep", "nameserver", "/etc/resolv.conf")
    assert out == "nameserver 9.9.9.9\n"
    flags = ["--dns-search", "a.test", "--dns-search", "b.test", "--dns-option", "ndots:2"]
    out = udk.ok("run", *flags, box, "grep", "-v", "nameserver", "/etc/resolv.conf")
    assert out.splitlines()[-2:] == ["search a.test b.test", "options ndots:2"]


def test_limits(udk: Udk, box: str) -> None:
    assert udk.ok("run", "--ulimit", "nofile=64:128", box, "sh", "-c", "ulimit -n; ulimit -Hn") == "64\n128\n"
    out = udk.ok("run", "--shm-size", "1m", box, "sh", "-c", "df -k /dev/shm | tail -1")
    assert out.split()[1] == "1024"
    done = udk(
        "run",
        "--device",
        "/dev/zero:/dev/nought",
        "--device",
        "/dev/full",
        box,
        "head",
        "-c",
        "3",
        "/dev/nought",
    )
    assert done == (0, b"\0\0\0", b"")
    out = udk.ok("run", "--cpuset-cpus", "0", box, "grep", "Cpus_allowed_list", "/proc/self/status")
    assert out.split() == ["Cpus_allowed_list:", "0"]


def test_timeout(udk: Udk, box: str) -> None:
    began = time.monotonic()
    done = udk("run", "--timeout", "1", box, "sleep", "1000")
    assert done.status == 143 and 0.9 < time.monotonic() - began < 8
    script = "trap '' TERM; while :; do sleep 1; done"
    assert udk("run", "--timeout", "0.5s", "--stop-timeout", "0.5", box, "sh", "-c", script).status == 137


def test_stats_and_cidfile(udk: Udk, box: str, tmp_path: Path) -> None:
    stats, cid = tmp_path / "stats.json", tmp_path / "cid"
    assert udk("run", "--stats", str(stats), "--cidfile", str(cid), box, "sh", "-c", "exit 5").status == 5
    assert json.loads(stats.read_text())["exit"] == 5
    assert len(cid.read_text()) == 64
    assert "exists" in udk.fails("run", "--cidfile", str(cid), box, "true")


def test_dry_run(udk: Udk, box: str, tmp_path: Path) -> None:
    before = sorted(os.listdir(udk.store / "containers"))
    spec = json.loads(
        udk.ok("run", "--dry-run", "-v", f"{tmp_path}/no:/x", "--engine", "namespace", box, "id", "-u")
    )
    assert spec["argv"] == ["id", "-u"] and spec["engine"] == "namespace" and spec["version"] == 1
    assert not (tmp_path / "no").exists() and sorted(os.listdir(udk.store / "containers")) == before


def test_dry_run_says_what_is_no_limit(udk: Udk, box: str) -> None:
    """Where a tmpfs is a directory its size cannot be held; the default gets no remark."""
    asked = ("--dry-run", "--tmpfs", "/x:size=16m", "--shm-size", "1m")
    remarks = json.loads(udk.ok("run", *asked, "--engine", "trap", box, "true"))["remarks"]
    assert len(remarks) == 2 and all("is no limit with engine trap" in r for r in remarks)
    assert "/x" in remarks[0] and "/dev/shm" in remarks[1]
    assert "remarks" not in json.loads(udk.ok("run", *asked, "--engine", "namespace", box, "true"))
    said = udk.ok("run", "--dry-run", "--tmpfs", "/x", "--engine", "trap", box, "true")
    assert "remarks" not in json.loads(said)


def test_scratch(udk: Udk, box: str, tmp_path: Path) -> None:
    script = ["sh", "-c", "echo data > /big; echo up; read x"]
    for args, env, where in (
        (["--scratch", str(tmp_path)], {}, tmp_path),
        ([], {"_CONDOR_SCRATCH_DIR": str(tmp_path)}, tmp_path),
        ([], {"SLURM_TMPDIR": str(tmp_path)}, tmp_path),
        ([], {}, udk.scratch),
    ):
        process = udk.popen(
            "run", *args, box, *script, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout and process.stdout.readline() == b"up\n"
        (layer,) = [p for p in where.iterdir() if p.name.startswith("udk-")]
        assert (layer / "upper/big").read_text() == "data\n" and layer.stat().st_mode & 0o777 == 0o700
        process.communicate(b"\n", 10)
        assert process.returncode == 0 and not layer.exists()
    assert "is not a directory" in udk.fails("run", "--scratch", str(tmp_path / "no"), box, "true")


def test_the_image_is_never_changed(udk: Udk, box: str) -> None:
    lower = Path(udk.ok("inspect", "--lower", box).strip())
    assert (
        udk.ok("run", box, "sh", "-c", "rm /script; echo x > /etc/passwd; mkdir /new; chmod 777 /bin") == ""
    )
    assert (lower / "script").exists() and "ann" in (lower / "etc/passwd").read_text()
    assert not (lower / "new").exists()
    assert udk.ok("run", box, "cat", "/script").startswith("#!/bin/sh")


@pytest.mark.parametrize("variable", ["HOME", "TMPDIR", "PATH"])
def test_without_a_variable(udk: Udk, box: str, variable: str) -> None:
    env = {variable: None, "UDK_HOME": str(udk.store)}
    assert udk.ok("run", box, "echo", "x", env=env) == "x\n"


def test_path_only(new_udk: Udk, served: Served) -> None:
    env = {"HOME": None, "TMPDIR": None, "XDG_DATA_HOME": str(new_udk.home), "LANG": None}
    assert new_udk.ok("run", served.box, "echo", "x", env=env) == "x\n"


def test_unreadable_working_directory(udk: Udk, box: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    words = " ".join(f"'{w}'" for w in udk.argv("run", box, "pwd"))
    script = f"cd {gone} && rmdir {gone} && {words}"
    done = subprocess.run(
        ["sh", "-c", script], env=udk.environ(), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stdout) == (0, b"/\n")


def test_inherited_descriptors(udk: Udk, box: str) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    done = udk("run", box, "sh", "-c", f"echo through >&{write}", pass_fds=(write,))
    os.close(write)
    assert done.status == 0 and os.read(read, 100) == b"through\n"
    os.close(read)


def test_refusals(udk: Udk, box: str) -> None:
    assert "no daemon" in udk.fails("run", "-d", box, "true")
    assert "no command" not in udk.ok("run", box, input=b"exit 0\n")
    assert "not in the store" in udk.fails("run", "--pull", "never", "127.0.0.1:1/no/such:1", "true")
    assert "no engine" in udk.fails("run", "--engine", "nosuch", box, "true")
    assert "is not a digest" in udk.fails("run", "a:b@c", "true")
    assert "too few arguments" in udk.fails("run")
    assert "no user" in udk.fails("run", "-u", "bob", box, "true")
    assert udk.leftovers() == []
