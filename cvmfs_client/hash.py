"""Content hashes: algorithms, their text form, and where an object lies on servers and in caches.

The hash of an object is over its bytes as stored on the server, that is after compression.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol

from .errors import FormatError

MD5 = "md5"
SHA1 = "sha1"
RMD160 = "rmd160"
SHAKE128 = "shake128"

# number in catalog flags -> algorithm
CATALOG_ALGORITHMS = (SHA1, RMD160, SHAKE128)

SUFFIX_FILE = ""
SUFFIX_CATALOG = "C"
SUFFIX_PARTIAL = "P"
SUFFIX_HISTORY = "H"
SUFFIX_CERTIFICATE = "X"
SUFFIX_METAINFO = "M"

_TEXT_ID = {MD5: "", SHA1: "", RMD160: "-rmd160", SHAKE128: "-shake128"}
_BY_LENGTH = {32: MD5, 40: SHA1, 47: RMD160, 49: SHAKE128}
_HEX = frozenset("0123456789abcdef")


class Hasher(Protocol):
    """What :func:`new_hasher` gives."""

    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Shake:
    """SHAKE-128 with CVMFS's 160 bits of output."""

    def __init__(self) -> None:
        self._state = hashlib.shake_128(usedforsecurity=False)
        self.update = self._state.update

    def digest(self) -> bytes:
        return self._state.digest(20)


def new_hasher(algorithm: str) -> Hasher:
    """An incremental hasher for one of MD5, SHA1, RMD160, SHAKE128.

    ``usedforsecurity=False`` keeps hardened OpenSSL builds from refusing: the algorithm is the publisher's
    choice, and what is downloaded must be checked with it.
    """
    if algorithm == SHA1:
        return hashlib.sha1(usedforsecurity=False)
    if algorithm == SHAKE128:
        return _Shake()
    if algorithm == MD5:
        return hashlib.md5(usedforsecurity=False)
    if algorithm == RMD160:
        try:
            return hashlib.new("ripemd160", usedforsecurity=False)
        except ValueError:
            from .ripemd import Ripemd160

            return Ripemd160()
    raise ValueError(f"unknown hash algorithm {algorithm!r}")


class Hash(NamedTuple):
    """An algorithm and a digest, with the one-letter suffix that says what kind of object it is."""

    algorithm: str
    digest: bytes
    suffix: str = ""

    @classmethod
    def parse(cls, text: str, suffix: str = "") -> Hash:
        """From the text form: lower-case hex and the algorithm's id; the length tells the algorithm.

        Raises FormatError."""
        algorithm = _BY_LENGTH.get(len(text))
        if algorithm is None:
            raise FormatError(f"{text[:60]!r} is not a content hash")
        ident = _TEXT_ID[algorithm]
        hexa = text[: len(text) - len(ident)]
        if not text.endswith(ident) or not _HEX.issuperset(hexa):
            raise FormatError(f"{text[:60]!r} is not a content hash")
        return cls(algorithm, bytes.fromhex(hexa), suffix)

    @classmethod
    def of(cls, algorithm: str, data: bytes, suffix: str = "") -> Hash:
        """The hash of ``data``."""
        hasher = new_hasher(algorithm)
        hasher.update(data)
        return cls(algorithm, hasher.digest(), suffix)

    def __str__(self) -> str:
        return self.digest.hex() + _TEXT_ID[self.algorithm]

    @property
    def name(self) -> str:
        """Text form followed by the suffix letter, as in file names on servers."""
        return str(self) + self.suffix

    @property
    def path(self) -> str:
        """Where the object lies, relative to the server's URL of the repository."""
        text = self.name
        return f"data/{text[:2]}/{text[2:]}"

    @property
    def cache_path(self) -> str:
        """Where it lies in a cache directory of the official layout: without the suffix."""
        text = str(self)
        return f"{text[:2]}/{text[2:]}"

    def with_suffix(self, suffix: str) -> Hash:
        """The same hash as another kind of object."""
        return self._replace(suffix=suffix)


def md5_path(path: bytes) -> bytes:
    """The 16-byte key of a path in catalogs ("" is the root, others begin with a slash)."""
    return hashlib.md5(path, usedforsecurity=False).digest()
