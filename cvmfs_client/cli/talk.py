"""The words of cvmfs_talk. There is no client in the background to talk to: each is answered by a fresh look,
or done to what all processes share (the cache, and the servers and proxies that were chosen)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Callable, Optional

from ..errors import UsageError
from ..magic import VERSION
from ..repository import Repository
from . import arguments
from .common import json_out, named, open_repository, out, parse_location

# -> the words of our own command
_VERBS: dict[str, Sequence[str]] = {
    "cache list": ("cache", "list"),
    "cache list pinned": ("cache", "list", "--pinned"),
    "cache list catalogs": ("cache", "list", "--catalogs"),
    "cache size": ("cache", "size"),
    "remount": ("reload",),
    "remount sync": ("reload",),
    "parameters": ("showconfig",),
    "host info": ("host", "info"),
    "host probe": ("host", "probe"),
    "host probe geo": ("host", "probe", "geo"),
    "host switch": ("host", "switch"),
    "proxy info": ("proxy", "info"),
    "proxy rebalance": ("proxy", "rebalance"),
    "proxy group switch": ("proxy", "group", "switch"),
    "internal affairs": ("stat", "-v"),
}
# the same with one more word, that goes to the given place
_WITH_ARGUMENT: dict[str, Callable[[str, str], Sequence[str]]] = {
    "host set": lambda fqrn, value: ("host", "set", value, fqrn),
    "proxy set": lambda fqrn, value: ("proxy", "set", value, fqrn),
    "cleanup": lambda fqrn, value: ("cache", "gc", "--limit", f"{value}M", fqrn),
    "evict": lambda fqrn, value: ("cache", "evict", f"{fqrn}:{value}"),
    "pin": lambda fqrn, value: ("cache", "pin", f"{fqrn}:{value}"),
}
# what only a mounted client has
_MOUNTED = (
    "tracebuffer flush", "drop metadata caches", "detach nested catalogs", "reset error counters", "chroot",
    "hotpatch history", "latency", "device id", "cleanup rate", "cache limit set", "timeout set",
    "external timeout set", "max ttl set", "nameserver set", "proxy fallback", "external host switch",
    "external host set", "external host probe", "external proxy rebalance", "external proxy group switch",
    "external proxy set", "external proxy fallback", "pid cachemgr", "pid watchdog",
)  # fmt: skip


def _timeouts(repository: Repository, prefix: str) -> list[str]:
    proxied, direct = (
        repository.config.get(f"{prefix}TIMEOUT{kind}") or repository.config.get(f"CVMFS_TIMEOUT{kind}")
        for kind in ("", "_DIRECT")
    )
    return [f"Timeout with proxy: {proxied}", f"Timeout without proxy: {direct}"]


def _magic(name: str) -> Callable[[Repository], list[str]]:
    return lambda r: r.getxattr("/", f"user.{name}").decode("utf-8", "replace").splitlines()


_ANSWERS: dict[str, Callable[[Repository], list[str]]] = {
    "version": lambda r: [VERSION],
    "version patchlevel": lambda r: [f"{VERSION} patchlevel 0"],
    "pid": lambda r: [str(os.getpid())],
    "mountpoint": lambda r: [f"{r.config.get('CVMFS_MOUNT_DIR')}/{r.fqrn}"],
    "revision": lambda r: [str(r.revision)],
    "max ttl info": lambda r: [r.config.get("CVMFS_MAX_TTL") or "unset"],
    "nameserver get": lambda r: [r.config.get("CVMFS_DNS_SERVER") or "as the system is configured"],
    "cache instance": lambda r: [f"{k}: {r.store.status().get(k)}" for k in ("kind", "directory")],
    "cache limit get": lambda r: [f"Quota limit is {int(r.store.status().get('limit') or 0) >> 20}MB"],
    "timeout info": lambda r: _timeouts(r, "CVMFS_"),
    "external timeout info": lambda r: _timeouts(r, "CVMFS_EXTERNAL_"),
    "external host info": _magic("external_host"),
    "external proxy info": _magic("proxy_list_external"),
    "open catalogs": lambda r: [
        f"{os.fsdecode(c.mountpoint) or '/'} (hash: {c.hash})" for c in r.tree.open_catalogs
    ],
}


def talk(options: argparse.Namespace) -> int:
    """cvmfs_talk [-i FQRN] WORD..."""
    text = " ".join(options.words)
    if options.instance:
        fqrn = parse_location(options.instance).fqrn
    else:
        options.location = []
        names = named(options)
        if len(names) > 1:
            raise UsageError("several repositories are configured", "name one with -i FQRN")
        fqrn = names[0]
    if text in _ANSWERS:
        with open_repository(options, fqrn) as repository:
            lines = _ANSWERS[text](repository)
        if options.json:
            json_out(lines)
        else:
            out("\n".join(lines))
        return 0
    words = _other_verb(fqrn, options.words)
    if words is None:
        if any(text == m or text.startswith(m + " ") for m in _MOUNTED):
            raise UsageError(
                f"`{text}` changes a mounted client, and there is none",
                "set the parameter in the configuration",
            )
        known = ", ".join([*_VERBS, *(f"{w} ..." for w in _WITH_ARGUMENT), *_ANSWERS])
        raise UsageError(f"there is no `talk {text}`", f"known are {known}")
    chosen = arguments.parse(options.prog, [*words])
    for name, value in vars(options).items():
        if name not in ("words", "instance", "location", "verb"):
            setattr(chosen, name, value)
    return arguments.handler(chosen)(chosen)


def _other_verb(fqrn: str, words: Sequence[str]) -> Optional[Sequence[str]]:
    text = " ".join(words)
    if text in _VERBS:
        return [*_VERBS[text], fqrn]
    make = _WITH_ARGUMENT.get(" ".join(words[:-1]))
    return make(fqrn, words[-1]) if make is not None else None
