"""VerifiedReader: the one gate through which bytes from elsewhere enter the store."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from udk.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHUNK = 1 << 20


class VerifiedReader:
    """Iterates over the chunks of a blob while checking that it is what its descriptor says.

    The last chunk is handed out before the end is known; a consumer acts on the content only after the iteration
    has ended without IntegrityError. ``feed`` accounts for a prefix that is already there.
    """

    def __init__(self, algorithm: str, encoded: str, size: int, what: str = "blob") -> None:
        self.name = f"{algorithm}:{encoded}"
        self.size = size
        self.count = 0
        self._what = what
        self._encoded = encoded
        self._hash = hashlib.new(algorithm)

    def feed(self, data: bytes | memoryview) -> None:
        """Takes in the next bytes. Raises IntegrityError beyond the size announced."""
        self.count += len(data)
        if self.count > self.size:
            raise IntegrityError(
                f"{self._what} {self.name} is longer than the {self.size} bytes announced",
                "the registry or a proxy on the way is broken; try again, or another registry",
            )
        self._hash.update(data)

    def finish(self) -> None:
        """Checks size and digest. Raises IntegrityError."""
        if self.count != self.size:
            raise IntegrityError(
                f"{self._what} {self.name} ends after {self.count} of {self.size} bytes", "try again"
            )
        if self._hash.hexdigest() != self._encoded:
            raise IntegrityError(
                f"{self._what} {self.name} has other content: {self._hash.name}:{self._hash.hexdigest()}",
                "the registry or a proxy on the way is broken; try again, or another registry",
            )

    def read(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The chunks themselves; IntegrityError as soon as they cannot be right."""
        for chunk in chunks:
            self.feed(chunk)
            yield chunk
        self.finish()

    def feed_file(self, fd: int, size: int) -> int:
        """Takes in the first ``size`` bytes of an open file; returns how many there were. Raises OSError."""
        import os

        done = 0
        while done < size:
            data = os.pread(fd, min(CHUNK, size - done), done)
            if not data:
                break
            self.feed(data)
            done += len(data)
        return done
