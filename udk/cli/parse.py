"""The light argument parser: docker's rules, driven by the option table, without imports.

Rules: options come before the first word where a payload follows; ``--opt value``, ``--opt=value``,
``-ovalue``, ``-o=value``; bundled one-letter flags (``-it``), the last of which may take a value; a value is
taken as it is, also when it begins with a dash or is empty; ``--flag=false``; ``--`` ends the options.
Nothing is abbreviated, stripped or dropped.
"""

from __future__ import annotations

from udk.cli.table import key
from udk.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Row = tuple[str, str, str, str]

TRUE = ("1", "t", "T", "true", "TRUE", "True")
FALSE = ("0", "f", "F", "false", "FALSE", "False")


def parse(
    rows: Iterable[Row], args: list[str], interspersed: bool = True, command: str = "udk"
) -> tuple[dict[str, Any], list[str]]:
    """The options given, and the words that are none.

    ``flag`` options give bool, ``value`` and ``optional`` str, ``list`` list[str]; an option not given is not
    in the result. Raises UsageError naming the option and ``command``."""
    table = {spelling: row for row in rows for spelling in row[0].split()}
    given: dict[str, Any] = {}
    words: list[str] = []
    i, n = 0, len(args)
    while i < n:
        arg = args[i]
        i += 1
        if arg == "--":
            words += args[i:]
            break
        if len(arg) < 2 or arg[0] != "-":
            if not interspersed:
                words += args[i - 1 :]
                break
            words.append(arg)
            continue
        if arg[1] == "-":
            name, equals, value = arg.partition("=")
            row = table.get(name)
            if row is None:
                raise unknown(name, table, command)
            if row[1].endswith("flag"):
                _store(given, row, name, _truth(value, name, command) if equals else True, command)
                continue
            if row[1] == "optional":
                _store(given, row, name, value if equals else "true", command)
                continue
            if not equals:
                if i == n:
                    raise UsageError(f"{name} needs a value ({row[2]})", _see(command))
                value = args[i]
                i += 1
            _store(given, row, name, value, command)
            continue
        rest = arg[1:]
        while rest:
            name, rest = "-" + rest[0], rest[1:]
            row = table.get(name)
            if row is None:
                raise unknown(name if len(arg) == 2 else f"{name} (in {arg})", table, command)
            if row[1].endswith("flag"):
                if rest[:1] == "=":
                    _store(given, row, name, _truth(rest[1:], name, command), command)
                    break
                _store(given, row, name, True, command)
                continue
            if rest:
                value = rest[1:] if rest[0] == "=" else rest
            elif i < n:
                value = args[i]
                i += 1
            else:
                raise UsageError(f"{name} needs a value ({row[2]})", _see(command))
            _store(given, row, name, value, command)
            break
    return given, words


def _store(given: dict[str, Any], row: Row, name: str, value: Any, command: str) -> None:
    kind = row[1]
    if kind == "list":
        given.setdefault(key(row[0]), []).append(value)
    elif kind in ("flag", "value", "optional"):
        given[key(row[0])] = value
    elif kind[:7] == "refused" and value is not False:
        raise UsageError(f"{name} is not supported by {command}", row[3])


def _truth(text: str, name: str, command: str) -> bool:
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise UsageError(f"{name}={text} is neither true nor false", _see(command))


def _see(command: str) -> str:
    return f"see `{command} --help`"


def unknown(name: str, table: Iterable[str], command: str) -> UsageError:
    """The error for a word that is not in the table, with the nearest ones that are."""
    from difflib import get_close_matches

    near = get_close_matches(name.split(maxsplit=1)[0], list(table), 2, 0.7)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UsageError(f"unknown option {name} of `{command}`", hint + _see(command))
