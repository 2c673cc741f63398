"""Strict reading of DER and PEM, as far as keys, certificates and signed messages need it. No I/O.

Only definite lengths in their shortest form are accepted: what cannot be read in one way is refused.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import NamedTuple

from .errors import FormatError

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
OID = 0x06
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30
SET = 0x31


class Element(NamedTuple):
    """One tag-length-value; ``raw`` has the header too."""

    tag: int
    value: bytes
    raw: bytes


def read(data: bytes, at: int = 0) -> tuple[Element, int]:
    """The element at offset ``at`` and the offset behind it. Raises FormatError."""
    if at + 2 > len(data):
        raise FormatError("truncated DER")
    tag, length = data[at], data[at + 1]
    body = at + 2
    if tag & 0x1F == 0x1F:
        raise FormatError("DER with a long tag")
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4 or body + count > len(data):
            raise FormatError("DER with a bad length")
        length = int.from_bytes(data[body : body + count], "big")
        if length < 0x80 or length >> (8 * (count - 1)) == 0:
            raise FormatError("DER with a length that is not in its shortest form")
        body += count
    end = body + length
    if end > len(data):
        raise FormatError("truncated DER")
    return Element(tag, data[body:end], data[at:end]), end


def items(data: bytes) -> Iterator[Element]:
    """The elements that ``data`` is made of."""
    at = 0
    while at < len(data):
        element, at = read(data, at)
        yield element


def children(element: Element, tag: int = SEQUENCE) -> list[Element]:
    """The elements inside one whose tag must be ``tag``."""
    expect(element, tag)
    return list(items(element.value))


def expect(element: Element, tag: int) -> Element:
    """``element`` if it has that tag."""
    if element.tag != tag:
        raise FormatError(f"DER element 0x{element.tag:02x} where 0x{tag:02x} is expected")
    return element


def whole(data: bytes, tag: int = SEQUENCE) -> Element:
    """The single element that ``data`` is."""
    element, end = read(data)
    if end != len(data):
        raise FormatError("trailing bytes after DER")
    return expect(element, tag)


def integer(element: Element) -> int:
    """A non-negative INTEGER."""
    expect(element, INTEGER)
    value = element.value
    if not value or value[0] & 0x80 or (len(value) > 1 and value[0] == 0 and not value[1] & 0x80):
        raise FormatError("DER with a bad integer")
    return int.from_bytes(value, "big")


def bit_string(element: Element) -> bytes:
    """A BIT STRING of whole bytes."""
    expect(element, BIT_STRING)
    if not element.value or element.value[0] != 0:
        raise FormatError("DER with a bad bit string")
    return element.value[1:]


def oid(element: Element) -> str:
    """An OBJECT IDENTIFIER in dotted form."""
    expect(element, OID)
    numbers: list[int] = []
    value = 0
    for byte in element.value:
        value = value << 7 | byte & 0x7F
        if value >> 64:
            raise FormatError("DER with a bad object identifier")
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    if not numbers or element.value[-1] & 0x80:
        raise FormatError("DER with a bad object identifier")
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))


def time(element: Element) -> datetime:
    """A UTCTime or GeneralizedTime in Zulu time."""
    if element.tag not in (UTC_TIME, GENERALIZED_TIME):
        raise FormatError("DER with a bad time")
    try:
        text = element.value.decode("ascii")
        if element.tag == UTC_TIME:  # RFC 5280: 50..99 are of the last century
            text = ("19" if text[:2] >= "50" else "20") + text
        if len(text) != 15 or not text[:14].isdigit() or text[14] != "Z":
            raise ValueError(text)
        month, day, hour, minute, second = (int(text[i : i + 2]) for i in range(4, 14, 2))
        return datetime(int(text[:4]), month, day, hour, minute, second, tzinfo=timezone.utc)
    except ValueError as e:
        raise FormatError("DER with a bad time") from e


def pem_blocks(text: bytes) -> list[tuple[str, bytes]]:
    """(label, DER) of each block of a PEM text. Raises FormatError for a block that is broken."""
    blocks: list[tuple[str, bytes]] = []
    label = ""
    lines: list[bytes] = []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith(b"-----BEGIN ") and line.endswith(b"-----"):
            label, lines = line[11:-5].decode("latin-1"), []
        elif label and line == b"-----END " + label.encode("latin-1") + b"-----":
            try:
                blocks.append((label, binascii.a2b_base64(b"".join(lines))))
            except binascii.Error as e:
                raise FormatError("PEM with bad base64") from e
            label = ""
        elif label and b":" not in line:
            lines.append(line)
    if label:
        raise FormatError("truncated PEM")
    return blocks
