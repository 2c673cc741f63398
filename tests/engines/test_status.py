"""The payload's status is udk's; what cannot be started has docker's statuses and one line that says why."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.engines.conftest import Box
from udk.runtime.spec import Root


@pytest.mark.parametrize("status", [0, 1, 37, 125, 126, 127, 255])
def test_exit_status(box: Box, status: int) -> None:
    done = box.run("/hello", "exit", str(status))
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


@pytest.mark.parametrize(
    "sig", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT, signal.SIGUSR1]
)
def test_death_by_signal(box: Box, sig: signal.Signals) -> None:
    assert box.run("/hello", "raise", str(int(sig))).returncode == 128 + sig


def test_argv_and_env_arrive_exactly(box: Box) -> None:
    words = [
        "",
        "a b",
        "'",
        '"',
        "\\",
        "*",
        "$HOME",
        "\n",
        "é",
        b"\xff\xfe".decode("utf-8", "surrogateescape"),
    ]
    done = box.run("/hello", "args", *words)
    expected = b"".join(b"[" + w.encode("utf-8", "surrogateescape") + b"]\n" for w in words)
    assert done.stdout == expected
    env = {"EMPTY": "", "EQUAL": "a=b", "MULTI": "1\n2", "PATH": "/x"}
    spec_env = {"MARK": box.mark, **env}
    done = box.run("/hello", "env", env=env)
    lines = {f"{k}={v}" for k, v in spec_env.items()} | {f"UDK_COOKIE={box.mark[:16]}"}
    assert set(done.stdout.decode().replace("1\n2", "1\\n2").splitlines()) == {
        s.replace("\n", "\\n") for s in lines
    }


def test_long_arguments_and_many(box: Box) -> None:
    words = [str(i) * 20 for i in range(5000)]
    assert box.output("/hello", "args", *words).splitlines() == [f"[{w}]" for w in words]


def test_path_lookup(box: Box, tmp_path: Path) -> None:
    assert box.output("hello", "uid") == "0\n"
    assert box.output("hello", "uid", env={"PATH": "/nonexistent:/etc/passwd:/"}) == "0\n"
    assert box.output("hello", "uid", env={"PATH": ""}) == "0\n"  # the working directory is /
    assert box.output("./hello", "uid") == "0\n"
    assert box.failure("hello", "uid", env={"PATH": "/bin"}) == (
        127, 'exec: "hello": executable file not found in $PATH of the image',
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("/nowhere", 127, "no such file or directory"),
        ("/etc/passwd/x", 127, "no such file"),
        ("/etc", 126, "is a directory"),
        ("/etc/passwd", 126, "permission denied"),
        ("/bin/noshebang", 126, "exec format error"),
        ("/bin/badshebang", 127, "its interpreter /bin/nothing is not in the image"),
        ("/bin/crlf", 127, "carriage return"),
        ("/bin/empty", 126, "exec format error"),
    ],
)
def test_what_cannot_be_executed(box: Box, tmp_path: Path, command: str, status: int, words: str) -> None:
    home, upper, work = box.layer()
    programs = {
        "noshebang": "true\n",
        "badshebang": "#!/bin/nothing -x\n",
        "crlf": "#!/hello\r\n",
        "empty": "",
    }
    (Path(upper) / "bin").mkdir()
    for name, text in programs.items():
        path = Path(upper) / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    root = Root(lower=(str(box.lower),), upper=upper, work=work)
    got, text = box.failure(command, root=root, cleanup=(home,))
    assert got == status
    assert words in text
    assert command in text


def test_working_directory(box: Box) -> None:
    assert box.output("/hello", "cwd", cwd="/etc") == "/etc\n"
    assert box.output("/hello", "cwd", cwd="/made/for/me") == "/made/for/me\n"
    status, text = box.failure("/hello", "cwd", cwd="/etc/passwd/x")
    assert status == 125
    assert "/etc/passwd/x: Not a directory" in text


def test_missing_root_is_named(box: Box, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    _, upper, work = box.layer()
    status, text = box.failure("/hello", root=Root(lower=(gone,), upper=upper, work=work))
    assert (status, text) == (125, f"{gone}: No such file or directory")
    status, text = box.failure("/hello", root=Root(lower=(str(box.lower),), upper=gone, work=work))
    assert (status, text) == (125, f"{gone}: No such file or directory")


def test_odd_paths_of_layers(box: Box, tmp_path: Path) -> None:
    """':' and ',' are syntax in overlay's options, and a page is their limit; none of it may matter."""
    deep = tmp_path / ("a:b,c\\d e" + "x" * 200) / ("y" * 240) / ("z" * 240)
    (deep / "upper").mkdir(parents=True)
    (deep / "work").mkdir()
    (deep / "lower").mkdir()
    root = Root(
        lower=(str(deep / "lower"), str(box.lower)), upper=str(deep / "upper"), work=str(deep / "work")
    )
    assert box.output("/hello", "write", "/etc/new", "text", root=root, cleanup=()) == ""
    assert (deep / "upper" / "etc" / "new").read_text() == "text"


def test_many_lower_trees(box: Box, tmp_path: Path) -> None:
    trees = []
    for i in range(60):
        tree = tmp_path / f"tree{i}"
        (tree / "etc").mkdir(parents=True)
        (tree / "etc" / f"f{i}").write_text(str(i))
        (tree / "etc" / "same").write_text(str(i))
        trees.append(str(tree))
    _, upper, work = box.layer()
    root = Root(lower=(*trees, str(box.lower)), upper=upper, work=work)
    assert box.output("/hello", "cat", "/etc/same", root=root) == "0"
    _, upper, work = box.layer()
    root = root.replace(upper=upper, work=work)
    assert len(box.output("/hello", "ls", "/etc", root=root).split()) == 62
