"""Parsing of ``WWW-Authenticate`` (RFC 9110, section 11): several challenges, quoted strings, any order.
Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from udk.errors import ProtocolError
from udk.oci.record import Record
from udk.oci.text import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEADER = 16 << 10
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TOKEN68 = _TOKEN | frozenset("/")


class Challenge(Record):
    """One challenge: ``scheme`` and the names of ``parameters`` in lower case."""

    __slots__ = ("parameters", "scheme")
    scheme: str
    parameters: Mapping[str, str]

    def __init__(self, scheme: str, parameters: Mapping[str, str]) -> None:
        self._init(scheme=scheme, parameters=dict(parameters))

    def __hash__(self) -> int:
        return hash((self.scheme, tuple(sorted(self.parameters.items()))))

    def get(self, name: str) -> str:
        return self.parameters.get(name, "")


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of a header's value, in their order. Raises ProtocolError."""
    if len(header) > MAX_HEADER:
        raise ProtocolError("the registry's authentication challenge is too long")
    scanner = _Scanner(header)
    found: list[Challenge] = []
    while scanner.skip_commas():
        scheme = scanner.token()
        if not scheme:
            raise scanner.wrong()
        parameters: dict[str, str] = {}
        if not scanner.token68():
            scanner.parameters(parameters)
        found.append(Challenge(scheme.lower(), parameters))
    return found


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def wrong(self) -> ProtocolError:
        return ProtocolError(f"the registry's authentication challenge {quoted(self.text, 80)} is malformed")

    def spaces(self) -> None:
        while self.text[self.at : self.at + 1] in (" ", "\t"):
            self.at += 1

    def skip_commas(self) -> bool:
        """Skips to the next element; whether there is one."""
        while self.at < len(self.text) and self.text[self.at] in " \t,":
            self.at += 1
        return self.at < len(self.text)

    def token(self) -> str:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] in _TOKEN:
            self.at += 1
        return self.text[start : self.at]

    def token68(self) -> bool:
        """Skips ``Scheme base64==``, which stands for all parameters; whether it was there."""
        start = self.at
        self.spaces()
        begin = self.at
        while self.at < len(self.text) and self.text[self.at] in _TOKEN68:
            self.at += 1
        middle = self.at
        while self.text[self.at : self.at + 1] == "=":
            self.at += 1
        ended = self.at
        self.spaces()
        whole = ended > begin and middle > begin and (self.at == len(self.text) or self.text[self.at] == ",")
        if whole and begin > start:
            return True
        self.at = start
        return False

    def parameters(self, into: dict[str, str]) -> None:
        while True:
            before = self.at
            if not self.skip_commas():
                return
            name = self.token()
            self.spaces()
            if not name:
                raise self.wrong()
            if self.text[self.at : self.at + 1] != "=":
                self.at = before  # no parameter: the next challenge's scheme
                return
            self.at += 1
            self.spaces()
            value = self.quoted() if self.text[self.at : self.at + 1] == '"' else self.token68_value()
            if name.lower() in into:
                raise self.wrong()  # two realms: which one is meant is not ours to guess
            into[name.lower()] = value

    def token68_value(self) -> str:
        # strictly a token; but URLs are seen without quotes
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in ' \t,"':
            self.at += 1
        if self.at == start:
            raise self.wrong()
        return self.text[start : self.at]

    def quoted(self) -> str:
        self.at += 1
        parts: list[str] = []
        while self.at < len(self.text):
            c = self.text[self.at]
            self.at += 1
            if c == '"':
                return "".join(parts)
            if c == "\\":
                c = self.text[self.at : self.at + 1]
                self.at += 1
            parts.append(c)
        raise self.wrong()
