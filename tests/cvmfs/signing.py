"""Makes signed manifests and whitelists for tests, with keys and bytes of the test's choice."""

from __future__ import annotations

import functools
from datetime import datetime, timedelta, timezone
from typing import Any, Callable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID

from cvmfs_client.hash import Hash
from cvmfs_client.rsa import RsaKey
from cvmfs_client.x509 import parse_certificate

NOW = datetime(2026, 6, 1, 12, 30, tzinfo=timezone.utc)
FQRN = "sw.example.org"


@functools.cache
def _private_key(name: str) -> rsa.RSAPrivateKey:
    # small, as only the form matters here
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505


def private_key(name: str = "master") -> rsa.RSAPrivateKey:
    """The key of that name."""
    return _private_key(name)


def public(key: rsa.RSAPrivateKey) -> RsaKey:
    numbers = key.public_key().public_numbers()
    return RsaKey(numbers.n, numbers.e)


def raw_signature(key: rsa.RSAPrivateKey, block: bytes) -> bytes:
    """The private operation on a whole block, padding included."""
    numbers = key.private_numbers()
    size = key.key_size // 8
    n = numbers.public_numbers.n
    return pow(int.from_bytes(block, "big"), numbers.d, n).to_bytes(size, "big")


def type1(payload: bytes, size: int) -> bytes:
    return b"\0\1" + b"\xff" * (size - 3 - len(payload)) + b"\0" + payload


def certificate(
    name: str = "signer",
    *,
    issuer: str = "",
    ca: bool = False,
    uris: tuple[str, ...] = (),
    start: datetime = NOW - timedelta(days=10),
    days: float = 365,
    extra: Callable[[x509.CertificateBuilder], x509.CertificateBuilder] = lambda b: b,
    key_name: str = "",
    path_length: int | None = None,
) -> x509.Certificate:
    """A certificate on the key of that name, issued by the key ``issuer`` (default: itself)."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    above = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer or name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above)
        .public_key(private_key(key_name or name).public_key())
        .serial_number(abs(hash((name, issuer))) + 1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(True, path_length), critical=True)
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris])
        builder = builder.add_extension(names, critical=False)
    return extra(builder).sign(private_key(issuer or name), hashes.SHA256())


def pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def der(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.DER)


def fingerprint(cert: x509.Certificate, algorithm: str = "sha1") -> str:
    """As a whitelist has it."""
    identity = parse_certificate(der(cert)).fingerprint(algorithm)
    text = ":".join(f"{b:02X}" for b in identity.digest)
    return text + {"sha1": "", "rmd160": "-RMD160", "shake128": "-SHAKE128"}[algorithm]


def manifest_body(catalog: str = "a" * 40, **fields: Any) -> bytes:
    """The lines of a manifest; ``fields`` by letter, None leaves a line out."""
    lines: dict[str, Any] = {
        "C": catalog,
        "B": 1000,
        "R": "d41d8cd98f00b204e9800998ecf8427e",
        "D": 240,
        "S": 5,
        "G": "yes",
        "A": "no",
        "N": FQRN,
        "X": "b" * 40,
        "T": 1_780_000_000,
        **fields,
    }
    return "".join(f"{k}{v}\n" for k, v in lines.items() if v is not None).encode("latin-1")


def sign_manifest(body: bytes, key: str = "signer", algorithm: str = "sha1", digest: Any = None) -> bytes:
    text = str(Hash.of(algorithm, body)).encode()
    signature = private_key(key).sign(text, padding.PKCS1v15(), digest or hashes.SHA1())  # noqa: S303 - the format's
    return body + b"--\n" + text + b"\n" + signature


def whitelist_body(
    *fingerprints: str, fqrn: str = FQRN, expires: datetime = NOW + timedelta(days=30), flags: str = ""
) -> bytes:
    lines = [f"{NOW:%Y%m%d%H%M%S}", f"E{expires:%Y%m%d%H%M%S}", f"N{fqrn}", *flags.split(), *fingerprints]
    return ("\n".join(lines) + "\n").encode("latin-1")


def sign_whitelist(body: bytes, key: str = "master", algorithm: str = "sha1") -> bytes:
    text = str(Hash.of(algorithm, body)).encode()
    private = private_key(key)
    return body + b"--\n" + text + b"\n" + raw_signature(private, type1(text, private.key_size // 8))


def sign_pkcs7(body: bytes, cert: x509.Certificate, key: str, *others: x509.Certificate) -> bytes:
    builder = pkcs7.PKCS7SignatureBuilder().set_data(body).add_signer(cert, private_key(key), hashes.SHA256())
    for other in others:
        builder = builder.add_certificate(other)
    return builder.sign(serialization.Encoding.PEM, [pkcs7.PKCS7Options.Binary])
