"""The blobs of one image on their way into the store, several at once, readable while they arrive."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from udk.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from udk.archive.source import ImageSource
    from udk.base.progress import Progress, Task
    from udk.oci.descriptor import Descriptor
    from udk.store import Store

PARALLEL = 3
# What is lost of the bytes that a registry on loopback has sent when this process is killed: what the
# kernels on both sides hold of the connections in use, 4 MiB for the sender (tcp_wmem) and half a MiB for
# us each. All that was read from them is in the page cache, and is gone on from.
FLUSH_UNIT = 16 << 20
_JOIN_SECONDS = 1.0
_VERDICT_SECONDS = 20.0
_SAMPLES = 8  # chunks before the load is known
_START_SECONDS = 0.25  # for how long that is waited for
_FADE = 0.98  # a chunk; how fast the load of the past is forgotten


class Restarted(Exception):
    """A partial that was being read turned out to be wrong and is fetched anew."""


class _Cancelled(Exception):
    """Ends a download that nobody wants any more; its partial is kept."""


class _Blob:
    __slots__ = ("descriptor", "done", "epoch", "path", "present", "task")

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.path = ""  # of the partial while this process writes it
        self.present = 0  # readable bytes of it
        self.epoch = 0  # how often it was begun anew
        self.done = False
        self.task: Task | None = None


class _Load:
    """Where the time of the downloads goes: waiting for bytes, or checking and writing them."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._worked = 0.0
        self._chunks = 0
        self._since = time.monotonic()

    def add(self, waited: float, worked: float) -> None:
        self._chunks += 1
        self._waited = self._waited * _FADE + waited
        self._worked = self._worked * _FADE + worked

    @property
    def saturated(self) -> bool:
        if self._chunks < _SAMPLES:
            return time.monotonic() - self._since < _START_SECONDS
        # Waiting includes copying from the socket, so a third of the time is much.
        return self._worked * 2 > self._waited


class _Metered:
    """The chunks of a source, measured."""

    def __init__(self, chunks: Iterable[bytes], load: _Load) -> None:
        self._chunks = chunks
        self._load = load

    def __getattr__(self, name: str) -> object:
        return getattr(self._chunks, name)  # the offset, where the source tells it

    def __iter__(self) -> Iterator[bytes]:
        before = time.perf_counter()
        for chunk in self._chunks:
            arrived = time.perf_counter()
            yield chunk
            done = time.perf_counter()
            self._load.add(arrived - before, done - arrived)
            before = done


class Downloads:
    """Fetches blobs in the order given with ``parallel`` threads; a context manager, cancelled on leaving.

    ``wait`` ends when all are in the store, verified; until then :meth:`open` gives readers whose bytes are
    not yet verified: what is made of them must not be published before ``wait`` has returned."""

    def __init__(
        self,
        store: Store,
        source: ImageSource,
        reference: str,
        descriptors: Iterable[Descriptor],
        progress: Progress,
        parallel: int = PARALLEL,
    ) -> None:
        self._store = store
        self._source = source
        self._reference = reference
        self._progress = progress
        guard = threading.Lock()
        self._changed = threading.Condition(guard)  # something arrived, ended or failed
        self._slot = threading.Condition(guard)  # a download ended
        self._error: BaseException | None = None
        self._cancelled = False
        self._blobs: dict[str, _Blob] = {}
        for descriptor in descriptors:
            blob = self._blobs.setdefault(str(descriptor.digest), _Blob(descriptor))
            blob.done = store.has_blob(descriptor.digest, descriptor.size)
        self._load = _Load()
        self._active = 0
        self._waiting = [b for b in self._blobs.values() if not b.done]
        self._waiting.reverse()
        self._threads = [
            threading.Thread(target=self._work, name=f"udk-fetch-{n}", daemon=True)
            for n in range(min(parallel, len(self._waiting)))
        ]

    def __enter__(self) -> Downloads:
        for blob in reversed(self._waiting):
            digest = blob.descriptor.digest
            blob.task = self._progress.task(digest.hex[:12], blob.descriptor.size)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()
        # One stuck in a read that does not end keeps its lock until the process ends; nothing waits for it.
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def wait(self) -> None:
        """Until every blob is in the store. Raises what the first one that failed raised."""
        with self._changed:
            while not all(b.done for b in self._blobs.values()):
                self._check()
                self._changed.wait(1.0)
        self._check()

    def open(self, descriptor: Descriptor) -> Reader:
        """The blob, to be read once from the beginning, from where it is by now; reading waits for more of
        it."""
        return Reader(self, self._blobs[str(descriptor.digest)])

    def _await(self, blob: _Blob, position: int) -> int:
        """How many bytes of ``blob`` can be read, once it is more than ``position`` or all."""
        with self._changed:
            while not blob.done and blob.present <= position:
                self._check()
                self._changed.wait(1.0)
            self._check()
            return blob.descriptor.size if blob.done else blob.present

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._cancelled:
            raise StoreError("the pull was cancelled")

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    # One more connection helps where the source or the way to it is slow. Where this
                    # process is what is slow, it would only split its attention, and the layer needed next
                    # come later.
                    while self._waiting and self._active and self._load.saturated and not self._unwanted():
                        self._slot.wait(0.05)
                    if not self._waiting or self._unwanted():
                        return
                    blob = self._waiting.pop()
                    self._active += 1
                try:
                    self._fetch(blob)
                finally:
                    with self._changed:
                        self._active -= 1
                        self._slot.notify_all()
        except _Cancelled:
            return
        except BaseException as e:
            with self._changed:
                self._error = self._error or e
                self._changed.notify_all()

    def _unwanted(self) -> bool:
        return self._cancelled or self._error is not None

    def _fetch(self, blob: _Blob) -> None:
        descriptor = blob.descriptor
        with self._store.ingest(descriptor, self._reference, self._unwanted) as ingest:
            if not ingest.done:
                if not ingest.held:
                    raise _Cancelled
                if descriptor.data is not None:
                    data = descriptor.data
                    ingest.fill(lambda offset: (data[offset:],))
                else:
                    ingest.fill(
                        lambda offset: _Metered(self._source.blob(descriptor, offset), self._load),
                        lambda present: self._arrived(blob, ingest.data, present),
                    )
            elif blob.task:
                blob.task.finish("already there")
        with self._changed:
            blob.done = True
            blob.present = descriptor.size
            self._changed.notify_all()
        if blob.task and not blob.task.state:
            blob.task.finish()

    def _arrived(self, blob: _Blob, path: str, present: int) -> None:
        with self._changed:
            if self._unwanted():
                raise _Cancelled
            if present < blob.present:
                blob.epoch += 1
            blob.path, blob.present = path, present
            self._changed.notify_all()
        if blob.task:
            blob.task.set(present)


class Reader:
    """Reads a blob that may still be arriving; a context manager.

    ``read`` raises Restarted when what was read before is void or the blob has gone, and what its download
    raised."""

    def __init__(self, downloads: Downloads, blob: _Blob) -> None:
        self._downloads = downloads
        self._blob = blob
        self._fd = -1
        self._position = 0
        self._epoch = blob.epoch

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, ``b""`` at the end."""
        available = self._downloads._await(self._blob, self._position)
        if self._epoch != self._blob.epoch:
            raise Restarted
        if self._fd < 0:
            self._fd = self._open()
        data = os.pread(self._fd, min(size, available - self._position), self._position)
        self._position += len(data)
        return data

    def verdict(self) -> None:
        """After bytes that made no sense: waits a while until it is known whether they were the blob's.
        Raises what the download raised, or Restarted, if they were not."""
        deadline = time.monotonic() + _VERDICT_SECONDS
        owner, blob = self._downloads, self._blob
        with owner._changed:
            while not blob.done and not owner._error and self._epoch == blob.epoch:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                owner._changed.wait(left)
            if owner._error is not None:
                raise owner._error
        if self._epoch != blob.epoch:
            raise Restarted

    def _open(self) -> int:
        final = self._downloads._store.blob_path(self._blob.descriptor.digest)
        for path in (self._blob.path, final):  # the first name becomes the second
            try:
                if path and not (path == self._blob.path and self._blob.done):
                    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
        raise Restarted
