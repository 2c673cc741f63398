"""Whom a registry may send us to: URLs of redirects and token realms, and the addresses that names lead to.
Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from udk.errors import ProtocolError
from udk.oci.text import quoted
from udk.registry.options import ip_address, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_URL = 16 << 10


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what credentials are bound to."""
    parts = urlsplit(url)
    return (
        parts.scheme,
        (parts.hostname or "").lower(),
        parts.port or (443 if parts.scheme == "https" else 80),
    )


def host_of(url: str) -> str:
    """``host[:port]`` as in certs.d and in image names."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def redirect_target(
    current: str, target: str, first: tuple[str, str, int], is_insecure: Callable[[str], bool]
) -> str:
    """The URL that a redirect leads to. Raises ProtocolError for those that must not be followed."""
    here = host_of(current)
    if not target or len(target) > MAX_URL or not target.isprintable():
        raise ProtocolError(f"{here} redirects to an invalid address")
    try:
        url = urljoin(current, target)
        parts = urlsplit(url)
        scheme, host, _ = origin(url)
    except ValueError:
        raise ProtocolError(f"{here} redirects to the invalid address {quoted(target, 80)}") from None
    shown = f"{here} redirects to {quoted(scheme + '://' + parts.netloc.rpartition('@')[2], 80)}"
    if scheme not in ("http", "https") or not host:
        raise ProtocolError(f"{shown}, which is not followed: only http and https are")
    if parts.username is not None or parts.password is not None:
        raise ProtocolError(f"{shown}, which is not followed: it carries credentials")
    if scheme == "http" and current.startswith("https:"):
        raise ProtocolError(f"{shown}, which is not followed: it leaves TLS")
    if scheme == "http" and not (is_loopback(host) or is_insecure(parts.netloc)):
        raise ProtocolError(
            f"{shown}, which is not followed: it is not TLS",
            "allow it for that host as an insecure registry",
        )
    check_host(host, first[1], shown)
    return url


def check_host(host: str, registry: str, shown: str) -> None:
    """Raises ProtocolError if a registry sends its clients to addresses that only they can reach.

    Link-local addresses serve cloud credentials, loopback ones the caller's own services. ``registry`` itself
    may be such an address, when the user named it."""
    reason = inside(host, registry)
    if reason:
        raise ProtocolError(f"{shown}, which is not followed: it is {reason}")


def inside(host: str, registry: str) -> str:
    if host == registry:
        return ""
    if is_loopback(host):
        return "" if is_loopback(registry) else "this machine itself"
    address = ip_address(host)
    if address is not None and (address.is_link_local or address.is_unspecified or address.is_multicast):
        return "a link-local address" if address.is_link_local else "not an address of a host"
    return ""


class RefusedPeer(OSError):
    """A name that resolved to an address which the registry may not send us to."""
