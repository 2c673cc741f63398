"""What requests, urllib3, ssl and sockets complain about, in a few words."""

from __future__ import annotations

import http.client
import socket
import ssl

import requests
from urllib3.connection import CertificateError  # type: ignore[attr-defined]
from urllib3.exceptions import IncompleteRead

from udk.errors import RegistryError
from udk.oci.text import clean


class UntrustedCertificate(RegistryError):
    """TLS is spoken, but by nobody we have reason to trust."""


def find(error: BaseException | None, kind: type[BaseException], depth: int = 0) -> BaseException | None:
    """The exception of ``kind`` within the layers that requests and urllib3 wrap around it."""
    if error is None or depth > 8:
        return None
    if isinstance(error, kind):
        return error
    inner = [getattr(error, "reason", None), error.__cause__, error.__context__, *error.args]
    for item in inner:
        if isinstance(item, BaseException):
            found = find(item, kind, depth + 1)
            if found is not None:
                return found
    return None


def is_not_http(error: BaseException) -> bool:
    return find(error, http.client.BadStatusLine) is not None or find(error, ConnectionResetError) is not None


def describe(error: BaseException) -> str:
    """What went wrong, in a few words, from the innermost cause."""
    if find(error, socket.timeout) is not None or isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    if find(error, http.client.IncompleteRead) or find(error, IncompleteRead):
        return "the connection was closed"
    for kind in (socket.gaierror, ConnectionRefusedError, ConnectionError, OSError):
        found = find(error, kind)
        if found is not None and not isinstance(found, requests.RequestException):
            text = getattr(found, "strerror", None) or str(found)
            return clean(text.strip().lower() if text else type(found).__name__, 120)
    text = str(error).rpartition(": ")[2] or type(error).__name__
    return clean(text, 120)


def tls_error(host: str, error: BaseException) -> RegistryError:
    """The error for a TLS connection that could not be made; trying again does not help."""
    found = find(error, ssl.SSLError)
    untrusted = getattr(found, "verify_message", "")
    if "mismatch" in untrusted.lower() or (not untrusted and find(error, CertificateError) is not None):
        return UntrustedCertificate(
            f"the certificate of registry {host} is not trusted: name mismatch, it is for another host",
            "use the name that it is for",
        )
    reason = clean(
        str(untrusted or getattr(found, "reason", "") or describe(error)).lower().replace("_", " "), 120
    )
    if untrusted or "certificate" in reason:
        return UntrustedCertificate(
            f"the certificate of registry {host} is not trusted: {reason}",
            f"put its authority's certificate into ~/.config/containers/certs.d/{host}/ca.crt",
        )
    return RegistryError(f"registry {host} cannot be reached with TLS: {reason}")
