"""Owners and ids with one mapped id: fake root in namespaces, on the same records as the trap engine's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import Layout
from tests.support.needs import needs, require
from tests.support.udk import Udk, busybox_layer

pytestmark = needs("busybox")
LIST = "ls -lnd $* | awk '{ print $9, $3, $4 }'"


@pytest.fixture(scope="module", autouse=True)
def engines(shared_udk: Udk) -> None:
    rows = {row["engine"]: row for row in shared_udk("doctor", "--json").json}
    for name in ("namespace", "trap"):
        if not rows[name]["works"]:
            pytest.skip(f"{name}: {rows[name]['reason']}")


@contextlib.contextmanager
def container(udk: Udk, box: str, name: str = "owners") -> Iterator[str]:
    try:
        udk.ok("create", "--name", name, box, "true")
        yield name
    finally:
        udk("rm", "-f", name)


def sh(udk: Udk, engine: str, name: str, script: str, *words: str) -> str:
    return udk.ok("run", "--engine", engine, name, "sh", "-c", script, "sh", *words)


@pytest.mark.parametrize("engine, runtime", [("namespace", ""), ("R2", "runc"), ("R3", "crun")])
def test_identity_is_fake_and_the_images(udk: Udk, box: str, engine: str, runtime: str) -> None:
    if runtime:
        require(runtime)
    script = (
        "echo x > /f && chown 1:2 /f && ln -s f /l && chown -h 3:4 /l && mknod /null c 1 3 && chmod 4755 /f"
        " && ls -ln /f /l /null | awk '{ print $1, $3, $4 }' && stat -c '%u %g' /home/ann"
    )
    run = ("run", "--engine", engine, box, "sh", "-c")
    said = udk.ok(*run, script, env={"UDK_OCI_RUNTIME": runtime or None}).split("\n")
    assert said[:4] == ["-rwsr-xr-x 1 2", "lrwxrwxrwx 3 4", "crw-r--r-- 0 0", "1000 1000"]


@pytest.mark.parametrize("engine, runtime", [("namespace", ""), ("R2", "runc"), ("R3", "crun")])
def test_it_is_there_in_confinement(udk: Udk, box: str, engine: str, runtime: str) -> None:
    if runtime:
        require(runtime)
    script = "echo x > /f && chown 1:2 /f && stat -c '%u %g' /f && su ann -c 'id -u'; ls /proc/self/fd"
    run = ("run", "--engine", engine, "--confine", box, "sh", "-c", script)
    if "Landlock" in udk("run", "--engine", "namespace", "--confine", box, "true").error:
        pytest.skip("no Landlock here")
    said = udk.ok(*run, env={"UDK_OCI_RUNTIME": runtime or None}).split("\n")
    assert said[:2] == ["1 2", "1000"] and said[2:-1] == ["0", "1", "2", "3"]


def test_it_can_be_switched_off(udk: Udk, box: str) -> None:
    said = udk.ok(
        "run", "--engine", "namespace", box, "stat", "-c", "%u", "/home/ann", env={"UDK_IDENTITY": "0"}
    )
    assert said == "0\n"


def test_users_are_switched(udk: Udk, box: str) -> None:
    script = "su ann -c 'id -u; id -g; touch /home/ann/f; chown 0 /home/ann/f 2>/dev/null || echo denied'"
    said = udk.ok("run", "--engine", "namespace", box, "sh", "-c", f"{script}; stat -c '%u %g' /home/ann/f")
    assert said == "1000\n1000\ndenied\n1000 1000\n"


@pytest.mark.parametrize("move", ["rm /setid && mv /plain /setid", "rm /setid && ln /plain /setid"])
def test_a_copy_that_was_moved_stays_what_it_is(new_udk: Udk, tmp_path: Path, move: str) -> None:
    """What the image says of a name is not said of another of its files, there since an earlier run."""
    layout = Layout(tmp_path / "layout")
    layout.add_image([busybox_layer([("setid", b"", 0o4755), ("plain", b"", 0o644)])], "1")
    with container(new_udk, f"oci:{layout.path}:1") as name:
        for script in ("chmod 640 /plain", move, "true"):
            sh(new_udk, "namespace", name, script)
        assert sh(new_udk, "namespace", name, "stat -c '%a %u' /setid") == "640 0\n"


@pytest.mark.parametrize("first, second", [("namespace", "trap"), ("trap", "namespace"), ("R2", "trap")])
def test_owners_are_the_same_in_the_other_engine(udk: Udk, box: str, first: str, second: str) -> None:
    change = (
        "mkdir -p /new/sub && echo x > /new/f && ln -s f /new/l && chown -R 1:1 /new"
        " && chown 1:1 /etc /etc/passwd && chown -h 2:3 /new/l"
        " && chown 5:6 /home /home/ann && mv /etc/passwd /etc/moved && chmod 2711 /home/ann"
    )
    paths = ("/new", "/new/sub", "/new/f", "/new/l", "/etc", "/etc/moved", "/home", "/home/ann", "/bin")
    with container(udk, box) as name:
        sh(udk, first, name, change)
        here = sh(udk, first, name, LIST, *paths)
        assert here.split("\n")[:4] == ["/bin 0 0", "/etc 1 1", "/etc/moved 1 1", "/home 5 6"]
        assert sh(udk, second, name, LIST, *paths) == here
        assert sh(udk, second, name, "stat -c %a /home/ann") == "2711\n"
        # and back again: what the other engine changes in turn
        sh(udk, second, name, "chown 7:8 /home/ann /new/f /etc; rm /etc/moved; touch /etc/again")
        there = sh(udk, second, name, LIST, "/home/ann", "/new/f", "/etc", "/etc/again")
        assert there == "/etc 7 8\n/etc/again 0 0\n/home/ann 7 8\n/new/f 7 8\n"
        assert sh(udk, first, name, LIST, "/home/ann", "/new/f", "/etc", "/etc/again") == there


def test_a_removed_files_owner_is_not_the_next_ones(udk: Udk, box: str) -> None:
    script = (
        "for i in 1 2 3 4 5 6 7 8; do echo x > /f$i; chown 9:9 /f$i; done; rm /f?; "
        "for i in 1 2 3 4 5 6 7 8; do echo x > /g$i; mkdir /d$i; done; stat -c %u /g? /d? | sort -u"
    )
    assert udk.ok("run", "--engine", "namespace", box, "sh", "-c", script) == "0\n"


@pytest.mark.parametrize("engine", ["trap", "namespace"])
@pytest.mark.parametrize("make", ["echo x > $i", "mkdir $i", "ln -s x $i", "mknod $i p"])
def test_what_nobody_forgot_is_not_the_next_files(udk: Udk, box: str, engine: str, make: str) -> None:
    """A process was killed right after it had removed a file: its entry is still there."""
    with container(udk, box) as name:
        owned = "for i in $(seq 40); do echo x > /f$i; chown 9:9 /f$i; chmod 4755 /f$i; done; stat -c %i /f*"
        inodes = set(sh(udk, engine, name, owned).split())
        left = [path for path in udk.scratch.parent.rglob("upper/f*") if str(path.lstat().st_ino) in inodes]
        assert len(left) == 40
        for path in left:
            path.unlink()
        script = f"cd /; for i in $(seq 901 940); do {make}; done; stat -c '%i %u %g %a' 9*"
        said = [line.split() for line in sh(udk, engine, name, script).splitlines()]
        if inodes.isdisjoint(line[0] for line in said):
            pytest.skip("this file system does not give an inode again")
        assert {(uid, gid) for _, uid, gid, _ in said} == {("0", "0")}
        assert len({mode for *_, mode in said}) == 1


def test_a_user_namespace_inside_is_the_kernels(udk: Udk, box: str) -> None:
    said = udk(
        "run", "--engine", "namespace", box, "unshare", "-r", "sh", "-c", "id -u; cat /proc/self/uid_map"
    )
    if "not permitted" in said.error or "nrecognized" in said.error or "applet" in said.error:
        pytest.skip(said.error)
    assert said.text.split() == ["0", "0", "0", "1"]


def test_no_way_leads_out_of_the_layers_directory(udk: Udk, box: str) -> None:
    """The keeper's working directory is a mount of its own, which is attached nowhere."""
    script = "ls /proc/1/cwd/.. /proc/1/cwd/../../.."
    said = udk.ok("run", "--engine", "namespace", box, "sh", "-c", script).split()
    names = {name.partition(".")[0] for name in said if not name.startswith("/")}
    assert names == {"changes", "trap", "upper", "work"}
