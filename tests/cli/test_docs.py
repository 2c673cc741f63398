"""The documentation says what the option table and the settings say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.udk import REPOSITORY, Udk
from udk.cli import reference, table

DOCS = REPOSITORY / "docs"


@pytest.mark.parametrize("name", ["cli.md", "environment.md", "security.md"])
def test_generated_tables_are_current(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    assert text == reference.rewrite(text), f"run: python -m udk.cli.reference docs/{name}"


def test_every_verb_and_option_is_in_the_reference() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    blocks = {m.group(3): m.group(0) for m in reference.BLOCK.finditer(text)}
    assert set(blocks) == {"global", *table.VERBS}
    for verb, row in [("global", table.GLOBAL), *((v, r[2]) for v, r in table.VERBS.items())]:
        for spellings, _, _, _ in row:
            for spelling in spellings.split():
                assert f"`{spelling}" in blocks[verb], (verb, spelling)


def test_every_link_leads_somewhere() -> None:
    broken = []
    for path in (DOCS / "cli.md", DOCS / "environment.md", DOCS / "exit-codes.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            if target != "cvmfs.md" and not (path.parent / target).exists():
                broken.append((path.name, target))
    assert broken == []


def test_variables_in_the_code_are_documented() -> None:
    documented = set(re.findall(r"UDK_[A-Z_]+", (DOCS / "environment.md").read_text(encoding="utf-8")))
    used: set[str] = set()
    for path in (REPOSITORY / "udk").rglob("*.py"):
        used |= set(re.findall(r"\"(UDK_[A-Z_]*[A-Z])\"", path.read_text(encoding="utf-8")))
    assert used - documented == set()


def test_help_of_every_verb(udk: Udk) -> None:
    overview = udk.ok("help")
    assert overview == udk.ok() == udk.ok("--help")
    for verb, (_, summary, _, _, examples) in table.VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(summary)}", overview, re.MULTILINE), verb
        if verb == "cvmfs":
            continue
        text = udk.ok("help", verb)
        assert text == udk.ok(verb, "--help") and text.startswith(f"Usage: udk {verb} ")
        assert all(example in text for example in examples)
    assert "no such command" in udk.fails("help", "nosuch")


def test_readme_commands_parse() -> None:
    """Every `udk ...` line of the README's and the reference's shell blocks is a command line that we
    accept."""
    import shlex

    from udk.cli.main import split

    seen = 0
    for path in (REPOSITORY / "README.md", DOCS / "cli.md"):
        for block in re.findall(r"```(?:sh|console)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                line = re.sub(r"\$\([^)]*\)", "X", line.removeprefix("$ "))
                for part in line.partition("   #")[0].split(";"):
                    words = shlex.split(part, comments=True)
                    if words[:1] == ["udk"]:
                        split([w for w in words[1:] if w not in ("<", ">")])
                        seen += 1
    assert seen > 40


def test_paths_outside_are_not_named() -> None:
    for path in (REPOSITORY / "udk/cli").glob("*.py"):
        assert str(REPOSITORY) not in path.read_text(encoding="utf-8"), Path(path).name


def test_every_option_is_exercised_by_a_test() -> None:
    """A rough net: the spelling of each option that does something occurs in a test of a real command."""
    text = "".join(p.read_text(encoding="utf-8") for p in (REPOSITORY / "tests/cli").glob("test_*.py"))
    text += (REPOSITORY / "tests/runtime/test_resolve.py").read_text(encoding="utf-8")
    missing = []
    for verb, rows in [("global", table.GLOBAL), *((v, r[2]) for v, r in table.VERBS.items())]:
        for spellings, kind, _, _ in rows:
            if kind in ("flag", "value", "list"):
                words = spellings.split()
                if not any(re.search(rf"[\" ]{re.escape(w)}[\"=, ]", text) for w in words):
                    missing.append(f"{verb} {words[0]}")
    assert not missing, "\n".join(missing)
