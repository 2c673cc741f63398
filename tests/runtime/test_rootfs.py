"""Looking into a root from outside: links never lead out, layers merge as overlayfs merges them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from udk.errors import ContainerError, UsageError
from udk.runtime.rootfs import Rootfs
from udk.runtime.users import resolve_user

PASSWD = (
    "# comment\n\nroot:x:0:0:root:/root:/bin/sh\nann:x:1000:100:Ann:/home/ann:/bin/sh\n"
    "1000b:x:7:7::/:\nbroken\nhuge:x:99999999999:1::/:\n4242:x:5:5::/five:\n"
)
GROUP = "root:x:0:\nusers:x:100:\nwheel:x:10:ann,bob\naudio:x:29:bob,ann\nbroken\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    base = tmp_path / "root"
    (base / "etc").mkdir(parents=True)
    (base / "etc/passwd").write_text(PASSWD)
    (base / "etc/group").write_text(GROUP)
    return base


@pytest.mark.parametrize(
    "user, uid, gid, groups, name, home",
    [
        ("", 0, 0, (), "root", "/root"),
        ("root", 0, 0, (), "root", "/root"),
        ("0", 0, 0, (), "root", "/root"),
        ("ann", 1000, 100, (10, 29), "ann", "/home/ann"),
        ("1000", 1000, 100, (10, 29), "ann", "/home/ann"),
        ("ann:wheel", 1000, 10, (), "ann", "/home/ann"),
        ("1000:5", 1000, 5, (), "ann", "/home/ann"),
        ("5555", 5555, 0, (), "", "/"),
        ("5555:6666", 5555, 6666, (), "", "/"),
        (":10", 0, 10, (), "root", "/root"),
        ("4242", 5, 5, (), "4242", "/five"),
    ],
)
def test_user(
    root: Path, user: str, uid: int, gid: int, groups: tuple[int, ...], name: str, home: str
) -> None:
    made = resolve_user(Rootfs([str(root)]), user, [])
    assert (made.uid, made.gid, made.groups, made.name, made.home) == (uid, gid, groups, name, home)
    assert made.fake_root == (uid == 0)


def test_group_add(root: Path) -> None:
    assert resolve_user(Rootfs([str(root)]), "ann:5", ["audio", "77", "5"]).groups == (29, 77)


@pytest.mark.parametrize("user", ["nobody", "ann:nogroup", "huge", "99999999999", "0:99999999999", "-1", "²"])
def test_no_user(root: Path, user: str) -> None:
    with pytest.raises(ContainerError):
        resolve_user(Rootfs([str(root)]), user, [])


def test_no_group_after_the_colon(root: Path) -> None:
    with pytest.raises(UsageError):
        resolve_user(Rootfs([str(root)]), "ann:", [])


def test_no_passwd_at_all(tmp_path: Path) -> None:
    made = resolve_user(Rootfs([str(tmp_path)]), "", [])
    assert (made.uid, made.gid, made.home) == (0, 0, "/")
    with pytest.raises(ContainerError, match="no user 'ann'"):
        resolve_user(Rootfs([str(tmp_path)]), "ann", [])


@pytest.mark.parametrize(
    "link",
    ["../../secret", "/../../secret", "/secret", "../../../../../../../../{host}", "/proc/self/root/{host}"],
)
def test_links_stay_inside(root: Path, link: str) -> None:
    secret = root.parent / "secret"
    secret.write_text("host")
    os.unlink(root / "etc/passwd")
    os.symlink(link.format(host=secret), root / "etc/passwd")
    assert Rootfs([str(root)]).read("/etc/passwd") is None
    (root / "secret").write_text("inside")
    found = Rootfs([str(root)]).read("/etc/passwd")
    assert found == (b"inside" if "{host}" not in link else None)


def test_links_to_directories_and_loops(root: Path) -> None:
    (root / "real/sub").mkdir(parents=True)
    (root / "real/sub/f").write_text("x")
    os.symlink("/real", root / "alias")
    os.symlink("loop", root / "loop")
    os.symlink("..", root / "real/up")
    rootfs = Rootfs([str(root)])
    assert rootfs.read("alias/sub/../sub/f") == b"x" and rootfs.read("/alias/up/real/sub/f") == b"x"
    assert rootfs.kind("/alias") == "dir" and rootfs.kind("/loop") == "" and rootfs.kind("/") == "dir"
    assert rootfs.kind("/real/sub/f/") == "file" and rootfs.kind("/real/sub/f/x") == ""
    assert rootfs.kind("/../../real") == "dir"
    os.mkfifo(root / "fifo")
    assert rootfs.kind("/fifo") == "other" and rootfs.read("/fifo") is None
    with pytest.raises(ContainerError, match="larger than 2 bytes"):
        rootfs.read("/etc/passwd", 2)


def test_layers(root: Path, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    rootfs = Rootfs([str(upper), "", str(tmp_path / "missing"), str(root)])
    assert rootfs.read("/etc/passwd") == PASSWD.encode()
    (upper / "etc/passwd").write_text("new")
    assert rootfs.read("/etc/passwd") == b"new" and rootfs.read("/etc/group") == GROUP.encode()
    assert rootfs.host_paths("/etc") == [str(upper / "etc"), str(root / "etc")]
    assert not rootfs.is_empty_dir("/etc")
    (root / "dir/below").mkdir(parents=True)
    (upper / "dir").write_text("a file now")
    assert rootfs.kind("/dir") == "file" and rootfs.kind("/dir/below") == ""
    (upper / "etc/.wh.group").touch()
    assert rootfs.kind("/etc/group") == ""
    (upper / "etc/.wh.group").unlink()
    os.setxattr(upper / "etc", "user.overlay.opaque", b"y")
    assert rootfs.kind("/etc/group") == "" and rootfs.read("/etc/passwd") == b"new"


def test_nothing_is_left_open(root: Path) -> None:
    before = os.listdir("/proc/self/fd")
    rootfs = Rootfs([str(root)])
    rootfs.read("/etc/passwd")
    rootfs.kind("/etc/nothing/at/all")
    assert os.listdir("/proc/self/fd") == before
