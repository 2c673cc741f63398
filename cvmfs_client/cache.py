"""The object store: tiers of cache directories in front of a fetcher, shared by many processes without a
manager.

Correctness rests on three things only: an object gets its name by rename when it is whole and verified; it
is looked at again before its first use in a process; and a file that fails is thrown away and fetched anew.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, Callable, Optional

from . import cache_admin
from .cache_flight import Flight
from .cache_layout import VOLATILE_SHIFT, Directory, digest_of, touch
from .cache_pool import Pool
from .cache_quota import Quota
from .cache_sink import Sink
from .cache_state import State
from .cache_verify import matches_hash
from .errors import CacheFullError, CvmfsError, OfflineError, show
from .forksafe import ForkSafe
from .hash import Hash
from .interfaces import Config, Fetcher, Request

_TOUCH_AFTER = 600.0  # s; the order of uses need not be known better
_CHECK_LIMIT = 64 << 20  # larger objects are checked by their size only, when used
_REMEMBERED = 1 << 16
_RESERVE_EVERY = 16 << 20  # bytes stored between looks at the free disk
_WORKERS = 32
_SMALL = 256 << 10
_LINGER = 0.5  # s that closing may take for downloads to finish
_AHEAD = 256  # tasks waiting, beyond which nothing is fetched ahead


class ObjectStore(ForkSafe):
    """The :class:`~cvmfs_client.interfaces.Store`. ``tiers``: the first may be writable, the others are read
    only.

    ``streaming``: contents of files are not kept, only catalogs and what else describes the repository."""

    def __init__(
        self,
        tiers: Sequence[Directory],
        fetcher: Optional[Fetcher],
        *,
        limit: int = 0,
        streaming: bool = False,
        kind: str = "own",
    ) -> None:
        super().__init__()
        self.fetcher = fetcher
        self.kind = kind
        self.tiers = list(tiers)
        self.streaming = streaming
        self.upper = tiers[0] if tiers and tiers[0].writable else None
        self.state = State(tiers)
        self.quota = Quota(self.upper, limit) if self.upper is not None else None
        self.counters = dict.fromkeys(
            ("hits", "misses", "downloads", "downloaded_bytes", "healed", "in_memory"), 0
        )
        self._flight = Flight(self.upper.path) if self.upper is not None else None
        self._verified: dict[bytes, int] = {}
        self._lock = threading.Lock()
        self._pool = Pool(_WORKERS, "cvmfs-fetch")
        self._owners = {d.path: _owners(d.path) for d in tiers}
        self._unlooked = 0
        self.wait = 0.0  # s that a small object took lately
        self.watchers: list[
            Any
        ] = []  # told of misses: .missed(request), .stored(request), which must not raise

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    # --- reading

    def open(self, request: Request) -> int:
        """See :class:`~cvmfs_client.interfaces.Store`."""
        found = self._find(request)
        if found is not None:
            self.counters["hits"] += 1
            return found[0]
        return self._obtain(request)[0]

    def path(self, request: Request) -> Optional[str]:
        """See :class:`~cvmfs_client.interfaces.Store`."""
        found = self._find(request)
        if found is None:
            fd, stored = self._obtain(request)
            os.close(fd)
            if not stored or self.upper is None:
                return None
            place = self.upper.object_path(request.hash)
        else:
            self.counters["hits"] += 1
            os.close(found[0])
            place = found[1].object_path(request.hash)
        if request.pin and self.quota is not None:
            self.quota.hold(request.hash)
        return place

    def has(self, request: Request) -> bool:
        """See :class:`~cvmfs_client.interfaces.Store`."""
        for tier in self.tiers:
            try:
                size = os.stat(tier.object_path(request.hash), follow_symlinks=False).st_size
            except OSError:
                continue
            if request.size is None or size == request.size:
                return True
        return False

    def ensure(
        self, requests: Iterable[Request], *, progress: Optional[Callable[[int], Any]] = None
    ) -> list[Any]:
        """See :class:`~cvmfs_client.interfaces.Store`."""
        wanted = {r.hash.digest: r for r in requests}
        failed: list[Any] = []
        done = threading.Event()
        left = len(wanted)

        def bring(request: Request) -> None:
            nonlocal left
            try:
                size = self.bring(request)
                if progress is not None and size:
                    progress(size)
            except CvmfsError as error:
                failed.append((request, error))
            except OSError as error:
                failed.append((request, CacheFullError(f"{show(request.path)} cannot be stored: {error}")))
            finally:
                with self._lock:
                    left -= 1
                    if not left:
                        done.set()

        for request in wanted.values():
            self._pool.submit(lambda request=request: bring(request))  # type: ignore[misc]
        if wanted:
            done.wait()
        return failed

    def bring(self, request: Request) -> int:
        """Brings one object into the cache; returns the bytes stored, 0 where it was there. Raises
        CvmfsError.
        """
        if self.has(request):
            return 0
        fd, _ = self._obtain(request, stored_only=True)
        size = os.fstat(fd).st_size
        os.close(fd)
        return size

    def ahead(self, requests: Iterable[Request]) -> None:
        """Starts to bring objects into the cache, if there is time; returns at once, tells of no errors."""
        for request in requests:
            if len(self._pool) >= _AHEAD:
                return
            self._pool.submit(lambda request=request: self._bring_quietly(request))  # type: ignore[misc]

    def _bring_quietly(self, request: Request) -> None:
        try:
            self.bring(request)
        except (CvmfsError, OSError):
            pass  # who needs it will be told

    def _find(self, request: Request) -> Optional[tuple[int, Directory]]:
        for tier in self.tiers:
            fd = tier.open(request.hash)
            if fd >= 0:
                if self._is_good(tier, request, fd):
                    return fd, tier
                os.close(fd)
        return None

    def _is_good(self, tier: Directory, request: Request, fd: int) -> bool:
        """Whether an open file of the cache is the object; one that is not is removed."""
        status = os.fstat(fd)
        name = request.hash
        if not stat.S_ISREG(status.st_mode):
            return False
        if self._verified.get(name.digest) != status.st_ino:
            if not self._verify(tier, request, fd, status):
                if tier.writable:
                    tier.remove(str(name))
                self.counters["healed"] += 1
                return False
            if len(self._verified) >= _REMEMBERED:
                self._verified.clear()
            self._verified[name.digest] = status.st_ino
        if request.size is not None and status.st_size != request.size:
            return False  # whole, so it is the catalog that is wrong: fetching tells
        if tier.writable:
            used = status.st_mtime + (VOLATILE_SHIFT if request.volatile else 0)
            if time.time() - used > _TOUCH_AFTER:
                touch(fd, volatile=request.volatile)
        return True

    def _verify(self, tier: Directory, request: Request, fd: int, status: os.stat_result) -> bool:
        if status.st_size > _CHECK_LIMIT:
            return True
        try:
            record = tier.record(request.hash, fd)
            if record is not None:
                return record.size == status.st_size and record.digest == digest_of(fd)
            # filled by another client: believe who owns the directory, else compress again, which tells as
            # well
            if (tier.shared or not tier.writable) and status.st_uid in self._owners[tier.path]:
                return True
            return matches_hash(fd, request.hash)
        except OSError:
            return False

    # --- fetching

    def _obtain(self, request: Request, *, stored_only: bool = False) -> tuple[int, bool]:
        """(read-only descriptor, in the cache). Downloads unless another thread or process does."""
        if self.fetcher is None:
            what = f"{show(request.path)} ({request.hash})" if request.path else str(request.hash)
            raise OfflineError(f"{what} is not in the cache, and nothing may be downloaded")
        for watcher in self.watchers:
            watcher.missed(request)
        streamed = self.streaming and request.hash.suffix in ("", "P")
        if self._flight is None or self.upper is None or streamed:
            return self._download(request, None, stored_only=stored_only)
        target = self.upper.object_path(request.hash)
        for _ in range(3):
            claim = self._flight.claim(request.hash, lambda: os.path.exists(target))
            if claim is not None:
                with claim:
                    return self._download(request, self.upper, stored_only=stored_only)
            found = self._find(request)
            if found is not None:
                self.counters["hits"] += 1
                return found[0], True
            # evicted at once, or bad: on with it
        return self._download(request, self.upper, stored_only=stored_only)

    def _download(
        self, request: Request, directory: Optional[Directory], *, stored_only: bool
    ) -> tuple[int, bool]:
        fetcher = self.fetcher
        assert fetcher is not None
        self.counters["misses"] += 1
        limit = self.quota.limit if self.quota is not None else 0
        if limit and (request.size or 0) > limit:
            directory = None
        sink = Sink(directory, request, self._make_room, stored_only=stored_only)
        start = time.monotonic()
        try:
            fetcher.fetch(request, sink.put, sink.restart)
            if sink.size < _SMALL:
                self.wait = 0.75 * self.wait + 0.25 * (time.monotonic() - start)
            fd, stored = sink.finish(request.hash)
        finally:
            sink.abandon()
        self.counters["downloads"] += 1
        self.counters["downloaded_bytes"] += sink.size
        if not stored:
            self.counters["in_memory"] += 1
            return fd, False
        try:
            self._verified[request.hash.digest] = os.fstat(fd).st_ino
            self.state.note(request.hash, request.path)
            self._account(sink.size)
            for watcher in self.watchers:
                watcher.stored(request)
        except BaseException:
            os.close(fd)
            raise
        return fd, True

    def _account(self, size: int) -> None:
        if self.quota is None:
            return
        self.quota.added(size)
        self._unlooked += size
        if self._unlooked >= _RESERVE_EVERY:
            self._unlooked = 0
            self.quota.keep_reserve()

    def _make_room(self, size: int) -> bool:
        return self.quota is not None and self.quota.make_room(size)

    # --- state

    def load_state(self, fqrn: str, name: str) -> Optional[bytes]:
        """See :class:`~cvmfs_client.interfaces.Store`."""
        return self.state.load(fqrn, name)

    def save_state(self, fqrn: str, name: str, data: bytes) -> None:
        """See :class:`~cvmfs_client.interfaces.Store`."""
        self.state.save(fqrn, name, data)

    # --- administration

    def status(self) -> dict[str, Any]:
        """See :class:`~cvmfs_client.interfaces.Store`."""
        return cache_admin.status(self)

    def entries(self) -> Iterable[dict[str, Any]]:
        """See :class:`~cvmfs_client.interfaces.Store`."""
        return cache_admin.entries(self)

    def evict(self, hashes: Iterable[Hash]) -> int:
        """See :class:`~cvmfs_client.interfaces.Store`."""
        return cache_admin.evict(self, hashes)

    def pin(self, requests: Iterable[Request]) -> None:
        """See :class:`~cvmfs_client.interfaces.Store`."""
        cache_admin.pin(self, list(requests))

    def unpin(self, hashes: Iterable[Hash]) -> None:
        """See :class:`~cvmfs_client.interfaces.Store`."""
        if self.quota is not None:
            self.quota.unpin(hashes)

    def fsck(self, *, repair: bool = True, progress: Optional[Callable[[int], Any]] = None) -> dict[str, Any]:
        """See :class:`~cvmfs_client.interfaces.Store`."""
        return cache_admin.fsck(self, repair=repair, progress=progress)

    def gc(self, *, limit: Optional[int] = None) -> dict[str, Any]:
        """See :class:`~cvmfs_client.interfaces.Store`."""
        return cache_admin.gc(self, limit=limit)

    def close(self) -> None:
        """Writes down what is kept for others, gives up locks. The fetcher is not closed."""
        self._pool.cancel()
        self._pool.finish(_LINGER)
        self.state.flush()
        if self.quota is not None:
            self.quota.close()
        if self._flight is not None:
            self._flight.close()


def _owners(path: str) -> frozenset[int]:
    """Whose files in a cache are believed: the caller's, the administrator's, and the directory's owner's."""
    try:
        return frozenset((os.getuid(), 0, os.stat(path).st_uid))
    except OSError:
        return frozenset((os.getuid(), 0))


def open_store(config: Config, fetcher: Optional[Fetcher], *, directory: Optional[str] = None) -> ObjectStore:
    """The store that the configuration asks for; ``directory`` overrides its place. Raises CacheError,
    ConfigError.
    """
    from .cache_config import plan

    tiers, limit, kind = plan(config, directory)
    streaming = config.boolean("CVMFS_STREAMING_CACHE")
    return ObjectStore(tiers, fetcher, limit=limit, streaming=streaming, kind=kind)
