"""The tests of the shell language (`test`, `[`, `[[`) and the files that they and inclusions look at."""

from __future__ import annotations

import fnmatch
import os
import re
from typing import Callable, Protocol

from .errors import ConfigError


class Files(Protocol):
    """Where files come from: the local file system, or one with repositories in it."""

    def read(self, path: str) -> str | None:
        """The text of a file; None if it does not exist."""
        ...

    def kind(self, path: str) -> str:
        """ "f" for a file, "d" for a directory, "o" for another thing, "" if there is nothing."""
        ...

    def names(self, path: str) -> list[str]:
        """Names in a directory, sorted; empty if there is none."""
        ...


class LocalFiles:
    """The machine's own file system."""

    def read(self, path: str) -> str | None:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as f:
                return f.read(1 << 20)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as e:
            raise ConfigError(f"{path} cannot be read: {e.strerror}") from e

    def kind(self, path: str) -> str:
        if os.path.isfile(path):
            return "f"
        if os.path.isdir(path):
            return "d"
        return "o" if os.path.lexists(path) else ""

    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except OSError:
            return []


class Test:
    """The expressions of test, [ and [[."""

    def __init__(self, arguments: list[str], files: Files, directory: str, pattern: bool) -> None:
        self._rest = list(arguments)
        self._files = files
        self._directory = directory
        self._pattern = pattern

    def result(self) -> bool:
        if not self._rest:
            return False
        value = self._or()
        if self._rest:
            raise ValueError(f"`{self._rest[0]}` is not expected")
        return value

    def _or(self) -> bool:
        value = self._and()
        while self._rest and self._rest[0] in ("-o", "||"):
            self._rest.pop(0)
            value = self._and() or value
        return value

    def _and(self) -> bool:
        value = self._not()
        while self._rest and self._rest[0] in ("-a", "&&"):
            self._rest.pop(0)
            value = self._not() and value
        return value

    def _not(self) -> bool:
        rest = self._rest
        if not rest:
            raise ValueError("something is missing")
        if rest[0] == "!" and len(rest) > 1:
            rest.pop(0)
            return not self._not()
        if rest[0] == "(" and len(rest) > 2:
            rest.pop(0)
            value = self._or()
            if not rest or rest.pop(0) != ")":
                raise ValueError("`)` is missing")
            return value
        return self._primary()

    def _primary(self) -> bool:
        rest = self._rest
        if len(rest) >= 3 and (binary := _BINARY.get(rest[1])):
            left, operator, right = rest[:3]
            del rest[:3]
            if self._pattern and operator in ("=", "==", "!="):
                return fnmatch.fnmatchcase(left, right) == (operator != "!=")
            return binary(left, right)
        if len(rest) >= 2 and re.fullmatch(r"-[a-zA-Z]", rest[0]):
            operator, value = rest[:2]
            del rest[:2]
            if operator in "-z-n":
                return (value == "") == (operator == "-z")
            kind = self._files.kind(os.path.join(self._directory, value)) if value else ""
            if operator in ("-e", "-r", "-L", "-h", "-s", "-x", "-w"):
                return bool(kind)
            if operator in ("-f", "-d"):
                return kind == operator[1]
            raise ValueError(f"{operator} is not supported")
        return rest.pop(0) != ""


def _numbers(compare: Callable[[int, int], bool]) -> Callable[[str, str], bool]:
    def apply(left: str, right: str) -> bool:
        if not all(re.fullmatch(r"\s*[+-]?[0-9]{1,30}\s*", v) for v in (left, right)):
            raise ValueError("not a number")
        return compare(int(left), int(right))

    return apply


_BINARY: dict[str, Callable[[str, str], bool]] = {
    "=": lambda a, b: a == b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "-eq": _numbers(lambda a, b: a == b),
    "-ne": _numbers(lambda a, b: a != b),
    "-lt": _numbers(lambda a, b: a < b),
    "-le": _numbers(lambda a, b: a <= b),
    "-gt": _numbers(lambda a, b: a > b),
    "-ge": _numbers(lambda a, b: a >= b),
}
