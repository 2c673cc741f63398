"""The object storage of a repository under construction: compress, hash, write once."""

from __future__ import annotations

import os
import threading
import zlib
from typing import NamedTuple

from ..errors import ConfigError, CvmfsError
from ..hash import SHA1, Hash, new_hasher

_PIECE = 1 << 20


class PublishError(CvmfsError):
    """The source tree or the repository directory cannot be published."""

    status = 1


class Stored(NamedTuple):
    """What became of one piece of content."""

    hash: Hash
    size: int  # before compression, bytes


class Counters(NamedTuple):
    """Objects and bytes (as stored) written, and how many were there already."""

    objects: int
    bytes: int
    known: int


class ObjectStorage:
    """``<repository>/data``. Thread-safe. An object appears by rename, so a name always stands for whole
    contents.
    """

    def __init__(self, repository: str, *, algorithm: str = SHA1, level: int = 6) -> None:
        self.root = repository
        self.algorithm = algorithm
        self.level = level
        self._txn = os.path.join(repository, "data", "txn")
        self._lock = threading.Lock()
        self._serial = 0
        self._objects = self._bytes = self._known = 0

    def prepare(self) -> None:
        """Makes the directories; sweeps what killed publishers left. The caller holds the publisher's
        lock.
        """
        try:
            os.makedirs(self._txn, exist_ok=True)
            if not os.path.isdir(os.path.join(self.root, "data", "ff")):
                for i in range(256):
                    os.makedirs(os.path.join(self.root, "data", f"{i:02x}"), exist_ok=True)
            for name in os.listdir(self._txn):
                if name.startswith("put"):
                    os.unlink(os.path.join(self._txn, name))
        except OSError as error:
            raise ConfigError(f"cannot write the repository directory: {error}") from error

    @property
    def counters(self) -> Counters:
        return Counters(self._objects, self._bytes, self._known)

    def scratch(self) -> str:
        """A new file name on the file system of the objects."""
        with self._lock:
            self._serial += 1
            return os.path.join(self._txn, f"put{os.getpid()}.{self._serial}")

    def put(self, data: bytes, suffix: str = "", *, compress: bool = True) -> Stored:
        """Stores ``data`` under the hash of what is written."""
        body = zlib.compress(data, self.level) if compress else data
        name = Hash.of(self.algorithm, body, suffix)
        target = os.path.join(self.root, name.path)
        if os.path.exists(target):
            self._count(0, known=True)
            return Stored(name, len(data))
        part = self.scratch()
        with open(part, "wb", buffering=0) as file:
            view = memoryview(body)
            while view:
                view = view[file.write(view) :]
        self._commit(part, target, len(body))
        return Stored(name, len(data))

    def put_stream(self, fd: int, suffix: str = "", *, compress: bool = True) -> Stored:
        """Stores everything up to the end of ``fd``, in constant memory."""
        hasher = new_hasher(self.algorithm)
        deflate = zlib.compressobj(self.level)
        size = stored = 0
        part = self.scratch()
        try:
            with open(part, "wb") as file:
                while True:
                    piece = os.read(fd, _PIECE)
                    size += len(piece)
                    out = (deflate.compress(piece) if piece else deflate.flush()) if compress else piece
                    hasher.update(out)
                    stored += len(out)
                    file.write(out)
                    if not piece:
                        break
        except BaseException:
            os.unlink(part)
            raise
        name = Hash(self.algorithm, hasher.digest(), suffix)
        target = os.path.join(self.root, name.path)
        if os.path.exists(target):
            os.unlink(part)
            self._count(0, known=True)
        else:
            self._commit(part, target, stored)
        return Stored(name, size)

    def read(self, name: Hash) -> bytes:
        """The decompressed bytes of an object that is always compressed; verified. Raises PublishError."""
        path = os.path.join(self.root, name.path)
        try:
            with open(path, "rb") as file:
                body = file.read()
            if Hash.of(name.algorithm, body, name.suffix) == name:
                return zlib.decompress(body)
        except (OSError, zlib.error) as error:
            raise PublishError(f"{path}: {error}") from error
        raise PublishError(f"{path} is damaged: its hash differs", "restore it from a replica")

    def _commit(self, part: str, target: str, stored: int) -> None:
        try:
            os.rename(part, target)
        except OSError:
            os.unlink(part)
            raise
        self._count(stored)

    def _count(self, stored: int, *, known: bool = False) -> None:
        with self._lock:
            if known:
                self._known += 1
            else:
                self._objects += 1
                self._bytes += stored
