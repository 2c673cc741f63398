"""Image config and flags to a RunSpec, as docker resolves them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional

import pytest

from udk.cli import table
from udk.cli.parse import parse
from udk.errors import ImageError, UdkError, UsageError
from udk.runtime.resolve import check_options, command, fill_volumes, join_spec, labels, make_spec
from udk.runtime.spec import Root, RunSpec

ID = "ab" * 32


@pytest.mark.parametrize(
    "entry, cmd, flag, words, argv",
    [
        (None, ["sh"], None, [], ["sh"]),
        (None, ["sh"], None, ["ls", "-l"], ["ls", "-l"]),
        (["e"], ["c"], None, [], ["e", "c"]),
        (["e", "1"], ["c"], None, ["w"], ["e", "1", "w"]),
        (["e"], None, None, [], ["e"]),
        (["e"], ["c"], "x", [], ["x"]),
        (["e"], ["c"], "x", ["w"], ["x", "w"]),
        (["e"], ["c"], "", ["w"], ["w"]),
        (["e"], ["c"], "a b", [], ["a b"]),
        (["e"], ["c"], None, ["", " "], ["e", "", " "]),
        (["e"], ["c"], "", [], None),
        (None, None, None, [], None),
        ([], [], None, [], None),
    ],
)
def test_command(
    entry: Optional[list[str]],
    cmd: Optional[list[str]],
    flag: Optional[str],
    words: list[str],
    argv: Optional[list[str]],
) -> None:
    config = {"Entrypoint": entry, "Cmd": cmd}
    options = {} if flag is None else {"entrypoint": flag}
    if argv is None:
        with pytest.raises(ImageError, match="no command given"):
            command(config, options, words)
    else:
        assert command(config, options, words) == tuple(argv)


@pytest.mark.parametrize(
    "config", [{"Cmd": "sh -c x"}, {"Entrypoint": [1]}, {"Cmd": ["a\0b"]}, {"Env": "A=1"}]
)
def test_broken_config(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        spec_of(tmp_path, "", config={"Cmd": ["x"], **config})


def spec_of(tmp_path: Path, line: str = "", config: Optional[dict[str, Any]] = None, **more: Any) -> RunSpec:
    """The spec of `udk run LINE img true` on a root with passwd and /data."""
    root = tmp_path / "lower"
    for name in ("etc", "data", "full"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "full/f").write_text("x")
    (root / "etc/passwd").write_text("root:x:0:0::/root:\nann:x:1000:1000::/home/ann:\n")
    options, words = parse(table.RUN, [*line.split(), "img"], False)
    check_options(options)
    return make_spec(
        config={"Cmd": ["true"]} if config is None else config,
        options=options,
        words=words[1:],
        root=Root(lower=(str(root),), upper=str(tmp_path / "layer/upper"), work=str(tmp_path / "layer/work")),
        container=ID,
        private=str(tmp_path / "layer"),
        **more,
    )


def test_defaults(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    assert spec.argv == ("true",) and spec.cwd == "/" and spec.identity.uid == 0
    assert dict(spec.env) == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": os.uname().nodename, "HOME": "/root", "UDK_COOKIE": ID,
    }  # fmt: skip
    assert (spec.network, spec.pid, spec.hostname, spec.stop_signal) == ("host", "private", "", 15)
    assert {m.target for m in spec.mounts} >= {"/proc", "/sys", "/dev", "/dev/pts", "/dev/shm"}
    assert RunSpec.from_json(spec.to_json()) == spec


def test_image_config(tmp_path: Path) -> None:
    config = {
        "Cmd": ["c"], "Env": ["A=1", "HOME=/x"], "WorkingDir": "app", "User": "ann", "StopSignal": "SIGINT",
    }  # fmt: skip
    spec = spec_of(tmp_path, config=config)
    assert (spec.cwd, spec.identity.uid, spec.stop_signal) == ("/app", 1000, 2)
    assert spec.env["A"] == "1" and spec.env["HOME"] == "/x"
    spec = spec_of(tmp_path, "-w /w -u 0 --stop-signal 9 -e HOME=/y", config=config)
    assert (spec.cwd, spec.identity.uid, spec.stop_signal, spec.env["HOME"]) == ("/w", 0, 9, "/y")


FLAGS: list[tuple[str, dict[str, Any]]] = [
    ("--hostname node", {"hostname": "node"}),
    ("--network none", {"network": "none", "hostname": ID[:12]}),
    ("--net=none --hostname n", {"network": "none", "hostname": "n"}),
    ("--pid host", {"pid": "host"}),
    ("--engine trap", {"engine": "trap"}),
    ("-t", {"tty": True}),
    ("--timeout 90s --stop-timeout 3", {}),
]


@pytest.mark.parametrize("line, fields", FLAGS, ids=[f[0] for f in FLAGS])
def test_flags(tmp_path: Path, line: str, fields: dict[str, Any]) -> None:
    spec = spec_of(tmp_path, line)
    assert {k: getattr(spec, k) for k in fields} == fields


def test_more_flags(tmp_path: Path) -> None:
    limits = spec_of(tmp_path, "--timeout 1m --stop-timeout 3 --ulimit nofile=5:6 --ulimit core=0").limits
    assert (limits.timeout, limits.kill_after) == (60, 3)
    assert limits.rlimits == (("nofile", 5, 6), ("core", 0, 0))
    assert spec_of(tmp_path, "-t").env["TERM"] == "xterm" and "TERM" not in spec_of(tmp_path).env
    assert spec_of(tmp_path, "--subids").identity.subids
    assert spec_of(tmp_path, "--read-only").root.readonly
    assert spec_of(tmp_path, "--stats s.json").stats == os.path.abspath("s.json")
    assert spec_of(tmp_path, "-u 5:6 --group-add 7").identity.groups == (7,)


def mount(spec: RunSpec, target: str) -> Any:
    return next(m for m in spec.mounts if m.target == target)


def test_files_in_etc(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "--hostname node --add-host db:10.0.0.1 --add-host six=[::1] --dns 9.9.9.9")
    hosts = mount(spec, "/etc/hosts")
    assert hosts.kind == "file" and hosts.content.endswith("127.0.0.1\tnode\n10.0.0.1\tdb\n::1\tsix\n")
    assert mount(spec, "/etc/hostname").content == "node\n"
    assert "nameserver 9.9.9.9\n" in mount(spec, "/etc/resolv.conf").content
    plain = mount(spec_of(tmp_path), "/etc/hosts")
    assert (plain.kind, plain.source, plain.readonly) == ("bind", "/etc/hosts", True)
    alone = mount(spec_of(tmp_path, "--network none"), "/etc/hosts")
    assert alone.content.startswith("127.0.0.1\tlocalhost\n") and ID[:12] in alone.content


def test_shm(tmp_path: Path) -> None:
    assert mount(spec_of(tmp_path, "--shm-size 1m"), "/dev/shm").options == ("size=1048576", "mode=1777")
    assert mount(spec_of(tmp_path, "--ipc host"), "/dev/shm").source == "/dev/shm"
    assert mount(spec_of(tmp_path), "/dev/shm").kind == "shm"


def test_image_volumes(tmp_path: Path) -> None:
    config = {"Cmd": ["x"], "Volumes": {"/data": {}, "/new": {}, "full": {}, "/": {}, "../": {}}}
    spec = spec_of(tmp_path, config=config)
    targets = [m.target for m in spec.mounts if m.source.startswith(str(tmp_path))]
    assert targets == ["/new"]  # the others are in the private layer anyhow
    spec = spec_of(tmp_path, f"--read-only -v {tmp_path}:/new", config=config)
    fill_volumes(spec, str(tmp_path / "layer"))
    full = mount(spec, "/full").source
    assert os.listdir(full) == ["f"] and not os.listdir(mount(spec, "/data").source)
    assert mount(spec, "/new").source == str(tmp_path)
    anonymous = spec_of(tmp_path, "--read-only --mount type=volume,target=/vol")
    assert mount(anonymous, "/vol").source.startswith(str(tmp_path / "layer"))


def test_dry_writes_nothing(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path, f"-v {tmp_path}/missing:/x --read-only", {"Cmd": ["x"], "Volumes": {"/v": {}}}, dry=True
    )
    assert mount(spec, "/x").source == f"{tmp_path}/missing"
    assert os.listdir(tmp_path) == ["lower"]


WRONG = [
    ("--network bridge", "needs privileges"),
    ("--network container:x", "--network container:x is not supported; known: host, none"),
    ("--pid container:x", "--pid container:x is not supported"),
    ("-w relative", "is not absolute"),
    ("-u nobody", "no user 'nobody'"),
    ("--restart always", "--restart always is not supported"),
    ("-p 80:8080", "the network is the caller's"),
    ("-p x", "is not [ADDRESS:]PORT[:PORT]"),
    ("--pull sometimes", "--pull sometimes is unknown"),
    ("--env-file /no/such", "--env-file /no/such: No such file"),
    ("--add-host x", "is not NAME:ADDRESS"),
    ("--timeout soon", "is not a duration"),
    ("--ulimit nofile", "--ulimit"),
    ("--shm-size big", "is not a size"),
    ("--stop-signal NOPE", "is not a signal"),
    ("--cpuset-cpus x", "is not a list of processors"),
    ("--ipc container:x", "--ipc container:x"),
    ("--group-add nogroup", "no group 'nogroup'"),
    ("--hostname bad/name", "is not a host name"),
]


@pytest.mark.parametrize("line, text", WRONG, ids=[w[0] for w in WRONG])
def test_wrong_flags(tmp_path: Path, line: str, text: str) -> None:
    with pytest.raises(UdkError) as caught:
        spec_of(tmp_path, line)
    assert text in str(caught.value) and caught.value.status == 125


@pytest.mark.parametrize("line", ["-p 80", "-p 8080:8080", "-p 127.0.0.1:80:80/tcp", "-P", "--restart no"])
def test_harmless_flags(tmp_path: Path, line: str) -> None:
    assert spec_of(tmp_path, line) == spec_of(tmp_path)


def test_labels(tmp_path: Path) -> None:
    (tmp_path / "l").write_text("a=1\n# no\nb\nd=x y\n")
    found = labels({"label_file": [str(tmp_path / "l")], "label": ["a=2", "c"]})
    assert found == {"a": "2", "c": "", "d": "x y"}
    with pytest.raises(UsageError):
        labels({"label": ["=x"]})


def test_join(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "-e A=1 -w /data").replace(cleanup=("/x",))
    joined = join_spec(spec, {"env": ["B=2"], "user": "ann", "tty": True}, ["ls"])
    assert joined.argv == ("ls",) and joined.cwd == "/data" and joined.cleanup == ()
    assert (joined.env["A"], joined.env["B"], joined.env["HOME"]) == ("1", "2", "/home/ann")
    assert joined.identity.uid == 1000 and joined.tty and joined.cookie == spec.cookie
    with pytest.raises(UsageError):
        join_spec(spec, {}, [])
