"""WWW-Authenticate as RFC 9110 writes it and as registries do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udk.errors import ProtocolError
from udk.registry.challenge import MAX_HEADER, parse_challenges


def parsed(header: str) -> list[tuple[str, dict[str, str]]]:
    return [(c.scheme, dict(c.parameters)) for c in parse_challenges(header)]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ("Bearer realm=", [("bearer", {})]),
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        ("Basic realm=x", [("basic", {"realm": "x"})]),
        ('bEaReR ReAlM="https://a/t",Service="s"', [("bearer", {"realm": "https://a/t", "service": "s"})]),
        ('Bearer realm="a" , y = "b",x="c d"', [("bearer", {"realm": "a", "y": "b", "x": "c d"})]),
        ('Bearer realm="a,b=\\"c\\"\\\\",x=""', [("bearer", {"realm": 'a,b="c"\\', "x": ""})]),
        ('Basic realm="a", Bearer realm="b"', [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        ('Bearer realm="b",Basic realm="a"', [("bearer", {"realm": "b"}), ("basic", {"realm": "a"})]),
        ('Negotiate, Basic realm="a"', [("negotiate", {}), ("basic", {"realm": "a"})]),
        ('NTLM TlRMTVNTUAAC==, Basic realm="a"', [("ntlm", {}), ("basic", {"realm": "a"})]),
        ('Bearer realm=https://a/t?x=1,y=s', [("bearer", {"realm": "https://a/t?x=1", "y": "s"})]),
        (', ,Basic realm="a",', [("basic", {"realm": "a"})]),
    ],
)  # fmt: skip
def test_accepted(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parsed(header) == expected


@pytest.mark.parametrize(
    "header",
    ['Bearer realm="a', 'Bearer realm="a\\', 'Bearer ="a"', '"x"', "@", 'Bearer realm="a" @',
     'Bearer realm="a",realm="b"', "Bearer " + "a=1," * MAX_HEADER],
)  # fmt: skip
def test_refused(header: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_challenges(header)
    assert str(caught.value).isprintable()


@given(st.text(max_size=100) | st.text('BearerBasic realm="\\,=/ \t', max_size=100))
def test_anything(header: str) -> None:
    try:
        parse_challenges(header)
    except ProtocolError as e:
        assert str(e).isprintable()


TOKEN = st.text("abcXYZ-09", min_size=1, max_size=8)
VALUE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(
    st.lists(
        st.tuples(TOKEN, st.dictionaries(TOKEN.map(str.lower), VALUE, min_size=1, max_size=3)), max_size=3
    )
)
def test_whatever_is_well_written(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(f"{s} " + ",".join(f"{k}={quoted(v)}" for k, v in p.items()) for s, p in challenges)
    assert parsed(header) == [(s.lower(), p) for s, p in challenges]
