"""Which certificate authorities servers are checked against."""

from __future__ import annotations

import os
import ssl

from .errors import ConfigError
from .interfaces import Config

_GRID = "/etc/grid-security/certificates"


def make_context(config: Config, client_certificate: str = "") -> ssl.SSLContext:
    """X509_CERT_DIR or X509_CERT_BUNDLE of the environment, else the grid's authorities where they are
    installed; the system's with CVMFS_USE_SSL_SYSTEM_CA=yes or where there is nothing else. Raises
    ConfigError."""
    directory = os.environ.get("X509_CERT_DIR", "")
    bundle = os.environ.get("X509_CERT_BUNDLE", "")
    try:
        if config.boolean("CVMFS_USE_SSL_SYSTEM_CA"):
            context = ssl.create_default_context()
        elif directory or bundle:
            context = ssl.create_default_context(cafile=bundle or None, capath=directory or None)
        elif os.path.isdir(_GRID):
            context = ssl.create_default_context(capath=_GRID)
        else:
            context = ssl.create_default_context()
        if client_certificate:
            context.load_cert_chain(client_certificate)
    except OSError as error:
        place = client_certificate or bundle or directory or _GRID
        raise ConfigError(f"certificates cannot be read: {place}: {error.strerror or error}") from error
    return context
