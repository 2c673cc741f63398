"""The manifest ``.cvmfspublished``: what revision a repository is at, signed by its certificate. No I/O.

Formats reference 2: lines of a letter and a value, ``--``, the hash of what precedes, an RSA signature over
the *text* of that hash.
"""

from __future__ import annotations

from typing import NamedTuple

from .errors import FormatError, NameMismatchError, SignatureError
from .hash import SUFFIX_CATALOG, SUFFIX_CERTIFICATE, SUFFIX_HISTORY, SUFFIX_METAINFO, Hash
from .rsa import verify_digest
from .x509 import Certificate

NAME = ".cvmfspublished"
ROOT_PATH_MD5 = "d41d8cd98f00b204e9800998ecf8427e"
_SEPARATOR = b"\n--\n"


class Manifest(NamedTuple):
    """A parsed manifest. ``timestamp`` in s since the epoch, 0 where there is none; ``catalog_size`` in
    bytes."""

    catalog: Hash
    ttl: int
    revision: int
    fqrn: str
    certificate: Hash | None
    history: Hash | None
    metainfo: Hash | None
    timestamp: int
    catalog_size: int | None
    garbage_collectable: bool
    alternative_paths: bool
    signed: bytes  # the text of the hash, which the signature is over
    signature: bytes


def split_signed(data: bytes, what: str) -> tuple[bytes, str, bytes]:
    """Splits at the first line ``--``: the body up to it, the text of its hash, the signature.

    The hash is checked here, the signature is not. Raises FormatError, SignatureError."""
    at = data.find(_SEPARATOR)
    if at < 0:
        raise FormatError(f"{what} is not signed, or is something else altogether")
    body = data[: at + 1]
    text, newline, signature = data[at + len(_SEPARATOR) :].partition(b"\n")
    if not newline:
        raise FormatError(f"{what} is truncated")
    announced = Hash.parse(text.decode("latin-1"))
    if Hash.of(announced.algorithm, body) != announced:
        raise SignatureError(f"{what} was changed after it was signed: its hash is wrong")
    return body, str(announced), signature


def _number(letter: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 20:
        raise FormatError(f"the manifest has a bad number in its line {letter}")
    return int(value)


def parse_manifest(data: bytes, fqrn: str) -> Manifest:
    """Parses the manifest of ``fqrn``; its signature is not checked yet. Letters that are not known are
    ignored.

    Raises FormatError, SignatureError (its hash is wrong), NameMismatchError."""
    body, text, signature = split_signed(data, f"the manifest of {fqrn}")
    fields: dict[str, str] = {}
    for line in body.decode("latin-1").split("\n"):
        if line and fields.setdefault(line[0], line[1:]) != line[1:]:
            raise FormatError(f"the manifest has two different lines {line[0]}")
    for letter in "CRDS":
        if letter not in fields:
            raise FormatError(f"the manifest lacks its line {letter}")
    if fields["R"] != ROOT_PATH_MD5:
        raise FormatError("the manifest is not for the root of a repository")
    name = fields.get("N", fqrn)
    if name != fqrn:
        raise NameMismatchError(
            f"the server gives the manifest of {name[:120]!r} instead of {fqrn}",
            "check the server URL and the name",
        )

    def optional(letter: str, suffix: str) -> Hash | None:
        return Hash.parse(fields[letter], suffix) if letter in fields else None

    return Manifest(
        catalog=Hash.parse(fields["C"], SUFFIX_CATALOG),
        ttl=_number("D", fields["D"]),
        revision=_number("S", fields["S"]),
        fqrn=name,
        certificate=optional("X", SUFFIX_CERTIFICATE),
        history=optional("H", SUFFIX_HISTORY),
        metainfo=optional("M", SUFFIX_METAINFO),
        timestamp=_number("T", fields.get("T", "0")),
        catalog_size=_number("B", fields["B"]) if "B" in fields else None,
        garbage_collectable=fields.get("G") == "yes",
        alternative_paths=fields.get("A") == "yes",
        signed=text.encode("ascii"),
        signature=signature,
    )


def verify_manifest(manifest: Manifest, certificate: Certificate) -> None:
    """Checks the signature with the certificate's key; whether that is to be trusted is the whitelist's
    matter.

    Raises SignatureError."""
    if certificate.key is None:
        raise SignatureError(f"the certificate of {manifest.fqrn} has no RSA key")
    if not verify_digest(certificate.key, manifest.signature, manifest.signed, "sha1"):
        raise SignatureError(f"the signature of the manifest of {manifest.fqrn} is wrong")
