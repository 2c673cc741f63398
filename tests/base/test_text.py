"""Sizes and foreign text for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udk.base.text import human_size, one_line


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1234, "1.23 kB"), (12345, "12.3 kB"),
        (999_499, "999 kB"), (999_500, "1.00 MB"), (74_000_000, "74.0 MB"), (1_230_000_000, "1.23 GB"),
        (5 * 10**21, "5000 EB"),
    ],
)  # fmt: skip
def test_human_size(count: int, text: str) -> None:
    assert human_size(count) == text


@given(st.text(), st.integers(10, 300))
def test_one_line_is_one_printable_bounded_line(text: str, limit: int) -> None:
    shown = one_line(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()


def test_escape_sequences_are_shown() -> None:
    assert one_line("a\x1b[2Jb\n\u202ec") == r"a\x1b[2Jb\n\u202ec"
    assert one_line("naïve ☃") == "naïve ☃"
    assert one_line("x" * 300, 100) == "x" * 97 + "..."
