"""What can be set about talking to registries; the defaults suit batch jobs on ordinary networks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from udk.config import Config

USER_AGENT = "udk"


class RegistryOptions:
    """Times in seconds, rates in bytes per second.

    ``insecure``: hosts (``host`` or ``host:port``, ``*`` for all) that may be plain HTTP or have an
    unverifiable certificate. ``authfile``: credentials are looked for in this file only. ``username`` and
    ``password``: used for every registry instead. ``trusted_realms``: hosts that may be given any registry's
    credentials to issue tokens. ``attempts`` without progress are made, with pauses from ``backoff`` doubling
    up to 30 s; waits that the registry itself asks for count against ``patience``. A transfer slower than
    ``min_rate`` over ``stall_timeout`` is broken off and resumed. ``environ`` is where variables are read
    from.
    """

    def __init__(
        self,
        *,
        insecure: tuple[str, ...] = (),
        authfile: str = "",
        username: str = "",
        password: str = "",
        trusted_realms: tuple[str, ...] = (),
        attempts: int = 5,
        backoff: float = 0.5,
        patience: float = 300.0,
        connect_timeout: float = 15.0,
        stall_timeout: float = 30.0,
        min_rate: int = 256,
        helper_timeout: float = 30.0,
        connections: int = 16,
        registries_conf: str = "",
        certs_dirs: tuple[str, ...] = (),
        user_agent: str = USER_AGENT,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.insecure = tuple(h.lower() for h in insecure)
        self.authfile = authfile
        self.username = username
        self.password = password
        self.trusted_realms = tuple(h.lower() for h in trusted_realms)
        self.attempts = attempts
        self.backoff = backoff
        self.patience = patience
        self.connect_timeout = connect_timeout
        self.stall_timeout = stall_timeout
        self.min_rate = min_rate
        self.helper_timeout = helper_timeout
        self.connections = connections
        self.registries_conf = registries_conf
        self.certs_dirs = certs_dirs
        self.user_agent = user_agent
        self.environ: Mapping[str, str] = os.environ if environ is None else environ

    @classmethod
    def from_config(cls, config: Config | None, **more: Any) -> RegistryOptions:
        """The options that the configuration gives (None: the defaults), with ``more`` of them."""
        if config is not None:
            more.setdefault("insecure", config.pull_insecure)
            more.setdefault("trusted_realms", config.pull_trusted_realms)
            more.setdefault("patience", config.pull_patience)
        return cls(**more)

    def is_insecure(self, host: str) -> bool:
        """Whether ``host[:port]`` is one of those the user chose to trust without TLS."""
        return "*" in self.insecure or host in self.insecure or bare_host(host) in self.insecure

    @property
    def home(self) -> str:
        """The home directory: ``$HOME``, else the passwd entry's; ``""`` when there is neither (batch
        jobs)."""
        home = self.environ.get("HOME", "")
        if not home:
            import pwd

            try:
                home = pwd.getpwuid(os.getuid()).pw_dir
            except KeyError:
                return ""
        return home if os.path.isabs(home) else ""

    @property
    def config_home(self) -> str:
        """``$XDG_CONFIG_HOME`` or ``~/.config``; ``""`` when there is no home."""
        path = self.environ.get("XDG_CONFIG_HOME", "")
        if os.path.isabs(path):
            return path
        return os.path.join(self.home, ".config") if self.home else ""


def bare_host(host: str) -> str:
    """``host[:port]`` without the port; IPv6 addresses keep their brackets."""
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether ``host[:port]`` is this machine by its very name: localhost, 127.0.0.0/8 or ::1."""
    name = bare_host(host).lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = ip_address(name)
    return address is not None and address.is_loopback


def ip_address(host: str):  # type: ignore[no-untyped-def]  # ipaddress is imported late
    """The address that a host part of a URL is, None when it is a name. IPv4-mapped IPv6 gives the IPv4
    one."""
    import ipaddress

    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
