"""The container's file systems: root, private layer, binds, tmpfs, /dev; nothing reaches the image."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import SYSTEM, Box
from udk.runtime.spec import Mount, Root


def bind(source: Path, target: str, **more: Any) -> Mount:
    return Mount(source=str(source), target=target, is_dir=source.is_dir(), **more)


def snapshot(tree: Path) -> list[tuple[str, int, int, int]]:
    """Every entry with mode, size and time of change."""
    found = []
    for path in sorted(tree.rglob("*")):
        st = path.lstat()
        found.append((str(path.relative_to(tree)), st.st_mode, st.st_size, st.st_ctime_ns))
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A host directory with a file, a subdirectory and a link."""
    made = tmp_path / "data"
    (made / "sub").mkdir(parents=True)
    (made / "file").write_text("content")
    (made / "sub" / "inner").write_text("inner")
    return made


def test_what_is_written_goes_to_the_upper_layer_only(box: Box) -> None:
    before = snapshot(box.lower)
    _, upper, work = box.layer()
    root = Root(lower=(str(box.lower),), upper=upper, work=work)
    box.output("/hello", "write", "/etc/passwd", "more", root=root)
    box.output("/hello", "write", "/new", "text", root=root)
    assert snapshot(box.lower) == before
    assert (Path(upper) / "new").read_text() == "text"
    assert box.output("/hello", "cat", "/etc/passwd", root=root).endswith("more")


def test_the_layer_is_removed_and_the_image_is_not(box: Box) -> None:
    before = snapshot(box.lower)
    box.output("/hello", "write", "/etc/x", "y")
    assert list(box.scratch.glob("layer*")) == []
    assert snapshot(box.lower) == before


def test_memory_is_the_upper_layer_without_one(box: Box) -> None:
    root = Root(lower=(str(box.lower),))
    before = snapshot(box.lower)
    assert box.output("/hello", "write", "/etc/x", "y", root=root) == ""
    assert snapshot(box.lower) == before


def test_a_plain_directory_as_root(box: Box, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    subprocess.run(["cp", "-a", str(box.lower), str(plain)], check=True)
    root = Root(lower=(), upper=str(plain))
    box.output("/hello", "write", "/etc/new", "text", root=root)
    assert (plain / "etc" / "new").read_text() == "text"


def test_binds_of_directories_and_files(box: Box, data: Path) -> None:
    mounts = (bind(data, "/data"), bind(data / "file", "/etc/passwd"), bind(data / "file", "/tmp/f"))
    assert box.output("/hello", "cat", "/data/sub/inner", mounts=mounts) == "inner"
    assert box.output("/hello", "cat", "/etc/passwd", mounts=mounts) == "content"
    box.output("/hello", "write", "/data/new", "x", mounts=mounts)
    box.output("/hello", "write", "/tmp/f", "+", mounts=mounts)
    assert (data / "new").read_text() == "x"
    assert (data / "file").read_text() == "content+"
    assert (data / "new").stat().st_uid == os.geteuid()


def test_missing_targets_are_made_in_the_upper_layer(box: Box, data: Path) -> None:
    before = snapshot(box.lower)
    _, upper, work = box.layer()
    root = Root(lower=(str(box.lower),), upper=upper, work=work)
    mounts = (bind(data, "/var/lib/cwl/stg1"), bind(data / "file", "/opt/deep/er/in.txt"))
    assert box.output("/hello", "cat", "/var/lib/cwl/stg1/file", mounts=mounts, root=root) == "content"
    assert box.output("/hello", "cat", "/opt/deep/er/in.txt", mounts=mounts, root=root) == "content"
    assert snapshot(box.lower) == before
    assert (Path(upper) / "opt/deep/er/in.txt").read_bytes() == b""


def test_nested_binds_in_order(box: Box, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "o").write_text("other")
    work = tmp_path / "work"
    (work / "_inputs" / "0").mkdir(parents=True)
    (work / "_inputs" / "0" / "in.txt").touch()
    mounts = (
        bind(work, "/mnt/task"),
        bind(data / "file", "/mnt/task/_inputs/0/in.txt", readonly=True),
        bind(other, "/mnt/task/other"),
    )
    assert box.output("/hello", "cat", "/mnt/task/_inputs/0/in.txt", mounts=mounts) == "content"
    assert box.output("/hello", "cat", "/mnt/task/other/o", mounts=mounts) == "other"
    assert box.run("/hello", "write", "/mnt/task/_inputs/0/in.txt", "x", mounts=mounts).returncode == 1
    assert (work / "_inputs" / "0" / "in.txt").read_bytes() == b""


def test_a_later_bind_covers_an_earlier_one(box: Box, data: Path, tmp_path: Path) -> None:
    mounts = (bind(data / "sub", "/d"), bind(data, "/d"))
    assert box.output("/hello", "cat", "/d/file", mounts=mounts) == "content"


def test_read_only_binds(box: Box, data: Path) -> None:
    mounts = (bind(data, "/data", readonly=True), bind(data / "file", "/f", readonly=True))
    for path in ("/data/file", "/data/new", "/data/sub/new", "/f"):
        done = box.run("/hello", "write", path, "x", mounts=mounts)
        assert done.returncode == 1
        assert b"Read-only file system" in done.stderr
    assert (data / "file").read_text() == "content"


def test_read_only_reaches_mounts_below(shell: Box, data: Path) -> None:
    """/dev has mounts below it; all of them are read-only afterwards, not the top only."""
    text = shell.output(
        "cat", "/proc/self/mountinfo", mounts=(bind(Path("/dev"), "/hostdev", readonly=True),)
    )
    lines = [line.split() for line in text.splitlines() if line.split()[4].startswith("/hostdev")]
    assert len(lines) > 1
    assert all("ro" in fields[5].split(",") for fields in lines), lines


def test_root_of_the_container_cannot_undo_read_only(shell: Box, data: Path) -> None:
    mounts = (bind(data, "/data", readonly=True),)
    script = "mount -o remount,rw,bind /data 2>/dev/null; umount /data 2>/dev/null; echo x > /data/file"
    assert shell.run("sh", "-c", script, mounts=mounts).returncode != 0
    assert (data / "file").read_text() == "content"


@pytest.mark.parametrize(
    ("links", "target", "lands"),
    [
        ({"run": "/tmp"}, "/run/x", "/tmp/x"),
        ({"run": "tmp"}, "/run/x", "/tmp/x"),
        ({"run": "../../../tmp"}, "/run/x", "/tmp/x"),
        ({"a": "/b", "b": "c", "c": "/tmp/"}, "/a/x", "/tmp/x"),
        ({"dangling": "/not/yet/there"}, "/dangling", "/not/yet/there"),
        ({"up": "/../../etc"}, "/up/x", "/etc/x"),
    ],
)
def test_links_in_the_image_are_followed_inside_it(
    box: Box, data: Path, tmp_path: Path, links: dict[str, str], target: str, lands: str
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, to in links.items():
        (tree / name).symlink_to(to)
    _, upper, work = box.layer()
    root = Root(lower=(str(tree), str(box.lower)), upper=upper, work=work)
    mounts = (bind(data, target),)
    assert box.output("/hello", "cat", lands + "/file", mounts=mounts, root=root) == "content"
    assert not os.path.exists("/not/yet/there")
    assert not os.path.exists("/etc/x")


def test_magic_links_of_proc_lead_nowhere(box: Box, data: Path, tmp_path: Path) -> None:
    """/proc/self/cwd and its kind would be the launcher's, which is on the host."""
    tree = tmp_path / "tree"
    here = tmp_path / "c" / "d"
    tree.mkdir()
    here.mkdir(parents=True)
    (tree / "magic").symlink_to("/proc/self/cwd")
    _, upper, work = box.layer()
    root = Root(lower=(str(tree), str(box.lower)), upper=upper, work=work)
    mounts = (bind(data, "/magic/x"), bind(data, "/magic/../y"))
    box.run("/hello", "uid", mounts=mounts, root=root, popen={"cwd": here})
    assert sorted(os.listdir(tmp_path)) == ["c", "data", "layer1", "tree"]
    assert os.listdir(tmp_path / "c") == ["d"]
    assert os.listdir(here) == []


def test_a_loop_of_links_is_named(box: Box, data: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("a")
    _, upper, work = box.layer()
    root = Root(lower=(str(tree), str(box.lower)), upper=upper, work=work)
    assert box.failure("/hello", mounts=(bind(data, "/a/x"),), root=root) == (
        125, "/a/x: Too many levels of symbolic links",
    )  # fmt: skip


def test_bad_binds_are_named(box: Box, data: Path) -> None:
    gone = Mount(source=str(data / "gone"), target="/x")
    assert box.failure("/hello", mounts=(gone,)) == (125, f"{data}/gone: No such file or directory")
    over = Mount(source=str(data / "file"), target="/etc", is_dir=False)
    status, text = box.failure("/hello", mounts=(over,))
    assert status == 125
    assert "cannot be bound to /etc: one is a directory, the other is not" in text
    below = Mount(source=str(data), target="/etc/passwd/x")
    status, text = box.failure("/hello", mounts=(below,))
    assert (status, text) == (125, "/etc/passwd/x: Not a directory")


def test_an_optional_bind_may_be_missing(box: Box, data: Path) -> None:
    mounts = (Mount(source=str(data / "gone"), target="/x", options=("optional",)),)
    assert "x" not in box.output("/hello", "ls", "/", mounts=mounts).split()


def test_odd_names(box: Box, tmp_path: Path) -> None:
    source = tmp_path / "a:b,c d\\e\nf"
    source.mkdir()
    (source / "file").write_text("odd")
    mounts = (bind(source, "/g h:i,j\\k\nl", readonly=True),)
    assert box.output("/hello", "cat", "/g h:i,j\\k\nl/file", mounts=mounts) == "odd"


def test_a_bind_of_what_holds_the_image_and_the_layer(box: Box) -> None:
    """`-v $HOME:$HOME`, where the store is in $HOME: the host's files show, nothing of the engine's."""
    store = box.lower.parent
    mounts = (
        Mount(kind="file", target="/etc/hosts", content="x", is_dir=False),
        Mount(source=str(store), target="/store"),
        Mount(source=str(box.lower), target="/image", readonly=True),
        Mount(source=str(box.scratch), target="/scratch"),
        Mount(kind="file", target="/etc/hostname", content="y", is_dir=False),
    )
    for root in (None, Root(lower=(str(box.lower),))):
        more = {"root": root} if root else {}
        for path in ("/store/root", "/image"):
            names = sorted(box.output("/hello", "ls", path, mounts=mounts, **more).split())
            assert names == sorted(os.listdir(box.lower))
        text = box.output("/hello", "cat", "/proc/self/mountinfo", mounts=mounts, **more)
        points = [line.split()[4] for line in text.splitlines()]
        assert [p for p in points if p.startswith(("/store", "/image", "/scratch"))] == [
            "/store",
            "/image",
            "/scratch",
        ]
        assert box.output("/hello", "cat", "/etc/hostname", mounts=mounts, **more) == "y"


def test_many_binds(box: Box, data: Path) -> None:
    mounts = tuple(bind(data / "file", f"/many/{i}", readonly=bool(i % 2)) for i in range(300))
    assert len(box.output("/hello", "ls", "/many", mounts=mounts).split()) == 300


def test_generated_files(box: Box) -> None:
    mounts = (
        Mount(kind="file", target="/etc/hosts", content="127.0.0.1 me\n", is_dir=False),
        Mount(kind="file", target="/etc/missing/too", content="", is_dir=False, readonly=True),
    )
    assert box.output("/hello", "cat", "/etc/hosts", mounts=mounts) == "127.0.0.1 me\n"
    assert box.output("/hello", "write", "/etc/hosts", "more", mounts=mounts) == ""
    assert box.run("/hello", "write", "/etc/missing/too", "more", mounts=mounts).returncode == 1


def test_read_only_root(box: Box, data: Path) -> None:
    """Also where bind targets are missing: they are made before, and never in the image."""
    before = snapshot(box.lower)
    mounts = (bind(data, "/BtnsqR"), bind(data / "file", "/var/lib/cwl/in.txt", readonly=True))
    for private in (True, False):
        root = Root(lower=(str(box.lower),), readonly=True)
        if private:
            _, upper, work = box.layer()
            root = root.replace(upper=upper, work=work)
        assert box.output("/hello", "cat", "/var/lib/cwl/in.txt", mounts=mounts, root=root) == "content"
        done = box.run("/hello", "write", "/etc/new", "x", mounts=mounts, root=root)
        assert b"/etc/new: Read-only file system" in done.stderr
        assert box.output("/hello", "write", "/BtnsqR/w", "x", mounts=mounts, root=root) == ""
        assert box.output("/hello", "write", "/dev/shm/w", "x", mounts=mounts, root=root) == ""
        assert box.output("/hello", "cwd", cwd="/BtnsqR", mounts=mounts, root=root) == "/BtnsqR\n"
        assert box.output("/hello", "cwd", cwd="/not/there", mounts=mounts, root=root) == "/not/there\n"
    assert snapshot(box.lower) == before


def test_read_only_root_cannot_be_undone(shell: Box) -> None:
    _, upper, work = shell.layer()
    root = Root(lower=(str(shell.lower),), upper=upper, work=work, readonly=True)
    assert shell.run("sh", "-c", "mount -o remount,rw / 2>/dev/null; echo > /x", root=root).returncode != 0


def test_tmpfs(box: Box) -> None:
    mounts = (
        Mount(kind="tmpfs", target="/tmp"),
        Mount(kind="tmpfs", target="/scratch", options=("size=64k", "mode=0700", "noexec")),
        Mount(kind="tmpfs", target="/frozen", readonly=True),
    )
    assert box.output("/hello", "stat", "/tmp", mounts=mounts).startswith("d 1777 0:0")
    assert box.output("/hello", "stat", "/scratch", mounts=mounts).startswith("d 0700 0:0")
    done = box.run("/hello", "write", "/scratch/x", "x" * 100000, mounts=mounts)
    assert b"No space left on device" in done.stderr
    assert box.run("/hello", "write", "/frozen/x", "x", mounts=mounts).returncode == 1
    text = box.output("/hello", "cat", "/proc/self/mounts", mounts=mounts)
    (scratch,) = (line for line in text.splitlines() if " /scratch " in line)
    assert "noexec" in scratch and "nosuid" in scratch and "nodev" in scratch


def test_bad_tmpfs_options_are_named(box: Box) -> None:
    status, text = box.failure("/hello", mounts=(Mount(kind="tmpfs", target="/t", options=("size=many",)),))
    assert status == 125
    assert "/t" in text and "size=many" in text


def test_dev(shell: Box) -> None:
    script = """
        echo x > /dev/null && head -c 4 /dev/zero | od -An -tx1 && head -c 4 /dev/urandom | wc -c &&
        ! echo x > /dev/full && ls -l /dev/fd /dev/stdin /dev/ptmx | sed 's/.* -> //' && : > /dev/tty
    """
    done = shell.run("sh", "-c", script)
    assert done.stdout.split() == b"00 00 00 00 4 /proc/self/fd pts/ptmx /proc/self/fd/0".split()
    names = shell.output("ls", "/dev").split()
    expected = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert names == [
        n for n in expected.split() if os.path.exists(f"/dev/{n}") or n in ("ptmx", "pts", "shm")
    ]


def test_shm_size_and_host_shm(box: Box, tmp_path: Path) -> None:
    sized = (Mount(kind="shm", target="/dev/shm", options=("size=1m",)),)
    text = box.output("/hello", "cat", "/proc/self/mounts", mounts=sized)
    assert [line for line in text.splitlines() if " /dev/shm " in line][-1].count("size=1024k") == 1
    assert text.count(" /dev/shm ") == 1
    own = tmp_path / "shm"
    own.mkdir()
    box.output("/hello", "write", "/dev/shm/x", "y", mounts=(bind(own, "/dev/shm"),))
    assert (own / "x").read_text() == "y"


def test_devices_of_the_host(box: Box) -> None:
    mounts = (Mount(source="/dev/zero", target="/dev/nvidia0", is_dir=False),)
    assert box.output("/hello", "stat", "/dev/nvidia0", mounts=mounts).startswith("c ")


def test_proc_is_the_containers_own(shell: Box) -> None:
    assert shell.output("sh", "-c", "echo /proc/[0-9]*") == "/proc/1 /proc/2\n"
    assert f"/proc/{os.getpid()} " in shell.output("sh", "-c", "echo /proc/[0-9]* .", pid="host")


def test_nothing_of_the_host_is_left(shell: Box, tmp_path: Path) -> None:
    """Every mount point that the container sees is below its own root."""
    text = shell.output("cat", "/proc/self/mountinfo")
    roots = [line.split()[4] for line in text.splitlines()]
    assert roots[0] == "/"
    assert all(r == "/" or r.split("/")[1] in ("proc", "dev", "sys") for r in roots), roots
    assert str(tmp_path) not in text
    assert shell.run("ls", str(tmp_path)).returncode != 0
    script = "cd / && cd ../../../../.. && ls -d hello && chroot . /hello uid"
    assert shell.output("sh", "-c", script) == "hello\n0\n"
    # pid 1 was on the host once: the payload may not look at it through /proc
    assert shell.run("ls", "/proc/1/cwd/", "/proc/1/root/").stdout == b""


def test_host_names_and_network(shell: Box) -> None:
    assert shell.output("hostname", hostname="job-17") == "job-17\n"
    assert shell.output("hostname") == os.uname().nodename + "\n"
    script = "ip -o link | wc -l; ip -o addr show lo | grep -c 127.0.0.1"
    assert shell.output("sh", "-c", script, network="none").split() == ["1", "1"]
    interfaces = len(os.listdir("/sys/class/net"))
    assert shell.output("sh", "-c", "ls /sys/class/net | wc -l", network="host").strip() == str(interfaces)
    # with a network namespace of one's own, /sys shows that one
    assert shell.output("ls", "/sys/class/net", network="none") == "lo\n"


def test_without_any_system_mounts(box: Box) -> None:
    assert box.output("/hello", "ls", "/", system=False).split().count("proc") == 0


def test_order_of_system_mounts_is_the_specs(box: Box, data: Path) -> None:
    mounts = (bind(data, "/dev"), *SYSTEM)
    assert "null" in box.output("/hello", "ls", "/dev", mounts=mounts, system=False).split()
    assert not (data / "null").exists()


def test_host_mounts_are_unchanged(box: Box, data: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    box.output("/hello", "uid", mounts=(bind(data, "/data", readonly=True),))
    assert Path("/proc/self/mountinfo").read_text() == before
