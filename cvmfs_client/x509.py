"""X.509 certificates as the trust in repositories needs them: fingerprint, key, names, and chains to a CA. No
I/O.

Repositories normally use self-signed certificates that the whitelist names by fingerprint; chains matter only
where the whitelist asks for them. RFC 5280 path validation is done for RSA keys, without policies and name
constraints: a critical extension that is not understood makes the chain invalid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from . import der
from .errors import FormatError, SignatureError
from .hash import Hash
from .rsa import RsaKey, key_from_spki, verify_digest

SIGNATURE_DIGESTS = {
    "1.2.840.113549.1.1.5": "sha1",
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
}
_BASIC_CONSTRAINTS = "2.5.29.19"
_KEY_USAGE = "2.5.29.15"
_ALTERNATIVE_NAME = "2.5.29.17"
_UNDERSTOOD = {_BASIC_CONSTRAINTS, _KEY_USAGE, _ALTERNATIVE_NAME, "2.5.29.37"}
_KEY_CERT_SIGN = 0x04
MAX_DEPTH = 8
MAX_WORK = 500  # signatures looked at for one chain


class Certificate(NamedTuple):
    """A parsed certificate. Names are the raw DER, which is what issuer and subject are compared by."""

    der: bytes
    signed: bytes  # what the issuer's signature is over
    serial: int
    issuer: bytes
    subject: bytes
    not_before: datetime
    not_after: datetime
    key: RsaKey | None  # None: not an RSA key
    uris: tuple[str, ...]  # of the subject alternative name
    is_ca: bool
    path_length: int | None
    may_sign: bool  # key usage allows signing certificates
    unknown_critical: bool
    signature_digest: str
    signature: bytes

    def fingerprint(self, algorithm: str) -> Hash:
        """Hash over the DER encoding, as whitelists and blacklists have it."""
        return Hash.of(algorithm, self.der)


class Revocations(NamedTuple):
    """A certificate revocation list whose signature was not looked at yet."""

    issuer: bytes
    serials: frozenset[int]
    signed: bytes
    signature_digest: str
    signature: bytes
    next_update: datetime | None = None  # a list is not to be relied on after it


class _Extensions:
    def __init__(self, element: der.Element | None) -> None:
        self.uris: tuple[str, ...] = ()
        self.is_ca = False
        self.path_length: int | None = None
        self.may_sign = True
        self.unknown_critical = False
        for extension in der.children(der.whole(element.value)) if element is not None else []:
            parts = der.children(extension)
            if not 2 <= len(parts) <= 3:
                raise FormatError("certificate with a malformed extension")
            name, value = der.oid(parts[0]), der.expect(parts[-1], der.OCTET_STRING).value
            self._take(name, value)
            if len(parts) == 3 and parts[1].value != b"\0" and name not in _UNDERSTOOD:
                self.unknown_critical = True

    def _take(self, name: str, value: bytes) -> None:
        if name == _BASIC_CONSTRAINTS:
            parts = der.children(der.whole(value))
            self.is_ca = bool(parts) and parts[0].tag == 0x01 and parts[0].value == b"\xff"
            if len(parts) == 2:
                self.path_length = der.integer(parts[1])
        elif name == _KEY_USAGE:
            bits = der.whole(value, der.BIT_STRING).value
            self.may_sign = len(bits) >= 2 and bool(bits[1] & _KEY_CERT_SIGN)
        elif name == _ALTERNATIVE_NAME:
            names = der.children(der.whole(value))
            self.uris = tuple(n.value.decode("latin-1") for n in names if n.tag == 0x86)


def _signed(data: bytes) -> tuple[list[der.Element], bytes, str, bytes]:
    """Splits the common SIGNED form: fields of the inner part, its raw bytes, digest name, signature."""
    outer = der.children(der.whole(data))
    if len(outer) != 3:
        raise FormatError("not a certificate")
    algorithm = der.oid(der.children(outer[1])[0])
    digest = SIGNATURE_DIGESTS.get(algorithm, algorithm)
    return der.children(outer[0]), outer[0].raw, digest, der.bit_string(outer[2])


def parse_certificate(data: bytes) -> Certificate:
    """From DER. Raises FormatError."""
    try:
        return _parse_certificate(data)
    except IndexError as e:
        raise FormatError("not a certificate: fields are missing") from e


def _parse_certificate(data: bytes) -> Certificate:
    fields, signed, digest, signature = _signed(data)
    if fields and fields[0].tag == 0xA0:
        del fields[0]  # version
    serial, _, issuer, validity, subject, spki = fields[:6]
    extensions = _Extensions(next((f for f in fields[6:] if f.tag == 0xA3), None))
    start, end = der.children(validity)
    try:
        key: RsaKey | None = key_from_spki(spki.raw)
    except FormatError:
        key = None
    return Certificate(
        der=data,
        signed=signed,
        serial=int.from_bytes(der.expect(serial, der.INTEGER).value, "big", signed=True),
        issuer=issuer.raw,
        subject=subject.raw,
        not_before=der.time(start),
        not_after=der.time(end),
        key=key,
        uris=extensions.uris,
        is_ca=extensions.is_ca,
        path_length=extensions.path_length,
        may_sign=extensions.may_sign,
        unknown_critical=extensions.unknown_critical,
        signature_digest=digest,
        signature=signature,
    )


def certificates_from_pem(text: bytes) -> list[Certificate]:
    """All certificates of a PEM text; empty if there is none. Raises FormatError."""
    labels = ("CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE")
    return [parse_certificate(data) for label, data in der.pem_blocks(text) if label in labels]


def certificate_from_pem(text: bytes) -> Certificate:
    """The first certificate of a PEM text. Raises FormatError."""
    found = certificates_from_pem(text)
    if not found:
        raise FormatError("not a PEM certificate")
    return found[0]


def revocations_from_pem(text: bytes) -> list[Revocations]:
    """The revocation lists of a PEM text. Raises FormatError."""
    found: list[Revocations] = []
    for label, data in der.pem_blocks(text):
        if label != "X509 CRL":
            continue
        fields, signed, digest, signature = _signed(data)
        names = [f for f in fields if f.tag == der.SEQUENCE]
        if len(names) < 2:
            raise FormatError("not a revocation list")
        serials: set[int] = set()
        for entry in der.items(names[2].value) if len(names) > 2 else ():
            number = der.expect(der.children(entry)[0], der.INTEGER)
            serials.add(int.from_bytes(number.value, "big", signed=True))
        times = [f for f in fields if f.tag in (der.UTC_TIME, der.GENERALIZED_TIME)]
        until = der.time(times[1]) if len(times) > 1 else None
        found.append(Revocations(names[1].raw, frozenset(serials), signed, digest, signature, until))
    return found


def _signed_by(issuer: Certificate, digest: str, signed: bytes, signature: bytes) -> bool:
    if issuer.key is None or digest not in SIGNATURE_DIGESTS.values():
        return False
    return verify_digest(issuer.key, signature, signed, digest)


def verify_chain(
    certificate: Certificate,
    anchors: Sequence[Certificate],
    others: Iterable[Certificate],
    now: datetime,
    revocations: Iterable[Revocations] = (),
) -> None:
    """Checks that a chain leads from ``certificate`` to one of the trusted ``anchors`` by way of ``others``.

    Raises SignatureError with the reason."""
    lists = list(revocations)
    pool = [*anchors, *others]
    trusted = {a.der for a in anchors}
    path: list[bytes] = []
    work = 0

    def walk(current: Certificate) -> str:
        """ "" if a chain was found, else why not."""
        nonlocal work
        if not current.not_before <= now <= current.not_after:
            return "a certificate of the chain is outside its validity"
        if current.unknown_critical:
            return "a certificate of the chain has a critical extension that is not understood"
        if current.der in trusted:
            return ""
        if len(path) > MAX_DEPTH:
            return "the chain is too long"
        path.append(current.der)
        reason = "no trusted CA has issued it"
        for issuer in pool:
            if (
                issuer.subject != current.issuer
                or not issuer.is_ca
                or not issuer.may_sign
                or issuer.der in path
            ):
                continue
            if issuer.path_length is not None and issuer.path_length < len(path) - 1:
                continue
            work += 1
            if work > MAX_WORK:
                return "there are too many possible chains"
            if not _signed_by(issuer, current.signature_digest, current.signed, current.signature):
                continue
            refusal = _revocation(current, issuer, lists, now)
            if refusal:
                reason = refusal
                continue
            reason = walk(issuer)
            if not reason:
                return ""
        path.pop()
        return reason

    reason = walk(certificate)
    if reason:
        raise SignatureError(
            f"the certificate chain cannot be verified: {reason}", "see CVMFS_TRUSTED_CERTS and X509_CERT_DIR"
        )


def _revocation(
    certificate: Certificate, issuer: Certificate, lists: Sequence[Revocations], now: datetime
) -> str:
    """Why the lists of its issuer forbid a certificate, "" if they do not. One that is out of date would not
    know of what was revoked since; where an issuer has none, nothing can be said."""
    own = [
        r
        for r in lists
        if r.issuer == issuer.subject and _signed_by(issuer, r.signature_digest, r.signed, r.signature)
    ]
    if any(certificate.serial in r.serials for r in own):
        return "a certificate of the chain is revoked"
    ends = [r.next_update for r in own if r.next_update is not None]
    if own and len(ends) == len(own) and max(ends) < now:
        return f"the revocation list of a CA has expired on {max(ends):%Y-%m-%d %H:%M} UTC (see fetch-crl)"
    return ""
