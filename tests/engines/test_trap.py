"""What only the trap engine has: its state, its record of changes, its refusals, its cleaning up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.contract.conftest import add_libraries
from tests.engines.conftest import SYSTEM, Box, as_root, marked, wait_until
from tests.support.needs import needs
from udk.engines.guard import spawn
from udk.engines.select import by_name, choose
from udk.engines.trap import TrapEngine
from udk.errors import EngineError, EngineUnavailableError
from udk.layers.index import write_index
from udk.layers.record import RecordWriter
from udk.runtime.spec import Mount, Root, RunSpec

ENGINE = TrapEngine()

pytestmark = pytest.mark.skipif(bool(ENGINE.probe()), reason=f"trap does not work here: {ENGINE.probe()}")


def run(spec: RunSpec, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    guard = spawn(
        spec, ENGINE.launch(spec), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = guard.communicate(data, timeout=60)
    return subprocess.CompletedProcess(spec.argv, guard.returncode, out, err)


def script(box: Box, text: str, **changes: object) -> str:
    done = run(box.spec("sh", "-c", text, **changes))
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode()


def layer(box: Box) -> Root:
    home, upper, work = box.layer()
    return Root(lower=(str(box.lower),), upper=upper, work=work, changes=f"{home}/changes")


def state_directories() -> set[str]:
    return {n for n in os.listdir("/dev/shm") if n.startswith("udk-")}


@needs("busybox")
def test_status_and_output(shell: Box) -> None:
    done = run(shell.spec("sh", "-c", "echo out; echo err >&2; cat; exit 37"), b"data")
    assert (done.returncode, done.stdout, done.stderr) == (37, b"out\ndata", b"err\n")
    assert run(shell.spec("/none")).returncode == 127
    assert run(shell.spec("/etc/passwd")).returncode == 126
    assert run(shell.spec("sh", "-c", "kill -9 $$")).returncode == 137


@needs("busybox")
def test_owners_and_modes_are_there_in_the_next_run(shell: Box) -> None:
    root = layer(shell)
    script(
        shell,
        "mkdir /d; touch /d/f; ln -s f /d/l; chown -h 1:2 /d/f /d/l; chmod 4751 /d/f; mknod /d/n c 1 3",
        root=root,
    )
    text = script(shell, "stat -c '%u:%g %a %F' /d/f /d/l /d/n", root=root)
    assert text == "1:2 4751 regular empty file\n1:2 777 symbolic link\n0:0 644 character special file\n"
    # and nothing of it is on disk where it could be executed with the caller's rights
    st = (Path(root.upper) / "d" / "f").stat()
    assert (st.st_uid, st.st_mode & 0o7000) == (os.geteuid(), 0)


@needs("busybox")
def test_without_an_upper_nothing_stays(shell: Box) -> None:
    before = state_directories()
    root = Root(lower=(str(shell.lower),))
    assert script(shell, "echo x > /etc/new; cat /etc/new", root=root) == "x\n"
    assert script(shell, "ls /etc", root=root) == "passwd\n"
    wait_until(lambda: state_directories() <= before, what="the state is removed")


@needs("busybox")
def test_nothing_is_left_after_a_kill(shell: Box) -> None:
    before = state_directories()
    spec = shell.spec(
        "sh", "-c", "(trap '' TERM HUP; setsid sleep 1000 </dev/null >/dev/null 2>&1 &) ; sleep 1000"
    )
    guard = spawn(spec, ENGINE.launch(spec), stdin=subprocess.DEVNULL)
    wait_until(lambda: len(marked(shell.mark)) >= 2)
    guard.kill()
    guard.wait()
    wait_until(lambda: not marked(shell.mark), what="every process is gone")
    assert state_directories() <= before  # what is beside the upper goes with it


@pytest.mark.parametrize("name", ["trap", "ptrace", "preload"])
def test_several_lower_trees_are_refused(shell: Box, tmp_path: Path, name: str) -> None:
    """By the choice of an engine, and by the engine: the trees below the first would be missing."""
    spec = shell.spec("sh", "-c", "true", root=Root(lower=(str(shell.lower), str(tmp_path))))
    engine = by_name(name)
    with pytest.raises(EngineUnavailableError, match="the root has several lower trees"):
        choose(spec, name)
    with pytest.raises(EngineError, match="the root has several lower trees"):
        engine.launch(spec)


@needs("busybox")
@pytest.mark.parametrize("name", ["trap", "P1", "P2"])
def test_a_signal_to_everybody_stays_in_the_container(shell: Box, name: str) -> None:
    """Without a pid namespace the kernel would take all processes of the caller for everybody. (With a signal
    that hurts nobody, should it come to that.)"""
    code = "import signal, time; signal.signal(23, lambda *_: 1 / 0); print(flush=True); time.sleep(999)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as outside:
        assert outside.stdout and outside.stdout.readline() == b"\n"
        try:
            text = "trap 'echo got' URG; sh -c 'kill -URG -1; echo $?'; kill -URG -1; :"
            spec = shell.spec("sh", "-c", text)
            engine = by_name(name)
            if engine.probe():
                pytest.skip(engine.probe())
            guard = spawn(spec, engine.launch(spec), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            assert guard.communicate(timeout=20)[0] == b"0\ngot\n"
            assert outside.poll() is None
        finally:
            outside.kill()


@needs("busybox")
def test_join_sees_the_container(shell: Box) -> None:
    root = layer(shell)
    spec = shell.spec("sh", "-c", "echo here > /made; sleep 1000", root=root)
    guard = spawn(spec, ENGINE.launch(spec), stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: (Path(root.upper) / "made").exists())
        time.sleep(0.1)
        joining = spec.replace(argv=("cat", "/made"), cwd="/tmp", cleanup=())
        other = spawn(
            joining, ENGINE.join(joining, guard.pid), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        assert other.communicate(timeout=20)[0] == b"here\n"
        assert guard.poll() is None
    finally:
        guard.terminate()
        guard.wait()


@needs("busybox")
def test_mounts(shell: Box, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "f").write_text("bound\n")
    mounts = (
        *SYSTEM,
        Mount(source=str(data), target="/not/there/yet"),
        Mount(kind="file", target="/etc/hosts", content="127.0.0.1 me\n", is_dir=False),
        Mount(kind="tmpfs", target="/scratch"),
        Mount(source=str(tmp_path / "none"), target="/none", options=("optional",)),
    )
    text = (
        "cat /not/there/yet/f /etc/hosts; ls /not/there; echo x > /scratch/x; ls /scratch;"
        " ls -d /none 2>&1 | wc -l"
    )
    assert script(shell, text, mounts=mounts, system=False) == "bound\n127.0.0.1 me\nyet\nx\n1\n"
    assert (data / "f").exists() and not (data / "x").exists()


@needs("busybox")
def test_identity_of_an_ordinary_guest(shell: Box) -> None:
    identity = as_root(uid=1000, gid=100, groups=(100, 7), fake_root=False)
    text = script(
        shell, "id -u; id -G; touch /tmp/mine; stat -c %u:%g /tmp/mine /etc/passwd", identity=identity
    )
    assert text == "1000\n100 7\n1000:100\n0:0\n"


@needs("busybox")
def test_network_none_has_no_sockets(shell: Box) -> None:
    done = run(shell.spec("nc", "127.0.0.1", "1", network="none"))
    assert done.returncode != 0 and b"denied" in done.stderr


def test_what_is_refused(box: Box) -> None:
    def reasons(**changes: object) -> str:
        return "; ".join(ENGINE.reasons_against(box.spec("/hello", **changes)))

    assert reasons() == ""
    assert "subordinate" in reasons(identity=as_root(subids=True))
    assert "several" in reasons(root=Root(lower=("/a", "/b")))


def traced(shell: Box, log: Path, script: str, **changes: object) -> list[str]:
    """The lines of strace for a script in the container, of calls that look at files and of our signals."""
    spec = shell.spec("sh", "-c", script, **changes)
    launch = ENGINE.launch(spec)
    calls = "newfstatat,stat,lstat,fstat,readlinkat,getcwd,getdents64"
    strace = ["strace", "-f", "-qq", "-e", f"trace={calls}", "-o", str(log)]
    done = subprocess.run([*strace, *launch.argv], env=launch.env, pass_fds=launch.fds, check=False)
    assert done.returncode == 0
    ENGINE.cleanup(spec)
    return log.read_text().splitlines()


def is_host_call(line: str) -> bool:
    """Not a signal, and not a call of the guest's that was trapped: the result is then its number."""
    numbers = {"4", "5", "6", "79", "217", "262", "267"}
    return "SIGSYS" not in line and line.rsplit(" = ", 1)[-1] not in numbers


@needs("busybox", "strace")
@pytest.mark.parametrize(
    ("directory", "path"), [("/", "/etc/sub/f"), ("/etc/sub", "f"), ("/etc", "sub/f"), ("/etc", "./sub/f")]
)
def test_system_calls_of_a_hot_path(shell: Box, tmp_path: Path, directory: str, path: str) -> None:
    """One host call for each look at a file: a remembered directory is not asked about again, a call site
    that is used often does not trap any more."""
    (Path(shell.lower) / "etc" / "sub").mkdir(exist_ok=True)
    (Path(shell.lower) / "etc" / "sub" / "f").touch()
    first, last = (
        traced(shell, tmp_path / f"log{times}", f"cd {directory}; " + f"test -e {path}; " * times)
        for times in (20, 120)
    )
    assert sum(map(is_host_call, last)) - sum(map(is_host_call, first)) == 100
    assert sum("SIGSYS" in line for line in last) - sum("SIGSYS" in line for line in first) == 0


@needs("busybox", "strace")
@pytest.mark.parametrize(
    ("directory", "path"), [("/data", "f"), ("/data", "sub/f"), ("/data", "./sub/f"), ("/", "/data/sub/f")]
)
def test_system_calls_in_a_bind(shell: Box, tmp_path: Path, directory: str, path: str) -> None:
    """Nearly the same there: what others may change is remembered for some milliseconds."""
    (tmp_path / "data/sub").mkdir(parents=True)
    (tmp_path / "data/sub/f").touch()
    (tmp_path / "data/f").touch()
    mounts = (Mount(source=str(tmp_path / "data"), target="/data"),)
    first, last = (
        traced(shell, tmp_path / f"log{n}", f"cd {directory}; " + f"test -e {path}; " * n, mounts=mounts)
        for n in (20, 220)
    )
    assert sum(map(is_host_call, last)) - sum(map(is_host_call, first)) < 300


@needs("busybox", "strace")
def test_system_calls_of_what_was_remembered_in_a_bind(shell: Box, tmp_path: Path) -> None:
    """Once those milliseconds are over each directory on the way is looked at again, and nothing else."""
    (tmp_path / "data/sub/sub").mkdir(parents=True)
    for directory in ("", "sub", "sub/sub"):
        (tmp_path / "data" / directory / "f").touch()
    mounts = (Mount(source=str(tmp_path / "data"), target="/data"),)

    def calls(path: str, n: int) -> int:
        script = "cd /data; " + f"test -e {path}; " * 20 + f"usleep 40000; test -e {path}; " * n
        return sum(map(is_host_call, traced(shell, tmp_path / f"log{n}", script, mounts=mounts)))

    without, one, two = (calls(p, 30) - calls(p, 10) for p in ("f", "sub/f", "sub/sub/f"))
    assert (one - without, two - without) == (20, 40)


@needs("busybox")
def test_what_others_change_in_a_bind_is_seen(shell: Box, tmp_path: Path) -> None:
    """A directory that becomes a link, from outside: it leads where links of the container lead."""
    for name in ("d", "other"):
        (tmp_path / "data" / name / "sub").mkdir(parents=True)
        (tmp_path / "data" / name / "sub/f").write_text(f"{name}\n")
    look = "i=0; while [ $i -lt 50 ]; do test -e d/sub/f && test -e /data/d/sub/f; i=$((i+1)); done; "
    text = (
        f"cd /data; {look} cat d/sub/f; touch ready; while ! test -e go; do {look} done; usleep 100000; "
        "cat d/sub/f /data/d/sub/f; cd /data/d/sub; cat ../../d/sub/f; readlink /data/d"
    )
    spec = shell.spec("sh", "-c", text, mounts=(Mount(source=str(tmp_path / "data"), target="/data"),))
    guard = spawn(spec, ENGINE.launch(spec), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: (tmp_path / "data/ready").exists())
    (tmp_path / "data/d").rename(tmp_path / "data/was")
    (tmp_path / "data/d").symlink_to("/data/other")
    (tmp_path / "data/go").touch()
    out, err = guard.communicate(timeout=60)
    assert (out, err) == (b"d\nother\nother\nother\n/data/other\n", b"")


@needs("busybox", "strace")
def test_temporary_files_unsettle_nothing(shell: Box, tmp_path: Path) -> None:
    """A file that was looked at and goes: the directories that others know are not walked anew."""
    (Path(shell.lower) / "etc" / "sub").mkdir(exist_ok=True)
    (Path(shell.lower) / "etc" / "sub" / "f").touch()
    again = "echo x >/tmp/t; test -e /tmp/t; test -e /tmp/t; rm /tmp/t; test -e /etc/sub/f; "
    first, last = (traced(shell, tmp_path / f"log{n}", "mkdir -p /tmp; " + again * n) for n in (20, 40))
    looks = [sum("etc/sub" in line for line in log if is_host_call(line)) for log in (first, last)]
    assert looks[1] - looks[0] == 20


@needs("busybox", "strace")
def test_what_is_known_as_a_directory_is_no_link(shell: Box, tmp_path: Path) -> None:
    (Path(shell.lower) / "etc" / "sub").mkdir(exist_ok=True)
    (Path(shell.lower) / "etc" / "sub" / "f").touch()
    script = "test -e /etc/sub/f; i=0; while [ $i -lt {} ]; do readlink /etc/sub; i=$((i+1)); done; true"
    first, last = (traced(shell, tmp_path / f"log{n}", script.replace("{}", str(n))) for n in (20, 40))
    links = [[line for line in log if "readlinkat" in line and is_host_call(line)] for log in (first, last)]
    asked = [sum("etc/sub" in line for line in lines) for lines in links]
    assert asked == [0, 0]


@needs("busybox", "strace")
def test_listings_of_the_image_are_known(shell: Box, tmp_path: Path) -> None:
    """Not asked for: its place in the listing is that of the descriptor, which is."""
    image = tmp_path / "image"
    shutil.copytree(shell.lower, image / "rootfs", symlinks=True)
    for n in range(300):
        below = image / f"rootfs/etc/list/{n}"
        below.mkdir(parents=True)
        (below / "f").touch()
    RecordWriter(str(image / "record")).close()
    write_index(str(image))
    root = Root(lower=(str(image / "rootfs"),), records=(str(image / "record"),))
    assert shell.output("sh", "-c", "find /etc/list | wc -l", root=root) == "601\n"
    log = traced(shell, tmp_path / "log", "find /etc/list >/dev/null", root=root)
    assert 0 < sum("getdents64" in line for line in log if is_host_call(line)) < 40


@needs("busybox", "strace")
def test_what_the_image_has_is_known(shell: Box, tmp_path: Path) -> None:
    """By the index that the store made, without a call; not what is in a directory of both layers."""
    image = tmp_path / "image"
    shutil.copytree(shell.lower, image / "rootfs", symlinks=True)
    (image / "rootfs/etc/sub").mkdir(exist_ok=True)
    (image / "rootfs/etc/sub/f").touch()
    RecordWriter(str(image / "record")).close()
    write_index(str(image))
    root = Root(lower=(str(image / "rootfs"),), records=(str(image / "record"),))
    begin, look = "cd /etc/sub; ", "test -e /etc/sub/f; test -e /etc/sub/none; test -e f; "
    first, last = (traced(shell, tmp_path / f"log{n}", begin + look * n, root=root) for n in (20, 120))
    assert sum(map(is_host_call, last)) - sum(map(is_host_call, first)) == 0
    for made in ("touch /etc/sub/new; ", ""):
        if not made:  # another copy's
            os.rename(image / "rootfs", tmp_path / "moved")
            shutil.copytree(tmp_path / "moved", image / "rootfs", symlinks=True)
        first, last = (
            traced(shell, tmp_path / f"log{n}", made + begin + look * n, root=root) for n in (20, 120)
        )
        assert sum(map(is_host_call, last)) - sum(map(is_host_call, first)) >= 300


@needs("busybox", "strace")
def test_programs_of_the_image_are_known(shell: Box, tmp_path: Path) -> None:
    """Nobody asks what a path comes to that was executed before."""
    first, last = (
        traced(shell, tmp_path / f"log{n}", "/bin/busybox true; " * n, root=layer(shell)) for n in (20, 60)
    )
    looks = [sum("newfstatat" in line and "/proc" not in line for line in log) for log in (first, last)]
    assert looks[0] == looks[1]  # what it asks /proc at its start is its own affair


@needs("busybox", "cc", "ldd", "readelf")
def test_a_program_is_known_by_its_interpreter_too(shell: Box, tmp_path: Path) -> None:
    """By one with a long name, too, which is found another way: where it is removed the program does not run.

    Their directory is of both layers by then: removing a name there is all that happens."""
    root = Path(shell.lower)
    true = root / "bin/dynamic"
    (tmp_path / "true.c").write_text("int main(void) { return 0; }\n")
    subprocess.run(["cc", "-o", str(true), str(tmp_path / "true.c")], check=True)
    add_libraries(true, root)
    library = next(path for path in (root / "lib64").iterdir() if path.name.startswith("ld-"))
    for name in ("/lib64/ld", "/lib64/" + 130 * "l"):
        shutil.copy(library, root / name[1:])
        command = ["cc", f"-Wl,--dynamic-linker={name}", "-o", str(true), str(tmp_path / "true.c")]
        subprocess.run(command, check=True)
        often = "touch /lib64/new; for i in 1 2 3 4 5; do /bin/dynamic; echo $?; done; "
        assert script(shell, often + f"rm {name}; /bin/dynamic 2>&-; echo $?", root=layer(shell)) == (
            "0\n" * 5 + "127\n"
        ), name


LOOKER = r"""
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

int main(void)
{
	struct stat st;
	char b[100];
	DIR *d = opendir("/etc");

	while (d && readdir(d))
		;
	if (stat("/etc", &st) || lstat("/bin", &st) || access("/etc", R_OK) || !getcwd(b, sizeof b))
		return 1;
	if (open("/none", O_RDONLY) >= 0 || readlink("/bin/sh", b, sizeof b) == 0)
		return 1;
	return chdir("/etc") || unlink("none") == 0;
}
"""


@needs("busybox", "cc", "strace")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="code is changed on x86-64 only")
def test_calls_of_the_c_library_are_no_traps(
    shell: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where some programs have run: a changed copy is kept for all, those of other containers, too."""
    (tmp_path / "looker.c").write_text(LOOKER)
    looker = Path(shell.lower) / "bin/looker"
    subprocess.run(["cc", str(tmp_path / "looker.c"), "-o", str(looker)], check=True)
    add_libraries(looker, Path(shell.lower))
    time.sleep(3.1)  # as if the image had been there for a while
    traps = {}
    for place in ("runtime", "none"):  # a directory to keep it in, and no such place
        if place == "runtime":
            (tmp_path / place).mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / place))
        for text in ("/bin/looker; true", "/bin/looker; /bin/looker"):
            if place == "runtime":
                script(shell, "for i in 1 2 3 4 5 6; do " + "/bin/looker; " * 6 + "done")
            log = traced(shell, tmp_path / "log", text)
            traps[place, text.count("looker")] = sum("SIGSYS" in line for line in log)
    more = {place: traps[place, 2] - traps[place, 1] for place in ("runtime", "none")}
    assert more["runtime"] <= 3, traps
    assert more["none"] > 15, traps
    assert len(os.listdir(tmp_path / "runtime/udk")) == 1


AGENT = r"""
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

int main(int argc, char **argv)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };

	snprintf(name.sun_path, sizeof name.sun_path, "%s", argv[argc - 1]);
	umask(0177);
	if (bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&name, sizeof name)) {
		perror("bind");
		return 1;
	}
	return 0;
}
"""


@needs("busybox", "cc")
def test_a_socket_behind_a_long_host_path_under_a_narrow_umask(shell: Box, tmp_path: Path) -> None:
    """As ssh-agent makes it. The directory of the short names, made for the first of them, is usable."""
    (tmp_path / "agent.c").write_text(AGENT)
    agent = ["cc", "-O1", "-static", "-o", f"{shell.lower}/bin/agent", str(tmp_path / "agent.c")]
    subprocess.run(agent, check=True)
    name = "/tmp/" + 60 * "s"
    assert script(shell, f"/bin/agent {name} && stat -c '%a %F' {name}", root=layer(shell)) == "600 socket\n"


FAULTS = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct rusage before, after;

	for (int i = 0; argc == 1 && i < 20; i++) {
		if (i == 10)
			getrusage(RUSAGE_CHILDREN, &before);
		if (!fork()) {
			execl(argv[0], argv[0], "child", NULL);
			_exit(1);
		}
		wait(NULL);
	}
	if (argc == 1) {
		getrusage(RUSAGE_CHILDREN, &after);
		printf("%ld\n", (after.ru_minflt - before.ru_minflt) / 10);
	}
	return 0;
}
"""


@needs("busybox", "cc")
def test_page_faults_of_a_program(shell: Box, tmp_path: Path) -> None:
    """Of its fork, exec and exit: they are most of what the engine costs it (csrc/trap/layout.ld)."""
    program = Path(shell.lower) / "bin/faults"
    (tmp_path / "faults.c").write_text(FAULTS)
    subprocess.run(["cc", "-O1", "-static", "-o", str(program), str(tmp_path / "faults.c")], check=True)
    natively = int(subprocess.run([program], stdout=subprocess.PIPE, check=True).stdout)
    done = run(shell.spec("/bin/faults", root=layer(shell)))
    assert int(done.stdout) - natively <= 24, (done, natively)
