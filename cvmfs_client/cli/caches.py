"""The verb `cache`."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

from ..bulk import files_below
from ..errors import UsageError
from ..hash import Hash
from ..interfaces import Request, Store
from ..parts import make_store
from .common import (
    Counter,
    Repositories,
    configuration,
    json_lines,
    json_out,
    locations,
    name_out,
    out,
    parse_location,
    parse_size,
    size_text,
    time_text,
)


def cache(options: argparse.Namespace) -> int:
    """cache status|list|evict|pin|unpin|fsck|gc."""
    action = {"size": "status"}.get(options.action, options.action)
    if action in ("pin", "unpin", "evict"):
        return _change(options, action)
    # which cache it is depends on the repository only where the configuration says so
    fqrn = parse_location(options.location[0]).fqrn if options.location else "cache.local"
    store = make_store(configuration(options, fqrn), offline=True, explicit_server=False, cache=options.cache)
    try:
        return {"status": _status, "list": _list, "fsck": _fsck, "gc": _gc}[action](options, store)
    finally:
        store.close()


def _status(options: argparse.Namespace, store: Store) -> int:
    status = store.status()
    if options.json:
        json_out(status)
        return 0
    used, pinned = int(status.get("bytes") or 0), int(status.get("pinned") or 0)
    out(f"Current cache size is {used >> 20}MB ({used} Bytes), pinned: {pinned >> 20}MB ({pinned} Bytes)")
    for name, value in status.items():
        if name not in ("bytes", "pinned") and value not in (None, [], {}):
            out(f"{name.replace('_', ' ') + ':':<12} {name_out(str(value))}")
    return 0


def _list(options: argparse.Namespace, store: Store) -> int:
    rows = (
        row
        for row in store.entries()
        if (row.get("pinned") or not options.pinned)
        and (row.get("kind") == "catalog" or not options.catalogs)
    )
    if options.json:
        json_lines(rows)
        return 0
    for row in rows:
        path = row.get("path") or ""
        text = os.fsdecode(path) if isinstance(path, bytes) else str(path)
        used = time_text(int(row.get("last_used") or 0))
        pin = "*" if row.get("pinned") else " "
        out(f"{row['hash']} {pin} {row['size']:>12}  {used}  {row.get('kind', ''):<8} {name_out(text)}")
    return 0


def _fsck(options: argparse.Namespace, store: Store) -> int:
    with Counter(options, "checking") as progress:
        result = store.fsck(repair=not options.no_repair, progress=progress)
    bad = list(result.get("bad", []))
    if options.json:
        json_out({**result, "bad": [str(b) for b in bad]})
    else:
        for identity in bad:
            out(f"damaged: {identity}")
        checked, repaired = result.get("checked", 0), result.get("repaired", 0)
        out(f"{checked} objects checked, {len(bad)} damaged, {repaired} removed")
    return int(bool(bad) and options.no_repair)


def _gc(options: argparse.Namespace, store: Store) -> int:
    result = store.gc(limit=parse_size(options.limit) if options.limit else None)
    if options.json:
        json_out(result)
    else:
        freed, left = int(result.get("freed", 0)), int(result.get("left", 0))
        out(f"{size_text(freed, True)} freed, {size_text(left, True)} left")
    return 0


def _change(options: argparse.Namespace, action: str) -> int:
    """pin, unpin and evict: what paths need, or objects by their hash."""
    if not options.location:
        raise UsageError(f"nothing to {action}", "name a path or a hash")
    hashes = [w for w in options.location if re.fullmatch(r"[0-9a-f]{40}(-rmd160|-shake128)?", w)]
    paths = [w for w in options.location if w not in hashes]
    if hashes and action == "pin":
        raise UsageError("a hash does not say what it is the hash of", "name the path to pin")
    count = freed = 0
    if hashes:
        store = make_store(
            configuration(options, "cache.local"), offline=True, explicit_server=False, cache=options.cache
        )
        try:
            identities = [Hash.parse(h) for h in hashes]
            if action == "evict":
                freed += store.evict(identities)
            else:
                store.unpin(identities)
            count += len(identities)
        finally:
            store.close()
    with Repositories(options) as repositories:
        for location in locations(paths):
            repository = repositories(location.fqrn)
            requests: list[Request] = []
            for path, entry in files_below(repository, [os.fsencode(location.path)], recursive=True):
                requests += repository.tree.requests(path, entry)
            count += len(requests)
            freed += _apply(repository.store, action, requests)
    row: dict[str, Any] = {"objects": count}
    if action == "evict":
        row["freed"] = freed
    if options.json:
        json_out(row)
    else:
        done = {"evict": "evicted", "pin": "pinned", "unpin": "unpinned"}[action]
        out(f"{count} objects {done}" + (f", {size_text(freed, True)} freed" if action == "evict" else ""))
    return 0


def _apply(store: Store, action: str, requests: list[Request]) -> int:
    if action == "pin":
        store.pin(requests)
    elif action == "unpin":
        store.unpin([r.hash for r in requests])
    else:
        return store.evict([r.hash for r in requests])
    return 0
