"""The light parser, as a table of command lines, and its agreement with click's on all of them."""

from __future__ import annotations

from typing import Any

import pytest

from udk.cli import table
from udk.cli.main import Context, split
from udk.cli.parse import parse
from udk.errors import UsageError

# command line after `udk run` -> options, words
RUN: list[tuple[list[str], dict[str, Any], list[str]]] = [
    (["img"], {}, ["img"]),
    (["img", "sh", "-c", "exit 37"], {}, ["img", "sh", "-c", "exit 37"]),
    (["-it", "img"], {"interactive": True, "tty": True}, ["img"]),
    (["-itw", "/x", "img"], {"interactive": True, "tty": True, "workdir": "/x"}, ["img"]),
    (["-itw/x", "img"], {"interactive": True, "tty": True, "workdir": "/x"}, ["img"]),
    (["-w=/x", "img"], {"workdir": "/x"}, ["img"]),
    (["--workdir=/x", "img"], {"workdir": "/x"}, ["img"]),
    (["--workdir", "/x", "img"], {"workdir": "/x"}, ["img"]),
    (["--workdir", "-x", "img"], {"workdir": "-x"}, ["img"]),
    (["--entrypoint", "", "img", "true"], {"entrypoint": ""}, ["img", "true"]),
    (["--entrypoint=", "img"], {"entrypoint": ""}, ["img"]),
    (["-e", "A=1", "--env=B=2=3", "-eC", "img"], {"env": ["A=1", "B=2=3", "C"]}, ["img"]),
    (["-e", "A= padded ", "img", "", " ", "-v"], {"env": ["A= padded "]}, ["img", "", " ", "-v"]),
    (["--rm", "img", "--rm"], {"rm": True}, ["img", "--rm"]),
    (["--rm=false", "--read-only=true", "img"], {"rm": False, "read_only": True}, ["img"]),
    (["--rm=true", "-i=0", "img"], {"rm": True, "interactive": False}, ["img"]),
    (["--", "img", "--rm"], {}, ["img", "--rm"]),
    (["img", "--", "x"], {}, ["img", "--", "x"]),
    (["img", "-"], {}, ["img", "-"]),
    (["--name", "a", "--name", "b", "img"], {"name": "b"}, ["img"]),
    (["--net=none", "--network", "host", "img"], {"network": "host"}, ["img"]),
    (["-v", "a:b:ro", "--volume=c:d", "--bind", "/e", "img"], {"volume": ["a:b:ro", "c:d", "/e"]}, ["img"]),
    (["-h", "node", "img"], {"hostname": "node"}, ["img"]),
    (["-u", "0:0", "-u1000", "img"], {"user": "1000"}, ["img"]),
    (["--init", "--privileged", "--nobanner", "--cap-add=ALL", "-m", "2g", "--cpus=2", "img"], {}, ["img"]),
    (["--detach=false", "img"], {}, ["img"]),
    (["--mount", 'type=bind,"source=/a,b",target=/c', "img"],
     {"mount": ['type=bind,"source=/a,b",target=/c']}, ["img"]),
]  # fmt: skip

WRONG = [
    (["--nope", "img"], "unknown option --nope of `udk run`"),
    (["--entrypont", "x", "img"], "did you mean --entrypoint"),
    (["-itZ", "img"], "unknown option -Z (in -itZ)"),
    (["--name"], "--name needs a value (NAME)"),
    (["-w"], "-w needs a value (DIR)"),
    (["--rm=maybe", "img"], "--rm=maybe is neither true nor false"),
    (["-d", "img"], "-d is not supported by udk run; udk has no daemon"),
    (["-itd", "img"], "-d is not supported"),
    (["--gpus", "all", "img"], "--gpus is not supported"),
    (["--link=x", "img"], "--link is not supported"),
    (["--na=x", "img"], "unknown option --na"),
    (["--=x", "img"], "unknown option --"),
]


@pytest.mark.parametrize("args, options, words", RUN, ids=[" ".join(r[0]) for r in RUN])
def test_run_line(args: list[str], options: dict[str, Any], words: list[str]) -> None:
    assert parse(table.RUN, args, False, "udk run") == (options, words)


# click has no values for flags and no -o=value
FOR_CLICK = [r for r in RUN if not {"--rm=false", "--rm=true", "-i=0", "-w=/x", "--detach=false"} & set(r[0])]


@pytest.mark.parametrize("args, options, words", FOR_CLICK, ids=[" ".join(r[0]) for r in FOR_CLICK])
def test_click_agrees(args: list[str], options: dict[str, Any], words: list[str]) -> None:
    from udk.cli.clickapp import command, parsed

    with command("run").make_context("run", list(args)) as context:
        assert parsed(context) == (options, words)


@pytest.mark.parametrize("args, text", WRONG, ids=[" ".join(r[0]) for r in WRONG])
def test_wrong_line(args: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(table.RUN, args, False, "udk run")
    assert text in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "args, verb, options, words",
    [
        (["images", "--json", "debian"], "images", {"json": True}, ["debian"]),
        (["images", "debian", "--json"], "images", {"json": True}, ["debian"]),
        (["-q", "run", "-q", "img"], "run", {"quiet": True}, ["img"]),
        (["--allow-root", "pull", "img"], "pull", {}, ["img"]),
        (["rm", "-f", "a", "b"], "rm", {"force": True}, ["a", "b"]),
        (["rm", "a", "--", "-f"], "rm", {}, ["a", "-f"]),
        (["exec", "-it", "c", "sh", "-l"], "exec", {"interactive": True, "tty": True}, ["c", "sh", "-l"]),
        (["run", "--help"], "help", {}, ["run"]),
        (["images", "-h"], "help", {}, ["images"]),
        (["--help"], "help", {}, []),
        ([], "help", {}, []),
        (["--help", "run"], "help", {}, ["run"]),
        (["cvmfs", "ls", "-l", "--help"], "cvmfs", {}, ["ls", "-l", "--help"]),
    ],
)
def test_verbs(args: list[str], verb: str, options: dict[str, Any], words: list[str]) -> None:
    context = split(args)
    assert isinstance(context, Context)
    assert (context.verb, context.options, context.words) == (verb, options, words)


@pytest.mark.parametrize("args", [["-V"], ["--version"], ["--allow-root", "--version"]])
def test_version(args: list[str]) -> None:
    text = split(args)
    assert isinstance(text, str) and text.startswith("udk version ")


def test_no_such_verb() -> None:
    with pytest.raises(UsageError, match="no such command: imags; did you mean images"):
        split(["imags"])


def test_table_is_consistent() -> None:
    kinds = {"flag", "value", "list", "optional", "ignored", "ignored-flag", "refused", "refused-flag"}
    for verb, (_, summary, rows, _, examples) in table.VERBS.items():
        assert summary[0].isupper() and not summary.endswith("."), verb
        assert all(e.startswith(("udk", "eval", "id=")) for e in examples) and examples, verb
        seen: set[str] = set()
        for spellings, kind, metavar, text in rows:
            assert kind in kinds and bool(metavar) != kind.endswith("flag") and text, (verb, spellings)
            assert not seen & set(spellings.split()), (verb, spellings)
            seen |= set(spellings.split())
