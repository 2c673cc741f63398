"""Collection of what nobody needs, beside any number of pulls and runs.

Nothing is removed that a reference, a container or a live lease names. A tree is first marked as condemned,
then leases are read, then it goes (:mod:`udk.store.leases`); blobs go to the trash, then the roots are read
once more, and what has come to be needed meanwhile is put back. Killed anywhere, it leaves a sound store.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from udk.base import jsonlite
from udk.base.files import atomic_write, store_error
from udk.base.locks import Lock
from udk.base.process import FOREIGN_SECONDS, own_identity
from udk.base.remove import remove_tree
from udk.errors import StoreError
from udk.store import leases
from udk.store.roots import find_roots
from udk.store.settle import settle
from udk.store.trash import due, to_trash
from udk.store.usage import disk_usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from udk.store.store import Store

PARTIAL_SECONDS = 7 * 86400.0
_LEFTOVER_SECONDS = 3600.0  # for files whose maker cannot be told
_LOCK_SECONDS = 86400.0


class Collected:
    """What a collection did, or would do. ``removed``: (category, name, bytes) each; ``freed``: bytes on
    disk; ``failed``: what could not be removed, and why."""

    def __init__(self) -> None:
        self.removed: list[tuple[str, str, int]] = []
        self.failed: list[str] = []

    @property
    def freed(self) -> int:
        return sum(size for _, _, size in self.removed)


class Collector:
    """One collection of ``store``.

    ``grace``: seconds that a thing must have been unneeded-looking (by its age) to go; ``partial_seconds``:
    for how long a partial download is kept; ``dry_run``: nothing is changed, only reported."""

    def __init__(
        self,
        store: Store,
        grace: float = 0.0,
        partial_seconds: float = PARTIAL_SECONDS,
        foreign_seconds: float = FOREIGN_SECONDS,
        dry_run: bool = False,
    ) -> None:
        self._root = store.path
        self._lock = Lock(store.lock_path("gc", "store"))
        self._grace = grace
        self._partial_seconds = partial_seconds
        self._foreign_seconds = foreign_seconds
        self._dry_run = dry_run
        self._found = Collected()

    def run(self) -> Collected:
        """Raises StoreError."""
        try:
            with self._lock:
                if not self._dry_run:
                    settle(self._root)
                self.sweep()
                roots = find_roots(self._root, self._foreign_seconds)
                if roots.unreadable:
                    raise StoreError(
                        f"{roots.unreadable[0]} cannot be read, so what it needs is not known",
                        "run `udk store fsck --repair` first",
                    )
                self._trees(roots.trees)
                self._blobs(roots.blobs)
                self._partials()
                self._locks()
        except OSError as e:
            raise store_error(e, self._root) from e
        return self._found

    def sweep(self) -> Collected:
        """Only what the dead left: leases, staging, trash. Raises OSError."""
        # Listed before the leases: who makes a staging directory takes the lease on it first.
        staging = list(self._entries("staging"))
        alive = set()
        for path, data, age in leases.all_leases(self._root):
            if leases.lease_alive(data, age, self._foreign_seconds):
                if data.get("kind") == "staging":
                    alive.add(str(data.get("target")))
            elif data.get("kind") != "container":
                # A container's lease also says what to clean up: the runtime's sweeper takes it.
                self._remove("lease", path)
        for name, path, age in staging:
            if name not in alive and (os.path.isdir(path) or age > _LEFTOVER_SECONDS):
                self._remove("staging", path)
        for name, path, _ in self._entries("trash"):
            if due(name, time.time()):
                self._purge("trash", path)
        return self._found

    def _entries(self, directory: str) -> Iterator[tuple[str, str, float]]:
        """(name, path, age in seconds) of what is in a directory of the store."""
        try:
            names = os.listdir(f"{self._root}/{directory}")
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in sorted(names):
            path = f"{self._root}/{directory}/{name}"
            try:
                yield name, path, time.time() - os.lstat(path).st_ctime
            except FileNotFoundError:
                continue

    def _trees(self, needed: set[str]) -> None:
        for key, path, age in self._entries("trees"):
            if key in needed or age < self._grace:
                continue
            if self._dry_run:
                self._found.removed.append(("tree", key, disk_usage(path)))
                continue
            mark = leases.mark_path(self._root, key)
            data = jsonlite.dumps({**own_identity(), "kind": "condemn", "target": key})
            atomic_write(mark, data.encode(), durable=False)
            try:
                again = find_roots(self._root, self._foreign_seconds)
                gone = "" if key in again.trees or again.unreadable else to_trash(self._root, path)
            finally:
                os.unlink(mark)
            if gone:
                self._purge("tree", gone, key)

    def _blobs(self, needed: set[str]) -> None:
        moved: list[tuple[str, str, str]] = []
        for algorithm, _, _ in self._entries("oci/blobs"):
            for name, path, age in self._entries(f"oci/blobs/{algorithm}"):
                digest = f"{algorithm}:{name}"
                if digest in needed or age < self._grace:
                    continue
                if self._dry_run:
                    self._found.removed.append(("blob", digest, disk_usage(path)))
                else:
                    moved.append((digest, path, to_trash(self._root, path)))
        if not moved:
            return
        # What is put back may be a manifest, and name what else is needed.
        while True:
            again = find_roots(self._root, self._foreign_seconds)
            back = [m for m in moved if again.unreadable or m[0] in again.blobs]
            if not back:
                break
            for _, path, gone in back:
                if gone and not os.path.exists(path):  # a pull may have brought it again already
                    os.rename(gone, path)
            moved = [m for m in moved if m not in back]
        for digest, _, gone in moved:
            if gone:
                self._purge("blob", gone, digest)

    def _partials(self) -> None:
        for name, path, age in self._entries("ingest"):
            lock = Lock(f"{path}/lock")
            try:
                newest = max((os.lstat(f"{path}/{n}").st_mtime for n in os.listdir(path)), default=0.0)
                stale = min(age, time.time() - newest) >= self._partial_seconds
                algorithm, _, encoded = name.partition("-")
                have = os.path.exists(f"{self._root}/oci/blobs/{algorithm}/{encoded}")
                if not (stale or have) or (not self._dry_run and not lock.try_acquire()):
                    continue
            except OSError:
                stale = not os.path.isdir(path)
                if not stale:
                    continue
            try:
                self._remove("ingest", path)
            finally:
                lock.release()

    def _locks(self) -> None:
        for _, path, age in self._entries("locks"):
            if age < _LOCK_SECONDS or self._dry_run or path == self._lock.path:
                continue
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)  # whoever opens it now sees, once it has the lock, that the name has gone
            except OSError:
                pass
            finally:
                os.close(fd)

    def _remove(self, category: str, path: str) -> None:
        if self._dry_run:
            self._found.removed.append((category, os.path.basename(path), disk_usage(path)))
            return
        try:
            gone = to_trash(self._root, path)
        except StoreError as e:
            self._found.failed.append(str(e))
            return
        if gone:
            self._purge(category, gone, os.path.basename(path))

    def _purge(self, category: str, path: str, name: str = "") -> None:
        """Deletes what is in the trash already; ``category`` empty: without counting it."""
        size = disk_usage(path)
        if not self._dry_run:
            try:
                remove_tree(path)
            except OSError as e:
                self._found.failed.append(str(store_error(e, path)))
                return
        if category:
            self._found.removed.append((category, name or os.path.basename(path), size))
