"""Who the payload is, inside and on the host: one mapped id, subordinate ids, and no way to more."""

from __future__ import annotations

import os
import pwd
import stat
import struct
from pathlib import Path

import pytest

from tests.engines.conftest import Box
from tests.support.needs import needs
from udk.engines.namespace import owner_ops
from udk.engines.subids import map_ops
from udk.errors import EngineUnavailableError, UdkError
from udk.runtime.spec import Identity, Mount, Root


def test_root_of_the_image(box: Box, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    mounts = (Mount(source=str(shared), target="/shared"),)
    assert box.output("/hello", "uid") == "0\n"
    assert box.output("/hello", "gid") == "0\n"
    assert box.output("/hello", "stat", "/hello").startswith("- 0755 0:")
    box.output("/hello", "write", "/shared/file", "x", mounts=mounts)
    assert (shared / "file").stat().st_uid == os.geteuid()
    assert (shared / "file").stat().st_gid == os.getegid()


@pytest.mark.parametrize(("uid", "gid"), [(1000, 100), (65534, 65534), (4000000000, 1)])
def test_other_users(box: Box, tmp_path: Path, uid: int, gid: int) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    mounts = (Mount(source=str(shared), target="/shared"), Mount(kind="tmpfs", target="/tmp"))
    who = Identity(uid=uid, gid=gid, fake_root=False)
    assert box.output("/hello", "uid", identity=who) == f"{uid}\n"
    assert box.output("/hello", "gid", identity=who) == f"{gid}\n"
    assert box.output("/hello", "write", "/shared/f", "x", identity=who, mounts=mounts) == ""
    assert box.output("/hello", "write", "/tmp/f", "x", identity=who, mounts=mounts) == ""
    assert box.output("/hello", "write", "/dev/shm/f", "x", identity=who, mounts=mounts) == ""
    assert (shared / "f").stat().st_uid == os.geteuid()


def test_only_root_has_capabilities(shell: Box) -> None:
    script = "grep -E 'Cap(Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status"
    root = dict(line.split(":\t") for line in shell.output("sh", "-c", script).splitlines())
    assert root["CapEff"] == root["CapBnd"] == "00000000a80425fb"  # docker's default set
    assert root["NoNewPrivs"] == "1"
    user = Identity(uid=1000, gid=1000, fake_root=False)
    plain = dict(line.split(":\t") for line in shell.output("sh", "-c", script, identity=user).splitlines())
    assert plain["CapEff"] == plain["CapAmb"] == "0000000000000000"


def test_root_overrides_modes_of_its_own_files(shell: Box, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "f").write_text("x")
    (closed / "f").chmod(0)
    closed.chmod(0)
    mounts = (Mount(source=str(closed), target="/closed"),)
    try:
        assert shell.output("cat", "/closed/f", mounts=mounts) == "x"
    finally:
        closed.chmod(0o700)


def test_set_id_programs_give_nothing(shell: Box, tmp_path: Path) -> None:
    """Not those of the host that are bound into the container, nor those of the image."""
    mounts = (Mount(source="/", target="/host", readonly=True),)
    user = Identity(uid=1000, gid=1000, fake_root=False)
    done = shell.run("/host/usr/bin/newgrp", "-", mounts=mounts, identity=user)
    assert done.returncode != 0
    assert shell.run("sh", "-c", "cat /host/etc/shadow", mounts=mounts).returncode != 0


def test_unknown_user_of_the_host(box: Box) -> None:
    """The launcher asks nothing of passwd: a job's user may not be in it."""
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME")}
    assert box.run("/hello", "uid", popen={"env": env}).stdout == b"0\n"
    assert box.run("/hello", "uid", popen={"env": {}}).stdout == b"0\n"


def test_nested_user_namespaces_work(shell: Box) -> None:
    """A container in a container: what another udk, bwrap or apptainer inside needs."""
    assert shell.output("unshare", "-U", "-r", "-m", "sh", "-c", "mount -t tmpfs t /tmp && id -u") == "0\n"


# ---- subordinate ids --------------------------------------------------------------------------------------


def subids() -> bool:
    name = pwd.getpwuid(os.geteuid()).pw_name
    return all(f"\n{name}:" in "\n" + Path(f"/etc/sub{kind}").read_text() for kind in ("uid", "gid"))


def with_subids(**more: object) -> Identity:
    if not subids():
        pytest.skip("needs subordinate ids for this user in /etc/subuid and /etc/subgid")
    return Identity(subids=True, **more)


@needs("newuidmap")
def test_subordinate_ids(shell: Box) -> None:
    script = (
        "id -u; touch /f; chown 33:44 /f; stat -c %u:%g /f; touch /g; chown 65000 /g; stat -c %u /g; rm /f"
    )
    assert shell.output("sh", "-c", script, identity=with_subids()) == "0\n33:44\n65000\n"
    assert list(shell.scratch.glob("layer*")) == []  # though files in it belonged to others


@needs("newuidmap")
def test_subordinate_ids_and_users(shell: Box, tmp_path: Path) -> None:
    who = with_subids(uid=1000, gid=100, groups=(5, 27), fake_root=False)
    assert shell.output("id", "-u", identity=who) == "1000\n"
    assert shell.output("id", "-G", identity=who) == "100 5 27\n"
    assert shell.run("sh", "-c", "touch /etc/passwd.new", identity=who).returncode != 0
    script = "grep CapEff /proc/self/status"
    assert shell.output("sh", "-c", script, identity=who) == "CapEff:\t0000000000000000\n"


@needs("newuidmap")
def test_terminal_group_with_subordinate_ids(shell: Box) -> None:
    done = shell.run("sh", "-c", "stat -c %g:%a $(tty)", identity=with_subids(), tty=True)
    assert done.stdout == b"5:620\r\n"


@needs("newuidmap")
def test_files_of_others_in_a_kept_layer_can_be_removed(shell: Box) -> None:
    from udk.engines.guard import remove

    home, upper, work = shell.layer()
    root = Root(lower=(str(shell.lower),), upper=upper, work=work)
    script = "mkdir -p /a/b; touch /a/b/c; chown -R 1000:1000 /a; chmod 700 /a"
    shell.output("sh", "-c", script, identity=with_subids(), root=root, cleanup=())
    assert (Path(upper) / "a").stat().st_uid != os.geteuid()
    with pytest.raises(UdkError, match="cannot be removed"):
        remove([home])
    remove([home], subids=True)
    assert not os.path.exists(home)


def record(path: Path, entries: dict[str, tuple[int, int, int]]) -> None:
    """An identity record (docs/architecture.md): name -> mode, uid, gid."""
    strings = b""
    rows = b""
    for name, (mode, uid, gid) in sorted(entries.items()):
        rows += struct.pack("<QIIIIIIQII", len(strings), len(name), mode, uid, gid, 0, 0, 0, 0, 0)
        strings += name.encode()
    header = b"UDKREC\0\1" + struct.pack("<IIQQ", len(entries), 0, 32, 32 + len(rows))
    path.write_bytes(header + rows + strings)


def test_owners_of_a_record(tmp_path: Path) -> None:
    made = tmp_path / "record"
    record(
        made,
        {
            "": (0o040755, 0, 0), "etc/shadow": (0o100640, 0, 42), "bin/su": (0o104755, 0, 0),
            "link": (0o120777, 7, 7), "var/mail": (0o042775, 0, 8), "plain": (0o100644, 0, 0),
        },
    )  # fmt: skip
    assert owner_ops(str(made)) == [
        ("owner", "bin/su", "0", "0", "4755"),
        ("owner", "etc/shadow", "0", "42", "640"),
        ("owner", "link", "7", "7", "0"),
        ("owner", "var/mail", "0", "8", "2775"),
    ]
    made.write_bytes(b"nonsense" * 10)
    with pytest.raises(UdkError, match="not an identity record"):
        owner_ops(str(made))


@needs("newuidmap")
def test_recorded_owners_are_shown_with_subordinate_ids(shell: Box, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "var" / "mail").mkdir(parents=True)
    (tree / "var" / "own").write_text("x")
    (tree / "su").write_text("su")
    (tree / "su").chmod(0o755)
    (tree / "link").symlink_to("/etc/passwd")
    before = sorted(
        (p.name, p.lstat().st_mode, p.lstat().st_uid, p.lstat().st_ctime_ns) for p in tree.rglob("*")
    )
    made = tmp_path / "record"
    record(
        made,
        {
            "var/mail": (0o042775, 0, 8), "var/own": (0o100640, 33, 44), "su": (0o104755, 0, 0),
            "link": (0o120777, 7, 7), "removed/above": (0o100644, 5, 5), "etc/passwd/x": (0o100644, 5, 5),
        },
    )  # fmt: skip
    home, upper, work = shell.layer()
    root = Root(lower=(str(tree), str(shell.lower)), records=(str(made), ""), upper=upper, work=work)
    command = ("stat", "-c", "%n %a %u:%g", "/var/mail", "/var/own", "/su", "/link")
    shown = shell.output(*command, identity=with_subids(), root=root, cleanup=())
    assert shown == "/var/mail 2775 0:8\n/var/own 640 33:44\n/su 4755 0:0\n/link 777 7:7\n"
    # a later run of the same layer shows what the container itself changed, not the image's owners again
    shell.output("chown", "1:1", "/var/own", identity=with_subids(), root=root, cleanup=())
    shown = shell.output(*command, identity=with_subids(), root=root, cleanup=(home,))
    assert "/var/own 640 1:1\n" in shown
    after = sorted(
        (p.name, p.lstat().st_mode, p.lstat().st_uid, p.lstat().st_ctime_ns) for p in tree.rglob("*")
    )
    assert after == before


@needs("newuidmap")
def test_owners_beyond_the_subordinate_ids_are_named(shell: Box, tmp_path: Path) -> None:
    made = tmp_path / "record"
    record(made, {"etc/passwd": (0o100644, 4000000000, 0)})
    home, upper, work = shell.layer()
    root = Root(lower=(str(shell.lower),), records=(str(made),), upper=upper, work=work)
    status, text = shell.failure("true", identity=with_subids(), root=root, cleanup=(home,))
    assert status == 125
    assert "etc/passwd: owner 4000000000:0 is outside of the subordinate ids" in text
    assert not os.path.exists(home)


def test_subordinate_ids_of_a_directory_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "getsubids"
    tool.write_text("#!/bin/sh\necho 0: me 7000 100\n[ $1 = -g ] || echo 1: me 9000 5\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("udk.engines.subids._ranges", lambda *_: [])
    ops = map_ops()
    assert [op[1:] for op in ops if op[0] == "map-uid"][1:] == [("1", "7000", "100"), ("101", "9000", "5")]
    assert [op[1:] for op in ops if op[0] == "map-gid"][1:] == [("1", "7000", "100")]


def test_missing_subordinate_ids_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udk.engines.subids._ranges", lambda *_: [])
    monkeypatch.setattr("udk.engines.subids._ranges_of_directory", lambda *_: [])
    with pytest.raises(EngineUnavailableError, match="/etc/subuid has no subordinate ids"):
        map_ops()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(EngineUnavailableError, match="need newuidmap"):
        map_ops()


@needs("newuidmap")
def test_refused_maps_are_named(box: Box, tmp_path: Path) -> None:
    """newuidmap's own words are in the message, and the layer is removed."""
    from udk.engines.guard import dry_run

    ops = map_ops() if subids() else pytest.skip("needs subordinate ids")
    bad = [("map-uid", "1", "1", "1000") if op[:2] == ("map-uid", "1") else op for op in ops]
    error = dry_run([("clone", "10020000"), *bad, ("lower", str(box.lower))])
    assert "subordinate ids cannot be mapped" in error
    assert "newuidmap: uid range" in error


def test_set_id_bits_are_not_on_disk_with_one_id(box: Box) -> None:
    assert not stat.S_IMODE(os.stat(box.lower / "hello").st_mode) & stat.S_ISUID
