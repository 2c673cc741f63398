"""Trust in a revision: from master keys to a manifest that may be used. Bytes in, verdict out; no I/O.

The steps can only be taken in order, as each needs what the one before it returned::

    whitelist bytes --whitelist()--> Whitelist --manifest()--> TrustedManifest
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Callable, NamedTuple

from .errors import ConfigError, FormatError, RolledBackError, SignatureError
from .hash import Hash
from .manifest import Manifest, parse_manifest, verify_manifest
from .rsa import RsaKey
from .whitelist import (
    Authorities,
    Blacklist,
    Whitelist,
    parse_whitelist,
    verify_whitelist,
    whitelist_from_pkcs7,
)
from .x509 import certificate_from_pem, verify_chain


class Floor(NamedTuple):
    """The newest revision verified so far: nothing older is accepted. Timestamp in s since the epoch."""

    timestamp: int = 0
    revision: int = 0

    def rejects(self, manifest: Manifest) -> bool:
        """Whether the manifest is older. Timestamps decide, as a signer's clock is what he signs with; a
        revision number may start anew with a repository that was made again."""
        if manifest.timestamp != self.timestamp:
            return manifest.timestamp < self.timestamp
        return manifest.revision < self.revision

    def check(self, manifest: Manifest) -> None:
        """Raises RolledBackError."""
        if self.rejects(manifest):
            raise RolledBackError(
                f"the server offers revision {manifest.revision} of {manifest.fqrn}, published "
                f"{_date(manifest.timestamp)}, which is older than revision {self.revision} of "
                f"{_date(self.timestamp)} that was verified before",
                "the server lags behind; another one may be up to date",
            )

    def raised(self, manifest: Manifest) -> Floor:
        """The floor once this manifest was accepted."""
        return Floor(manifest.timestamp, manifest.revision)


class TrustedManifest(NamedTuple):
    """A manifest that passed every check, with what it was checked by."""

    manifest: Manifest
    whitelist: Whitelist
    fingerprint: Hash


def _date(timestamp: int) -> str:
    try:
        return f"{datetime.fromtimestamp(timestamp, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"at {timestamp}"


class Trust:
    """The rules for one repository. ``clock`` gives the time in s since the epoch, ``authorities`` the
    trusted CAs where a whitelist asks for them."""

    def __init__(
        self,
        fqrn: str,
        keys: Sequence[RsaKey],
        *,
        blacklist: Blacklist = Blacklist(),  # noqa: B008 - immutable
        authorities: Callable[[], Authorities] = Authorities,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.fqrn = fqrn
        self.keys = tuple(keys)
        self.blacklist = blacklist
        self._authorities = authorities
        self._clock = clock

    @property
    def now(self) -> datetime:
        """The time that expiry is judged by."""
        return datetime.fromtimestamp(self._clock(), timezone.utc)

    def whitelist(self, data: bytes, pkcs7: Callable[[], bytes] | None = None) -> Whitelist:
        """The verified whitelist. ``pkcs7`` gives the PKCS#7 message where the whitelist points to one.

        Raises FormatError, NameMismatchError, ExpiredError, SignatureError, ConfigError (no master key)."""
        whitelist = parse_whitelist(data, self.fqrn, self.now)
        if whitelist.pkcs7:
            if pkcs7 is None:
                raise SignatureError(f"the whitelist of {self.fqrn} needs its PKCS#7 message")
            return whitelist_from_pkcs7(pkcs7(), self.fqrn, self.now, self._authorities())
        if not self.keys:
            raise ConfigError(
                f"there is no master key for {self.fqrn}",
                "give it with --key, CVMFS_PUBLIC_KEY or CVMFS_KEYS_DIR",
            )
        verify_whitelist(whitelist, self.keys)
        return whitelist

    def parse(self, data: bytes, floor: Floor) -> Manifest:
        """A manifest that is well-formed, of this repository and not older than ``floor``; not to be trusted
        yet.

        Raises FormatError, SignatureError (hash), NameMismatchError, RolledBackError."""
        manifest = parse_manifest(data, self.fqrn)
        floor.check(manifest)
        if manifest.certificate is None:
            raise FormatError(f"the manifest of {self.fqrn} does not say which certificate signed it")
        return manifest

    def manifest(self, manifest: Manifest, whitelist: Whitelist, certificate_pem: bytes) -> TrustedManifest:
        """The manifest as trusted: certificate whitelisted and not blacklisted, signature right.

        Raises FormatError, SignatureError, BlacklistedError."""
        if whitelist.fqrn != self.fqrn or whitelist.expires <= self.now:
            raise SignatureError(f"the whitelist of {self.fqrn} is not valid any more")
        certificate = certificate_from_pem(certificate_pem)
        fingerprint = certificate.fingerprint("sha1")
        if not whitelist.names(certificate):
            raise SignatureError(
                f"the certificate {fingerprint} that signed {self.fqrn} is not on its whitelist",
                "either the server is not genuine, or the owner has not listed a new certificate yet",
            )
        self.blacklist.check_certificate(certificate)
        if whitelist.ca_chain:
            authorities = self._authorities()
            verify_chain(certificate, authorities.anchors, (), self.now, authorities.revocations)
        verify_manifest(manifest, certificate)
        self.blacklist.check_revision(self.fqrn, manifest.revision)
        return TrustedManifest(manifest, whitelist, fingerprint)
