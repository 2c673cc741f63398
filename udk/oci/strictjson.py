"""JSON as a digest-checked document must be read: one meaning for every reader, and bounded cost.

Two readers that see different things in the same signed bytes is how type-confusion attacks work, so whatever
the JSON specification leaves to the reader (duplicate keys, byte-order marks, NaN, lone surrogates) is
refused.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from udk.errors import InvalidImageError
from udk.oci.text import clean, quoted

if TYPE_CHECKING:
    from typing import Any

# Bytes of a manifest, index or config: what registries must accept and readers in the field allow.
MAX_BYTES = 4 << 20
MAX_DEPTH = 64
MAX_ITEMS = 250_000  # separators; bounds the memory that many tiny values would take

_STRING = re.compile(rb'"[^"]*"')  # once escapes are gone: a pattern that knows them takes quadratic time
_BRACKET = re.compile(rb"[][{}]")


def loads(data: bytes, what: str = "JSON") -> Any:
    """The value of the JSON document ``data``. Raises InvalidImageError, naming ``what``."""
    if len(data) > MAX_BYTES:
        raise InvalidImageError(f"{what} is too large: {len(data)} bytes, more than {MAX_BYTES}")
    if data[:3] == b"\xef\xbb\xbf" or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InvalidImageError(f"{what} begins with a byte-order mark")
    if data.count(b",") > MAX_ITEMS or data.count(b"[") + data.count(b"{") > MAX_ITEMS:
        raise InvalidImageError(f"{what} has more than {MAX_ITEMS} items")
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check_depth(data, what)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise InvalidImageError(f"{what} is not UTF-8: {clean(e.reason)} at byte {e.start}") from None
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # finds lone surrogates
    except _Refused as e:
        raise InvalidImageError(f"{what}: {e}") from None
    except UnicodeEncodeError:
        raise InvalidImageError(f"{what} holds half of a surrogate pair") from None
    except json.JSONDecodeError as e:
        raise InvalidImageError(f"{what} is not JSON: {clean(e.msg)} at byte {e.pos}") from None
    except (ValueError, RecursionError) as e:
        raise InvalidImageError(f"{what} is not JSON that can be read: {clean(e)}") from None
    return value


def load_object(data: bytes, what: str = "JSON") -> dict[str, Any]:
    """:func:`loads` of a document that must be an object."""
    value = loads(data, what)
    if not isinstance(value, dict):
        raise InvalidImageError(f"{what} is not a JSON object")
    return value


class _Refused(Exception):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"the key {quoted(key)} appears twice in one object")
            seen.add(key)
    return made


def _constant(name: str) -> Any:
    raise _Refused(f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > 20:  # beyond 64 bits; converting a million digits takes minutes
        raise _Refused(f"number of {len(digits)} digits")
    return int(digits)


def _check_depth(data: bytes, what: str) -> None:
    depth = 0
    bare = _STRING.sub(b"", data.replace(b"\\\\", b"").replace(b'\\"', b""))
    for bracket in _BRACKET.findall(bare):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise InvalidImageError(f"{what} is nested more than {MAX_DEPTH} levels deep")


# Typed access to members: absent (or null, which Go's encoders write for empty) gives the default.


def member(
    obj: dict[str, Any], key: str, kind: type | tuple[type, ...], what: str, default: Any = None
) -> Any:
    """``obj[key]`` if it is of ``kind``; ``default`` if absent or null. Raises InvalidImageError
    otherwise."""
    value = obj.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = {dict: "an object", list: "a list", str: "a string", int: "an integer", bool: "true or false"}
        wanted = names.get(kind, "of another type") if isinstance(kind, type) else "of another type"
        raise InvalidImageError(f"{what}: {quoted(key)} must be {wanted}, not {_type_name(value)}")
    return value


def strings(obj: dict[str, Any], key: str, what: str) -> list[str] | None:
    """A list of strings, None if absent or null."""
    value: list[Any] | None = member(obj, key, list, what)
    if value is not None and not all(isinstance(v, str) for v in value):
        raise InvalidImageError(f"{what}: {quoted(key)} must be a list of strings")
    return value


def string_map(obj: dict[str, Any], key: str, what: str) -> dict[str, str]:
    """An object whose values are strings; empty if absent or null."""
    value: dict[str, Any] = member(obj, key, dict, what, {})
    if not all(isinstance(v, str) for v in value.values()):
        raise InvalidImageError(f"{what}: the values of {quoted(key)} must be strings")
    return value


def _type_name(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), type(value).__name__)
