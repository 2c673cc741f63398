"""Garbage collection of a published repository, and the care of its tags and whitelist."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from typing import NamedTuple

from ..entry import FLAG_CHUNKED, FLAG_DIRECTORY, FLAG_EXTERNAL, FLAG_HASH_SHIFT
from ..errors import FormatError, UsageError
from ..hash import (
    CATALOG_ALGORITHMS,
    SUFFIX_CATALOG,
    SUFFIX_CERTIFICATE,
    SUFFIX_HISTORY,
    SUFFIX_METAINFO,
    SUFFIX_PARTIAL,
    Hash,
)
from . import history
from .history import REF_CATALOG, REF_HISTORY, Reflog
from .keys import RepositoryKeys, check_days
from .objects import ObjectStorage, PublishError
from .previous import read_manifest
from .publisher import publisher_lock, write_file, write_manifest

_DAYS = 3.0  # that an untagged revision is kept: clients may still be reading it


class CollectResult(NamedTuple):
    """What a collection did, or with ``dry_run`` would do; bytes as stored."""

    kept_revisions: int
    removed_revisions: int
    removed_objects: int
    removed_bytes: int
    kept_objects: int


def collect(
    repository: str,
    *,
    keys: str | RepositoryKeys,
    days: float = _DAYS,
    remove_tags: Iterable[str] = (),
    dry_run: bool = False,
) -> CollectResult:
    """Removes what no kept revision needs. Kept are the head, the one before, the tagged ones, and those
    published in the last ``days``. ``remove_tags`` are forgotten first.

    Raises PublishError, ConfigError, UsageError; nothing is removed then. May be killed at any moment: what
    is left over is found by the next collection."""
    check_days(days)
    fields, storage, keys = _open(repository, keys)
    with publisher_lock(repository, fields["N"]):
        storage.prepare()
        fields = read_manifest(repository) or fields
        if fields.get("G") != "yes":
            raise UsageError(
                f"{fields['N']} is not marked as garbage collectable",
                "publish it with garbage_collectable=True, if nobody depends on old revisions by hash",
            )
        tags = _without(history.read_tags(storage, fields.get("H")), set(remove_tags))
        reflog = Reflog(storage, fields["N"])
        try:
            return _collect(storage, keys, fields, tags, reflog, days=days, dry_run=dry_run)
        finally:
            reflog.close()


def _open(
    repository: str, keys: str | RepositoryKeys
) -> tuple[dict[str, str], ObjectStorage, RepositoryKeys]:
    fields = read_manifest(repository)
    if fields is None or "N" not in fields:
        raise PublishError(f"there is no repository in {repository}")
    if isinstance(keys, str):
        keys = RepositoryKeys.load(keys, fields["N"])
    algorithm = Hash.parse(fields["C"]).algorithm
    return fields, ObjectStorage(repository, algorithm=algorithm), keys


def _without(tags: list[history.TagRow], names: set[str]) -> list[history.TagRow]:
    if names & {history.TRUNK, history.TRUNK_PREVIOUS}:
        raise UsageError("the tags of the head cannot be removed")
    missing = names - {t.name for t in tags}
    if missing:
        raise UsageError(f"there is no tag {sorted(missing)[0]!r}")
    return [t for t in tags if t.name not in names]


def _collect(
    storage: ObjectStorage,
    keys: RepositoryKeys,
    fields: dict[str, str],
    tags: list[history.TagRow],
    reflog: Reflog,
    *,
    days: float,
    dry_run: bool,
) -> CollectResult:
    limit = time.time() - days * 86400
    references = reflog.entries()
    named = {fields["C"]} | {t.hash for t in tags}
    recent = {name for name, kind, when in references if kind == REF_CATALOG and when >= limit}
    marker = _Marker(storage)
    roots = 0
    for name in sorted(named | recent):
        root = Hash.parse(name, SUFFIX_CATALOG)
        if name not in named and not os.path.exists(os.path.join(storage.root, root.path)):
            continue  # collected before, and killed before that was written down
        marker.mark(root)
        roots += 1
    dropped = [n for n, kind, _ in references if kind == REF_CATALOG and n not in named | recent]
    head = fields.get("H", "")
    rewritten = bool(dropped) or sorted(history.read_tags(storage, head)) != sorted(tags)
    if rewritten and dry_run:
        fields = {**fields, "H": ""}
    elif rewritten:
        database = history.write_history(storage, fields["N"], tags, head or history.NO_PREVIOUS)
        fields = {**fields, "H": str(database)}
        # forgotten first, removed after: a killed collection never leaves a name that leads nowhere
        reflog.remove([*dropped, *(n for n, kind, _ in references if kind == REF_HISTORY)])
        reflog.add(database, REF_HISTORY, int(time.time()))
        write_manifest(storage, keys, {k: v for k, v in fields.items() if k != "Y"}, reflog)
    for letter, suffix in (("H", SUFFIX_HISTORY), ("X", SUFFIX_CERTIFICATE), ("M", SUFFIX_METAINFO)):
        if fields.get(letter):
            marker.keep(Hash.parse(fields[letter], suffix))
    objects, size, kept = _sweep(storage, marker, dry_run=dry_run)
    return CollectResult(roots, len(dropped), objects, size, kept)


class _Marker:
    """Collects the names of all objects that revisions need."""

    def __init__(self, storage: ObjectStorage) -> None:
        self._storage = storage
        self._seen: set[Hash] = set()
        self.needed: set[bytes] = set()  # digest and suffix: what distinguishes file names

    def keep(self, name: Hash) -> None:
        self.needed.add(name.digest + name.suffix.encode("ascii"))

    def mark(self, root: Hash) -> None:
        waiting = [root]
        while waiting:
            name = waiting.pop()
            if name in self._seen:
                continue
            self._seen.add(name)
            self.keep(name)
            waiting += self._read(name)

    def _read(self, name: Hash) -> list[Hash]:
        data = self._storage.read(name)
        scratch = self._storage.scratch()
        with open(scratch, "wb") as file:
            file.write(data)
        database = sqlite3.connect(f"file:{scratch}?mode=ro&immutable=1", uri=True)
        try:
            for digest, flags in database.execute("SELECT hash, flags FROM catalog WHERE length(hash) > 0"):
                if not flags & (FLAG_DIRECTORY | FLAG_EXTERNAL):
                    self.keep(Hash(CATALOG_ALGORITHMS[flags >> FLAG_HASH_SHIFT & 7], digest))
            pieces = database.execute(
                "SELECT c.hash, f.flags FROM chunks c JOIN catalog f USING (md5path_1, md5path_2)"
            )
            for digest, flags in pieces:
                if flags & FLAG_CHUNKED and not flags & FLAG_EXTERNAL:
                    self.keep(Hash(CATALOG_ALGORITHMS[flags >> FLAG_HASH_SHIFT & 7], digest, SUFFIX_PARTIAL))
            below = [row[0] for row in database.execute("SELECT sha1 FROM nested_catalogs")]
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
            if "bind_mountpoints" in tables:
                below += [row[0] for row in database.execute("SELECT sha1 FROM bind_mountpoints")]
            return [Hash.parse(text, SUFFIX_CATALOG) for text in below]
        except (sqlite3.Error, IndexError, FormatError) as error:
            raise PublishError(f"the catalog {name} cannot be read: {error}") from error
        finally:
            database.close()
            os.unlink(scratch)


def _sweep(storage: ObjectStorage, marker: _Marker, *, dry_run: bool) -> tuple[int, int, int]:
    """(objects removed, bytes, objects kept). What is no object is left alone."""
    removed = size = kept = 0
    for i in range(256):
        directory = os.path.join(storage.root, "data", f"{i:02x}")
        with os.scandir(directory) as entries:
            for entry in entries:
                text = f"{i:02x}{entry.name}"
                suffix = text[-1] if text[-1].isupper() else ""
                try:
                    name = Hash.parse(text[: len(text) - len(suffix)], suffix)
                except FormatError:
                    continue
                if name.digest + suffix.encode("ascii") in marker.needed:
                    kept += 1
                    continue
                removed += 1
                size += entry.stat(follow_symlinks=False).st_size
                if not dry_run:
                    os.unlink(entry.path)
    return removed, size, kept


def renew_whitelist(repository: str, *, keys: str | RepositoryKeys, days: float = 30) -> None:
    """Signs a new whitelist, valid for ``days``. Raises ConfigError without the master key."""
    check_days(days)
    fields, storage, keys = _open(repository, keys)
    with publisher_lock(repository, fields["N"]):
        storage.prepare()
        path = os.path.join(repository, ".cvmfswhitelist")
        write_file(storage, path, keys.whitelist(days, storage.algorithm))
