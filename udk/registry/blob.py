"""Fetching one blob from one place: ranges, resumption, and bounds on how often it is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from udk.errors import IntegrityError, NetworkError, ProtocolError, RegistryError
from udk.oci.text import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from udk.oci.descriptor import Descriptor
    from udk.registry.client import RegistryClient
    from udk.registry.conf import Endpoint
    from udk.registry.transport import Answer

# A connection that brought this much counts as progress: only those without count as failures, so that a long
# blob over a bad line arrives, and one that trickles in does not cost a request per byte.
PROGRESS = 1 << 18


class BlobFetch:
    """Iterates over the bytes of ``descriptor`` from ``position`` on, which moves with what was handed out.

    Never hands out more than ``descriptor.size`` bytes in all; a source that has more is an
    IntegrityError."""

    def __init__(
        self, client: RegistryClient, endpoint: Endpoint, descriptor: Descriptor, offset: int = 0
    ) -> None:
        self.client = client
        self.endpoint = endpoint
        self.descriptor = descriptor
        self.position = offset
        self.ranges = True  # until the registry shows that it cannot

    def __iter__(self) -> Iterator[bytes]:
        retry = self.client.retry(self.endpoint.is_mirror, begun=True)
        while self.position < self.descriptor.size or not self.descriptor.size:
            before = self.position
            try:
                yield from self._transfer()
                return
            except RegistryError as e:
                if self.position - before >= PROGRESS:
                    retry.progress()
                retry.failed(e)

    def _transfer(self) -> Iterator[bytes]:
        size, digest, host = self.descriptor.size, self.descriptor.digest, self.endpoint.reference.host
        headers = {"Range": f"bytes={self.position}-"} if self.position and self.ranges else {}
        with self.client.ask_once(self.endpoint, f"blobs/{digest}", headers) as answer:
            if answer.status == 416:
                self.ranges = False
                raise NetworkError(f"registry {host} cannot send a part of {digest}")
            start = self._start(answer) if answer.status == 206 else 0
            if start is None:
                self.ranges = False  # asked anew without a range
                raise NetworkError(f"registry {host} sent another part of {digest} than asked for")
            length = answer.length
            if length is not None and start + length > size:
                raise IntegrityError(f"blob {digest} has {start + length} bytes, the manifest says {size}")
            skip, total = self.position - start, start
            for chunk in answer.chunks():
                total += len(chunk)
                if total > size:
                    raise IntegrityError(f"blob {digest} is longer than the {size} bytes announced")
                piece = chunk[skip:] if skip else chunk
                skip = max(0, skip - len(chunk))
                if piece:
                    self.position += len(piece)
                    yield piece
            if total < size and length is None:  # it did not say how long it would be: it may have broken off
                raise NetworkError(f"the transfer of {digest} ended after {total} of {size} bytes")
            if total < size:
                raise IntegrityError(f"blob {digest} has {total} bytes, the manifest says {size}")

    def _start(self, answer: Answer) -> int | None:
        """Where a 206 begins, None if it is not (a superset of) what was asked for. Raises ProtocolError."""
        text = answer.headers.get("Content-Range", "")
        unit, _, rest = text.strip().partition(" ")
        span, _, total = rest.partition("/")
        first, _, last = span.strip().partition("-")
        host = self.endpoint.reference.host
        if unit.lower() != "bytes" or not all(
            p.isascii() and p.isdigit() and len(p) < 20 for p in (first, last)
        ):
            raise ProtocolError(f"{host} sent a part of a blob without saying which: {quoted(text, 60)}")
        if total != "*" and total != str(self.descriptor.size):
            raise IntegrityError(
                f"blob {self.descriptor.digest} has {quoted(total, 30)} bytes on {host},"
                f" the manifest says {self.descriptor.size}"
            )
        return int(first) if int(first) <= self.position else None
