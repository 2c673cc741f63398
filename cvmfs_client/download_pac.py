"""Proxy auto-configuration files: a small, safe evaluator for the part of JavaScript they are written in.

Functions, variables, if, for, while, strings, numbers, arrays and the functions that PAC files may count on.
No objects, regular expressions, closures over changing variables or exceptions: what it cannot evaluate is a
PacError naming the line. Steps, depth and the length of strings are limited, since the file comes from
whoever answers to the name wpad.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

_STEPS = 200_000
_DEPTH = 60
_LENGTH = 1 << 20
_SIZE = 1 << 20

Value = Union[str, float, bool, None, list[Any]]
Native = Callable[..., Value]


class PacError(Exception):
    """The file cannot be evaluated; the message names the line."""


class Token(NamedTuple):
    kind: str  # "name", "number", "string", "op", "end"
    text: str
    line: int


_TOKENS = re.compile(
    r"""(?P<space>[ \t\r\f\ufeff]+) | (?P<newline>\n) | (?P<comment>//[^\n]*|/\*.*?\*/|<!--[^\n]*)
      | (?P<number>0[xX][0-9a-fA-F]{1,15}|(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15}))
      | (?P<name>[A-Za-z_$][A-Za-z0-9_$]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<op>===|!==|==|!=|<=|>=|&&|\|\||\+\+|--|\+=|-=|[-+*/%!<>=?:;,.(){}\[\]])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0"}


def tokenize(text: str) -> list[Token]:
    """Raises PacError at what is no token of the subset."""
    tokens = []
    at, line = 0, 1
    while at < len(text):
        match = _TOKENS.match(text, at)
        if match is None:
            raise PacError(f"line {line}: cannot read {text[at : at + 20]!r}")
        kind, piece = str(match.lastgroup), match.group()
        if kind in ("number", "name", "op"):
            tokens.append(Token(kind, piece, line))
        elif kind == "string":
            body = re.sub(
                r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))",
                lambda m: chr(int(m[1] or m[2], 16)) if m[1] or m[2] else _ESCAPES.get(m[3], m[3]),
                piece[1:-1],
                flags=re.DOTALL,
            )
            tokens.append(Token(kind, body, line))
        line += piece.count("\n")
        at = match.end()
    tokens.append(Token("end", "", line))
    return tokens


# A syntax node is a tuple: its kind, its line, and what that kind has.
Syntax = tuple[Any, ...]

_LEVELS: Sequence[Sequence[str]] = (
    ("||",), ("&&",), ("==", "!=", "===", "!=="), ("<", ">", "<=", ">="), ("+", "-"), ("*", "/", "%"),
)  # fmt: skip


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, text: str) -> None:
        self._tokens = tokenize(text)
        self._at = 0
        self._depth = 0

    def program(self) -> list[Syntax]:
        statements = []
        while self._peek().kind != "end":
            statements.append(self._statement())
        return statements

    def _peek(self, ahead: int = 0) -> Token:
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)]

    def _next(self) -> Token:
        token = self._peek()
        self._at += 1
        return token

    def _is(self, *texts: str) -> bool:
        token = self._peek()
        return token.kind in ("op", "name") and token.text in texts

    def _accept(self, *texts: str) -> bool:
        if self._is(*texts):
            self._at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        token = self._peek()
        if not self._accept(text):
            raise PacError(f"line {token.line}: {text!r} expected, not {token.text[:20] or 'the end'!r}")

    def _name(self) -> str:
        token = self._next()
        if token.kind != "name":
            raise PacError(f"line {token.line}: a name expected, not {token.text[:20]!r}")
        return token.text

    def _statement(self) -> Syntax:
        self._depth += 1
        line = self._peek().line
        if self._depth > _DEPTH:
            raise PacError(f"line {line}: nested too deep")
        try:
            return self._statement_inner(line)
        finally:
            self._depth -= 1

    def _statement_inner(self, line: int) -> Syntax:
        if self._accept("{"):
            body = []
            while not self._accept("}"):
                body.append(self._statement())
            return ("block", line, body)
        if self._accept(";"):
            return ("block", line, [])
        if self._is("function"):
            return self._function(line)
        if self._is("var", "let", "const"):
            node = self._variables(line)
            self._accept(";")
            return node
        if self._accept("if"):
            test = self._bracketed()
            then = self._statement()
            other = self._statement() if self._accept("else") else None
            return ("if", line, test, then, other)
        if self._accept("return"):
            value = None if self._is(";", "}") else self._expression()
            self._accept(";")
            return ("return", line, value)
        if self._accept("while"):
            return ("for", line, None, self._bracketed(), None, self._statement())
        if self._accept("for"):
            return self._for(line)
        if self._is("break", "continue"):
            word = self._next().text
            self._accept(";")
            return (word, line)
        if self._is("switch", "try", "throw", "do", "with", "new", "delete", "class", "import"):
            raise PacError(f"line {line}: {self._peek().text!r} is not supported")
        value = self._expression()
        self._accept(";")
        return ("expression", line, value)

    def _function(self, line: int) -> Syntax:
        self._next()
        name = self._name()
        self._expect("(")
        parameters = []
        while not self._accept(")"):
            parameters.append(self._name())
            self._accept(",")
        self._expect("{")
        body = []
        while not self._accept("}"):
            body.append(self._statement())
        return ("function", line, name, parameters, body)

    def _variables(self, line: int) -> Syntax:
        self._next()
        pairs = []
        while True:
            name = self._name()
            pairs.append((name, self._expression() if self._accept("=") else None))
            if not self._accept(","):
                return ("var", line, pairs)

    def _bracketed(self) -> Syntax:
        self._expect("(")
        value = self._expression()
        self._expect(")")
        return value

    def _for(self, line: int) -> Syntax:
        self._expect("(")
        start: Optional[Syntax] = None
        if self._is("var", "let"):
            start = self._variables(line)
        elif not self._is(";"):
            start = ("expression", line, self._expression())
        self._expect(";")
        test = None if self._is(";") else self._expression()
        self._expect(";")
        step = None if self._is(")") else self._expression()
        self._expect(")")
        return ("for", line, start, test, step, self._statement())

    def _expression(self) -> Syntax:
        self._depth += 1
        line = self._peek().line
        if self._depth > _DEPTH:
            raise PacError(f"line {line}: nested too deep")
        try:
            left = self._binary(0)
            if self._accept("?"):
                then = self._expression()
                self._expect(":")
                return ("choose", line, left, then, self._expression())
            if self._is("=", "+=", "-="):
                operator = self._next().text
                if left[0] != "name":
                    raise PacError(f"line {line}: only variables can be assigned to")
                value = self._expression()
                if operator != "=":
                    value = ("binary", line, operator[0], left, value)
                return ("assign", line, left[2], value)
            return left
        finally:
            self._depth -= 1

    def _binary(self, level: int) -> Syntax:
        if level == len(_LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while self._peek().kind == "op" and self._peek().text in _LEVELS[level]:
            operator = self._next()
            left = ("binary", operator.line, operator.text, left, self._binary(level + 1))
        return left

    def _unary(self) -> Syntax:
        token = self._peek()
        if token.kind == "op" and token.text in ("!", "-", "+"):
            self._depth += 1
            if self._depth > _DEPTH:
                raise PacError(f"line {token.line}: nested too deep")
            self._next()
            node = ("unary", token.line, token.text, self._unary())
            self._depth -= 1
            return node
        return self._postfix()

    def _postfix(self) -> Syntax:
        node = self._primary()
        while True:
            line = self._peek().line
            if self._accept("("):
                node = ("call", line, node, self._arguments(")"))
            elif self._accept("."):
                node = ("member", line, node, self._name())
            elif self._accept("["):
                node = ("index", line, node, self._expression())
                self._expect("]")
            elif self._is("++", "--"):
                operator = self._next().text
                if node[0] != "name":
                    raise PacError(f"line {line}: only variables can be counted")
                one = ("literal", line, 1.0)
                node = ("assign", line, node[2], ("binary", line, operator[0], node, one))
            else:
                return node

    def _arguments(self, end: str) -> list[Syntax]:
        found = []
        while not self._accept(end):
            found.append(self._expression())
            if not self._is(end):
                self._expect(",")
        return found

    def _primary(self) -> Syntax:
        token = self._next()
        if token.kind == "string":
            return ("literal", token.line, token.text)
        if token.kind == "number":
            number = int(token.text, 16) if token.text[:2] in ("0x", "0X") else float(token.text)
            return ("literal", token.line, float(number))
        if token.kind == "name":
            constants = {"true": True, "false": False, "null": None, "undefined": None}
            if token.text in constants:
                return ("literal", token.line, constants[token.text])
            if token.text in ("function", "new", "typeof", "this"):
                raise PacError(f"line {token.line}: {token.text!r} is not supported here")
            return ("name", token.line, token.text)
        if token.text == "(":
            node = self._expression()
            self._expect(")")
            return node
        if token.text == "[":
            return ("list", token.line, self._arguments("]"))
        raise PacError(f"line {token.line}: {token.text[:20] or 'the end'!r} is not expected here")


def find_proxy(text: str, url: str, host: str, functions: Mapping[str, Native]) -> str:
    """What the file's FindProxyForURL answers for ``url`` on ``host``. Raises PacError."""
    from .download_pacrun import Machine

    if len(text) > _SIZE:
        raise PacError("the file is too large")
    machine = Machine(functions, steps=_STEPS, depth=_DEPTH, length=_LENGTH)
    machine.load(_Parser(text).program())
    answer = machine.call("FindProxyForURL", [url, host])
    if not isinstance(answer, str):
        raise PacError("FindProxyForURL does not give a text")
    return answer
