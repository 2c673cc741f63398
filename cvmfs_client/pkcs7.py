"""PKCS#7 signed data (RFC 2315, RFC 5652) with the content inside, as whitelists may have it. No I/O."""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from . import der
from .errors import FormatError, SignatureError
from .rsa import verify_digest
from .x509 import SIGNATURE_DIGESTS, Certificate, parse_certificate

_SIGNED_DATA = "1.2.840.113549.1.7.2"
_DATA = "1.2.840.113549.1.7.1"
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_DIGESTS = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
_RSA = "1.2.840.113549.1.1.1"


class SignedContent(NamedTuple):
    """What was signed, by whom, and the other certificates that came along."""

    content: bytes
    signer: Certificate
    certificates: tuple[Certificate, ...]


def open_pkcs7(text: bytes) -> SignedContent:
    """Verifies that the content is signed by the enclosed certificate of the signer; its chain is the
    caller's part.

    Raises FormatError, SignatureError."""
    blocks = [
        data for label, data in der.pem_blocks(text) if label in ("PKCS7", "PKCS #7 SIGNED DATA", "CMS")
    ]
    if not blocks:
        raise FormatError("not a PEM PKCS#7 message")
    try:
        return _open(blocks[0])
    except (IndexError, ValueError) as e:
        raise FormatError("a malformed PKCS#7 message") from e


def _open(data: bytes) -> SignedContent:
    kind, wrapped = der.children(der.whole(data))
    if der.oid(kind) != _SIGNED_DATA:
        raise FormatError("not PKCS#7 signed data")
    fields = der.children(der.whole(der.expect(wrapped, 0xA0).value))
    inner = der.children(fields[2])
    if der.oid(inner[0]) != _DATA or len(inner) != 2:
        raise FormatError("PKCS#7 without content")
    content = der.whole(der.expect(inner[1], 0xA0).value, der.OCTET_STRING).value
    certificates: list[Certificate] = []
    for field in fields[3:-1]:
        if field.tag == 0xA0:
            certificates += [
                parse_certificate(c.raw) for c in der.items(field.value) if c.tag == der.SEQUENCE
            ]
    signers = der.children(fields[-1], der.SET)
    if len(signers) != 1:
        raise FormatError("PKCS#7 with several signers, or none")
    signer = _verify_signer(der.children(signers[0]), content, certificates)
    return SignedContent(content, signer, tuple(certificates))


def _verify_signer(info: list[der.Element], content: bytes, certificates: list[Certificate]) -> Certificate:
    issuer, serial = der.children(info[1])
    number = int.from_bytes(der.expect(serial, der.INTEGER).value, "big", signed=True)
    signer = next((c for c in certificates if c.issuer == issuer.raw and c.serial == number), None)
    if signer is None or signer.key is None:
        raise SignatureError("the PKCS#7 message does not hold an RSA certificate of its signer")
    digest = _DIGESTS.get(der.oid(der.children(info[2])[0]))
    if digest is None:
        raise SignatureError("the PKCS#7 message uses a digest that is not supported")
    rest = info[3:]
    message = content
    if rest[0].tag == 0xA0:
        _check_attributes(rest[0], content, digest)
        # signed is the SET OF encoding, not the implicit tag it travels with (RFC 5652, 5.4)
        message = b"\x31" + rest[0].raw[1:]
        rest = rest[1:]
    algorithm = der.oid(der.children(rest[0])[0])
    if algorithm != _RSA and SIGNATURE_DIGESTS.get(algorithm) != digest:
        raise SignatureError("the PKCS#7 message is not signed with RSA")
    if not verify_digest(signer.key, der.expect(rest[1], der.OCTET_STRING).value, message, digest):
        raise SignatureError("the signature of the PKCS#7 message is wrong")
    return signer


def _check_attributes(attributes: der.Element, content: bytes, digest: str) -> None:
    found: dict[str, der.Element] = {}
    for attribute in der.items(attributes.value):
        name, values = der.children(attribute)
        (value,) = der.children(values, der.SET)
        if found.setdefault(der.oid(name), value) is not value:
            raise FormatError("PKCS#7 with an attribute twice")
    if _CONTENT_TYPE not in found or der.oid(found[_CONTENT_TYPE]) != _DATA or _MESSAGE_DIGEST not in found:
        raise FormatError("PKCS#7 without the attributes that must be signed")
    expected = hashlib.new(digest, content, usedforsecurity=False).digest()
    if not hmac.compare_digest(der.expect(found[_MESSAGE_DIGEST], der.OCTET_STRING).value, expected):
        raise SignatureError("the content of the PKCS#7 message differs from what was signed")
