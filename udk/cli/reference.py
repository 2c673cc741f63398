"""The reference tables of the documentation, generated from the option table and the settings.

``python -m udk.cli.reference docs/cli.md docs/environment.md docs/security.md`` rewrites what is between
``<!-- options VERB -->``, ``<!-- settings -->`` or ``<!-- confinement -->`` and ``<!-- end -->``; a test
fails when a file says anything else.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from udk.cli import table
from udk.engines import confine

BLOCK = re.compile(r"(<!-- (options|settings|confinement)(?: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def options(verb: str) -> str:
    """The options of a verb (``global``: those before it) as Markdown."""
    if verb == "global":
        rows: tuple[tuple[str, str, str, str], ...] = table.GLOBAL
        lines = []
    else:
        usage, _, rows, _, examples = table.VERBS[verb]
        lines = ["```sh", *examples, "```", "", f"`udk {verb} [OPTIONS] {usage}".rstrip() + "`", ""]
    shown = [r for r in rows if r[1] in ("flag", "value", "list", "optional")]
    if shown:
        lines += ["| option | |", "|---|---|"]
        lines += [
            f"| {_spelled(r)} | {_cell(r[3])}{' May be repeated.' if r[1] == 'list' else ''} |" for r in shown
        ]
        lines.append("")
    for kind, title in (("ignored", "Accepted without effect"), ("refused", "Refused with a reason")):
        names = [_name(r) for r in rows if r[1].startswith(kind)]
        if names:
            lines += [f"{title}: {', '.join(names)}.", ""]
    return "\n".join(lines)


def _name(row: tuple[str, str, str, str]) -> str:
    return " ".join(f"`{s}`" for s in row[0].split())


def _spelled(row: tuple[str, str, str, str]) -> str:
    words = [f"`{s}`" for s in row[0].split()]
    if row[1] == "optional":
        words[-1] = f"{words[-1][:-1]}[={_cell(row[2])}]`"
    elif row[2]:
        words[-1] = f"{words[-1][:-1]} {_cell(row[2])}`"
    return ", ".join(words)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def settings() -> str:
    """The settings of the configuration as Markdown."""
    from udk.config import SETTINGS

    lines = ["| setting | variable | default | |", "|---|---|---|---|"]
    for s in SETTINGS:
        default = (
            "" if s.default in ("", ()) else f"`{s.default:g}`" if s.kind == "float" else f"`{s.default}`"
        )
        lines.append(f"| `{s.name}` | `{s.env}` | {default} | {_cell(s.doc)} |")
    return "\n".join(lines) + "\n"


def rewrite(text: str) -> str:
    """``text`` with every block generated anew."""

    def block(m: re.Match[str]) -> str:
        if m.group(2) == "confinement":
            made = confine.table()
        else:
            made = settings() if m.group(2) == "settings" else options(m.group(3))
        return f"{m.group(1)}{made}{m.group(4)}"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(rewrite(path.read_text(encoding="utf-8")), encoding="utf-8")
