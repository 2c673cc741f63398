"""The way of a blob into the store: ``ingest/<alg>-<hex>/``, one writer at a time, resumable, verified,
renamed.

``data`` is the partial download, ``lock`` what its writer holds, ``meta.json`` says what it is. A writer
that was killed frees the lock and leaves the partial; the next one hashes what is there and asks for the
rest. What has been written is in the page cache and survives SIGKILL; it is flushed to disk once, before
the rename that makes it a blob. A second writer beside a stopped one (see :mod:`udk.base.locks`) works on
its own copy, ``data.1``."""

from __future__ import annotations

import hashlib
import os
import time
from errno import EIO
from typing import TYPE_CHECKING

from udk.base import jsonlite
from udk.base.files import atomic_write, fsync, store_error, write_all
from udk.base.locks import PATIENCE, Lock
from udk.base.verified import VerifiedReader
from udk.errors import IntegrityError, NetworkError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from udk.store.store import Store


CHUNK = 1 << 20


class Ingest:
    """One blob on its way in; a context manager that waits for the right to write it.

    ::

        with store.ingest(descriptor) as ingest:
            if not ingest.done:
                ingest.fill(lambda offset: client.blob(reference, descriptor, offset))

    After it ``ingest.done`` is true, or an error was raised and the partial is kept for the next attempt, or
    ``stop``, which is asked while waiting, said that it is not wanted any more.
    """

    def __init__(
        self,
        root: str,
        digest: str,
        size: int,
        reference: str = "",
        stop: Callable[[], bool] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        algorithm, _, encoded = digest.partition(":")
        self.digest = digest
        self.size = size
        self.path = f"{root}/ingest/{algorithm}-{encoded}"
        self.final = f"{root}/oci/blobs/{algorithm}/{encoded}"
        self.fetched = 0  # bytes that came from the source, for accounting
        self._algorithm = algorithm
        self._encoded = encoded
        self._reference = reference
        self._stop = stop
        self._lock = Lock(f"{self.path}/lock", patience, remove=True)

    @property
    def done(self) -> bool:
        """Whether the blob is in the store."""
        try:
            return os.stat(self.final).st_size == self.size
        except OSError:
            return False

    @property
    def held(self) -> bool:
        """Whether this process is the one to write it."""
        return self._lock.held

    @property
    def data(self) -> str:
        """The path of the partial that this writer works on."""
        return f"{self.path}/data{f'.{self._lock.generation}' if self._lock.generation else ''}"

    def __enter__(self) -> Ingest:
        while not self.done:
            try:
                os.makedirs(self.path, exist_ok=True)
                if not self._lock.acquire(lambda: self.done or self._stopped()):
                    break
                if self.done:  # the writer before us has finished it
                    self._clean()
                    self._lock.release()
                    break
                return self
            except FileNotFoundError:
                continue  # the directory went away with the writer before us
            except OSError as e:
                raise store_error(e, self.path) from e
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock.held and not self._lock.generation and not self.done:
            self._lock.remove = False  # a partial stays, and what it is locked by with it
        elif self._lock.held:
            self._clean()
        self._lock.release()
        try:
            os.rmdir(self.path)
        except OSError:
            pass

    def _stopped(self) -> bool:
        return self._stop is not None and self._stop()

    def _clean(self) -> None:
        for name in (self.data, f"{self.path}/meta.json"):
            try:
                os.unlink(name)
            except OSError:
                pass

    def fill(
        self, fetch: Callable[[int], Iterable[bytes]], progress: Callable[[int], None] | None = None
    ) -> None:
        """Gets the rest of the blob from ``fetch(offset)`` and commits it.

        ``fetch`` gives the chunks from ``offset`` on; where the source could not begin there, the iterable
        has an attribute ``offset`` saying where it does begin (0). ``progress`` is told the number of bytes
        present after each chunk. A partial whose continuation fails its digest is thrown away and fetched
        afresh, once. Raises IntegrityError, StoreError, DiskFullError and what ``fetch`` raises."""
        try:
            fd = self._open()
        except OSError as e:
            raise store_error(e, self.data) from e
        try:
            resumed = self._fill(fd, fetch, progress)
            if resumed is not None:
                try:
                    os.ftruncate(fd, 0)
                except OSError as e:
                    raise store_error(e, self.data) from e
                if not resumed or self._fill(fd, fetch, progress) is not None:
                    raise self._broken
            self._commit(fd)
        finally:
            os.close(fd)

    _broken: IntegrityError

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self.data, flags, 0o600)
        except PermissionError:  # its writer was killed between the last byte and the rename
            os.chmod(self.data, 0o600)
            fd = os.open(self.data, flags, 0o600)
        try:
            if self._lock.generation and not os.fstat(fd).st_size:
                _copy(f"{self.path}/data", fd)
            meta = {
                "digest": self.digest, "size": self.size, "reference": self._reference,
                "started": time.time(),
            }  # fmt: skip
            atomic_write(f"{self.path}/meta.json", jsonlite.dumps(meta).encode(), durable=False)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _fill(
        self, fd: int, fetch: Callable[[int], Iterable[bytes]], progress: Callable[[int], None] | None
    ) -> bool | None:
        """None when the blob is complete and right; else whether a part of the wrong one was there before."""
        hasher = hashlib.new(self._algorithm)
        try:
            offset = os.fstat(fd).st_size
            if offset > self.size:
                offset = 0
                os.ftruncate(fd, 0)
            _hash_file(fd, offset, hasher)
            os.lseek(fd, offset, os.SEEK_SET)
        except OSError as e:
            raise store_error(e, self.data) from e
        resumed = offset > 0
        if progress:
            progress(offset)
        stream: Iterable[bytes] = ()
        if offset < self.size or not offset:
            stream = fetch(offset)
            if offset and getattr(stream, "offset", offset) != offset:
                offset, resumed, hasher = 0, False, hashlib.new(self._algorithm)
                os.lseek(fd, 0, os.SEEK_SET)
                os.ftruncate(fd, 0)
        ended: list[bool] = []
        reader = VerifiedReader(
            _noting_end(stream, ended), self._algorithm, self._encoded, self.size, f"blob {self.digest}",
            hasher=hasher if offset else None, offset=offset,
        )  # fmt: skip
        try:
            for chunk in reader:
                try:
                    write_all(fd, chunk)
                except OSError as e:
                    raise store_error(e, self.data) from e
                self.fetched += len(chunk)
                if progress:
                    progress(reader.position)
        except IntegrityError as e:
            if ended and reader.position < self.size:
                # Cut short: what came may well be right, and the next attempt goes on from there.
                raise NetworkError(
                    f"the blob {self.digest} of {self._reference} ended after {reader.position} of"
                    f" {self.size} bytes",
                    "try again: what was fetched so far is kept",
                ) from e
            self._broken = e
            return resumed
        return None

    def _commit(self, fd: int) -> None:
        try:
            os.fchmod(fd, 0o444)
            fsync(fd)
            mine, there = os.fstat(fd), os.stat(self.data)
            if mine.st_size != self.size or (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
                # Only without working locks, or by hand. What was verified is not what the name stands for.
                raise StoreError(f"{self.data} was changed by someone else while it was written", "try again")
            try:
                os.rename(self.data, self.final)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(self.final), exist_ok=True)
                os.rename(self.data, self.final)
        except OSError as e:
            raise store_error(e, self.final) from e


def _noting_end(chunks: Iterable[bytes], ended: list[bool]) -> Iterator[bytes]:
    yield from chunks
    ended.append(True)


def _hash_file(fd: int, size: int, hasher: hashlib._Hash) -> None:
    done = 0
    while done < size:
        data = os.pread(fd, min(CHUNK, size - done), done)
        if not data:
            raise OSError(EIO, "the partial download became shorter while it was read")
        hasher.update(data)
        done += len(data)


def _copy(source: str, target: int) -> None:
    """Copies what is there of a stopped writer's partial; none is fine. Raises OSError."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        while True:
            data = os.read(fd, CHUNK)
            if not data:
                return
            write_all(target, data)
    finally:
        os.close(fd)


def put_blob(store: Store, digest: str, data: bytes) -> None:
    """Stores ``data`` under ``digest``. Raises IntegrityError, StoreError."""
    algorithm, _, encoded = digest.partition(":")
    for _ in VerifiedReader((data,), algorithm, encoded, len(data), f"blob {digest}"):
        pass
    path = store.blob_path(digest)
    if store.has_blob(digest, len(data)):
        return
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        atomic_write(path, data, mode=0o444, part_dir=f"{store.path}/staging")
    except OSError as e:
        raise store_error(e, path) from e
