"""Builds one tree from an image's layers: ``rootfs/``, ``record`` and ``tree.json`` in a staging directory.

The caller publishes the staging directory by a rename, or removes it: after any failure it holds a
half-made tree and nothing outside it was touched.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Protocol, Union

from udk.errors import IntegrityError, LayerError, StoreError
from udk.layers.caps import Caps, disk_error, over_cap, show
from udk.layers.decompress import decompress
from udk.layers.extract import Extractor
from udk.layers.log import RECORDED, TIMED, TreeLog, pack, unpack
from udk.layers.record import RecordWriter
from udk.layers.tar import ChunkReader, TarReader
from udk.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    class Stream(Protocol):
        """Anything that is read from once, front to back."""

        def read(self, size: int, /) -> bytes: ...

    class VerifiedDescriptor(Protocol):
        """What a compressed layer must be: an OCI descriptor will do."""

        @property
        def digest(self) -> Digest: ...
        @property
        def size(self) -> int: ...

    Source = Union[Stream, str, "os.PathLike[str]"]

VERSION = 1
_S_IFDIR = 0o040000


class TreeStats:
    """What :meth:`TreeBuilder.finish` made. ``bytes``: uncompressed bytes of all layers; ``entries``:
    paths in the tree, the root left out; ``chain_id``: of the layers applied (image-spec, config.md)."""

    __slots__ = ("bytes", "chain_id", "diff_ids", "entries", "layers")

    def __init__(self, chain_id: str, entries: int, bytes: int, diff_ids: list[str]) -> None:
        self.chain_id = chain_id
        self.entries = entries
        self.bytes = bytes
        self.diff_ids = diff_ids
        self.layers = len(diff_ids)

    def as_dict(self) -> dict[str, object]:
        return {
            "version": VERSION, "chain_id": self.chain_id, "entries": self.entries, "bytes": self.bytes,
            "layers": self.layers, "diff_ids": self.diff_ids,
        }  # fmt: skip


class TreeBuilder:
    """Applies layers, base first, to ``staging_dir``, an existing empty directory. After an error it is of
    no more use but for :meth:`close`, which gives back its descriptors; it is a context manager."""

    def __init__(self, staging_dir: str, *, caps: Caps | None = None, strict: bool = False) -> None:
        """``strict`` refuses layers whose media type contradicts their contents. Raises StoreError."""
        self._dir = os.fspath(staging_dir)
        self._caps = caps or Caps()
        self._strict = strict
        self._diff_ids: list[str] = []
        self._chain = ""
        self._bytes = 0
        self._usable = True
        rootfs = os.path.join(self._dir, "rootfs")
        try:
            os.mkdir(rootfs, 0o755)
            os.chmod(rootfs, 0o755)  # whatever the umask and a set-gid parent say
            self._fd = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as e:
            raise disk_error(e, rootfs) from None
        self._log = TreeLog(self._dir)
        self._log.put(b"", pack(TIMED, _S_IFDIR | 0o755, 0, 0, 0, 0, 0, b""))
        self._extractor = Extractor(self._fd, self._log, self._caps, _masked(self._fd))

    def apply(
        self,
        source: Source,
        media_type: str,
        diff_id: Digest | str | None,
        compressed: VerifiedDescriptor | None = None,
    ) -> str:
        """Applies one layer, read once from a path or an object with ``read(size)``; returns its diff ID.

        ``diff_id`` is the digest that the uncompressed bytes must have (None: any). With ``compressed``
        the bytes as they are read must have its digest and size. Raises LayerError, IntegrityError,
        DiskFullError, StoreError, UnsupportedImageError."""
        if not self._usable:
            raise StoreError("this tree failed before and cannot be completed")
        self._usable = False
        wanted = Digest.parse(diff_id) if isinstance(diff_id, str) else diff_id
        try:
            if isinstance(source, (str, os.PathLike)):
                with open(source, "rb", buffering=0) as stream:
                    got = self._apply(stream, media_type, wanted, compressed)
            else:
                got = self._apply(source, media_type, wanted, compressed)
        except OSError as e:
            raise disk_error(e, show(self._extractor.current) or self._dir) from e
        except RecursionError as e:
            raise LayerError("the layer is nested too deeply") from e
        self._usable = True
        self._diff_ids.append(got)
        self._chain = _chain(self._chain, got)
        return got

    def _apply(
        self,
        stream: Stream,
        media_type: str,
        wanted: Digest | None,
        compressed: VerifiedDescriptor | None,
    ) -> str:
        meter = Meter(stream, self._caps, compressed, wanted.algorithm if wanted else "sha256", self._bytes)
        chunks = meter.chunks(decompress(meter.read, self._caps, media_type, self._strict))
        self._extractor.apply(TarReader(ChunkReader(chunks), self._caps))
        meter.finish()
        got = meter.diff_id
        if wanted is not None and got != str(wanted):
            raise IntegrityError(
                f"a layer's contents have the digest {got}, the image's config says {wanted}",
                "the image is damaged or was tampered with: pull it again",
            )
        self._bytes = meter.total
        return got

    def finish(self) -> TreeStats:
        """Sets the directories' times and writes ``record`` and ``tree.json``. Raises DiskFullError,
        StoreError."""
        if not self._usable:
            raise StoreError("this tree failed before and cannot be completed")
        self._usable = False
        try:
            self._write_record()
            stats = TreeStats(self._chain, self._extractor.counts.existing, self._bytes, self._diff_ids)
            with open(os.path.join(self._dir, "tree.json"), "x", encoding="utf-8") as out:
                json.dump(stats.as_dict(), out)
                out.write("\n")
        except OSError as e:
            raise disk_error(e, self._dir) from e
        finally:
            self.close()
        return stats

    def _write_record(self) -> None:
        record = RecordWriter(os.path.join(self._dir, "record"))
        try:
            for path, value in self._log.items():
                flags, mode, uid, gid, major, minor, mtime, raw = unpack(value)
                if flags & TIMED:
                    os.utime(path or b".", ns=(mtime, mtime), dir_fd=self._fd, follow_symlinks=False)
                if flags & RECORDED:
                    record.add(path, mode, uid, gid, major, minor, raw)
            record.close()
        finally:
            record.abort()

    def close(self) -> None:
        """Gives back what is open. Idempotent."""
        self._usable = False
        self._extractor.close()
        self._log.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> TreeBuilder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Meter:
    """Counts and digests a layer's bytes on both sides of the decompressor, and enforces the caps on them."""

    def __init__(
        self,
        stream: Stream,
        caps: Caps,
        compressed: VerifiedDescriptor | None,
        algorithm: str,
        before: int,
    ) -> None:
        self._stream = stream
        self._caps = caps
        self._compressed = compressed
        self._outer = compressed.digest.hasher() if compressed else None
        self._inner = hashlib.new(algorithm)
        self.fed = 0
        self._start = before
        self.total = before

    @property
    def diff_id(self) -> str:
        return f"{self._inner.name}:{self._inner.hexdigest()}"

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if data is None:
            raise StoreError("the layer's source would block", "pass a blocking stream")
        self.fed += len(data)
        if self._outer is not None and data:
            self._outer.update(data)
        return data

    def chunks(self, uncompressed: Iterator[bytes]) -> Iterator[bytes]:
        caps = self._caps
        for chunk in uncompressed:
            self._inner.update(chunk)
            self.total += len(chunk)
            out = self.total - self._start
            if self.total > caps.bytes:
                raise over_cap(f"the image is larger than {caps.bytes} bytes", "bytes")
            if out > caps.ratio_floor and out > self.fed * caps.ratio:
                raise over_cap(f"the layer expands more than {caps.ratio} times", "ratio")
            yield chunk

    def finish(self) -> None:
        """Checks the compressed side. Raises IntegrityError."""
        if self._compressed is None or self._outer is None:
            return
        while self.read(1 << 20):
            pass
        if self.fed != self._compressed.size:
            raise IntegrityError(f"a layer has {self.fed} bytes, its descriptor says {self._compressed.size}")
        got = f"{self._outer.name}:{self._outer.hexdigest()}"
        if got != str(self._compressed.digest):
            raise IntegrityError(
                f"a layer has the digest {got}, its descriptor says {self._compressed.digest}"
            )


def _chain(parent: str, diff_id: str) -> str:
    if not parent:
        return diff_id
    return "sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest()


def _masked(fd: int) -> int:
    """Mode bits that new files may lack: the umask, or all where a default ACL takes its place."""
    try:
        if "system.posix_acl_default" in os.listxattr(fd):
            return 0o7777
    except OSError:
        pass
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except (OSError, ValueError):
        pass
    return 0o7777  # asking os.umask would change it under other threads
