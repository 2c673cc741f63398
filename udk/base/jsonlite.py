"""JSON for the run path: what :mod:`json` does, without importing it.

``import json`` pulls in ``re`` and with it half of the interpreter's own start-up time again. The C
accelerator that does json's work needs neither, so it is driven directly here; where it is missing or has
another shape (it is an implementation detail of CPython), the standard library takes over and only speed is
lost.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WHITESPACE = " \t\n\r"


class _Context:
    """What the C scanner reads off its decoder object."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    memo: dict[str, str] = {}


def _default(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def loads(text: str | bytes) -> Any:
    """The value of a JSON text (bytes are UTF-8; lone surrogates written as escapes survive).

    Raises ValueError for anything that is not exactly one JSON value, and for NaN and Infinity."""
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        from _json import make_scanner

        scan: Any = make_scanner(_Context)  # type: ignore[arg-type]  # reads attributes only
    except (ImportError, AttributeError, TypeError):
        import json

        return json.loads(text, parse_constant=_Context.parse_constant)
    start = len(text) - len(text.lstrip(_WHITESPACE))
    try:
        value, end = scan(text, start)
    except StopIteration:
        raise ValueError("empty or broken JSON text") from None
    except SystemError:  # before Python 3.13 the scanner cannot raise without json.decoder
        import json

        json.loads(text)
        raise ValueError("broken JSON text") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if text[end:].strip(_WHITESPACE):
        raise ValueError(f"more than one JSON value (at character {end})")
    return value


def dumps(value: Any, sort_keys: bool = False) -> str:
    """``value`` as compact ASCII JSON on one line, keys in their own order unless ``sort_keys``."""
    try:
        from _json import encode_basestring_ascii, make_encoder

        encode = make_encoder({}, _default, encode_basestring_ascii, None, ":", ",", sort_keys, False, False)
        return "".join(encode(value, 0))
    except (ImportError, TypeError) as e:
        if isinstance(e, TypeError) and "written as JSON" in str(e):
            raise
        import json

        return json.dumps(
            value, separators=(",", ":"), sort_keys=sort_keys, allow_nan=False, default=_default
        )
