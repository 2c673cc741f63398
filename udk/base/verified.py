"""The one gate through which bytes enter the store: size and digest are checked while they stream.

A consumer may write chunks as they come, but must not publish anything before the iteration has ended without
an error: only the end of the stream proves what the beginning was.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from udk.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


class VerifiedReader:
    """Hands on the chunks of ``source`` and raises IntegrityError unless they are exactly the expected
    content.

    ``algorithm`` and ``hex`` are the digest of the whole content of ``size`` bytes. To resume, ``offset``
    bytes are known already and ``hasher`` is a hash object that has seen them; ``source`` begins after them.
    Never more than ``size`` bytes are handed on, whatever the source yields; the source must then be at its
    end. ``what`` names the content in errors. ``verified`` is true once the end was reached and everything
    agreed.
    """

    def __init__(
        self,
        source: Iterable[bytes],
        algorithm: str,
        hex: str,
        size: int,
        what: str = "",
        *,
        hasher: Any = None,
        offset: int = 0,
    ) -> None:
        if (hasher is None) != (offset == 0):
            raise ValueError("a hasher is needed exactly when bytes are known already")
        self._source = source
        self._hasher = hashlib.new(algorithm) if hasher is None else hasher
        self._hex = hex
        self._algorithm = algorithm
        self._what = what or f"{algorithm}:{hex}"
        self._pending = b""
        self._chunks: Iterator[bytes] | None = None
        self.size = size
        self.position = offset
        self.verified = False

    def __iter__(self) -> Iterator[bytes]:
        if self._chunks is None:
            self._chunks = self._run()
        return self._chunks

    def _run(self) -> Iterator[bytes]:
        for chunk in self._source:
            if not chunk:
                continue
            if self.position + len(chunk) > self.size:
                raise IntegrityError(f"{self._what} is longer than the {self.size} bytes announced")
            self._hasher.update(chunk)
            self.position += len(chunk)
            yield chunk
        if self.position != self.size:
            raise IntegrityError(
                f"{self._what} ended after {self.position} of the {self.size} bytes announced"
            )
        found = self._hasher.hexdigest()
        if found != self._hex:
            raise IntegrityError(
                f"{self._what} has the wrong content: its digest is {self._algorithm}:{found}"
            )
        self.verified = True

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, all that is left if negative; ``b""`` only at the verified end."""
        if size < 0:
            parts = [self._pending, *self]
            self._pending = b""
            return b"".join(parts)
        if not self._pending:
            self._pending = next(iter(self), b"")
        piece, self._pending = self._pending[:size], self._pending[size:]
        return piece
