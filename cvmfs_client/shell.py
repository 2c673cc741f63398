"""Evaluates the part of the shell language that CVMFS configuration files are written in. Runs no command,
ever.

Understood: assignments, `export`, `readonly`, `local`, `unset`, quoting, parameter expansion with defaults
and pattern removal, arithmetic, `if`, `case`, `test`, `[`, `[[`, `&&`, `||`, `!`, groups, and the inclusion
of other files. Anything else is a ConfigError that names file and line, as a guess could connect to the wrong
servers.
"""

from __future__ import annotations

import fnmatch
import os
import random
import re
from collections.abc import Mapping
from typing import NamedTuple

from .errors import ConfigError
from .shell_conditions import Files, LocalFiles, Test
from .shell_words import Reader, Word, WordPart, evaluate_arithmetic

MAX_DEPTH = 16  # of inclusion
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=")
# what the official client looks for in the text of a file: these variables are parameters
_PARAMETER = re.compile(r"^[ \t]*(?:readonly[ \t]+|export[ \t]+|eval[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=", re.M)
_DECLARATIONS = {"export", "readonly", "local", "declare", "typeset"}
_IGNORED = {"echo", "printf", "set", "umask", "ulimit", "logger"}
_RESERVED = {"then", "else", "elif", "fi", "esac", "do", "done", "}", ";;"}


class _Stop(Exception):
    """`return` or `exit`: no more of this file."""


class _Position(NamedTuple):
    path: str
    line: int


class Shell:
    """Variables, and the evaluation of files that set them."""

    def __init__(self, variables: Mapping[str, str], files: Files | None = None) -> None:
        self.variables: dict[str, str] = dict(variables)
        self.files: Files = files or LocalFiles()
        self._readonly: set[str] = set()
        self._where = _Position("", 0)
        self._directory = "/"
        self._depth = 0

    def run_file(self, path: str) -> list[str] | None:
        """Evaluates a file as the official client does, with its directory as the current one.

        Returns the names of the parameters that its text assigns, whether or not that line was reached; None
        if there is no such file. Raises ConfigError."""
        text = self.files.read(path)
        if text is None:
            return None
        self._directory = os.path.dirname(os.path.abspath(path))
        self._run(text, path)
        names: dict[str, None] = {}
        for match in _PARAMETER.finditer(text):
            names[match.group(1)] = None
        return list(names)

    def _run(self, text: str, path: str) -> None:
        if self._depth >= MAX_DEPTH:
            raise self.error(f"{path} is included too deeply")
        outer = self._where
        self._depth += 1
        try:
            _Parser(Reader(text, path), self).program()
        except _Stop:
            pass
        finally:
            self._depth -= 1
            self._where = outer

    # --- for the parser
    def at(self, path: str, line: int) -> None:
        """Remembers where evaluation is, for messages."""
        self._where = _Position(path, line)

    def error(self, reason: str, remedy: str = "") -> ConfigError:
        """The error for the current place."""
        where = f"{self._where.path}:{self._where.line}" if self._where.path else "configuration"
        return ConfigError(
            f"{where}: {reason}", "this file is evaluated without a shell: write the value plainly"
        )

    def assign(self, name: str, value: str) -> None:
        if name not in self._readonly:
            self.variables[name] = value

    def lookup(self, name: str) -> str | None:
        """The value of a variable; None: unset."""
        if name == "RANDOM" and name not in self.variables:
            return str(random.randrange(32768))
        return self.variables.get(name)

    # --- words
    def expand(self, word: Word) -> str:
        """As in an assignment: one string, no splitting."""
        return "".join(self._part(part) for part in word)

    def fields(self, words: list[Word]) -> list[str]:
        """As in a command: what is expanded outside quotes is split at white space and may vanish."""
        found: list[str] = []
        for word in words:
            current: str | None = None
            for part in word:
                value = self._part(part)
                if part.quoted or part.kind == "text":
                    current = (current or "") + value
                    continue
                pieces = value.split()
                if not pieces:
                    if value and current is not None:
                        found.append(current)
                        current = None
                    continue
                if value[0].isspace() and current is not None:
                    found.append(current)
                    current = None
                current = (current or "") + pieces[0]
                for piece in pieces[1:]:
                    found.append(current)
                    current = piece
                if value[-1].isspace():
                    found.append(current)
                    current = None
            if current is not None:
                found.append(current)
        return found

    def _part(self, part: WordPart) -> str:
        if part.kind == "text":
            return part.text
        if part.kind == "arithmetic":
            text = self.expand(part.word)

            def number(name: str) -> int:
                value = self.lookup(name) or "0"
                if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):
                    raise ValueError(f"{name} is not a number")
                return int(value)

            try:
                return str(evaluate_arithmetic(text, number))
            except (ValueError, ZeroDivisionError) as e:
                raise self.error(f"cannot compute $(({text})): {e}") from e
        return self._parameter(part)

    def _parameter(self, part: WordPart) -> str:
        value = self.lookup(part.text)
        operator = part.operator
        if not operator:
            return value or ""
        if operator == "length":
            return str(len(value or ""))
        if operator[0] in "#%":
            return _strip(value or "", self.expand(part.word), operator)
        missing = value is None or (operator[0] == ":" and value == "")
        kind = operator[-1]
        if kind == "+":
            return "" if missing else self.expand(part.word)
        if not missing:
            return value or ""
        if kind == "?":
            raise self.error(f"{part.text} is not set: {self.expand(part.word)}")
        default = self.expand(part.word)
        if kind == "=":
            self.assign(part.text, default)
        return default

    # --- commands
    def command(self, words: list[Word], assignments: list[tuple[str, bool, Word]]) -> bool:
        """Runs a simple command; whether it succeeded."""
        if not words:
            for name, append, word in assignments:
                self.assign(name, (self.variables.get(name, "") if append else "") + self.expand(word))
            return True
        first = self.expand(words[0])
        if first in _DECLARATIONS:
            self._declare(first, words[1:])
            return True
        # inside [[ ]] nothing is split
        arguments = [self.expand(word) for word in words] if first == "[[" else self.fields(words)
        if not arguments:
            return True
        return self._builtin(arguments[0], arguments[1:])

    def _builtin(self, name: str, arguments: list[str]) -> bool:
        if name in (":", "true"):
            return True
        if name == "false":
            return False
        if name in ("[", "[["):
            if not arguments or arguments[-1] != {"[": "]", "[[": "]]"}[name]:
                raise self.error(f"`{name}` without its end")
            return self._test(arguments[:-1], pattern=name == "[[")
        if name == "test":
            return self._test(arguments)
        if name in (".", "source"):
            return self._include(arguments)
        if name == "unset":
            for variable in arguments:
                if not variable.startswith("-") and variable not in self._readonly:
                    self.variables.pop(variable, None)
            return True
        if name in ("return", "exit"):
            raise _Stop
        if name in _IGNORED:
            return True
        raise self.error(f"the command `{name}` cannot be evaluated")

    def _declare(self, kind: str, words: list[Word]) -> None:
        for word in words:
            text = self.expand(word)
            match = _ASSIGNMENT.match(text)
            if match:
                self.assign(match.group(1), text[match.end() :])
            name = match.group(1) if match else text
            if kind == "readonly" and not name.startswith("-"):
                self._readonly.add(name)

    def _include(self, arguments: list[str]) -> bool:
        if not arguments:
            raise self.error("nothing to include")
        path = os.path.join(self._directory, arguments[0])
        text = self.files.read(path)
        if text is None:
            raise self.error(f"{path} does not exist", "provide the file or remove the line")
        self._run(text, path)
        return True

    def _test(self, arguments: list[str], *, pattern: bool = False) -> bool:
        try:
            return Test(arguments, self.files, self._directory, pattern).result()
        except ValueError as e:
            raise self.error(f"cannot evaluate the test `{' '.join(arguments)}`: {e}") from e


def _strip(value: str, pattern: str, operator: str) -> str:
    """${X#p}, ${X##p}, ${X%p}, ${X%%p}."""
    lengths = range(len(value) + 1)
    longest = len(operator) == 2
    if operator[0] == "#":
        fitting = [n for n in lengths if fnmatch.fnmatchcase(value[:n], pattern)]
        return value[(max(fitting) if longest else min(fitting)) :] if fitting else value
    fitting = [n for n in lengths if fnmatch.fnmatchcase(value[n:], pattern)]
    return value[: (min(fitting) if longest else max(fitting))] if fitting else value


class _Parser:
    """Parses and evaluates in one go; branches that are not taken are parsed with ``live`` false."""

    def __init__(self, reader: Reader, shell: Shell) -> None:
        self._in = reader
        self._shell = shell

    def program(self) -> None:
        self._list(True, frozenset())
        if not self._in.at_end:
            self._fail(f"`{self._in.peek_word()}` is not expected")

    def _fail(self, reason: str) -> None:
        self._shell.at(self._in.path, self._in.line)
        raise self._shell.error(reason)

    def _list(self, live: bool, ends: frozenset[str]) -> bool:
        """Commands up to one of the words ``ends`` (not consumed) or the end of the text."""
        status = True
        while True:
            self._in.skip_separators()
            word = self._in.peek_word()
            if self._in.at_end or word in ends or word in _RESERVED:
                return status
            if self._in.peek(")"):
                return status
            status = self._and_or(live)

    def _and_or(self, live: bool) -> bool:
        status = self._pipeline(live)
        while True:
            if self._in.take("&&"):
                wanted = status
            elif self._in.take("||"):
                wanted = not status
            else:
                break
            self._in.skip_newlines()
            result = self._pipeline(live and wanted)
            status = result if wanted else status
        if self._in.peek("|") or (self._in.peek("&") and not self._in.peek("&&")):
            self._fail("pipes and background commands cannot be evaluated")
        return status

    def _pipeline(self, live: bool) -> bool:
        negate = False
        while self._in.take_word("!"):
            negate = not negate
        status = self._command(live)
        return status != negate

    def _command(self, live: bool) -> bool:
        compound = {"if": self._if, "case": self._case, "{": self._group}.get(self._in.peek_word())
        if compound is not None:
            self._in.take_word(self._in.peek_word())
            status = compound(live)
            while True:
                self._in.skip_blanks()
                if not self._in.redirection():
                    return status
        word = self._in.peek_word()
        if word in ("for", "while", "until", "function", "select") or self._in.peek("("):
            self._fail(f"`{word or '('}` cannot be evaluated")
        return self._simple(live)

    def _group(self, live: bool) -> bool:
        status = self._list(live, frozenset(("}",)))
        self._need("}")
        return status

    def _need(self, word: str) -> None:
        if not self._in.take_word(word):
            self._fail(f"`{word}` is missing")

    def _if(self, live: bool) -> bool:
        done, status = not live, True
        while True:
            condition = self._list(not done, frozenset(("then",)))
            self._need("then")
            taken = not done and condition
            result = self._list(taken, frozenset(("elif", "else", "fi")))
            if taken:
                done, status = True, result
            if self._in.take_word("elif"):
                continue
            if self._in.take_word("else"):
                result = self._list(not done, frozenset(("fi",)))
                status = status if done else result
            self._need("fi")
            return status

    def _case(self, live: bool) -> bool:
        subject = self._in.word(self._shell)
        if subject is None:
            self._fail("`case` without a word")
            return False
        value = self._shell.expand(subject) if live else ""
        self._in.skip_newlines()
        self._need("in")
        done, status = not live, True
        while True:
            self._in.skip_separators()
            if self._in.take_word("esac"):
                return status
            self._in.take("(")
            matched = False
            while True:
                pattern = self._in.word(self._shell)
                if pattern is None:
                    self._fail("`case` without a pattern")
                    return False
                if not done and fnmatch.fnmatchcase(value, self._shell.expand(pattern)):
                    matched = True
                if not self._in.take("|"):
                    break
            if not self._in.take(")"):
                self._fail("`)` is missing in `case`")
            result = self._list(matched and not done, frozenset(("esac",)))
            if matched and not done:
                done, status = True, result
            self._in.skip_newlines()
            if not self._in.take(";;") and self._in.peek_word() != "esac":
                self._fail("`;;` is missing")

    def _simple(self, live: bool) -> bool:
        shell, line = self._shell, self._in.line
        assignments: list[tuple[str, bool, Word]] = []
        words: list[Word] = []
        conditional = False
        while True:
            self._in.skip_blanks()
            shell.at(self._in.path, line)
            if conditional and (self._in.peek("&&") or self._in.peek("||") or self._in.peek_any("()<>")):
                words.append([WordPart("text", self._in.operator(), quoted=True)])
                continue
            if self._in.redirection():
                continue
            if not words and (match := self._in.assignment()):
                value = self._in.word(shell, after_assignment=True)
                assignments.append((match[0], match[1], value or []))
                continue
            word = self._in.word(shell)
            if word is None:
                break
            words.append(word)
            text = word[0].text if len(word) == 1 and word[0].kind == "text" and not word[0].quoted else ""
            if text == "[[" and len(words) == 1:
                conditional = True
            elif text == "]]":
                conditional = False
        if self._in.peek("("):
            self._fail("functions cannot be evaluated")
        if not words and not assignments:
            self._fail(f"`{self._in.peek_text()}` is not expected")
        shell.at(self._in.path, line)
        return shell.command(words, assignments) if live else True
