"""Mistakes that can be seen in a configuration without connecting to anything."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from .config import Configuration
from .errors import CvmfsError
from .parameters import is_known
from .parts import make_trust

_NUMBERS = [
    "CVMFS_BACKOFF_INIT",
    "CVMFS_BACKOFF_MAX",
    "CVMFS_HOST_RESET_AFTER",
    "CVMFS_LOW_SPEED_LIMIT",
    "CVMFS_MAX_RETRIES",
    "CVMFS_MAX_TTL",
    "CVMFS_PROXY_RESET_AFTER",
    "CVMFS_QUOTA_LIMIT",
    "CVMFS_TIMEOUT",
    "CVMFS_TIMEOUT_DIRECT",
]
_BOOLEANS = [
    "CVMFS_CLAIM_OWNERSHIP",
    "CVMFS_FOLLOW_REDIRECTS",
    "CVMFS_PROXY_SHARD",
    "CVMFS_SEND_INFO_HEADER",
    "CVMFS_SHARED_CACHE",
    "CVMFS_USE_GEOAPI",
    "CVMFS_USE_SSL_SYSTEM_CA",
    "CVMFS_WORLD_READABLE",
]
_PROXY = re.compile(r"(?:https?://)?(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]+)?/?")


def check(config: Configuration, *, keys: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """("Error" or "Warning", text) of each mistake."""
    found: list[tuple[str, str]] = [("Warning", text) for text in config.warnings]

    def error(text: str) -> None:
        found.append(("Error", f"{config.fqrn}: {text}"))

    def warning(text: str) -> None:
        found.append(("Warning", f"{config.fqrn}: {text}"))

    servers = config.items("CVMFS_SERVER_URL", ";")
    if not servers:
        error("CVMFS_SERVER_URL is not set")
    for url in servers:
        if not re.match(r"(https?|file)://[^/\s]*/?", url) or " " in url:
            error(f"{url!r} in CVMFS_SERVER_URL is not a URL")
    proxies = config.get("CVMFS_HTTP_PROXY")
    if not proxies and not all(url.startswith("file:") for url in servers):
        error("CVMFS_HTTP_PROXY is not set; DIRECT means without a proxy")
    for group in proxies.split(";"):
        for item in group.split("|"):
            text = item.strip()
            if text and text not in ("DIRECT", "auto") and not _PROXY.fullmatch(text):
                error(f"{text!r} in CVMFS_HTTP_PROXY is not a proxy")
            elif text and text not in ("DIRECT", "auto") and not re.search(r":[0-9]+/?$", text):
                warning(f"the proxy {text} has no port")
    for name in (*_NUMBERS, *_BOOLEANS):
        try:
            config.integer(name, 0) if name in _NUMBERS else config.boolean(name)
        except CvmfsError as e:
            error(str(e))
    try:
        trust = make_trust(config, list(keys) if keys else None)
        if not trust.keys:
            error("there is no master key: set CVMFS_KEYS_DIR or CVMFS_PUBLIC_KEY")
    except CvmfsError as e:
        error(str(e))
    for name in config.settings:
        if name.startswith("CVMFS_") and not is_known(name):
            warning(f"{name} is not a known parameter ({config.settings[name].source})")
    if config.get("CVMFS_ALIEN_CACHE") and config.boolean("CVMFS_SHARED_CACHE", True):
        warning("CVMFS_ALIEN_CACHE is set: CVMFS_SHARED_CACHE=no and CVMFS_QUOTA_LIMIT=-1 belong to it")
    for name in ("CVMFS_CACHE_DIR", "CVMFS_CACHE_BASE", "CVMFS_ALIEN_CACHE"):
        place = config.settings[name].value if name in config.settings else ""
        if place and os.path.exists(place) and not os.access(place, os.R_OK | os.X_OK):
            warning(f"{name}={place} cannot be read")
    return found
