"""Extended attributes: those stored with an entry, and the synthetic ones of the official client."""

from __future__ import annotations

import os
import resource
import time
from typing import TYPE_CHECKING, Callable

from .entry import COMPRESSION_NONE, COMPRESSION_ZLIB, Entry, unpack_xattrs

if TYPE_CHECKING:
    from .repository import Repository

VERSION = "2.12.0"  # of the client whose attributes these are


def stored(entry: Entry) -> dict[bytes, bytes]:
    """The attributes that were published. Raises CatalogError."""
    return unpack_xattrs(entry.xattrs)


def _bool(value: bool) -> str:
    return "1" if value else "0"


def _chunk_list(r: Repository, path: bytes, entry: Entry) -> str:
    lines = ["hash,offset,size"]
    if entry.is_chunked:
        lines += [f"{c.hash},{c.offset},{c.size}" for c in r.tree.chunks(path, entry)]
    elif entry.hash is not None:
        lines.append(f"{entry.hash},0,{entry.size}")
    return "\n".join(lines) + "\n"


def _compression(r: Repository, path: bytes, entry: Entry) -> str:
    return {COMPRESSION_ZLIB: "zlib", COMPRESSION_NONE: "none"}.get(entry.compression, "unknown")


def _expires(r: Repository, path: bytes, entry: Entry) -> str:
    if r.fixed:
        return "never (fixed root catalog)"
    most = 60 * r.config.integer("CVMFS_MAX_TTL", 0)
    ttl = min(r.tree.root.ttl, most) if most > 0 else r.tree.root.ttl
    left = ttl - (time.time() - r.opened_at)
    return str(max(0, int(left)) // 60)


def _catalog_counters(r: Repository, path: bytes, entry: Entry) -> str:
    catalog = r.tree.catalog_of(path, enter=entry.is_dir)
    lines = [f"catalog_hash: {catalog.hash}", f"catalog_mountpoint: {os.fsdecode(catalog.mountpoint)}"]
    counters = catalog.statistics()
    names = sorted({name.partition("_")[2] for name in counters})
    lines += [f"{n},{counters.get('self_' + n, 0) + counters.get('subtree_' + n, 0)}" for n in names]
    return "\n".join(lines) + "\n"


def _repo_counters(r: Repository, path: bytes, entry: Entry) -> str:
    return "".join(f"{name},{value}\n" for name, value in sorted(r.statistics().items()) if name != "entries")


def _hosts(r: Repository) -> list[str]:
    return [h["url"] for h in r.network_status().get("hosts", [])]


def _active_host(r: Repository, path: bytes, entry: Entry) -> str:
    hosts = r.network_status().get("hosts", [])
    return next((h["url"] for h in hosts if h.get("active")), hosts[0]["url"] if hosts else "internal error")


def _active_proxy(r: Repository, path: bytes, entry: Entry) -> str:
    for group in r.network_status().get("proxies", []):
        for proxy in group:
            if proxy.get("active"):
                return str(proxy["url"])
    return "DIRECT"


def _proxy_list(r: Repository, path: bytes, entry: Entry) -> str:
    groups = r.network_status().get("proxies", [])
    return ";".join("|".join(str(p["url"]) for p in group) for group in groups)


def _lhash(r: Repository, path: bytes, entry: Entry) -> str:
    requests = r.tree.requests(path, entry)
    if len(requests) == 1 and r.store.has(requests[0]):
        return str(requests[0].hash)
    return "Not in cache"


def _counter(name: str) -> Callable[[Repository, bytes, Entry], str]:
    return lambda r, path, entry: str(r.network_status().get("counters", {}).get(name, 0))


def _hitrate(r: Repository, path: bytes, entry: Entry) -> str:
    status = r.store.status()
    hits, misses = int(status.get("hits", 0)), int(status.get("misses", 0))
    return f"{100 * hits / (hits + misses):.3f}" if hits + misses else "n/a"


def _log(r: Repository, path: bytes, entry: Entry) -> str:
    switches = r.network_status().get("switches", [])
    return "".join(f"{int(s['time'])} {s['from']} -> {s['to']}: {s['reason']}\n" for s in switches)


_Maker = Callable[["Repository", bytes, Entry], str]

_ANY: dict[str, _Maker] = {
    "catalog_counters": _catalog_counters,
    "expires": _expires,
    "external_host": lambda r, p, e: (r.config.items("CVMFS_EXTERNAL_URL", ";") or [""])[0],
    "external_timeout": lambda r, p, e: (
        r.config.get("CVMFS_EXTERNAL_TIMEOUT") or r.config.get("CVMFS_TIMEOUT")
    ),
    "fqrn": lambda r, p, e: r.fqrn,
    "hitrate": _hitrate,
    "host": _active_host,
    "host_list": lambda r, p, e: ";".join(_hosts(r)),
    "logbuffer": _log,
    "maxfd": lambda r, p, e: str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    "nclg": lambda r, p, e: str(len(r.tree.open_catalogs)),
    "ndownload": _counter("requests"),
    "pid": lambda r, p, e: str(os.getpid()),
    "proxy": _active_proxy,
    "proxy_list": _proxy_list,
    "proxy_list_external": lambda r, p, e: r.config.get("CVMFS_EXTERNAL_HTTP_PROXY") or "DIRECT",
    "pubkeys": lambda r, p, e: r.config.get("CVMFS_PUBLIC_KEY"),
    "repo_counters": _repo_counters,
    "repo_metainfo": lambda r, p, e: r.metainfo().decode("utf-8", "replace"),
    "revision": lambda r, p, e: str(r.revision),
    "root_hash": lambda r, p, e: str(r.root_hash),
    "rx": lambda r, p, e: str(int(r.network_status().get("counters", {}).get("bytes", 0)) // 1024),
    "tag": lambda r, p, e: r.tag.name if r.tag is not None else "",
    "timeout": lambda r, p, e: r.config.get("CVMFS_TIMEOUT"),
    "timeout_direct": lambda r, p, e: r.config.get("CVMFS_TIMEOUT_DIRECT"),
    "usedfd": lambda r, p, e: str(len(os.listdir("/proc/self/fd"))),
    "uptime": lambda r, p, e: str(int(time.time() - r.opened_at) // 60),
    "version": lambda r, p, e: VERSION,
}
_HASHED: dict[str, _Maker] = {"hash": lambda r, p, e: str(e.hash or ""), "lhash": _lhash}
_REGULAR: dict[str, _Maker] = {
    "chunk_list": _chunk_list,
    "chunks": lambda r, p, e: str(len(r.tree.chunks(p, e)) if e.is_chunked else 1),
    "compression": _compression,
    "direct_io": lambda r, p, e: _bool(e.direct_io),
    "external_file": lambda r, p, e: _bool(e.is_external),
}
_LINK: dict[str, _Maker] = {"rawlink": lambda r, p, e: os.fsdecode(e.symlink)}


def _makers(entry: Entry, repository: Repository) -> dict[str, _Maker]:
    found = dict(_ANY)
    if repository.tree.root.authz:
        found["authz"] = lambda r, p, e: r.tree.root.authz
    if entry.is_file:
        found.update(_REGULAR)
        if entry.is_external:
            found["external_url"] = lambda r, p, e: (
                (r.config.items("CVMFS_EXTERNAL_URL", ";") or [""])[0] + os.fsdecode(p)
            )
    if entry.digest:
        found.update(_HASHED)
    if entry.is_link:
        found.update(_LINK)
    return found


def synthetic(repository: Repository, path: bytes, entry: Entry, name: str) -> bytes | None:
    """The value of a synthetic attribute; None if there is none of that name."""
    prefix, _, rest = name.partition(".")
    if prefix == "xfsroot" and rest == "rawlink":
        prefix = "user"
    if prefix != "user":
        return None
    maker = _makers(entry, repository).get(rest)
    return os.fsencode(maker(repository, path, entry)) if maker is not None else None


def listed(repository: Repository, path: bytes, entry: Entry) -> list[str]:
    """Names of the synthetic attributes that a listing shows: on the root only, unless configured
    otherwise."""
    visibility = repository.config.get("CVMFS_MAGIC_XATTRS_VISIBILITY").lower()
    if repository.config.boolean("CVMFS_HIDE_MAGIC_XATTRS") and not repository.config.is_set(
        "CVMFS_MAGIC_XATTRS_VISIBILITY"
    ):
        visibility = "never"
    if visibility == "never" or (visibility != "always" and path):
        return []
    return ["user." + name for name in _makers(entry, repository)]
