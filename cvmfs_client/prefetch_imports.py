"""Which modules a Python file imports when it is itself imported: from its source, or from its bytecode.

Only statements that run at import time count: those in functions are for later. The bytes come from
strangers; nothing of them is executed or unmarshalled by Python, and what cannot be understood is left out.
"""

from __future__ import annotations

import functools
import re
import struct
from typing import Any, NamedTuple, Optional

_LIMIT = 4 << 20  # bytes of a file that is looked into
_ITEMS = 200_000  # objects of a bytecode file that are looked at
_DEPTH = 60


class Import(NamedTuple):
    """`import name` or `from name import names`; ``level`` counts the dots before the name."""

    name: str
    names: tuple[str, ...] = ()
    level: int = 0


# --- source

# Patterns begin with a line feed, for which the engine looks faster than for the beginning of a line.
_LINE = re.compile(
    rb"\n([ \t]*)(?:(?P<def>(?:async[ \t]+)?def[ \t])"
    rb"|(?P<guard>if[ \t]+(?:typing\.)?TYPE_CHECKING\b|if[ \t]+__name__)"
    rb"|import[ \t]+(?P<import>[\w. \t,]+)"
    rb"|from[ \t]+(?P<from>\.*[ \t]*[\w.]*)[ \t]+import[ \t]*"
    rb"(?P<names>\([^)]*\)|[^\n#;\\]*(?:\\\r?\n[^\n#;\\]*)*))"
)
_QUOTES = (b'"' * 3, b"'" * 3)


def imports_of_source(source: bytes) -> list[Import]:
    """From the text of a module."""
    source = b"\n" + _without_texts(source[:_LIMIT])
    found: list[Import] = []
    at = 0
    while True:
        match = _LINE.search(source, at)
        if match is None:
            return found
        at = match.end()
        if match["def"] or match["guard"]:
            at = _end_of_block(source, at, len(match[1]))
        elif match["import"]:
            for part in match["import"].split(b","):
                words = part.split()
                if words:
                    found.append(Import(words[0].decode("ascii", "replace")))
        else:
            base = match["from"].replace(b" ", b"").decode("ascii", "replace")
            name = base.lstrip(".")
            found.append(Import(name, _names(match["names"]), len(base) - len(name)))


def _without_texts(source: bytes) -> bytes:
    """Without what stands in triple quotes, which may look like code."""
    kept: list[bytes] = []
    at = 0
    nearest = [source.find(quote) for quote in _QUOTES]
    while True:
        for i, quote in enumerate(_QUOTES):
            if 0 <= nearest[i] < at:
                nearest[i] = source.find(quote, at)
        start = min((n for n in nearest if n >= 0), default=-1)
        if start < 0:
            break
        quote = _QUOTES[nearest.index(start)]
        end = source.find(quote, start + 3)
        while end > 0 and _escaped(source, end):
            end = source.find(quote, end + 1)
        if end < 0:
            break
        kept.append(source[at:start])
        at = end + 3
    kept.append(source[at:])
    return b'""'.join(kept)


def _escaped(source: bytes, at: int) -> bool:
    count = 0
    while source[at - count - 1 : at - count] == b"\\":
        count += 1
    return count % 2 == 1


@functools.lru_cache(maxsize=64)
def _next_statement(indent: int) -> re.Pattern[bytes]:
    # the closing bracket of a long signature stands at the statement's own indentation
    return re.compile(rb"\n[ \t]{0,%d}[^\s#)\]}]" % indent)


def _end_of_block(source: bytes, at: int, indent: int) -> int:
    """Offset of the line feed before the next statement at ``indent`` or less."""
    at = source.find(b"\n", at)
    match = _next_statement(min(indent, 1000)).search(source, at) if at >= 0 else None
    return match.start() if match is not None else len(source)


def _names(text: bytes) -> tuple[str, ...]:
    text = re.sub(rb"#[^\n]*", b"", text).replace(b"\\", b" ").strip(b"() \t\r\n")
    found = []
    for part in text.split(b","):
        words = part.split()
        if words:
            found.append(words[0].decode("ascii", "replace"))
    return tuple(found)


# --- extension modules


def imports_of_extension(data: bytes, top: bytes) -> list[Import]:
    """From a compiled module of the package ``top``: names of modules that it holds as texts, as Cython
    writes them for what it imports. Only names that exist as modules mean anything."""
    pattern = re.compile(rb"\0(" + re.escape(top) + rb"(?:\.[A-Za-z_]\w*)+)(?=\0)")
    return [Import(name.decode("ascii", "replace")) for name in dict.fromkeys(pattern.findall(data))][:500]


# --- bytecode


class _Opcodes(NamedTuple):
    import_name: int
    load_const: int
    extended: int


_OLD = _Opcodes(108, 100, 144)
_NEW = _Opcodes(75, 83, 71)
# magic numbers of the releases: (first, last, layout of code objects, opcodes)
_VERSIONS = (
    (3413, 3413, "3.8", _OLD), (3425, 3425, "3.8", _OLD), (3439, 3439, "3.8", _OLD), (3495, 3495, "3.11",
    _OLD), (3531, 3531, "3.11", _OLD), (3571, 3571, "3.11", _NEW),
)  # fmt: skip


class _Code(NamedTuple):
    code: bytes
    consts: Any
    names: Any


class _UnreadableError(Exception):
    pass


def imports_of_bytecode(data: bytes) -> Optional[list[Import]]:
    """From a .pyc file of CPython 3.8 to 3.13; None for what is of another version or damaged."""
    if len(data) < 16 or len(data) > _LIMIT or data[2:4] != b"\r\n":
        return None
    magic = int.from_bytes(data[:2], "little")
    for first, last, layout, opcodes in _VERSIONS:
        if first <= magic <= last:
            try:
                code = _Reader(data, layout).read()
                return _imports_of_code(code, opcodes) if isinstance(code, _Code) else None
            except (_UnreadableError, IndexError, struct.error, RecursionError):
                return None
    return None


def _imports_of_code(code: _Code, opcodes: _Opcodes) -> list[Import]:
    found: list[Import] = []
    body, consts, names = code.code, code.consts, code.names
    if not isinstance(consts, tuple) or not isinstance(names, tuple):
        return found
    recent: list[Any] = [None, None]  # what the last two loads of constants gave: level and list of names
    extended = 0
    for at in range(0, len(body) - 1, 2):
        opcode, argument = body[at], body[at + 1] | extended
        extended = 0
        if opcode == opcodes.extended:
            extended = argument << 8
        elif opcode == opcodes.load_const and argument < len(consts):
            recent = [recent[1], consts[argument]]
        elif opcode == opcodes.import_name and argument < len(names):
            level = recent[0] if isinstance(recent[0], int) and 0 <= recent[0] < 50 else 0
            listed = recent[1] if isinstance(recent[1], tuple) else ()
            name = names[argument]
            if isinstance(name, str):
                found.append(Import(name, tuple(n for n in listed if isinstance(n, str)), level))
    # the body of a class runs at once; functions do not, and are named "<lambda>" or after "def"
    return found


class _Reader:
    """Reads the marshal format as far as needed: strings, tuples and code objects; the rest is skipped."""

    def __init__(self, data: bytes, layout: str) -> None:
        self._data = data
        self._at = 16
        self._references: list[Any] = []
        self._integers = 6 if layout == "3.8" else 5
        self._new = layout != "3.8"
        self._left = _ITEMS

    def _take(self, count: int) -> bytes:
        if count < 0 or self._at + count > len(self._data):
            raise _UnreadableError
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def _long(self) -> int:
        return int(struct.unpack("<i", self._take(4))[0])

    def read(self, depth: int = 0) -> Any:
        self._left -= 1
        if depth > _DEPTH or self._left < 0:
            raise _UnreadableError
        byte = self._take(1)[0]
        kind = chr(byte & 0x7F)
        slot = -1
        if byte & 0x80 and kind not in "Rr":
            slot = len(self._references)
            self._references.append(None)
        value = self._value(kind, depth)
        if slot >= 0:
            self._references[slot] = value
        return value

    def _value(self, kind: str, depth: int) -> Any:
        if kind in "NTFS.":
            return {"T": True, "F": False}.get(kind)
        if kind == "i":
            return self._long()
        if kind in "zZ":
            return self._take(self._take(1)[0]).decode("latin-1")
        if kind in "aAut":
            return self._take(self._long()).decode("utf-8", "replace")
        if kind == "s":
            return self._take(self._long())
        if kind == ")":
            return tuple([self.read(depth + 1) for _ in range(self._take(1)[0])])
        if kind in "([<>":
            count = self._long()
            if not 0 <= count <= self._left:
                raise _UnreadableError
            return tuple([self.read(depth + 1) for _ in range(count)])
        if kind == "r":
            index = self._long()
            return self._references[index] if 0 <= index < len(self._references) else None
        if kind == "c":
            return self._code(depth)
        if kind == "g":
            self._take(8)
        elif kind == "y":
            self._take(16)
        elif kind == "l":
            self._take(2 * abs(self._long()))
        elif kind == ":":
            return (self.read(depth + 1), self.read(depth + 1), self.read(depth + 1))
        else:
            raise _UnreadableError
        return None

    def _code(self, depth: int) -> _Code:
        self._take(4 * self._integers)
        code = self.read(depth + 1)
        consts = self.read(depth + 1)
        names = self.read(depth + 1)
        # local names, their kinds, file name, name, qualified name, line, lines, exceptions; or as it was
        # before 3.11
        for what in "vvvvvivv" if self._new else "vvvvviv":
            if what == "i":
                self._take(4)
            else:
                self.read(depth + 1)
        return _Code(code if isinstance(code, bytes) else b"", consts, names)
