"""Builds one tree from an image's layers: ``rootfs/``, ``record``, ``index`` and ``tree.json`` in a staging
directory.

The caller publishes the staging directory by a rename, or removes it: after any failure it holds a
half-made tree and nothing outside it was touched.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Union

from udk.errors import IntegrityError, LayerError, StoreError
from udk.layers.caps import CapError, Caps, disk_error, show
from udk.layers.extract import Extractor
from udk.layers.index import write_index
from udk.layers.log import RECORDED, TIMED, TreeLog, pack, unpack
from udk.layers.record import RecordWriter
from udk.layers.stream import LayerStream
from udk.layers.tar import ChunkReader, TarReader
from udk.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from udk.layers.stream import Stream, VerifiedDescriptor

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
        except LayerError as e:
            e.message = f"layer {len(self._diff_ids) + 1}: {e.message}"
            raise
        except OSError as e:
            raise disk_error(e, show(self._extractor.current) or self._dir) from e
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
        algorithm = wanted.algorithm if wanted else "sha256"
        with LayerStream(
            stream, media_type, self._caps, compressed=compressed, algorithm=algorithm, before=self._bytes,
            strict=self._strict, spool=self._dir,
        ) as layer:  # fmt: skip
            chunks = iter(layer)
            try:
                self._extractor.apply(TarReader(ChunkReader(chunks), self._caps))
            except CapError:
                raise
            except LayerError:
                # That the bytes are not the ones promised explains any other complaint about them.
                if compressed is not None or wanted is not None:
                    _drain(chunks)
                    if layer.complete:
                        _check(layer.diff_id, wanted)
                raise
            got = layer.diff_id
        _check(got, wanted)
        self._bytes += layer.total
        return got

    def finish(self) -> TreeStats:
        """Sets the directories' times and writes ``record``, ``index`` and ``tree.json``. Raises
        DiskFullError, StoreError."""
        if not self._usable:
            raise StoreError("this tree failed before and cannot be completed")
        self._usable = False
        try:
            self._write_record()
            try:
                write_index(self._dir, durable=False)
            except ValueError:
                pass  # who reads the tree asks the kernel
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


def _drain(chunks: Iterator[bytes]) -> None:
    try:
        for _ in chunks:
            pass
    except LayerError:
        pass


def _check(got: str, wanted: Digest | None) -> None:
    if wanted is not None and got != str(wanted):
        raise IntegrityError(
            f"a layer's contents have the digest {got}, the image's config says {wanted}",
            "the image is damaged or was tampered with: pull it again",
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
