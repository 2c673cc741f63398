"""Which certificate authorities and client certificates are used for which registry.

The system's authorities (``SSL_CERT_FILE``, ``SSL_CERT_DIR``, ``REQUESTS_CA_BUNDLE`` honoured) always count;
a directory ``certs.d/<host[:port]>`` adds authorities (``*.crt``) and a client certificate (``*.cert`` with
its ``*.key``).
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

import urllib3

from udk.errors import ConfigError
from udk.oci.text import clean, quoted
from udk.registry.options import bare_host, ip_address

if TYPE_CHECKING:
    from udk.registry.options import RegistryOptions

SYSTEM_CERTS_DIRS = ("/etc/containers/certs.d", "/etc/docker/certs.d")


class TlsSettings:
    """Makes TLS contexts, by host."""

    def __init__(self, options: RegistryOptions) -> None:
        self.options = options

    def directory(self, host: str) -> str:
        """The certs.d directory for ``host[:port]``, ``""`` if there is none."""
        roots = list(self.options.certs_dirs)
        if self.options.config_home:
            roots.append(os.path.join(self.options.config_home, "containers", "certs.d"))
        for root in (*roots, *SYSTEM_CERTS_DIRS):
            path = os.path.join(root, host)
            if "/" not in host and host not in ("", ".", "..") and os.path.isdir(path):
                return path
        return ""

    def context(self, host: str, insecure: bool = False) -> ssl.SSLContext:
        """The TLS context for ``host[:port]``; ``insecure`` verifies nothing. Raises ConfigError."""
        context = ssl.create_default_context()
        bundle = ""
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            bundle = bundle or self.options.environ.get(name, "")
        if bundle:
            _load(context, bundle)
        elif not _has_system_store():
            import certifi

            _load(context, certifi.where())
        directory = self.directory(host)
        if directory:
            _load_directory(context, directory)
        if getattr(urllib3, "__version__", "").startswith("1.") and ip_address(bare_host(host)) is not None:
            # It names no host to TLS then, and compares the address with the certificate itself.
            context.check_hostname = False
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _has_system_store() -> bool:
    paths = ssl.get_default_verify_paths()
    return bool(paths.cafile) or (bool(paths.capath) and any(os.scandir(paths.capath)))


def _load(context: ssl.SSLContext, path: str) -> None:
    try:
        if os.path.isdir(path):
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError) as e:
        reason = getattr(e, "strerror", None) or getattr(e, "reason", None) or str(e)
        raise ConfigError(f"certificates cannot be read from {quoted(path)}: {clean(reason, 80)}") from None


def _load_directory(context: ssl.SSLContext, directory: str) -> None:
    try:
        names = sorted(os.listdir(directory))
    except OSError as e:
        raise ConfigError(f"certificates cannot be read from {quoted(directory)}: {e.strerror}") from None
    for name in names:
        path = os.path.join(directory, name)
        if name.endswith(".crt"):
            _load(context, path)
        elif name.endswith(".cert"):
            key = path[:-5] + ".key"
            if not os.path.exists(key):
                raise ConfigError(
                    f"client certificate {quoted(path)} has no key {quoted(os.path.basename(key))}"
                )
            try:
                context.load_cert_chain(path, key, password=_no_password)
            except (OSError, ssl.SSLError) as e:
                reason = getattr(e, "strerror", None) or getattr(e, "reason", None) or str(e)
                raise ConfigError(
                    f"client certificate {quoted(path)} is unusable: {clean(reason, 80)}"
                ) from None
        elif name.endswith(".key") and name[:-4] + ".cert" not in names:
            raise ConfigError(f"key {quoted(path)} has no client certificate {quoted(name[:-4] + '.cert')}")


def _no_password() -> str:
    raise OSError(0, "the key is encrypted")
