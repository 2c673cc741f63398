"""-v, --mount, --tmpfs and --device, and the order in which mounts are made."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from udk.errors import ContainerError, UdkError, UsageError
from udk.runtime import mounts
from udk.runtime.spec import Mount


@pytest.mark.parametrize(
    "text, target, readonly",
    [
        ("{d}:/data", "/data", False),
        ("{d}:/data:ro", "/data", True),
        ("{d}:/data:rw", "/data", False),
        ("{d}:/data:ro,z", "/data", True),
        ("{d}:/data:Z,ro,cached", "/data", True),
        ("{d}:/data/:", "/data", False),
        ("{d}/:/a/../b/./c//d", "/b/c/d", False),
        ("{d}", "{d}", False),
    ],
)
def test_volume(tmp_path: Path, text: str, target: str, readonly: bool) -> None:
    made = mounts.volume(text.format(d=tmp_path))
    assert (made.kind, made.source, made.is_dir) == ("bind", str(tmp_path), True)
    assert (made.target, made.readonly) == (target.format(d=tmp_path), readonly)


def test_volume_of_a_file_and_of_a_missing_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_text("x")
    assert not mounts.volume(f"{tmp_path}/f:/f").is_dir
    assert mounts.volume(f"{tmp_path}/a/b:/x", dry=True).is_dir and not (tmp_path / "a").exists()
    assert mounts.volume(f"{tmp_path}/a/b:/x").is_dir and (tmp_path / "a/b").is_dir()
    monkeypatch.chdir(tmp_path)
    assert mounts.volume("./a:/x").source == f"{tmp_path}/a"
    with pytest.raises(ContainerError, match="does not exist on this host"):
        mounts.volume(f"{tmp_path}/missing")
    with pytest.raises(ContainerError, match="cannot be made"):
        mounts.volume("/proc/nothing/here:/x")


@pytest.mark.parametrize(
    "text, error",
    [
        ("cache:/data", "named volumes do not exist here; use a directory"),
        ("~/x:/data", "is not an absolute path"),
        ("/tmp:data", "is not absolute"),
        ("/tmp:/", "cannot be / itself"),
        ("/tmp:/a/..", "cannot be / itself"),
        ("/tmp:/a:ro:x", "more than two colons"),
        ("/tmp:/a:sync", "unknown option 'sync'"),
        ("/tmp:/a:rshared", "needs privileges"),
        (":/a", "no path of the host"),
        ("", "no path of the host"),
    ],
)
def test_bad_volume(text: str, error: str) -> None:
    with pytest.raises(UsageError) as caught:
        mounts.volume(text)
    assert error in str(caught.value)


@pytest.mark.parametrize(
    "text, fields",
    [
        ("a,b", ["a", "b"]),
        ('"a,b",c', ["a,b", "c"]),
        ('"a ""b""",', ['a "b"', ""]),
        ("", [""]),
        ('a b"c', None),
        ('"a', None),
        ('"a"b', None),
    ],
)
def test_csv(text: str, fields: Optional[list[str]]) -> None:
    if fields is None:
        with pytest.raises(ValueError):
            mounts.csv_fields(text)
    else:
        assert mounts.csv_fields(text) == fields


@pytest.mark.parametrize(
    "text, readonly",
    [
        ("type=bind,source={d},target=/t", False),
        ("type=bind,src={d},dst=/t,readonly", True),
        ("type=bind,src={d},destination=/t,ro=true", True),
        ("type=bind,src={d},target=/t,readonly=false", False),
        ("TYPE=bind,src={d},target=/t,bind-propagation=rprivate,consistency=cached", False),
        ('type=bind,"src={d}",target=/t,readonly=1', True),
    ],
)
def test_mount(tmp_path: Path, text: str, readonly: bool) -> None:
    directory = tmp_path / ("with, comma" if '"' in text else "plain")
    directory.mkdir()
    made = mounts.mount(text.format(d=directory))
    assert made == Mount(
        source=str(directory), target="/t", readonly=readonly, is_dir=True, options=("rprivate",)
    )


def test_other_mounts() -> None:
    assert mounts.mount("type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=1770") == Mount(
        kind="tmpfs", target="/t", options=(f"size={64 << 20}", "mode=1770")
    )
    assert mounts.mount("type=volume,target=/v") is None and mounts.mount("dst=/v") is None
    assert mounts.volume_target("type=volume,target=/v/") == "/v"
    assert mounts.tmpfs("/t:rw,size=50%,mode=755,noexec") == Mount(
        kind="tmpfs", target="/t", options=("size=50%", "mode=755", "noexec")
    )
    assert mounts.tmpfs("/t:rw,exec").options == ()
    assert mounts.tmpfs("/t:size=1k,ro") == Mount(
        kind="tmpfs", target="/t", options=("size=1024",), readonly=True
    )
    assert mounts.device("/dev/null:/dev/nix:r") == Mount(
        source="/dev/null", target="/dev/nix", readonly=True, is_dir=False, options=("rprivate",)
    )


@pytest.mark.parametrize(
    "text",
    [
        "type=bind,target=/t", "type=bind,source=/tmp", "type=bind,source=/no/such,target=/t",
        "type=npipe,target=/t", "type=bind,source=x,target=/t", "type=volume,source=v,target=/t",
        "type=tmpfs,source=/x,target=/t", "type=bind,source=/tmp,target=t", "bind", "type=bind,,", '"',
        "type=bind,source=/tmp,target=/t,bind-propagation=shared", "type=tmpfs,target=/t,tmpfs-mode=9",
    ],
)  # fmt: skip
def test_bad_mount(text: str) -> None:
    with pytest.raises(UdkError, match="--mount"):
        mounts.mount(text)


@pytest.mark.parametrize("text", ["tmp", "/", "/t:size=x", "/t:bogus", "/t:uid=me"])
def test_bad_tmpfs(text: str) -> None:
    with pytest.raises(UsageError, match="--tmpfs"):
        mounts.tmpfs(text)


def bind(source: str, target: str) -> Mount:
    return Mount(source=source, target=target)


def test_parents_are_mounted_first_and_own_replace_defaults(tmp_path: Path) -> None:
    defaults = mounts.default_mounts(0, False)
    targets = [m.target for m in mounts.ordered(defaults, [bind("/x", "/a/b/c"), bind("/x", "/a")])]
    assert targets.index("/a") < targets.index("/a/b/c") and targets.index("/dev") < targets.index("/dev/pts")
    made = mounts.ordered(defaults, [bind("/proc", "/proc")])
    assert [m.kind for m in made if m.target == "/proc"] == ["bind"]
    (tmp_path / "hosts").touch()
    files = [Mount(target="/etc/hosts", is_dir=False), Mount(target="/etc/hostname", is_dir=False)]
    made = mounts.ordered(files, [bind(str(tmp_path), "/etc")])
    assert [m.target for m in made] == ["/etc", "/etc/hosts"]  # nothing is created in the caller's directory
    with pytest.raises(UsageError, match="two mounts for /a"):
        mounts.ordered([], [bind("/x", "/a"), bind("/y", "/a")])
    assert len(mounts.ordered([], [bind("/x", "/a"), bind("/x", "/a")])) == 1
