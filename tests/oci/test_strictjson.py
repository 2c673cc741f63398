"""JSON with one meaning: what two readers could read differently is refused, and the cost is bounded."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udk.errors import InvalidImageError
from udk.oci.strictjson import MAX_BYTES, MAX_DEPTH, MAX_ITEMS, load_object, loads

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text(st.characters(blacklist_categories=("Cs",))),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(blacklist_categories=("Cs",))), inner)
    ),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_agrees_with_the_standard_library(value: object, ascii_only: bool) -> None:
    assert loads(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=80) | st.text('{}[]":,\\ue0-', max_size=80).map(str.encode))
def test_what_the_standard_library_refuses(data: bytes) -> None:
    try:
        loads(data)
    except InvalidImageError as e:
        assert str(e).isprintable()
        return
    json.loads(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"{} {}", "is not JSON"),
        (b"\xef\xbb\xbf{}", "byte-order mark"),
        (b"\xff\xfe{\x00}\x00", "byte-order mark"),
        ("{}".encode("utf-16-le"), "is not JSON"),
        (b'"\xff"', "not UTF-8"),
        (b'{"a":1,"a":2}', "'a' appears twice"),
        (b'{"x":{"a":1,"b":2,"a":1}}', "'a' appears twice"),
        (b'{"a":1,"\\u0061":2}', "'a' appears twice"),
        (b'{"\\u001b[31m":1,"\\u001b[31m":2}', r"'\\x1b\[31m' appears twice"),
        (b"NaN", "NaN is not JSON"),
        (b"-Infinity", "-Infinity is not JSON"),
        (b"1" * 21, "number of 21 digits"),
        (b"[" + b"9" * 3_000_000 + b"]", "number of 3000000 digits"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\uDC00": 1}', "surrogate"),
        (b"[" * 100 + b"]" * 100, f"more than {MAX_DEPTH} levels"),
        (b"[" * 1_000_000, f"more than {MAX_ITEMS}|levels"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, f"more than {MAX_DEPTH} levels"),
        (b"[" + b"1," * (MAX_ITEMS + 1) + b"1]", f"more than {MAX_ITEMS} items"),
        (b"[" + b"[]" * (MAX_ITEMS + 1) + b"]", f"more than {MAX_ITEMS} items"),
        (b" " * (MAX_BYTES + 1), "too large"),
        (b"[" * 65 + b'"' + b'\\"' * 2_000_000, "levels"),
        (b"[" * 60 + b'"' + b'\\"[{' * 100_000, "levels"),
    ],
)
def test_refused(data: bytes, says: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidImageError, match=says) as caught:
        loads(data, "the thing")
    assert time.process_time() - started < 5  # not a measurement: digits by the million take minutes
    assert str(caught.value).startswith("the thing")
    assert str(caught.value).isprintable()


def test_accepted() -> None:
    assert loads(b'"' + b"[{" * 1000 + b'"') == "[{" * 1000
    assert loads(rb'"\"[[[\\" ') == '"[[[\\'
    assert loads(b'"\\ud83d\\ude00"') == "\U0001f600"
    assert loads(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert loads(b"[]" + b" " * 100) == []


def test_objects() -> None:
    assert load_object(b'{"a": 1}') == {"a": 1}
    for data in (b"[]", b"1", b"null", b'"x"'):
        with pytest.raises(InvalidImageError, match="is not a JSON object"):
            load_object(data)
