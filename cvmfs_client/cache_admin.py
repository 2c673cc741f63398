"""What `cache status|list|evict|pin|fsck|gc` do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Callable, Optional

from .cache_layout import SIDECAR, VOLATILE_SHIFT, Directory, digest_of
from .cache_verify import matches_hash
from .errors import CacheError, FormatError
from .hash import Hash
from .interfaces import Request

if TYPE_CHECKING:
    from .cache import ObjectStore

_KINDS = {"": "file", "P": "chunk", "C": "catalog", "H": "history", "X": "certificate", "M": "metainfo"}


def status(store: ObjectStore) -> dict[str, Any]:
    """The state of the cache, JSON-able; sizes in bytes."""
    upper = store.upper
    result: dict[str, Any] = {
        "directory": upper.path if upper is not None else None,
        "kind": store.kind,
        "bytes": 0,
        "limit": None,
        "pinned": 0,
        "evicted": 0,
        "entries": 0,
        "free_disk": None,
        "tiers": [{"directory": d.path, "writable": d.writable} for d in store.tiers],
        "streaming": store.streaming,
        **store.counters,
    }
    if store.quota is not None and upper is not None:
        items = list(upper.items())
        result.update(store.quota.status())
        result["bytes"] = sum(item.size for item in items)
        result["entries"] = len(items)
        try:
            result["free_disk"] = upper.free_bytes()
        except OSError:
            pass
    return result


def entries(store: ObjectStore) -> Iterator[dict[str, Any]]:
    """All objects of all tiers: {hash, size, path, kind, pinned, last_used, directory}."""
    paths = store.state.paths()
    pinned = store.quota.pinned() if store.quota is not None else set()
    seen: set[str] = set()
    for tier in store.tiers:
        for item in tier.items():
            if item.name in seen:
                continue
            seen.add(item.name)
            kind = ""
            fd = tier.open(Hash.parse(item.name))
            if fd >= 0:
                record = tier.record(Hash.parse(item.name), fd)
                os.close(fd)
                kind = _KINDS.get(record.kind, "unknown") if record is not None else "unknown"
            # an object of a volatile repository is filed decades early
            used = item.used + (VOLATILE_SHIFT if item.used < time.time() - VOLATILE_SHIFT / 2 else 0)
            yield {
                "hash": item.name,
                "size": item.size,
                "path": paths.get(item.name, ""),
                "kind": kind,
                "pinned": item.name in pinned,
                "last_used": used,
                "directory": tier.path,
            }


def _writable(store: ObjectStore) -> Directory:
    if store.upper is None:
        raise CacheError("this cache is read-only" if store.tiers else "there is no cache")
    return store.upper


def evict(store: ObjectStore, hashes: Iterable[Hash]) -> int:
    """Removes objects, pinned or not; returns bytes freed. Raises CacheError."""
    upper = _writable(store)
    hashes = list(hashes)
    freed = 0
    for name in hashes:
        try:
            size = os.stat(upper.object_path(name), follow_symlinks=False).st_size
        except OSError:
            continue
        if upper.remove(str(name)):
            freed += size
            store._verified.pop(name.digest, None)
    if store.quota is not None:
        store.quota.unpin(hashes)
        store.quota.added(-freed)
    return freed


def pin(store: ObjectStore, requests: list[Request]) -> None:
    """Fetches and pins; what cannot be fetched is an error, and the rest stays pinned."""
    upper = _writable(store)
    if store.quota is None:
        return
    store.quota.pin(r.hash for r in requests)
    copied = [r for r in requests if not os.path.exists(upper.object_path(r.hash))]
    failed = store.ensure(copied)
    if failed:
        store.quota.unpin(r.hash for r, _ in failed)
        raise failed[0][1]


def fsck(
    store: ObjectStore, *, repair: bool = True, progress: Optional[Callable[[int], Any]] = None
) -> dict[str, Any]:
    """Reads every object of every tier and compares with its record, or its hash where there is none.

    {checked, bytes, bad: [hash], repaired, unsure: [hash]}: bad ones of the writable tier are removed with
    ``repair``. ``unsure``: without a record, and not what zlib makes of it; from another client they may be
    sound."""
    result: dict[str, Any] = {"checked": 0, "bytes": 0, "bad": [], "repaired": 0, "unsure": []}
    for tier in store.tiers:
        for item in tier.items():
            try:
                name = Hash.parse(item.name)
            except FormatError:
                continue
            fd = tier.open(name)
            if fd < 0:
                continue
            try:
                verdict = _judge(tier, name, fd)
            except OSError:
                verdict = "bad"
            finally:
                os.close(fd)
            result["checked"] += 1
            result["bytes"] += item.size
            if verdict == "unsure" and (tier.shared or not tier.writable):
                result["unsure"].append(item.name)
            elif verdict != "good":
                result["bad"].append(item.name)
                if repair and tier.writable and tier.remove(item.name):
                    result["repaired"] += 1
                    store._verified.pop(name.digest, None)
            if progress is not None:
                progress(item.size)
    if store.quota is not None:
        store.quota.scan()
    return result


def _judge(tier: Directory, name: Hash, fd: int) -> str:
    record = tier.record(name, fd)
    if record is not None:
        return "good" if record.size == os.fstat(fd).st_size and record.digest == digest_of(fd) else "bad"
    return "good" if matches_hash(fd, name) else "unsure"


def gc(store: ObjectStore, *, limit: Optional[int] = None) -> dict[str, Any]:
    """Evicts down to ``limit`` bytes (half the quota by default), sweeps left-overs; {freed, left}."""
    upper = _writable(store)
    quota = store.quota
    assert quota is not None
    freed = upper.sweep() + _sweep_sidecars(upper)
    goal = limit if limit is not None else (quota.limit // 2 if quota.limit else None)
    if goal is not None:
        freed += quota.evict_to(goal)
    present = {item.name for item in upper.items()}
    store.state.compact(present)
    return {"freed": freed, "left": quota.scan()}


def _sweep_sidecars(upper: Directory) -> int:
    for i in range(256):
        place = f"{upper.path}/{i:02x}"
        try:
            names = os.listdir(place)
        except OSError:
            continue
        known = set(names)
        for name in names:
            if SIDECAR in name and name.partition(SIDECAR)[0] not in known:
                try:
                    os.unlink(f"{place}/{name}")
                except OSError:
                    pass
    return 0
