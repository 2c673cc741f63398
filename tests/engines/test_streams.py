"""What the payload inherits is exactly what the caller gave: streams, descriptors, terminal, mask, limits."""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.engines.conftest import Box, marked, wait_until
from udk.runtime.spec import Limits, Mount


def test_20000_lines_arrive_complete_in_order_and_apart(box: Box) -> None:
    done = box.run("/hello", "lines", "20000")
    assert done.stdout == b"".join(b"%d to stdout\n" % i for i in range(0, 20000, 2))
    assert done.stderr == b"".join(b"%d to stderr\n" % i for i in range(1, 20000, 2))


def test_binary_input_and_output(box: Box) -> None:
    data = bytes(range(256)) * 4096
    assert box.run("/hello", "cat", "-", data=data).stdout == data


def test_files_as_streams(box: Box, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("input")
    with open(tmp_path / "in", "rb") as stdin, open(tmp_path / "out", "ab") as stdout:
        stdout.write(b"before ")
        stdout.flush()
        guard = box.start("/hello", "cat", "-", popen={"stdin": stdin, "stdout": stdout})
        assert guard.wait(10) == 0
    assert (tmp_path / "out").read_text() == "before input"


def test_without_stdin(box: Box) -> None:
    assert box.run("/hello", "cat", "-", data=b"secret", stdin=False).stdout == b""


def test_closed_streams(box: Box) -> None:
    """udk started with some of 0, 1, 2 closed: nothing of udk's own may take their places."""
    script = (
        "import os, sys; from udk.runtime.spec import RunSpec; from udk.engines.guard import exec_guard\n"
        "from udk.engines.namespace import NamespaceEngine\n"
        "spec = RunSpec.from_json(os.environ.pop('SPEC'))\n"
        "os.close(0); os.close(2)\n"
        "exec_guard(spec, NamespaceEngine().launch(spec))\n"
    )
    spec = box.spec("/hello", "fds")
    env = {**os.environ, "SPEC": spec.to_json()}
    out = subprocess.run(
        [sys.executable, "-c", script], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
    )
    assert out.returncode == 0
    assert [line.split()[0] for line in out.stdout.decode().splitlines()] == ["1"]


def test_no_descriptor_of_udk_reaches_the_payload(box: Box) -> None:
    lines = box.output("/hello", "fds").splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]


def test_inherited_descriptors_are_kept(box: Box) -> None:
    """A jobserver's pipe, PMI_FD: what udk's caller passes is for the payload."""
    read, write = os.pipe()
    guard = box.start("/hello", "cat", f"/proc/self/fd/{read}", popen={"pass_fds": (read, write)})
    os.close(read)
    os.write(write, b"through")
    payload = wait_until(lambda: marked(box.mark))[0]
    assert os.path.exists(f"/proc/{payload}/fd/{write}")
    os.close(write)
    assert guard.stdout
    assert guard.stdout.read(7) == b"through"
    guard.kill()


def test_end_of_an_inherited_pipe_is_the_payloads(shell: Box) -> None:
    read, write = os.pipe()
    guard = shell.start("sh", "-c", f"exec {write}>&-; exec sleep 1000", popen={"pass_fds": (write,)})
    os.close(write)
    assert select.select([read], [], [], 10)[0] == [read]
    assert os.read(read, 1) == b""
    os.close(read)
    guard.terminate()
    assert guard.wait(2) == 143


def exec_script(spec_json: str, before: str = "") -> list[str]:
    """A command that becomes the guard as `udk run` does."""
    script = (
        "import sys, signal, os\n"
        "from udk.runtime.spec import RunSpec; from udk.engines.guard import exec_guard\n"
        "from udk.engines.namespace import NamespaceEngine\n"
        f"spec = RunSpec.from_json(sys.argv[1]); {before}\n"
        "exec_guard(spec, NamespaceEngine().launch(spec))\n"
    )
    return [sys.executable, "-c", script, spec_json]


def test_exec_guard_keeps_the_pid_and_restores_python_signals(box: Box) -> None:
    spec = box.spec("/hello", "signals")
    process = subprocess.Popen(exec_script(spec.to_json()), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, b"")
    assert out == b"blocked 0000000000000000 ignored 0000000000000000\n"


def test_the_callers_mask_and_dispositions_are_kept(box: Box) -> None:
    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

    spec = box.spec("/hello", "signals")
    done = subprocess.run(exec_script(spec.to_json()), stdout=subprocess.PIPE, preexec_fn=prepare, check=True)
    blocked, ignored = (int(word, 16) for word in done.stdout.split()[1::2])
    assert blocked == 1 << (signal.SIGUSR1 - 1)
    assert ignored == 1 << (signal.SIGINT - 1) | 1 << (signal.SIGQUIT - 1)


def test_a_caller_that_ignores_its_children(box: Box) -> None:
    """With SIGCHLD ignored the kernel reaps and forgets: the status must arrive all the same."""

    def prepare() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    assert box.run("/hello", "exit", "37", popen={"preexec_fn": prepare}).returncode == 37
    out = box.output("/hello", "signals", popen={"preexec_fn": prepare})
    assert int(out.split()[3], 16) == 1 << (signal.SIGCHLD - 1)


def test_exec_guard_through_a_signal(box: Box) -> None:
    spec = box.spec("/hello", "sleep", "1000000")
    process = subprocess.Popen(exec_script(spec.to_json()), stdout=subprocess.PIPE)
    wait_until(lambda: marked(box.mark))
    process.send_signal(signal.SIGTERM)
    assert process.wait(1) == 143
    assert list(box.scratch.glob("layer*")) == []


def test_umask_and_limits_are_the_callers(box: Box) -> None:
    def prepare() -> None:
        os.umask(0o027)
        resource.setrlimit(resource.RLIMIT_NOFILE, (123, 456))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    nofile, core = resource.RLIMIT_NOFILE, resource.RLIMIT_CORE
    assert box.output("/hello", "umask", popen={"preexec_fn": prepare}) == "0027\n"
    assert box.output("/hello", "limit", str(nofile), popen={"preexec_fn": prepare}) == "123 456\n"
    assert box.output("/hello", "limit", str(core), popen={"preexec_fn": prepare}) == "0 0\n"


def test_ulimits(box: Box) -> None:
    limits = Limits(rlimits=(("nofile", 100, 200), ("core", 0, -1 if _hard_core() < 0 else 0)))
    assert box.output("/hello", "limit", str(resource.RLIMIT_NOFILE), limits=limits) == "100 200\n"
    high = Limits(rlimits=(("nofile", 1, 1 << 60),))
    status, text = box.failure("/hello", "uid", limits=high)
    assert status == 125
    assert "above the hard limit" in text


def _hard_core() -> int:
    return resource.getrlimit(resource.RLIMIT_CORE)[1]


# ---- terminals ------------------------------------------------------------------------------------------


class Terminal:
    """A container run with -t on a pty pair of ours, as an interactive shell's job would be."""

    def __init__(self, box: Box, *argv: str, size: tuple[int, int] = (24, 80), **changes: Any) -> None:
        self.master, slave = pty.openpty()
        self.slave_name = os.ttyname(slave)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.text = b""

        def own_session() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        streams = {"stdin": slave, "stdout": slave, "stderr": slave, "preexec_fn": own_session}
        self.guard = box.start(*argv, tty=True, popen=streams, **changes)
        self.slave = slave

    def read(self, seconds: float = 5.0) -> bytes:
        """What arrives until the container is silent for a moment."""
        if select.select([self.master], [], [], seconds)[0]:
            try:
                self.text += os.read(self.master, 65536)
            except OSError:
                pass
        return self.text

    def expect(self, words: bytes) -> None:
        wait_until(lambda: words in self.read(0.05), 10, f"{words!r} in {self.text!r}")

    def write(self, data: bytes) -> None:
        os.write(self.master, data)

    def end(self) -> tuple[int, list[Any]]:
        """Status of udk, and the mode in which it left the caller's terminal."""
        deadline = time.monotonic() + 10
        while self.guard.poll() is None:
            assert time.monotonic() < deadline, self.text
            self.read(0.02)
        while select.select([self.master], [], [], 0)[0]:
            self.read(0)
        mode = termios.tcgetattr(self.slave)
        os.close(self.slave)
        os.close(self.master)
        return self.guard.returncode, mode


def test_terminal(box: Box) -> None:
    t = Terminal(box, "/hello", "tty", size=(31, 97))
    status, mode = t.end()
    assert status == 0
    assert t.text == b"/dev/pts/0 97x31 session leader\r\n"
    assert mode == t.before


def test_terminal_input_resize_and_restoration(shell: Box) -> None:
    t = Terminal(shell, "sh", "-c", "trap 'stty size' WINCH; stty size; while read x; do echo got $x; done")
    t.expect(b"24 80")
    raw = termios.tcgetattr(t.slave)
    assert not raw[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    t.write(b"hallo\r")
    t.expect(b"hallo\r\ngot hallo\r\n")
    fcntl.ioctl(t.master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
    t.write(b"x\r")
    t.expect(b"50 132")
    t.write(b"\x04")
    assert t.end() == (0, t.before)


def test_interrupt_quit_and_suspend_keys(shell: Box) -> None:
    script = "trap 'echo int' INT; trap 'echo quit' QUIT; echo ready; until read x; do :; done; exit 3"
    t = Terminal(shell, "sh", "-c", script)
    t.expect(b"ready")
    t.write(b"\x03")
    t.expect(b"int")
    t.write(b"\x1c")
    t.expect(b"quit")
    assert t.guard.poll() is None
    t.write(b"\x1aend\r")  # ^Z: nobody could resume a container's first process, so it does not stop
    assert t.end() == (3, t.before)


def test_interrupt_key_ends_a_payload_without_handler(box: Box) -> None:
    t = Terminal(box, "/hello", "sleep", "1000000")
    wait_until(lambda: marked(box.mark))
    wait_until(lambda: not termios.tcgetattr(t.slave)[3] & termios.ISIG)
    t.write(b"\x03")
    assert t.end() == (130, t.before)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_terminal_is_restored_when_udk_is_signalled(box: Box, sig: signal.Signals) -> None:
    t = Terminal(box, "/hello", "sleep", "1000000")
    wait_until(lambda: not termios.tcgetattr(t.slave)[3] & termios.ISIG)
    wait_until(lambda: marked(box.mark))
    t.guard.send_signal(sig)
    assert t.end() == (128 + sig, t.before)


def test_terminal_is_restored_when_the_command_is_missing(box: Box) -> None:
    t = Terminal(box, "/nothing")
    assert t.end() == (127, t.before)
    assert b"no such file" in t.text


SHELL = """
import os, signal, sys
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    if sys.argv[1] == "foreground":
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[2], sys.argv[2:])
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
if sys.argv[1] == "foreground":
    _, st = os.waitpid(pid, os.WUNTRACED)
    os.write(1, b"stopped %d\\n" % os.WSTOPSIG(st))
else:
    sys.stdin.readline()
os.tcsetpgrp(0, pid)
os.killpg(pid, signal.SIGCONT)
_, st = os.waitpid(pid, 0)
os.write(1, b"ended %d\\n" % os.WEXITSTATUS(st))
"""


class Shell:
    """A session leader with a terminal that runs udk as a job, in the foreground or not, as a shell does."""

    def __init__(self, where: str, spec_json: str) -> None:
        self.master, self.slave = pty.openpty()
        self.text = b""

        def lead() -> None:
            os.setsid()
            fcntl.ioctl(2, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, "-c", SHELL, where, *exec_script(spec_json)],
            stdin=self.slave, stdout=subprocess.PIPE, stderr=self.slave, preexec_fn=lead,  # noqa: PLW1509
        )  # fmt: skip

    def told(self) -> bytes:
        assert self.process.stdout
        return self.process.stdout.readline()

    def seen(self, words: bytes) -> bool:
        if select.select([self.master], [], [], 0.05)[0]:
            self.text += os.read(self.master, 65536)
        return words in self.text

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.master)
        os.close(self.slave)


def test_a_background_job_leaves_the_terminal_alone(shell: Box) -> None:
    """`udk run -t ... &`: the terminal is the shell's until the job comes to the foreground."""
    spec = shell.spec("sh", "-c", "echo shown; read x; echo got $x; exit 4", tty=True)
    job = Shell("background", spec.to_json())
    before = termios.tcgetattr(job.slave)
    try:
        wait_until(lambda: marked(shell.mark))
        time.sleep(0.1)  # time in which it could do wrong
        assert termios.tcgetattr(job.slave) == before
        os.write(job.master, b"for the shell\n")
        wait_until(lambda: not termios.tcgetattr(job.slave)[3] & termios.ECHO, what="raw in the foreground")
        os.write(job.master, b"for the job\r")
        assert job.told() == b"shown\r\n"
        assert job.told() == b"for the job\r\n"
        assert job.told() == b"got for the job\r\n"
        assert job.told() == b"ended 4\n"
        assert termios.tcgetattr(job.slave) == before
    finally:
        job.close()


def test_job_control_inside(shell: Box) -> None:
    t = Terminal(shell, "sh", "-i", env={"PS1": "$ "})
    t.expect(b"$ ")
    t.write(b"sleep 1000\r")
    wait_until(lambda: any(_in_foreground(pid) for pid in marked(shell.mark)))
    t.write(b"\x1a")
    t.expect(b"Stopped")
    t.write(b"kill -9 %1; wait\r")
    t.write(b"exit 6\r")
    t.write(b"exit 6\r")  # the first one may only warn of stopped jobs
    status, mode = t.end()
    assert (status, mode) == (6, t.before)


def _in_foreground(pid: int) -> bool:
    """Whether it is `sleep` and its group owns its terminal."""
    name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    fields = rest.split()
    return name.endswith("(sleep") and fields[2] == fields[5]


def test_large_output_to_a_terminal(shell: Box) -> None:
    t = Terminal(shell, "sh", "-c", "seq 1 20000")
    status, _ = t.end()
    assert status == 0
    assert t.text == b"".join(b"%d\r\n" % i for i in range(1, 20001))


@pytest.mark.parametrize("lines", [100, 700, 3000])
def test_output_that_is_read_late(shell: Box, lines: int) -> None:
    """What a payload wrote to its terminal just before it ended is not lost with it."""
    t = Terminal(shell, "sh", "-c", f"seq 1 {lines}")
    time.sleep(0.5)
    status, _ = t.end()
    assert status == 0
    assert t.text == b"".join(b"%d\r\n" % i for i in range(1, lines + 1))


def test_a_payload_that_leaves_its_terminal(shell: Box) -> None:
    """It goes on; and the guard sleeps meanwhile."""
    t = Terminal(shell, "sh", "-c", "echo before; exec <&- >&- 2>&-; sleep 1; echo after >/dev/tty; exit 5")
    t.expect(b"before")
    time.sleep(0.6)
    fields = Path(f"/proc/{t.guard.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[11]) + int(fields[12]) < 10  # ticks of 10 ms
    status, _ = t.end()
    assert (status, t.text) == (5, b"before\r\nafter\r\n")


def test_terminal_with_a_pipe_as_input(shell: Box) -> None:
    """-t without a terminal of one's own: the input's end is the ^D of the container's terminal."""
    done = shell.run("sh", "-c", "tty; cat", data=b"piped\n", tty=True)
    assert done.returncode == 0
    assert b"/dev/pts/0" in done.stdout.splitlines()
    assert done.stdout.count(b"piped") == 2  # the terminal's echo, and cat's


def test_closed_output_of_a_terminal(shell: Box) -> None:
    guard = shell.start("yes", tty=True)
    assert guard.stdout
    assert guard.stdout.readline() == b"y\r\n"
    guard.stdout.close()
    guard.stdout = None
    assert guard.wait(5) == 128 + signal.SIGHUP


def test_terminal_hangup(box: Box) -> None:
    """The caller's terminal goes away: the payload gets SIGHUP."""
    t = Terminal(box, "/hello", "sleep", "1000000")
    wait_until(lambda: not termios.tcgetattr(t.slave)[3] & termios.ISIG)
    wait_until(lambda: marked(box.mark))
    os.close(t.slave)
    os.close(t.master)
    assert t.guard.wait(5) == 128 + signal.SIGHUP


def test_suspend_key_without_a_terminal_of_ones_own(box: Box) -> None:
    """Without -t the payload is in the caller's foreground group; ^Z stops all, and the shell sees it."""
    job = Shell("foreground", box.spec("/hello", "sleep", "1000000").to_json())
    try:
        payload = wait_until(lambda: marked(box.mark))[0]
        os.write(job.master, b"\x1a")
        assert job.told() == b"stopped %d\n" % signal.SIGTSTP
        wait_until(lambda: _state(payload) == "S", what="continued")
        os.write(job.master, b"\x03")
        assert job.told() == b"ended 130\n"
    finally:
        job.close()


def test_nothing_can_be_typed_into_the_callers_terminal(box: Box, tmp_path: Path) -> None:
    """TIOCSTI: the caller's shell would execute it later. In a terminal of its own a payload may."""
    out = tmp_path / "out"
    out.mkdir()
    mounts = (Mount(source=str(out), target="/out"),)
    spec = box.spec("/hello", "type", "x", mounts=mounts)
    job = Shell("background", spec.to_json())
    try:
        assert job.told() == b"Operation not permitted\n"
    finally:
        job.close()
    t = Terminal(box, "/hello", "type", "x")
    t.end()
    assert t.text.split()[0] in (b"typed", b"Input/output", b"xtyped")  # kernels may forbid it to all
    text = box.output("/hello", "cat", "/proc/self/status", popen={"preexec_fn": os.setsid})
    assert "Seccomp:\t0\n" in text  # without a terminal there is nothing to forbid


def _state(pid: int) -> Optional[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
