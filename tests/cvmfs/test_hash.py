"""Text forms, object paths and the hash algorithms."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfs_client.errors import FormatError
from cvmfs_client.hash import MD5, RMD160, SHA1, SHAKE128, Hash, md5_path, new_hasher
from cvmfs_client.ripemd import Ripemd160


def test_object_paths() -> None:
    text = "9c09105c5599aabbccddeeff00112233445566e1"
    assert Hash.parse(text, "C").path == f"data/9c/{text[2:]}C"
    assert Hash.parse(text + "-rmd160", "P").path == f"data/9c/{text[2:]}-rmd160P"
    assert Hash.parse(text + "-shake128").cache_path == f"9c/{text[2:]}-shake128"
    assert str(Hash.parse(text + "-rmd160", "P")) == text + "-rmd160"


@given(st.sampled_from([SHA1, RMD160, SHAKE128, MD5]), st.binary(max_size=300))
def test_text_form_round_trip(algorithm: str, data: bytes) -> None:
    identity = Hash.of(algorithm, data)
    assert Hash.parse(str(identity)) == identity


@given(st.text(max_size=60))
def test_anything_else_is_refused(text: str) -> None:
    try:
        identity = Hash.parse(text)
    except FormatError:
        return
    assert str(identity) == text  # only canonical forms are accepted


@pytest.mark.parametrize("text", ["", "0" * 39, "0" * 41, "G" * 40, "A" * 40, "0" * 40 + "-rmd161", "0" * 47])
def test_malformed(text: str) -> None:
    with pytest.raises(FormatError):
        Hash.parse(text)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"", "9c1185a5c5e9fc54612808977ee8f548b2258d31"),
        (b"a", "0bdc9d2d256b3ee9daae347be6f4dc835a467ffe"),
        (b"abc", "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"),
        (b"message digest", "5d0689ef49d2fae572b881b123a85ffa21595f36"),
        (b"abcdefghijklmnopqrstuvwxyz", "f71c27109c692c1b56bbdceb5b9d2865b3708dbc"),
        (b"1234567890" * 8, "9b752e45573d4b39f4dbd3323cab82bf63326bfb"),
    ],
)
def test_ripemd_vectors_of_the_paper(message: bytes, expected: str) -> None:
    assert Ripemd160(message).digest().hex() == expected


@given(st.lists(st.binary(max_size=150), max_size=6))
def test_ripemd_in_pieces(pieces: list[bytes]) -> None:
    hasher = Ripemd160()
    for piece in pieces:
        hasher.update(piece)
    assert hasher.digest() == Ripemd160(b"".join(pieces)).digest()


def test_shake_is_cut_to_160_bits() -> None:
    hasher = new_hasher(SHAKE128)
    hasher.update(b"abc")
    assert hasher.digest() == hashlib.shake_128(b"abc").digest(20)


def test_ripemd_without_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("unsupported hash type")

    monkeypatch.setattr(hashlib, "new", refuse)
    assert Hash.of(RMD160, b"abc").digest.hex() == "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"


def test_root_path_key() -> None:
    assert md5_path(b"").hex() == "d41d8cd98f00b204e9800998ecf8427e"
