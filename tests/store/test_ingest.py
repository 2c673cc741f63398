"""The way of a blob into the store, with everything going wrong on it."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import sha256
from udk.errors import IntegrityError, NetworkError, StoreError
from udk.oci.descriptor import Descriptor
from udk.oci.digest import Digest
from udk.store import Store
from udk.store.ingest import Ingest

DATA = random.Random(7).randbytes(1_000_000)
CHUNK = 10_000


class Source:
    """Gives ``data`` in chunks from an offset on, remembers what was asked, and fails after ``limit``
    bytes."""

    def __init__(self, data: bytes = DATA, limit: int = 1 << 60) -> None:
        self.data = data
        self.limit = limit
        self.asked: list[int] = []
        self.error: Exception = NetworkError("connection lost")

    def __call__(self, offset: int) -> Iterator[bytes]:
        self.asked.append(offset)
        return self._chunks(offset)

    def _chunks(self, offset: int) -> Iterator[bytes]:
        end = offset + self.limit
        for at in range(offset, len(self.data), CHUNK):
            if at >= end:
                raise self.error
            yield self.data[at : at + CHUNK]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "s"))


def descriptor(data: bytes = DATA) -> Descriptor:
    return Descriptor("application/octet-stream", Digest.parse(sha256(data)), len(data))


def fill(store: Store, source: Source, data: bytes = DATA) -> Ingest:
    with store.ingest(descriptor(data)) as ingest:
        if not ingest.done:
            ingest.fill(source)
    return ingest


def partial(store: Store, data: bytes = DATA) -> Path:
    return Path(store.path, "ingest", sha256(data).replace(":", "-"), "data")


def test_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (flushed.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1]
    )
    source = Source()
    ingest = fill(store, source)
    assert ingest.done
    assert ingest.fetched == len(DATA)
    assert source.asked == [0]
    assert Path(store.blob_path(sha256(DATA))).read_bytes() == DATA
    assert os.stat(store.blob_path(sha256(DATA))).st_mode & 0o777 == 0o444
    assert os.listdir(f"{store.path}/ingest") == []
    assert flushed == [str(partial(store))]  # once, before the rename
    fill(store, source)
    assert source.asked == [0]


def test_empty_blob(store: Store) -> None:
    fill(store, Source(b""), b"")
    assert store.has_blob(sha256(b""), 0)


def test_interrupted_goes_on_where_it_was(store: Store) -> None:
    source = Source(limit=300_000)
    for _ in range(3):
        with pytest.raises(NetworkError):
            fill(store, source)
        assert not store.has_blob(sha256(DATA))
    assert partial(store).stat().st_size == 900_000
    fill(store, source)
    assert source.asked == [0, 300_000, 600_000, 900_000]
    assert Path(store.blob_path(sha256(DATA))).read_bytes() == DATA


def test_source_that_just_ends_keeps_what_came(store: Store) -> None:
    with pytest.raises(NetworkError, match="ended after 400000 of 1000000"):
        fill(store, Source(DATA[:400_000]))
    source = Source()
    fill(store, source)
    assert source.asked == [400_000]


def test_source_that_cannot_resume_starts_over(store: Store) -> None:
    with pytest.raises(NetworkError):
        fill(store, Source(limit=500_000))

    class Whole:
        offset = 0

        def __iter__(self) -> Iterator[bytes]:
            return Source()(0)

    told: list[int] = []
    with store.ingest(descriptor()) as ingest:
        ingest.fill(lambda offset: Whole(), told.append)
    assert told[0] == 500_000
    assert told[1] == CHUNK
    assert Path(store.blob_path(sha256(DATA))).read_bytes() == DATA


def test_bad_partial_is_fetched_afresh_once(store: Store) -> None:
    with pytest.raises(NetworkError):
        fill(store, Source(limit=500_000))
    with open(partial(store), "r+b") as f:
        f.seek(1234)
        f.write(b"rot")
    source = Source()
    fill(store, source)
    assert source.asked == [500_000, 0]
    assert Path(store.blob_path(sha256(DATA))).read_bytes() == DATA


def test_complete_partial_needs_nothing(store: Store) -> None:
    partial(store).parent.mkdir()
    partial(store).write_bytes(DATA)
    partial(store).chmod(0o444)  # killed between the last byte and the rename
    source = Source()
    fill(store, source)
    assert source.asked == []
    assert store.has_blob(sha256(DATA), len(DATA))


def test_partial_longer_than_the_blob_is_void(store: Store) -> None:
    partial(store).parent.mkdir()
    partial(store).write_bytes(DATA + b"x")
    source = Source()
    fill(store, source)
    assert source.asked == [0]


@pytest.mark.parametrize(
    "wrong",
    [DATA[:-1] + b"\0\0", DATA + b"x", DATA[:500_000] + b"?" * 500_000],
    ids=["end", "longer", "half"],
)
def test_wrong_content_never_becomes_a_blob(store: Store, wrong: bytes) -> None:
    source = Source(wrong)
    with pytest.raises(IntegrityError):
        fill(store, source)
    assert source.asked == [0]  # nothing of it was there before: asking again would give the same
    assert not store.has_blob(sha256(DATA))
    assert partial(store).stat().st_size == 0
    fill(store, Source())
    assert store.has_blob(sha256(DATA), len(DATA))


def test_wrong_twice_after_resuming_is_an_error(store: Store) -> None:
    with pytest.raises(NetworkError):
        fill(store, Source(limit=500_000))
    source = Source(DATA[:-1] + b"!")
    with pytest.raises(IntegrityError):
        fill(store, source)
    assert source.asked == [500_000, 0]


def test_full_disk_keeps_the_partial(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from udk.errors import DiskFullError

    real, written = os.write, [0]

    def write(fd: int, data: bytes) -> int:
        if "/ingest/" in os.readlink(f"/proc/self/fd/{fd}") and len(data) > 1000:
            if written[0] + len(data) > 255_000:
                if written[0] < 255_000:  # the last room is filled first, as a real disk does
                    written[0] += 5_000
                    return real(fd, data[:5_000])
                raise OSError(28, "No space left on device")
            written[0] += len(data)
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(DiskFullError, match="no space left"):
        fill(store, Source())
    monkeypatch.undo()
    assert partial(store).stat().st_size == 255_000
    source = Source()
    fill(store, source)
    assert source.asked == [255_000]


def test_second_writer_waits_for_the_first(store: Store) -> None:
    go, reached, source = threading.Event(), threading.Event(), Source()

    def slow(offset: int) -> Iterator[bytes]:
        for n, chunk in enumerate(source(offset)):
            if n == 5:
                reached.set()
                go.wait(10)
            yield chunk

    def first() -> None:
        with store.ingest(descriptor()) as ingest:
            ingest.fill(slow)

    thread = threading.Thread(target=first)
    thread.start()
    reached.wait(10)
    threading.Timer(0.3, go.set).start()
    with store.ingest(descriptor()) as second:
        assert second.done
        assert not second.held
    thread.join()
    assert source.asked == [0]


def test_writer_beside_a_stopped_one_goes_on_from_its_bytes(store: Store) -> None:
    """Two writers at once, as after a SIGSTOP beyond all patience: one request each, one blob, no damage."""
    go, reached, first_source = threading.Event(), threading.Event(), Source()

    def stopped(offset: int) -> Iterator[bytes]:
        for n, chunk in enumerate(first_source(offset)):
            if n == 30:
                reached.set()
                go.wait(20)
            yield chunk

    def first() -> None:
        with store.ingest(descriptor()) as ingest:
            ingest.fill(stopped)

    thread = threading.Thread(target=first)
    thread.start()
    reached.wait(10)
    second_source = Source()
    second = Ingest(store.path, sha256(DATA), len(DATA), patience=0.2)
    second._lock._beat = lambda: 1  # type: ignore[method-assign]  # no sign of life from the first
    with second:
        assert second.held
        second.fill(second_source)
    assert second_source.asked == [300_000]
    assert store.has_blob(sha256(DATA), len(DATA))
    go.set()
    thread.join()
    assert Path(store.blob_path(sha256(DATA))).read_bytes() == DATA
    assert os.listdir(f"{store.path}/ingest") == []


def test_partial_changed_underneath_is_not_published(store: Store) -> None:
    def meddling(offset: int) -> Iterator[bytes]:
        yield from Source()(offset)
        partial(store).unlink()
        partial(store).write_bytes(b"something else")

    with pytest.raises(StoreError, match="changed by someone else"), store.ingest(descriptor()) as ingest:
        ingest.fill(meddling)
    assert not store.has_blob(sha256(DATA))


def test_stop_ends_the_wait(store: Store) -> None:
    with store.ingest(descriptor()), store.ingest(descriptor(), stop=lambda: True) as second:
        assert not second.done
        assert not second.held


def test_blob_of_the_wrong_size_is_replaced(store: Store) -> None:
    Path(store.blob_path(sha256(DATA))).write_bytes(b"short")
    fill(store, Source())
    assert Path(store.blob_path(sha256(DATA))).read_bytes() == DATA
