"""Environment files, flags, and the order in which settings win."""

from __future__ import annotations

import pytest

from udk.errors import UsageError
from udk.runtime.environ import DEFAULT_PATH, build, env_file, env_flag

HOST = {"HOSTVAR": "from host", "EMPTY": ""}


@pytest.mark.parametrize(
    "line, settings",
    [
        ("A=1", [("A", "1")]),
        ("A=", [("A", "")]),
        ("A==x=", [("A", "=x=")]),
        ("  A=1 # not a comment ", [("A", "1 # not a comment ")]),
        ("# comment", []),
        ("   # comment", []),
        ("", []),
        ("A='quoted'", [("A", "'quoted'")]),
        ("HOSTVAR", [("HOSTVAR", "from host")]),
        ("EMPTY", [("EMPTY", "")]),
        ("NOT_SET", []),
        ("A=1\r\nB=2", [("A", "1"), ("B", "2")]),
        ("\ufeffA=1", [("A", "1")]),
        ("A=\udcff", [("A", "\udcff")]),
        ("with.dot-and-dash=1", [("with.dot-and-dash", "1")]),
        ("1digit=1", [("1digit", "1")]),
    ],
)
def test_env_file(line: str, settings: list[tuple[str, str]]) -> None:
    assert env_file(line + "\n", "f", HOST) == settings


@pytest.mark.parametrize("line", ["=x", "A B=1", "A\tB", "export A=1", "A=1\0"])
def test_bad_env_file_names_the_line(line: str) -> None:
    with pytest.raises(UsageError, match=r"my\.env:2: "):
        env_file("OK=1\n" + line + "\n", "my.env", HOST)


def test_env_flags() -> None:
    assert env_flag("A=b=c", HOST) == ("A", "b=c")
    assert env_flag("A=", HOST) == ("A", "")
    assert env_flag("HOSTVAR", HOST) == ("HOSTVAR", "from host")
    assert env_flag("NOT_SET", HOST) == ("NOT_SET", None)
    for bad in ("", "=x", "A\0=1"):
        with pytest.raises(UsageError):
            env_flag(bad, HOST)


def test_order() -> None:
    image = ["PATH=/image", "A=image", "B=image", "C=image", "nonsense", "=x"]
    made = build(image, [("A", "file"), ("A", "flag"), ("B", None), ("NEW", "")], {"HOSTNAME": "h", "C": "x"})
    assert made == {"PATH": "/image", "HOSTNAME": "h", "A": "flag", "C": "image", "NEW": ""}
    assert build([], [], {})["PATH"] == DEFAULT_PATH
