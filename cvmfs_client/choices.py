"""Servers and proxies that the user has chosen by hand (`host switch`, `proxy set` ...).

They are kept in the cache for a while, so that all processes heed them; a changed configuration ends that.

Nothing is taken from caches that others write: who chooses the server is sent the caller's token.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from .interfaces import Config, Store

if TYPE_CHECKING:
    from .download import HttpFetcher

NAME = "choices"
_LASTS = {"hosts": ("CVMFS_HOST_RESET_AFTER", 1800), "proxies": ("CVMFS_PROXY_RESET_AFTER", 300)}


def _own(store: Store) -> bool:
    return getattr(store, "kind", "") in ("own", "memory")


def load(config: Config, store: Store) -> dict[str, Any]:
    """kind -> {value, configured, until}, of those that have not run out."""
    data = store.load_state(config.fqrn, NAME) if _own(store) else None
    try:
        found = json.loads(data) if data else {}
        return {
            kind: row
            for kind, row in found.items()
            if kind in _LASTS
            and isinstance(row["value"], list)
            and all(isinstance(v, str) for v in row["value"])
            and time.time() < float(row["until"]) < time.time() + 1e7
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def save(config: Config, store: Store, fetcher: HttpFetcher, kind: str) -> float:
    """Keeps what a fetcher uses now; ``kind`` is "hosts" or "proxies". Returns how long that lasts, s; 0
    where this cache keeps none."""
    if not _own(store):
        return 0.0
    parameter, default = _LASTS[kind]
    seconds = float(config.integer(parameter, default) or 86400)
    hosts, proxies = fetcher.in_use()
    rows = load(config, store)
    rows[kind] = {
        "value": hosts if kind == "hosts" else proxies,
        "configured": _configured(fetcher, kind),
        "until": time.time() + seconds,
    }
    store.save_state(config.fqrn, NAME, json.dumps(rows).encode())
    return seconds


def _configured(fetcher: HttpFetcher, kind: str) -> list[str]:
    servers, proxies = fetcher.configured
    return servers if kind == "hosts" else [proxies]


def forget(config: Config, store: Store, kind: str) -> None:
    """Back to what is configured."""
    rows = load(config, store)
    if rows.pop(kind, None) is not None:
        store.save_state(config.fqrn, NAME, json.dumps(rows).encode())


def apply(config: Config, store: Store, fetcher: HttpFetcher) -> None:
    """Has a new fetcher heed what was chosen."""
    for kind, row in load(config, store).items():
        if row["configured"] != _configured(fetcher, kind) or not row["value"]:
            continue
        if kind == "hosts":
            fetcher.use_hosts(row["value"])
        else:
            fetcher.use_proxies(";".join(row["value"]))
