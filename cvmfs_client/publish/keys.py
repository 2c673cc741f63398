"""Keys of a repository and what is signed with them (formats reference 2 to 4).

A key directory holds, under the names the official tools use: ``<fqrn>.masterkey`` and ``<fqrn>.pub`` (sign
and check the whitelist), ``<fqrn>.key`` and ``<fqrn>.crt`` (sign the manifest).
"""

from __future__ import annotations

import base64
import datetime
import os
import time
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, UsageError
from ..hash import SHA1, Hash

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_BITS = 2048
_CERTIFICATE_DAYS = 30 * 365
_MOST_DAYS = 1_000_000  # dates have four digits for the year
# DER of DigestInfo for SHA-1, up to the digest (RFC 8017, 9.2 note 1)
_SHA1_INFO = bytes.fromhex("3021300906052b0e03021a05000414")


def _private_operation(key: RSAPrivateKey, payload: bytes) -> bytes:
    """RSA with block type 1 padding over ``payload`` as it is.

    By integer power, since the whitelist's signature has no DigestInfo and hardened OpenSSL builds refuse
    SHA-1.
    """
    numbers = key.private_numbers()
    modulus = numbers.public_numbers.n
    length = (modulus.bit_length() + 7) // 8
    padded = b"\x00\x01" + b"\xff" * (length - 3 - len(payload)) + b"\x00" + payload
    return pow(int.from_bytes(padded, "big"), numbers.d, modulus).to_bytes(length, "big")


def _signed(body: bytes, algorithm: str) -> tuple[bytes, bytes]:
    """``body`` with its separator and hash line, and the hash text that is to be signed."""
    text = str(Hash.of(algorithm, body)).encode()
    return body + b"--\n" + text + b"\n", text


class RepositoryKeys:
    """The four keys of one repository. ``master`` is None where only the publishing key is at hand."""

    def __init__(
        self, fqrn: str, key: RSAPrivateKey, certificate: bytes, master: RSAPrivateKey | None
    ) -> None:
        self.fqrn = fqrn
        self.certificate = certificate  # PEM
        self._key = key
        self._master = master

    @classmethod
    def load(cls, directory: str, fqrn: str) -> RepositoryKeys:
        """Reads the keys of ``fqrn``; raises ConfigError naming what is missing or unreadable."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        def private(suffix: str) -> Any:
            path = os.path.join(directory, fqrn + suffix)
            try:
                with open(path, "rb") as file:
                    return load_pem_private_key(file.read(), password=None)
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{path} is not an unencrypted PEM private key: {error}") from error

        try:
            with open(os.path.join(directory, fqrn + ".crt"), "rb") as file:
                certificate = file.read()
            key = private(".key")
        except OSError as error:
            raise ConfigError(
                f"no keys of {fqrn}: {error}",
                "make them with RepositoryKeys.create or name the key directory",
            ) from error
        try:
            master = private(".masterkey")
        except OSError:
            master = None
        return cls(fqrn, key, certificate, master)

    @classmethod
    def create(cls, directory: str, fqrn: str) -> RepositoryKeys:
        """Makes and stores new keys; what is there already is kept (a half-made set is completed)."""
        from cryptography.hazmat.primitives.asymmetric import rsa
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
            PublicFormat,
        )

        check_fqrn(fqrn)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        base = os.path.join(directory, fqrn)

        def pem(key: RSAPrivateKey) -> bytes:
            return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())

        if not os.path.exists(base + ".masterkey") and not os.path.exists(base + ".pub"):
            master = rsa.generate_private_key(public_exponent=65537, key_size=_BITS)
            public = master.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            # .pub last: its presence says that the pair is complete
            _write_new(base + ".masterkey", pem(master), 0o400)
            _write_new(base + ".pub", public, 0o444)
        if not os.path.exists(base + ".crt"):
            key = rsa.generate_private_key(public_exponent=65537, key_size=_BITS)
            _write_new(base + ".key", pem(key), 0o400)
            _write_new(base + ".crt", _self_signed(fqrn, key), 0o444)
        return cls.load(directory, fqrn)

    def sign_manifest(self, body: bytes, algorithm: str = SHA1) -> bytes:
        """``body`` (lines, each with its newline) completed by hash and signature."""
        head, text = _signed(body, algorithm)
        digest = Hash.of(SHA1, text).digest
        return head + _private_operation(self._key, _SHA1_INFO + digest)

    def whitelist(self, days: float, algorithm: str = SHA1) -> bytes:
        """A signed whitelist that names this certificate and expires in ``days`` (to the hour, rounded
        up).
        """
        if self._master is None:
            raise ConfigError(
                f"the master key of {self.fqrn} is needed to sign its whitelist",
                f"put {self.fqrn}.masterkey beside the other keys",
            )
        now = time.time()
        stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(now))
        expiry = time.strftime("%Y%m%d%H%M%S", time.gmtime(now + days * 86400))
        body = f"{stamp}\nE{expiry}\nN{self.fqrn}\n{self.fingerprint(algorithm)}\n".encode()
        head, text = _signed(body, algorithm)
        return head + _private_operation(self._master, text)

    def fingerprint(self, algorithm: str = SHA1) -> str:
        """Of the certificate's DER, as whitelists have it (AA:BB:...)."""
        lines = self.certificate.decode("ascii").split("-----BEGIN CERTIFICATE-----")[1]
        der = base64.b64decode(lines.split("-----END CERTIFICATE-----")[0])
        value = Hash.of(algorithm, der)
        octets = value.digest.hex().upper()
        pairs = ":".join(octets[i : i + 2] for i in range(0, len(octets), 2))
        return pairs + str(value)[len(octets) :].upper()

    @property
    def can_sign_whitelist(self) -> bool:
        return self._master is not None


def check_days(days: float) -> None:
    """Refuses durations that are no number, negative, or beyond what a whitelist can say: UsageError."""
    if not 0 <= days <= _MOST_DAYS:
        raise UsageError(f"{days:g} days cannot be", f"use 0 to {_MOST_DAYS}")


def check_fqrn(fqrn: str) -> None:
    """Refuses what cannot be a fully qualified repository name. Raises UsageError."""
    labels = fqrn.split(".")
    fine = all(label and all(c.isascii() and (c.isalnum() or c in "-_") for c in label) for label in labels)
    if not fine or len(labels) < 2 or len(fqrn) > 255:
        raise UsageError(f"{fqrn[:80]!r} is not a repository name", "write it like software.example.org")


def _write_new(path: str, data: bytes, mode: int) -> None:
    """Atomically; private keys are never readable by others, not even for a moment."""
    part = f"{path}.{os.getpid()}"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def _self_signed(fqrn: str, key: RSAPrivateKey) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    # a common name has at most 64 characters (RFC 5280, appendix A.1)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{fqrn[:40]} release manager")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)
