"""RSA verification by integer power and exact comparison of the padded block. No I/O.

It does not ask a crypto library, so it works alike under FIPS and under policies that refuse SHA-1: which
algorithms the format uses is the publisher's choice. The whole block is compared (RFC 8017, 8.2.2), so there
is no parsing of padding to get wrong.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from . import der
from .errors import FormatError, SignatureError

_RSA = "1.2.840.113549.1.1.1"

# DigestInfo without the digest itself (RFC 8017, 9.2 note 1)
_DIGEST_INFO = {
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}


class RsaKey(NamedTuple):
    """A public key: modulus and exponent."""

    n: int
    e: int

    @property
    def size(self) -> int:
        """Length of the modulus and of signatures, in bytes."""
        return (self.n.bit_length() + 7) // 8


def make_key(n: int, e: int) -> RsaKey:
    """A key within sane bounds: 1024 to 16384 bits, odd exponent below 2**32. Raises FormatError."""
    if not 1024 <= n.bit_length() <= 16384 or not n & 1 or not e & 1 or not 3 <= e < 1 << 32:
        raise FormatError(f"an RSA key of {n.bit_length()} bits and exponent {e} is not acceptable")
    return RsaKey(n, e)


def key_from_pkcs1(data: bytes) -> RsaKey:
    """From the DER of RSAPublicKey."""
    parts = der.children(der.whole(data))
    if len(parts) != 2:
        raise FormatError("not an RSA public key")
    return make_key(der.integer(parts[0]), der.integer(parts[1]))


def key_from_spki(data: bytes) -> RsaKey:
    """From the DER of SubjectPublicKeyInfo. Raises FormatError also for keys of other kinds."""
    parts = der.children(der.whole(data))
    if len(parts) != 2:
        raise FormatError("not a public key")
    algorithm = der.children(parts[0])
    if not algorithm or der.oid(algorithm[0]) != _RSA:
        raise FormatError("a public key that is not RSA")
    return key_from_pkcs1(der.bit_string(parts[1]))


def keys_from_pem(text: bytes) -> list[RsaKey]:
    """All RSA public keys of a PEM text. Raises FormatError where there is none."""
    keys: list[RsaKey] = []
    for label, data in der.pem_blocks(text):
        if label == "PUBLIC KEY":
            keys.append(key_from_spki(data))
        elif label == "RSA PUBLIC KEY":
            keys.append(key_from_pkcs1(data))
    if not keys:
        raise FormatError("no RSA public key in PEM form")
    return keys


def _matches(key: RsaKey, signature: bytes, payload: bytes) -> bool:
    padding = key.size - len(payload) - 3
    if len(signature) != key.size or padding < 8:
        return False
    value = int.from_bytes(signature, "big")
    if value >= key.n:
        return False
    block = pow(value, key.e, key.n).to_bytes(key.size, "big")
    return block == b"\x00\x01" + b"\xff" * padding + b"\x00" + payload


def verify_raw(key: RsaKey, signature: bytes, payload: bytes) -> bool:
    """Whether ``signature`` is over ``payload`` itself, in PKCS#1 type 1 padding without a DigestInfo."""
    return _matches(key, signature, payload)


def verify_digest(key: RsaKey, signature: bytes, message: bytes, algorithm: str) -> bool:
    """Whether ``signature`` is PKCS#1 v1.5 over ``message`` with sha1, sha256, sha384 or sha512.

    Raises SignatureError for another algorithm."""
    prefix = _DIGEST_INFO.get(algorithm)
    if prefix is None:
        raise SignatureError(f"signatures with {algorithm} are not supported")
    digest = hashlib.new(algorithm, message, usedforsecurity=False).digest()
    return _matches(key, signature, prefix + digest)
