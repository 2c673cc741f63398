"""The gate of the store: exactly the announced bytes pass, and what is too much never does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udk.base.verified import VerifiedReader
from udk.errors import IntegrityError


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:])]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5), st.integers(1, 50))
def test_the_right_bytes_pass(data: bytes, cuts: list[int], step: int) -> None:
    digest = hashlib.sha256(data).hexdigest()
    assert b"".join(VerifiedReader(chunked(data, cuts), "sha256", digest, len(data))) == data
    assert VerifiedReader(chunked(data, cuts), "sha256", digest, len(data)).read() == data
    reader = VerifiedReader(chunked(data, cuts), "sha256", digest, len(data))
    pieces = []
    while piece := reader.read(step):
        assert len(piece) <= step
        pieces.append(piece)
    assert b"".join(pieces) == data
    assert reader.verified


@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(0, 200), max_size=4), st.data())
def test_anything_else_does_not(data: bytes, cuts: list[int], draw: st.DataObject) -> None:
    digest = hashlib.sha256(data).hexdigest()
    other = draw.draw(st.binary(max_size=220).filter(lambda b: b != data))
    reader = VerifiedReader(chunked(other, cuts), "sha256", digest, len(data))
    passed = 0
    with pytest.raises(IntegrityError):
        for chunk in reader:
            passed += len(chunk)
    assert passed <= len(data)
    assert not reader.verified


def test_a_source_without_end_is_not_read_on() -> None:
    asked = []

    def endless() -> Iterator[bytes]:
        while True:
            asked.append(1)
            yield b"x" * 10

    with pytest.raises(IntegrityError, match="longer than the 25 bytes"):
        list(VerifiedReader(endless(), "sha256", "0" * 64, 25))
    assert len(asked) == 3


def test_resuming() -> None:
    data = bytes(range(200))
    digest = hashlib.sha512(data).hexdigest()
    hasher = hashlib.sha512(data[:50])
    reader = VerifiedReader([data[50:]], "sha512", digest, 200, hasher=hasher, offset=50)
    assert reader.read() == data[50:]
    with pytest.raises(IntegrityError, match="wrong content"):
        VerifiedReader([data[50:]], "sha512", digest, 200, hasher=hashlib.sha512(b"x" * 50), offset=50).read()
    with pytest.raises(ValueError, match="hasher"):
        VerifiedReader([], "sha256", digest, 200, offset=50)
    with pytest.raises(ValueError, match="hasher"):
        VerifiedReader([], "sha256", digest, 200, hasher=hasher)


@pytest.mark.parametrize(
    ("source", "size", "text"),
    [
        ([b"abc"], 4, "the blob ended after 3 of the 4 bytes announced"),
        ([b"abc", b"de"], 4, "the blob is longer than the 4 bytes announced"),
        ([b"abcd"], 4, "the blob has the wrong content: its digest is sha256:88d4266fd"),
    ],
)
def test_what_it_says(source: list[bytes], size: int, text: str) -> None:
    with pytest.raises(IntegrityError, match=text):
        VerifiedReader(source, "sha256", "0" * 64, size, "the blob").read()
