"""Files of a local source: in a directory, or in a tar archive (compressed or not, or from a pipe)."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from typing import TYPE_CHECKING

from udk.archive.tarindex import TarIndex
from udk.errors import DiskFullError, InvalidImageError, NotFoundError
from udk.oci.text import clean, quoted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Any, BinaryIO

CHUNK = 1 << 18
# A compressed archive is unpacked to a temporary file first. Images hardly shrink tenfold; zeros do
# thousandfold.
MAX_RATIO = 200
FREE_SIZE = 1 << 30

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}


def sniff(head: bytes) -> str:
    """The compression that the first bytes show: gzip, zstd, bzip2, xz, or ``""``."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


class Files:
    """Named files, read by position and from any thread. ``what`` names the source in errors."""

    what: str

    def find(self, name: str) -> tuple[int, int, int] | None:
        """Descriptor, offset and size of a file; None if there is none. Give it back with :meth:`done`."""
        raise NotImplementedError

    def done(self, fd: int) -> None:
        """Ends the use of a descriptor that :meth:`find` gave."""

    def close(self) -> None:
        """Gives up all descriptors."""

    def size(self, name: str) -> int | None:
        """Bytes of a file, None if there is none."""
        found = self.find(name)
        if found is None:
            return None
        self.done(found[0])
        return found[2]

    def read(self, name: str, limit: int) -> bytes | None:
        """A file of at most ``limit`` bytes, None if there is none. Raises InvalidImageError."""
        size = self.size(name)
        if size is None:
            return None
        if size > limit:
            raise InvalidImageError(f"{self.what}: {quoted(name, 80)} has {size} bytes, more than {limit}")
        return b"".join(self.chunks(name))

    def head(self, name: str, count: int) -> bytes:
        """The first ``count`` bytes of a file."""
        found = self.find(name)
        if found is None:
            return b""
        fd, offset, size = found
        try:
            return os.pread(fd, min(count, size), offset)
        finally:
            self.done(fd)

    def chunks(self, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of a file from ``start`` on. Raises NotFoundError, InvalidImageError."""
        found = self.find(name)
        if found is None:
            raise NotFoundError(f"{self.what} has no {quoted(name, 100)}")
        fd, offset, size = found
        try:
            at = start
            while at < size:
                chunk = os.pread(fd, min(CHUNK, size - at), offset + at)
                if not chunk:
                    raise InvalidImageError(f"{self.what} ended within {quoted(name, 100)}")
                at += len(chunk)
                yield chunk
        except OSError as e:
            raise InvalidImageError(f"{self.what}: {quoted(name, 100)} cannot be read: {reason(e)}") from None
        finally:
            self.done(fd)


class DirectoryFiles(Files):
    """Files below a directory. Only regular files count: a FIFO would hold the reader for ever."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.what = clean(path)

    def find(self, name: str) -> tuple[int, int, int] | None:
        try:
            fd = os.open(os.path.join(self.path, name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise InvalidImageError(f"{self.what}: {quoted(name, 100)} cannot be read: {reason(e)}") from None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            return None
        return fd, 0, status.st_size

    def done(self, fd: int) -> None:
        os.close(fd)


class TarFiles(Files):
    """Files in a tar archive; a compressed one, or a pipe, is spooled to an unnamed temporary file first."""

    def __init__(self, path: str, stream: BinaryIO | None = None) -> None:
        self.what = clean(path)
        self._file: Any = None
        try:
            self._file = stream if stream is not None else _open_regular(path)
            head = _peek(self._file)
            if not head:
                raise InvalidImageError(f"{self.what} is empty")
            how = sniff(head)
            if how or not _is_seekable(self._file):
                self._file = _spool(self._file, head, how, self.what)
            self._index = TarIndex(self._file.fileno(), self.what)
        except OSError as e:
            self.close()
            raise _failed(e, self.what) from None
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> list[str]:
        return list(self._index.places)

    def find(self, name: str) -> tuple[int, int, int] | None:
        place = self._index.find(name)
        return None if place is None else (self._file.fileno(), *place)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def reason(error: OSError) -> str:
    """What an OSError says, in lower case."""
    return (error.strerror or str(error)).lower()


def _failed(error: OSError, what: str) -> Exception:
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"there is no {what}", "check the path")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"{what} does not fit into {clean(tempfile.gettempdir())}: {reason(error)}",
            "make room, or set TMPDIR to a larger file system",
        )
    return InvalidImageError(f"{what} cannot be read: {reason(error)}")


def _open_regular(path: str) -> BinaryIO:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise IsADirectoryError(errno.EISDIR, "it is a directory")
    return os.fdopen(fd, "rb", buffering=0)


def _is_seekable(file: Any) -> bool:
    return stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def _peek(file: Any) -> bytes:
    """The first bytes; of a pipe they are taken out."""
    if _is_seekable(file):
        return os.pread(file.fileno(), 8, 0)
    head = b""
    while len(head) < 8:
        more = os.read(file.fileno(), 8 - len(head))
        if not more:
            break
        head += more
    return head


def _raw_chunks(file: Any, head: bytes) -> Iterator[bytes]:
    if _is_seekable(file):
        os.lseek(file.fileno(), 0, os.SEEK_SET)
    else:
        yield head
    while True:
        chunk = os.read(file.fileno(), CHUNK)
        if not chunk:
            return
        yield chunk


def _spool(file: Any, head: bytes, how: str, what: str) -> Any:
    """The plain archive in a temporary file that vanishes with its descriptor."""
    spool = tempfile.TemporaryFile(prefix="udk-archive-")
    try:
        decoder = _Decoder(how, what)
        taken = written = 0
        for chunk in _raw_chunks(file, head):
            taken += len(chunk)
            for piece in decoder.decode(chunk):
                written += len(piece)
                if how and written > max(FREE_SIZE, MAX_RATIO * taken):
                    raise InvalidImageError(f"{what} grows more than {MAX_RATIO}-fold when decompressed")
                spool.write(piece)
        decoder.finish()
        spool.flush()
    except BaseException:
        spool.close()
        raise
    finally:
        file.close()
    return spool


class _Decoder:
    """Incremental decompression in bounded pieces; several members or frames in a row are one stream."""

    def __init__(self, how: str, what: str) -> None:
        self.how, self.what = how, what
        self._decoder: Any = self._new() if how else None
        self._begun = False

    def _new(self) -> Any:
        if self.how == "gzip":
            import zlib

            return zlib.decompressobj(wbits=31)
        if self.how == "bzip2":
            import bz2

            return bz2.BZ2Decompressor()
        if self.how == "xz":
            import lzma

            return lzma.LZMADecompressor(memlimit=256 << 20)
        import zstandard

        return zstandard.ZstdDecompressor(max_window_size=128 << 20).decompressobj()

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._decoder is None:
            yield data
            return
        while data:
            if self._ended():
                if not data.strip(b"\0"):
                    return  # padding
                self._decoder = self._new()
            self._begun = True
            data = yield from self._step(data)

    def _step(self, data: bytes) -> Generator[bytes, None, bytes]:
        """Decompresses ``data`` up to the end of a member; returns what follows that."""
        decoder: Any = self._decoder
        try:
            if self.how == "gzip":
                while data:
                    yield decoder.decompress(data, CHUNK)
                    data = decoder.unconsumed_tail
                rest: bytes = decoder.unused_data
                return rest
            if self.how == "zstd":
                for at in range(
                    0, len(data), 1 << 14
                ):  # it has no limit of its own: small steps bound the pieces
                    yield decoder.decompress(data[at : at + (1 << 14)])
                    if decoder.eof:
                        rest = decoder.unused_data
                        return rest + data[at + (1 << 14) :]
                return b""
            yield decoder.decompress(data, CHUNK)
            while not decoder.needs_input and not decoder.eof:
                yield decoder.decompress(b"", CHUNK)
            rest = decoder.unused_data if decoder.eof else b""
            return rest
        except Exception as e:  # each library has an error of its own
            if isinstance(e, OSError) and e.errno is not None:
                raise
            raise InvalidImageError(f"{self.what} cannot be decompressed: {clean(e, 80)}") from None

    def _ended(self) -> bool:
        return bool(self._decoder.eof)

    def finish(self) -> None:
        if self._decoder is not None and not self._ended():
            raise InvalidImageError(f"{self.what} is truncated")
