"""Which revision to open: the server's if it can be had and trusted, else the one verified before.

A server that lags behind, or a network that is gone, is normal: the revision verified last is kept then, and
the reason is kept with it. A server that is wrong (bad signature, expired whitelist, another name) is
refused.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from .errors import (
    ConfigError,
    CvmfsError,
    ExpiredError,
    FormatError,
    NetworkError,
    ObjectNotFoundError,
    OfflineError,
    RepositoryNotFoundError,
    RolledBackError,
)
from .hash import SUFFIX_CATALOG, Hash
from .interfaces import LIMIT_SMALL, Fetcher, Request, Store
from .manifest import NAME as MANIFEST_NAME
from .manifest import Manifest
from .trust import Floor, Trust, TrustedManifest
from .whitelist import NAME as WHITELIST_NAME
from .whitelist import PKCS7_NAMES, Whitelist

_BREADCRUMB = re.compile(rb"([0-9a-f]{40}(?:-rmd160|-shake128)?)T([0-9]{1,18})(?:R([0-9]{1,18}))?\s*")


class Breadcrumb(NamedTuple):
    """What ``cvmfschecksum.<fqrn>`` says: the root catalog loaded last."""

    root_hash: Hash
    timestamp: int
    revision: int

    @classmethod
    def parse(cls, data: bytes | None) -> Breadcrumb | None:
        """None for what is malformed or missing."""
        match = _BREADCRUMB.fullmatch(data or b"")
        if not match:
            return None
        try:
            root_hash = Hash.parse(match.group(1).decode(), SUFFIX_CATALOG)
        except FormatError:
            return None
        return cls(root_hash, int(match.group(2)), int(match.group(3) or 0))

    def pack(self) -> bytes:
        return f"{self.root_hash}T{self.timestamp}R{self.revision}".encode()


class Opened(NamedTuple):
    """A revision that may be used."""

    root_hash: Hash
    manifest: Manifest | None  # None: only a breadcrumb of a local cache vouches for it
    origin: str  # "server", "kept" (verified before), "breadcrumb"
    reason: str  # why it is not the server's
    files: tuple[tuple[str, bytes], ...]  # state to keep once the root catalog was loaded


class _Whitelists:
    """Fetches the whitelist in the background while other things are under way."""

    def __init__(self, fetcher: Fetcher, trust: Trust) -> None:
        self._fetcher = fetcher
        self._trust = trust
        self._thread: threading.Thread | None = None
        self._result: Whitelist | None = None
        self._error: BaseException | None = None
        self.files: list[tuple[str, bytes]] = []

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="cvmfs-whitelist", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._fetcher.get(WHITELIST_NAME, self._check)
        except BaseException as e:
            self._error = e

    def _check(self, data: bytes) -> Whitelist:
        kept: list[tuple[str, bytes]] = [("whitelist", data)]

        def pkcs7() -> bytes:
            error: CvmfsError | None = None
            for name in PKCS7_NAMES:
                try:
                    message = self._fetcher.get(name, bytes)
                except ObjectNotFoundError as e:
                    error = error or e
                    continue
                kept.append(("whitelist.pkcs7", message))
                return message
            raise error or FormatError("no PKCS#7 whitelist")

        whitelist = self._trust.whitelist(data, pkcs7)
        self.files = kept
        return whitelist

    def result(self) -> Whitelist:
        self.start()
        assert self._thread is not None
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result


class Opener:
    """Finds the revision of one repository to open."""

    def __init__(self, store: Store, trust: Trust) -> None:
        self.store = store
        self.trust = trust
        self.fqrn = trust.fqrn

    # --- what is known locally
    def floor(self) -> Floor:
        """The newest revision verified so far."""
        crumb = Breadcrumb.parse(self.store.load_state(self.fqrn, "breadcrumb"))
        floor = Floor(crumb.timestamp, crumb.revision) if crumb is not None else Floor()
        data = self.store.load_state(self.fqrn, "manifest")
        if data is not None:
            try:
                manifest = self.trust.parse(data, Floor())
            except CvmfsError:
                return floor
            if not floor.rejects(manifest):
                return floor.raised(manifest)
        return floor

    def kept(self) -> tuple[bytes, TrustedManifest] | None:
        """The manifest kept from the last time, verified anew; None if there is none. Raises what Trust
        raises."""
        load = self.store.load_state
        manifest, whitelist, certificate = (
            load(self.fqrn, name) for name in ("manifest", "whitelist", "certificate")
        )
        if manifest is None or whitelist is None or certificate is None:
            return None

        def pkcs7() -> bytes:
            return load(self.fqrn, "whitelist.pkcs7") or b""

        trusted = self.trust.whitelist(whitelist, pkcs7)
        return manifest, self.trust.manifest(self.trust.parse(manifest, Floor()), trusted, certificate)

    # --- opening
    def open(self) -> Opened:
        """The revision to use. Raises the refusals of Trust, NetworkError, RepositoryNotFoundError."""
        fetcher = self.store.fetcher
        try:
            kept = self.kept()
            kept_error: CvmfsError | None = None
        except CvmfsError as e:
            kept, kept_error = None, e
        if fetcher is None:
            return self._fall_back(kept, kept_error, OfflineError("working offline by configuration"))
        try:
            return self._from_server(fetcher, kept)
        except (RolledBackError, NetworkError, ObjectNotFoundError) as e:
            return self._fall_back(kept, kept_error, e)

    def _from_server(self, fetcher: Fetcher, kept: tuple[bytes, TrustedManifest] | None) -> Opened:
        floor = self.floor()
        whitelists = _Whitelists(fetcher, self.trust)
        if kept is None:
            whitelists.start()  # needed for sure: do not wait for the manifest

        def check(data: bytes) -> tuple[bytes, TrustedManifest, bytes | None]:
            manifest = self.trust.parse(data, floor)
            if kept is not None and kept[0] == data:
                return data, kept[1], None
            whitelists.start()
            certificate = self._certificate(manifest)
            return data, self.trust.manifest(manifest, whitelists.result(), certificate), certificate

        data, trusted, certificate = fetcher.get(MANIFEST_NAME, check)
        files: list[tuple[str, bytes]] = []
        if certificate is not None:
            files = [("manifest", data), *whitelists.files, ("certificate", certificate)]
        return self._opened(trusted.manifest, "server", "", files)

    def _opened(
        self, manifest: Manifest, origin: str, reason: str, files: Sequence[tuple[str, bytes]] = ()
    ) -> Opened:
        crumb = Breadcrumb(manifest.catalog, manifest.timestamp, manifest.revision).pack()
        return Opened(
            manifest.catalog, manifest, origin, reason, (*files, ("breadcrumb", crumb)) if files else ()
        )

    def _certificate(self, manifest: Manifest) -> bytes:
        assert manifest.certificate is not None
        alternative = f".cvmfsalt-{manifest.certificate.name}" if manifest.alternative_paths else ""
        request = Request(
            manifest.certificate,
            limit=LIMIT_SMALL,
            path=b"the certificate",
            pin=True,
            alternative=alternative,
        )
        with open(self.store.open(request), "rb") as f:
            return f.read(LIMIT_SMALL)

    def _fall_back(
        self,
        kept: tuple[bytes, TrustedManifest] | None,
        kept_error: CvmfsError | None,
        error: CvmfsError,
    ) -> Opened:
        """The revision verified before, because of ``error``; raises that if there is none."""
        if kept is not None:
            return self._opened(kept[1].manifest, "kept", error.message)
        if isinstance(kept_error, ExpiredError):
            raise kept_error
        if isinstance(error, ObjectNotFoundError):
            raise RepositoryNotFoundError(
                f"no server has the repository {self.fqrn}", "check the name and the server URLs"
            ) from error
        if isinstance(error, RolledBackError):
            raise error
        crumb = Breadcrumb.parse(self.store.load_state(self.fqrn, "breadcrumb"))
        if crumb is not None:
            # as the official client does: a cache filled before is trusted
            return Opened(crumb.root_hash, None, "breadcrumb", error.message, ())
        raise error

    def commit(self, opened: Opened) -> None:
        """Keeps what the next start may need; to be called once the root catalog was loaded."""
        for name, data in opened.files:
            self.store.save_state(self.fqrn, name, data)


def load_keys(paths: Sequence[str | bytes]) -> list[bytes]:
    """PEM texts of the master keys: files, directories of `*.pub`, or PEM bytes themselves. Raises
    ConfigError."""
    found: list[bytes] = []
    for path in paths:
        if isinstance(path, bytes) and b"-----BEGIN" in path:
            found.append(path)
            continue
        name = os.fsdecode(path)
        try:
            if os.path.isdir(name):
                names = sorted(n for n in os.listdir(name) if n.endswith(".pub"))
                files = [os.path.join(name, n) for n in names]
                if not files:
                    raise ConfigError(f"there is no public key (*.pub) in {name}")
            else:
                files = [name]
            for file in files:
                with open(file, "rb") as f:
                    found.append(f.read(1 << 20))
        except OSError as e:
            raise ConfigError(f"the public key {name} cannot be read: {e.strerror}") from e
    return found


def age(timestamp: int, now: float | None = None) -> str:
    """How long ago, for messages: "3 h", "2 d"."""
    seconds = max(0, int((time.time() if now is None else now) - timestamp))
    for limit, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= limit:
            return f"{seconds // limit} {unit}"
    return f"{seconds} s"
