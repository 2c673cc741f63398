"""Digests: two algorithms, one spelling each."""

from __future__ import annotations

import copy
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udk.errors import InvalidDigestError
from udk.oci.digest import Digest, digest_of


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_of_bytes(algorithm: str) -> None:
    digest = digest_of(b"x", algorithm)
    assert str(digest) == f"{algorithm}:{hashlib.new(algorithm, b'x').hexdigest()}"
    assert Digest.parse(str(digest)) == digest
    assert digest.matches(b"x")
    assert not digest.matches(b"y")
    hasher = digest.hasher()
    hasher.update(b"x")
    assert hasher.hexdigest() == digest.hex
    assert copy.deepcopy(digest) == digest
    assert len({digest, Digest.parse(str(digest))}) == 1


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "sha256", "sha256:", "sha256:abc", "sha256:" + "g" * 64, "sha256:" + "A" * 64,
        "sha256:" + "a" * 65, "sha256:" + "a" * 63 + "/", "sha256:" + "a" * 64 + "\n", " sha256:" + "a" * 64,
        "sha256:../../../../etc", "sha256:" + "\u0663" * 64, "sha512:" + "a" * 64, "md5:" + "a" * 32,
        "sha1:" + "a" * 40, "blake3:" + "a" * 64, "SHA256:" + "a" * 64, 7, None,
    ],
)  # fmt: skip
def test_refused(text: object) -> None:
    with pytest.raises(InvalidDigestError) as caught:
        Digest.parse(text)
    assert str(caught.value).isprintable()


@given(st.text())
def test_nothing_else_is_a_digest(text: str) -> None:
    with pytest.raises(InvalidDigestError):
        Digest.parse(text)
