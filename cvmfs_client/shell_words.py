"""Words of the shell language: quoting, parameter references, arithmetic. Text in, parts out; nothing is
evaluated."""

from __future__ import annotations

import re
from typing import Callable, NamedTuple, Protocol

from .errors import ConfigError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=")
_OPERATOR = re.compile(r":?[-=+?]|##?|%%?")
# what may be thrown away: output to nowhere or to standard error
_REDIRECTION = re.compile(r"[0-9]?(?:>{1,2}[ \t]*/dev/null|>&[0-9]|<[ \t]*/dev/null)(?=[\s;&|)]|$)")
_WORD_END = " \t\n;&|()<>"
_COMMAND_WORD = re.compile(r"[^ \t\n;&|()<>\"'$`\\]+")


class WordPart(NamedTuple):
    """A piece of a word: text, a parameter reference, or an arithmetic expression."""

    kind: str  # "text", "parameter", "arithmetic"
    text: str = ""  # the text, or the parameter's name
    quoted: bool = False
    operator: str = ""  # of a parameter: ":-", "##", "length", ...
    word: list[WordPart] = []  # the operator's operand, or the expression; never changed


Word = list[WordPart]


class Errors(Protocol):
    """Who makes errors that name file and line."""

    def error(self, reason: str) -> ConfigError: ...


class Reader:
    """A cursor over a text."""

    def __init__(self, text: str, path: str) -> None:
        self.path = path
        self._text = text.replace("\r\n", "\n")
        self._at = 0

    @property
    def line(self) -> int:
        """Line number, from 1."""
        return self._text.count("\n", 0, self._at) + 1

    @property
    def at_end(self) -> bool:
        self.skip_blanks()
        return self._at >= len(self._text)

    # --- blanks and separators
    def skip_blanks(self) -> None:
        """Spaces, continued lines and comments."""
        text = self._text
        while self._at < len(text):
            if text[self._at] in " \t":
                self._at += 1
            elif text.startswith("\\\n", self._at):
                self._at += 2
            elif text[self._at] == "#" and (self._at == 0 or text[self._at - 1] in _WORD_END):
                end = text.find("\n", self._at)
                self._at = end if end >= 0 else len(text)
            else:
                return

    def skip_newlines(self) -> None:
        self.skip_blanks()
        while self._text.startswith("\n", self._at):
            self._at += 1
            self.skip_blanks()

    def skip_separators(self) -> None:
        """Newlines and single semicolons."""
        self.skip_newlines()
        while self.peek(";") and not self.peek(";;"):
            self._at += 1
            self.skip_newlines()

    # --- looking
    def peek(self, text: str) -> bool:
        self.skip_blanks()
        return self._text.startswith(text, self._at)

    def peek_any(self, characters: str) -> bool:
        self.skip_blanks()
        return self._at < len(self._text) and self._text[self._at] in characters

    def peek_word(self) -> str:
        """The plain word at the cursor, "" for anything with quotes or expansions."""
        self.skip_blanks()
        if self.peek(";;"):
            return ";;"
        match = _COMMAND_WORD.match(self._text, self._at)
        if not match:
            return ""
        end = match.end()
        return match.group() if end >= len(self._text) or self._text[end] in _WORD_END else ""

    def peek_text(self) -> str:
        """Some text at the cursor, for messages."""
        return self._text[self._at : self._at + 20].split("\n")[0]

    def take(self, text: str) -> bool:
        if self.peek(text):
            self._at += len(text)
            return True
        return False

    def take_word(self, word: str) -> bool:
        if self.peek_word() == word:
            self._at += len(word)
            return True
        return False

    def operator(self) -> str:
        """Takes && || ( ) < >."""
        length = 2 if self.peek("&&") or self.peek("||") else 1
        self._at += length
        return self._text[self._at - length : self._at]

    def redirection(self) -> bool:
        """Takes a redirection that does no harm."""
        match = _REDIRECTION.match(self._text, self._at)
        if match:
            self._at = match.end()
        return match is not None

    def assignment(self) -> tuple[str, bool] | None:
        """Takes ``NAME=`` or ``NAME+=``: the name and whether it appends."""
        match = _ASSIGNMENT.match(self._text, self._at)
        if not match:
            return None
        self._at = match.end()
        return match.group(1), bool(match.group(2))

    # --- words
    def word(self, errors: Errors, *, after_assignment: bool = False) -> Word | None:
        """Takes a word; None where none begins."""
        if not after_assignment:
            self.skip_blanks()
        parts: Word = []
        start = self._at
        text = self._text
        while self._at < len(text) and text[self._at] not in _WORD_END:
            self._piece(parts, errors, quoted=False)
        return parts if self._at > start else None

    def _piece(self, parts: Word, errors: Errors, *, quoted: bool) -> None:
        """One unit outside or inside double quotes."""
        text = self._text
        char = text[self._at]
        if char == "\\":
            following = text[self._at + 1 : self._at + 2]
            self._at += 2
            if following == "\n":
                return
            keeps = quoted and following not in '$`"\\'
            parts.append(WordPart("text", "\\" + following if keeps else following, quoted=True))
        elif char == "'" and not quoted:
            end = text.find("'", self._at + 1)
            if end < 0:
                raise errors.error("a quote is not closed")
            parts.append(WordPart("text", text[self._at + 1 : end], quoted=True))
            self._at = end + 1
        elif char == '"' and not quoted:
            self._at += 1
            parts.append(WordPart("text", "", quoted=True))
            while not text.startswith('"', self._at):
                if self._at >= len(text):
                    raise errors.error("a quote is not closed")
                self._piece(parts, errors, quoted=True)
            self._at += 1
        elif char == "$":
            parts.append(self._dollar(errors, quoted))
        elif char == "`":
            raise errors.error("commands in ` ` cannot be evaluated")
        else:
            stop = '\\"$`' if quoted else "\\\"'$`" + _WORD_END
            end = self._at + 1
            while end < len(text) and text[end] not in stop:
                end += 1
            piece = text[self._at : end]
            if not quoted and ((piece[0] == "~" and not parts) or ":~" in piece or "=~" in piece):
                raise errors.error("~ for a home directory cannot be evaluated")
            parts.append(WordPart("text", piece, quoted=quoted))
            self._at = end

    def _dollar(self, errors: Errors, quoted: bool) -> WordPart:
        text = self._text
        if text.startswith("$((", self._at):
            self._at += 3
            return WordPart("arithmetic", quoted=quoted, word=self._until_arithmetic_end(errors))
        if text.startswith("$(", self._at):
            raise errors.error("commands in $( ) cannot be evaluated")
        if text.startswith("${", self._at):
            self._at += 2
            return self._braced(errors, quoted)
        match = _NAME.match(text, self._at + 1)
        if match:
            self._at = match.end()
            return WordPart("parameter", match.group(), quoted=quoted)
        following = text[self._at + 1 : self._at + 2]
        if following and following in "?$!#*@-0123456789":
            raise errors.error(f"${following} cannot be evaluated")
        self._at += 1
        return WordPart("text", "$", quoted=quoted)

    def _braced(self, errors: Errors, quoted: bool) -> WordPart:
        text = self._text
        length = text.startswith("#", self._at) and not text.startswith("#}", self._at)
        match = _NAME.match(text, self._at + length)
        if not match:
            raise errors.error("a ${...} that cannot be evaluated")
        self._at = match.end()
        if length:
            if not text.startswith("}", self._at):
                raise errors.error("a ${#...} that cannot be evaluated")
            self._at += 1
            return WordPart("parameter", match.group(), quoted=quoted, operator="length")
        operator = _OPERATOR.match(text, self._at)
        operand: Word = []
        if operator:
            self._at = operator.end()
        while not text.startswith("}", self._at):
            if self._at >= len(text) or operator is None:
                raise errors.error("a ${...} that cannot be evaluated")
            # white space and operators are plain text inside braces
            if text[self._at] in _WORD_END and not quoted:
                operand.append(WordPart("text", text[self._at], quoted=False))
                self._at += 1
                continue
            before = self._at
            self._operand_piece(operand, errors, quoted)
            if self._at == before:
                raise errors.error("a ${...} that cannot be evaluated")
        self._at += 1
        return WordPart(
            "parameter",
            match.group(),
            quoted=quoted,
            operator=operator.group() if operator else "",
            word=operand,
        )

    def _operand_piece(self, operand: Word, errors: Errors, quoted: bool) -> None:
        text = self._text
        if text[self._at] in "\\\"'$`" and not (quoted and text[self._at] == "'"):
            self._piece(operand, errors, quoted=False)
            return
        end = self._at + 1
        while end < len(text) and text[end] not in "\\\"'$`}" + ("" if quoted else _WORD_END):
            end += 1
        operand.append(WordPart("text", text[self._at : end], quoted=quoted))
        self._at = end

    def _until_arithmetic_end(self, errors: Errors) -> Word:
        text = self._text
        parts: Word = []
        depth = 0
        while self._at < len(text):
            if depth == 0 and text.startswith("))", self._at):
                self._at += 2
                return parts
            char = text[self._at]
            if char == "$":
                parts.append(self._dollar(errors, True))
                continue
            depth += {"(": 1, ")": -1}.get(char, 0)
            if depth < 0:
                break
            parts.append(WordPart("text", char, quoted=True))
            self._at += 1
        raise errors.error("a $((...)) that is not closed")


_TOKEN = re.compile(r"\s*(?:([0-9]{1,18})|([A-Za-z_]\w*)|(<=|>=|==|!=|&&|\|\||[-+*/%()<>!]))")
_PRECEDENCE = {"||": 1, "&&": 2, "==": 3, "!=": 3, "<": 4, "<=": 4, ">": 4, ">=": 4, "+": 5, "-": 5}
_PRECEDENCE.update({"*": 6, "/": 6, "%": 6})


def evaluate_arithmetic(text: str, variable: Callable[[str], int]) -> int:
    """Integer arithmetic as in $((...)). Raises ValueError, ZeroDivisionError."""
    tokens: list[str] = []
    at, text = 0, text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise ValueError(f"`{text[at:]}` is not understood")
        tokens.append(match.group().strip())
        at = match.end()

    def primary() -> int:
        if not tokens:
            raise ValueError("something is missing")
        token = tokens.pop(0)
        if token == "(":
            value = binary(1)
            if not tokens or tokens.pop(0) != ")":
                raise ValueError("`)` is missing")
            return value
        if token in ("-", "+", "!"):
            value = primary()
            return {"-": -value, "+": value, "!": int(not value)}[token]
        if token.isdigit():
            return int(token, 8 if len(token) > 1 and token[0] == "0" else 10)
        if _NAME.fullmatch(token):
            return variable(token)
        raise ValueError(f"`{token}` is not expected")

    def binary(lowest: int) -> int:
        left = primary()
        while tokens and (level := _PRECEDENCE.get(tokens[0], 0)) >= lowest:
            operator = tokens.pop(0)
            left = _apply(operator, left, binary(level + 1))
        return left

    result = binary(1) if tokens else 0
    if tokens:
        raise ValueError(f"`{tokens[0]}` is not expected")
    return result


def _apply(operator: str, a: int, b: int) -> int:
    if operator in ("/", "%"):
        quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        return quotient if operator == "/" else a - b * quotient
    return {
        "+": a + b,
        "-": a - b,
        "*": a * b,
        "==": int(a == b),
        "!=": int(a != b),
        "<": int(a < b),
        "<=": int(a <= b),
        ">": int(a > b),
        ">=": int(a >= b),
        "&&": int(bool(a) and bool(b)),
        "||": int(bool(a) or bool(b)),
    }[operator]
