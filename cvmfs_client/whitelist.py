"""The whitelist ``.cvmfswhitelist`` (which certificates may sign a repository) and the site's blacklist. No
I/O.

Formats reference 4. The signature is a raw RSA operation on the text of the hash, without a DigestInfo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

from .errors import BlacklistedError, ExpiredError, FormatError, NameMismatchError, SignatureError
from .hash import Hash
from .manifest import split_signed
from .pkcs7 import open_pkcs7
from .rsa import RsaKey, verify_raw
from .x509 import Certificate, Revocations, verify_chain

NAME = ".cvmfswhitelist"
# the official client forgets the slash in the first; the documentation has the second
PKCS7_NAMES = (".cvmfswhitelist.pkcs7", "cvmfswhitelist.pkcs7")

_STAMP = re.compile(r"[0-9]{14}")
_BLACKLIST_REVISION = re.compile(r"<([^\s]+)\s+([0-9]{1,19})")


class Whitelist(NamedTuple):
    """A parsed whitelist; the signature is over ``signed``, the text of the hash."""

    fqrn: str
    expires: datetime
    fingerprints: tuple[Hash, ...]
    pkcs7: bool  # the signature is in a PKCS#7 message of its own
    ca_chain: bool  # the certificate must also lead to a trusted CA
    signed: bytes
    signature: bytes

    def names(self, certificate: Certificate) -> bool:
        """Whether a fingerprint of the certificate is listed."""
        return any(certificate.fingerprint(f.algorithm) == f for f in self.fingerprints)


class Authorities(NamedTuple):
    """Trusted CA certificates and revocation lists, for whitelists that want a chain."""

    anchors: Sequence[Certificate] = ()
    revocations: Sequence[Revocations] = ()


class Blacklist(NamedTuple):
    """Certificates and revisions that a site refuses."""

    fingerprints: tuple[Hash, ...] = ()
    revisions: tuple[tuple[str, int], ...] = ()  # (fqrn, lowest revision accepted)

    def check_certificate(self, certificate: Certificate) -> None:
        """Raises BlacklistedError."""
        for bad in self.fingerprints:
            if certificate.fingerprint(bad.algorithm) == bad:
                raise BlacklistedError(
                    f"the certificate {bad} is on the blacklist", "ask the repository's owner for a new one"
                )

    def check_revision(self, fqrn: str, revision: int) -> None:
        """Raises BlacklistedError."""
        for name, lowest in self.revisions:
            if name == fqrn and revision < lowest:
                raise BlacklistedError(
                    f"revision {revision} of {fqrn} is on the blacklist",
                    f"revisions from {lowest} on are accepted",
                )


def parse_fingerprint(line: str) -> Hash | None:
    """A fingerprint as in whitelists, ``AA:BB:...[-RMD160][ # comment]``; None for what is none."""
    text = re.split(r"[ \t#]", line, maxsplit=1)[0].replace(":", "").lower()
    try:
        return Hash.parse(text)
    except FormatError:
        return None


def parse_blacklist(texts: Iterable[str]) -> Blacklist:
    """From the contents of blacklist files. Lines that mean nothing are skipped, as the official client
    does."""
    fingerprints: list[Hash] = []
    revisions: list[tuple[str, int]] = []
    for text in texts:
        for line in text.splitlines():
            match = _BLACKLIST_REVISION.fullmatch(line.rstrip())
            if match:
                revisions.append((match.group(1), int(match.group(2))))
                continue
            fingerprint = parse_fingerprint(line)
            if fingerprint is not None:
                fingerprints.append(fingerprint)
    return Blacklist(tuple(fingerprints), tuple(revisions))


def _expiry(text: str) -> datetime:
    if not _STAMP.fullmatch(text):
        raise FormatError("the whitelist has a bad expiry date")
    try:
        # minutes and seconds do not count, as in the official client
        year, month, day, hour = int(text[:4]), int(text[4:6]), int(text[6:8]), int(text[8:10])
        return datetime(year, month, day, hour, tzinfo=timezone.utc)
    except ValueError as e:
        raise FormatError("the whitelist has a bad expiry date") from e


def parse_whitelist(data: bytes, fqrn: str, now: datetime) -> Whitelist:
    """Parses the whitelist of ``fqrn`` and checks name, hash and expiry; the signature is not checked yet.

    Raises FormatError, NameMismatchError, ExpiredError, SignatureError (the hash is wrong)."""
    body, text, signature = split_signed(data, f"the whitelist of {fqrn}")
    return _parse_body(body, fqrn, now, text.encode("ascii"), signature)


def _parse_body(body: bytes, fqrn: str, now: datetime, signed: bytes, signature: bytes) -> Whitelist:
    lines = body.decode("latin-1").split("\n")
    if len(lines) < 3 or not _STAMP.fullmatch(lines[0]) or lines[1][:1] != "E" or lines[2][:1] != "N":
        raise FormatError(f"the whitelist of {fqrn} is malformed")
    expires, name = _expiry(lines[1][1:]), lines[2][1:]
    if name != fqrn:
        raise NameMismatchError(
            f"the server gives the whitelist of {name[:120]!r} instead of {fqrn}",
            "check the server URL and the name",
        )
    if expires <= now:
        raise ExpiredError(
            f"the whitelist of {fqrn} has expired on {expires:%Y-%m-%d %H:%M} UTC",
            "its owner has to sign a new one; check this machine's clock",
        )
    rest = lines[3:]
    found = [f for f in map(parse_fingerprint, rest) if f is not None]
    return Whitelist(
        fqrn=name,
        expires=expires,
        fingerprints=tuple(found),
        pkcs7="Vpkcs7" in rest,
        ca_chain="Wcachain" in rest,
        signed=signed,
        signature=signature,
    )


def verify_whitelist(whitelist: Whitelist, keys: Sequence[RsaKey]) -> None:
    """Checks the signature with any of the master keys. Raises SignatureError."""
    if not any(verify_raw(key, whitelist.signature, whitelist.signed) for key in keys):
        raise SignatureError(
            f"the whitelist of {whitelist.fqrn} is not signed by any of the {len(keys)} master keys given",
            "check the public key of the repository",
        )


def whitelist_from_pkcs7(data: bytes, fqrn: str, now: datetime, authorities: Authorities) -> Whitelist:
    """A whitelist inside a PKCS#7 message: its signer must lead to a trusted CA and be named for this
    repository.

    Raises FormatError, SignatureError, NameMismatchError, ExpiredError."""
    message = open_pkcs7(data)
    verify_chain(message.signer, authorities.anchors, message.certificates, now, authorities.revocations)
    if f"cvmfs:{fqrn}" not in message.signer.uris:
        raise SignatureError(f"the whitelist's signer is not named for {fqrn} (URI cvmfs:{fqrn})")
    body = message.content.replace(b"\r\n", b"\n")
    if b"\n--\n" in body:
        return parse_whitelist(body, fqrn, now)
    return _parse_body(body, fqrn, now, b"", b"")
