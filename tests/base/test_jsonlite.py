"""The light JSON reader and writer agree with the standard library's on everything."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udk.base import jsonlite

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_round_trip_and_agreement_with_json(value: object) -> None:
    text = jsonlite.dumps(value)
    assert "\n" not in text and text.isascii()
    assert jsonlite.loads(text) == json.loads(text) == value
    assert jsonlite.loads(json.dumps(value, indent=2)) == value


@given(st.text(max_size=20))
def test_refuses_what_json_refuses(text: str) -> None:
    try:
        expected = json.loads(text, parse_constant=lambda name: 1 / 0)
    except (ValueError, ZeroDivisionError):
        with pytest.raises(ValueError):
            jsonlite.loads(text)
    else:
        assert jsonlite.loads(text) == expected


@pytest.mark.parametrize(
    "text", ["", " ", "{", '{"a":1}x', "[1,]", "NaN", "-Infinity", "[" * 200_000, '"\n"', b"\xff"]
)
def test_broken_texts(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        jsonlite.loads(text)


def test_bytes_tuples_and_undecodable_names() -> None:
    assert jsonlite.loads(b'\n{"a": ["\xc3\xa9"]}\n') == {"a": ["é"]}
    assert jsonlite.loads(jsonlite.dumps({"env": ("x\udcff",)})) == {"env": ["x\udcff"]}


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), float("inf")])
def test_what_cannot_be_written(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        jsonlite.dumps(value)


def test_needs_neither_json_nor_re() -> None:
    code = (
        "import sys; from udk.base import jsonlite as j; j.loads(j.dumps({'a': 1}));"
        "print('json' in sys.modules, 're' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("text", ["{", "[1", '"a', "[1,]", '{"a"}', "nul", '"\\x"', "[1e]"])
def test_broken_text_where_json_was_never_imported(text: str) -> None:
    code = (
        "import sys; from udk.base import jsonlite\n"
        "assert 'json' not in sys.modules\n"
        "try: jsonlite.loads(sys.argv[1])\n"
        "except ValueError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code, text], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")
