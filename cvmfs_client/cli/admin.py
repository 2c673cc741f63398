"""The words of cvmfs_config and cvmfs_talk: probe, stat, showconfig, chksetup, reload, host, proxy."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from .. import checks, choices
from ..errors import CvmfsError, UsageError
from ..parts import make_store
from ..repository import Repository
from .common import configuration, json_out, named, open_repository, out, parse_location, time_text


def probe(options: argparse.Namespace) -> int:
    """Opens each repository and lists its root."""
    status = 0
    results: list[dict[str, Any]] = []
    for fqrn in named(options):
        if not options.json:
            out(f"Probing /cvmfs/{fqrn}... ", "")
        try:
            with open_repository(options, fqrn) as repository:
                repository.listdir("/")
                results.append({"fqrn": fqrn, "ok": True, "revision": repository.revision})
            if not options.json:
                out("OK")
        except CvmfsError as e:
            status = status or e.status
            results.append({"fqrn": fqrn, "ok": False, "error": str(e), "status": e.status})
            if not options.json:
                out("Failed!")
                out(f"  {e}")
    if options.json:
        json_out(results)
    # one repository: why; several: that something failed
    return status if len(results) == 1 else int(status != 0)


_COLUMNS = [
    "VERSION",
    "PID",
    "UPTIME(M)",
    "MEM(K)",
    "REVISION",
    "EXPIRES(M)",
    "NOCATALOGS",
    "CACHEUSE(K)",
    "CACHEMAX(K)",
    "NOFDUSE",
    "NOFDMAX",
    "NOIOERR",
    "NOOPEN",
    "HITRATE(%)",
    "RX(K)",
    "SPEED(K/S)",
    "HOST",
    "PROXY",
    "ONLINE",
]


def _numbers(repository: Repository) -> dict[str, Any]:
    import resource

    network, cache = repository.network_status(), repository.store.status()
    counters = network.get("counters", {})
    hits, misses = int(cache.get("hits", 0)), int(cache.get("misses", 0))
    host = repository.getxattr("/", "user.host").decode("utf-8", "replace")
    proxy = repository.getxattr("/", "user.proxy").decode("utf-8", "replace")
    received, seconds = int(counters.get("bytes", 0)), float(counters.get("seconds", 0) or 0)
    expires = repository.getxattr("/", "user.expires").decode()
    values = (
        repository.getxattr("/", "user.version").decode(),
        os.getpid(),
        int(time.time() - repository.opened_at) // 60,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        repository.revision,
        expires if expires.isdigit() else "never",
        len(repository.tree.open_catalogs),
        int(cache.get("bytes", 0) or 0) // 1024,
        int(cache.get("limit", 0) or 0) // 1024,
        len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        0,
        0,
        round(100 * hits / (hits + misses)) if hits + misses else 100,
        received // 1024,
        round(received / 1024 / seconds) if seconds else 0,
        host,
        proxy,
        int(bool(network.get("online"))),
    )
    return dict(zip(_COLUMNS, values))


def config_stat(options: argparse.Namespace) -> int:
    """The table of `cvmfs_config stat`."""
    for word in options.location:
        with open_repository(options, parse_location(word).fqrn) as repository:
            n = _numbers(repository)
            root_hash = str(repository.root_hash)
        if options.json:
            json_out({**n, "ROOT_HASH": root_hash})
        elif not options.verbose:
            out(" ".join(_COLUMNS))
            out(" ".join(str(n[c]) for c in _COLUMNS))
        else:
            _verbose(n, root_hash)
    return 0


def _verbose(n: dict[str, Any], root_hash: str) -> None:
    online = "online" if n["ONLINE"] else "offline"
    for text in (
        f"Version: {n['VERSION']}",
        f"PID: {n['PID']}",
        f"Uptime: {n['UPTIME(M)']} minutes",
        f"Memory Usage: {n['MEM(K)']}k",
        f"File Catalog Revision: {n['REVISION']} (expires in {n['EXPIRES(M)']} minutes)",
        f"File Catalog ID: {root_hash}",
        f"No. Active File Catalogs: {n['NOCATALOGS']}",
        f"Cache Usage: {n['CACHEUSE(K)']}k / {n['CACHEMAX(K)']}k",
        f"File Descriptor Usage: {n['NOFDUSE']} / {n['NOFDMAX']}",
        f"No. IO Errors: {n['NOIOERR']}",
        f"Connection: {n['HOST']} through proxy {n['PROXY']} ({online})",
        f"Usage: {n['NOOPEN']} open() calls (hitrate {n['HITRATE(%)']}%)",
        f"Transfer Statistics: {n['RX(K)']}k read, avg. speed: {n['SPEED(K/S)']}k/s",
    ):
        out(text)


def showconfig(options: argparse.Namespace) -> int:
    """All parameters with the file or argument that set them."""
    everything: dict[str, Any] = {}
    for fqrn in named(options):
        config = configuration(options, fqrn)
        rows = config.show(empty=not options.short)
        if options.json:
            everything[config.fqrn] = {name: {"value": value, "from": source} for name, value, source in rows}
            continue
        out(f"CVMFS_REPOSITORY_NAME={config.fqrn}")
        for name, value, source in rows:
            out(f"{name}={value}{f'    # from {source}' if source else ''}")
    if options.json:
        json_out(everything)
    return 0


def chksetup(options: argparse.Namespace) -> int:
    """Looks for mistakes; OK where there are none."""
    found: list[tuple[str, str]] = []
    names = named(options)
    for fqrn in names:
        try:
            config = configuration(options, fqrn)
        except CvmfsError as e:
            found.append(("Error", str(e)))
            continue
        found += checks.check(config, keys=options.key)
    if options.json:
        json_out([{"level": level.lower(), "message": text} for level, text in found])
    else:
        for level, text in found:
            out(f"{level}: {text}")
        if not found:
            out("OK")
    return int(any(level == "Error" for level, _ in found))


def reload(options: argparse.Namespace) -> int:
    """Fetches the manifest; programs that open the repository from now on see that revision."""
    results: list[dict[str, Any]] = []
    status = 0
    for fqrn in named(options):
        with open_repository(options, fqrn) as repository:
            opened = repository.opened
            row = {
                "fqrn": fqrn,
                "revision": repository.revision,
                "published": repository.status()["published"],
                "origin": opened.origin if opened is not None else "fixed",
                "reason": opened.reason if opened is not None else "",
            }
        results.append(row)
        if row["origin"] not in ("server", "fixed"):
            status = 1
        if not options.json:
            note = f", kept: {row['reason']}" if row["reason"] else ""
            out(f"{fqrn}: revision {row['revision']} of {time_text(row['published'])} UTC{note}")
    if options.json:
        json_out(results)
    return status


# what is done for the words of `host` and `proxy`: method of the fetcher, whether it is a choice to be kept
_ACTIONS: dict[str, dict[str, tuple[str, bool]]] = {
    "host": {
        "info": ("", False),
        "probe": ("probe", False),
        "probe geo": ("probe_geo", False),
        "switch": ("switch_host", True),
        "reset": ("", False),
    },
    "proxy": {
        "info": ("", False),
        "probe": ("probe", False),
        "rebalance": ("rebalance_proxies", False),
        "switch": ("switch_proxy_group", True),
        "group switch": ("switch_proxy_group", True),
        "reset": ("", False),
    },
}


def _network(options: argparse.Namespace) -> dict[str, Any]:
    """Does what the words say, and gives what is known of the network then."""
    *words, place = options.words
    fqrn = parse_location(place).fqrn
    kind = "hosts" if options.verb == "host" else "proxies"
    action = " ".join(words)
    values: list[str] = []
    if words[:1] == ["set"] and len(words) == 2:
        values = words[1].split(";") if kind == "hosts" else [words[1]]
    elif action not in _ACTIONS[options.verb]:
        known = ", ".join([*_ACTIONS[options.verb], "set LIST"])
        raise UsageError(
            f"there is no `{options.verb} {action}`", f"known are {known}, each followed by FQRN"
        )
    if action == "reset":
        config = configuration(options, fqrn)
        store = make_store(config, offline=True, explicit_server=False, cache=options.cache)
        choices.forget(config, store, kind)
        store.close()
    with open_repository(options, fqrn) as repository:
        fetcher: Any = repository.fetcher
        if fetcher is None:
            raise UsageError("working offline: there is no network to look at")
        if values:
            fetcher.use_hosts(values) if kind == "hosts" else fetcher.use_proxies(values[0])
        else:
            method, _ = _ACTIONS[options.verb][action]
            if method:
                getattr(fetcher, method)()
        seconds = 0.0
        if values or _ACTIONS[options.verb][action][1]:
            seconds = choices.save(repository.config, repository.store, fetcher, kind)
        status: dict[str, Any] = {**fetcher.status(), "chosen_for": seconds}
        return status


def _switches(status: dict[str, Any]) -> None:
    for switch in status.get("switches", []):
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(switch["time"]))
        out(f"  {stamp} UTC  {switch['from']} -> {switch['to']}: {switch['reason']}")


def _kept(status: dict[str, Any]) -> None:
    if status["chosen_for"]:
        out(f"Kept for {status['chosen_for']:.0f} s, for all who use this cache")


def host(options: argparse.Namespace) -> int:
    """The servers in their order, with round-trip times where they were measured."""
    status = _network(options)
    if options.json:
        json_out({"hosts": status["hosts"], "online": status["online"], "switches": status["switches"]})
        return 0
    for number, row in enumerate(status["hosts"]):
        rtt = f"{row['rtt_ms']:.0f} ms" if row.get("rtt_ms") is not None else "unprobed"
        out(f"[{number}] {row['url']} ({rtt})")
    active = [i for i, row in enumerate(status["hosts"]) if row["active"]]
    if active:
        out(f"Active host {active[0]}: {status['hosts'][active[0]]['url']}")
    _kept(status)
    _switches(status)
    return 0


def proxy(options: argparse.Namespace) -> int:
    """The proxy groups; the one in use is marked."""
    status = _network(options)
    if options.json:
        json_out({"proxies": status["proxies"], "online": status["online"], "switches": status["switches"]})
        return 0
    out("Load-balance groups:")
    active = ""
    for number, group in enumerate(status["proxies"]):
        out(f"[{number}] {', '.join(p['url'] for p in group)}")
        active = next((p["url"] for p in group if p["active"]), active)
    out(f"Active proxy: {active or 'none'}")
    _kept(status)
    _switches(status)
    return 0
