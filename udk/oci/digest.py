"""Content digests, ``algorithm:hex`` (image-spec, descriptor.md, section Digests)."""

from __future__ import annotations

from udk.errors import InvalidDigestError
from udk.oci.record import Record
from udk.oci.text import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import _Hash

# Algorithms accepted, with the number of hex digits. Others are refused, never guessed at: md5 or sha1 would
# make the digest worthless as proof of content.
HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HEX = frozenset("0123456789abcdef")


class Digest(Record):
    """One digest: ``algorithm`` is ``sha256`` or ``sha512``, ``hex`` lower-case. Prints as
    ``algorithm:hex``."""

    __slots__ = ("algorithm", "hex")
    algorithm: str
    hex: str

    def __init__(self, algorithm: str, hex: str) -> None:
        self._init(algorithm=algorithm, hex=hex)

    @classmethod
    def parse(cls, text: object) -> Digest:
        """The digest written in ``text``. Raises InvalidDigestError."""
        if not isinstance(text, str):
            raise InvalidDigestError(f"a digest must be text, not {type(text).__name__}")
        algorithm, colon, encoded = text.partition(":")
        length = HEX_LENGTH.get(algorithm)
        if not colon or not algorithm:
            raise InvalidDigestError(f"{quoted(text)} is not a digest", "write it as sha256:<64 hex digits>")
        if length is None:
            raise InvalidDigestError(
                f"digest algorithm {quoted(algorithm)} is not supported", "use sha256 or sha512"
            )
        if len(encoded) != length or not _HEX.issuperset(encoded):
            raise InvalidDigestError(
                f"{quoted(text)} is not a {algorithm} digest", f"it needs {length} lower-case hex digits"
            )
        return cls(algorithm, encoded)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    def __eq__(self, other: object) -> bool:
        return type(other) is Digest and self.hex == other.hex and self.algorithm == other.algorithm

    def __hash__(self) -> int:
        return hash(self.hex)

    @property
    def short(self) -> str:
        """The first 12 hex digits, for display."""
        return self.hex[:12]

    def hasher(self) -> _Hash:
        """A new hash object of this digest's algorithm."""
        import hashlib

        return hashlib.new(self.algorithm)

    def matches(self, data: bytes) -> bool:
        """Whether ``data`` has this digest."""
        return digest_of(data, self.algorithm) == self


def digest_of(data: bytes, algorithm: str = "sha256") -> Digest:
    """The digest of ``data``."""
    import hashlib

    return Digest(algorithm, hashlib.new(algorithm, data).hexdigest())
