"""The contracts between reading (catalogs, library), and fetching (download, cache, prefetch).

One object store is what the reader sees: it asks for a :class:`Request` and gets a file descriptor on
verified, decompressed bytes. The store looks into its tiers, else has its :class:`Fetcher` download.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Callable, NamedTuple, Protocol, TypeVar

from .hash import Hash

T = TypeVar("T")

# decompressed bytes accepted where no catalog row announces a size
LIMIT_CATALOG = 4 << 30
LIMIT_SMALL = 16 << 20  # manifest, whitelist, certificate, meta information, geo answers


class External(NamedTuple):
    """Where the bytes of an external file are: under CVMFS_EXTERNAL_URL."""

    path: bytes  # of the file in the repository; appended, percent-escaped, to the external URL
    offset: int  # bytes of the transfer, for `Range:`
    length: int
    whole: bool  # the file is this range: no Range header is sent


class Request(NamedTuple):
    """One object wanted. Equal hashes (without suffix) mean equal bytes."""

    hash: Hash  # with its suffix; over the bytes as transferred
    compressed: bool = True  # a zlib stream on the server (else as is)
    size: int | None = None  # decompressed size where known; another size is an IntegrityError
    limit: int = LIMIT_CATALOG  # decompressed bytes accepted where size is None
    path: bytes = b""  # path in the repository, for listings of the cache, messages and the cvmfs-info header
    volatile: bool = False  # evict first
    pin: bool = False  # in use for long (catalogs): not evicted while this process lives
    alternative: str = ""  # another place on the server, tried first (.cvmfsalt-...)
    external: External | None = None


class Fetcher(Protocol):
    """Downloads with failover over proxies and hosts. Thread-safe, fork-safe.

    Raises NetworkError (nothing answered; the message says what was tried), ObjectNotFoundError (404 on
    every host), IntegrityError (wrong bytes on every host, past caches).
    """

    def get(self, path: str, check: Callable[[bytes], T], *, limit: int = LIMIT_SMALL) -> T:
        """GETs the short-lived ``path`` (relative to the repository's URL) and returns ``check(body)``.

        A CvmfsError raised by ``check`` counts against the host: the reason is recorded, the next host asked;
        when no host is left, the first such error is raised: it matters more than a NetworkError of another.
        ``check`` may itself call the fetcher."""
        ...

    def fetch(self, request: Request, sink: Callable[[bytes], Any], restart: Callable[[], Any]) -> None:
        """Streams the decompressed bytes into ``sink``; ``restart`` discards what was given before a new try.

        Returns only when hash and size are right."""
        ...

    def use_hosts(self, hosts: Sequence[str]) -> None:
        """Replaces the host chain (recommended Stratum 1s, `host set`)."""
        ...

    def status(self) -> dict[str, Any]:
        """For `host info`, `proxy info` and reports: JSON-able.

        hosts: list of {url, rtt_ms|None, geo|None, active}; proxies: list of groups (lists of {url, active});
        online: bool; offline_since: unix time|None; switches: list of {time, from, to, reason};
        counters: {requests, bytes, retries, host_failovers, proxy_failovers, ...}."""
        ...

    def probe(self) -> None:
        """Measures and orders the hosts anew."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    """Content-addressed cache in front of a fetcher. Thread-safe, fork-safe, shared by processes."""

    fetcher: Fetcher | None  # None: offline by configuration

    def open(self, request: Request) -> int:
        """A new read-only descriptor at offset 0 on the verified, decompressed bytes; the caller closes it.

        May be a memory file where the disk is full. Raises what Fetcher.fetch raises, OfflineError,
        CacheFullError."""
        ...

    def path(self, request: Request) -> str | None:
        """Path of the object in the cache for who needs a name (SQLite); None: it has none, use open()."""
        ...

    def has(self, request: Request) -> bool:
        """Whether open() would need no network."""
        ...

    def ensure(
        self, requests: Iterable[Request], *, progress: Callable[[int], Any] | None = None
    ) -> list[Any]:
        """Brings all into the cache, in parallel; ``progress`` gets bytes stored.

        Returns the (request, CvmfsError) pairs that failed."""
        ...

    def load_state(self, fqrn: str, name: str) -> bytes | None:
        """A small file kept for offline starts; name: manifest, whitelist, certificate, breadcrumb or other.

        `breadcrumb` is `cvmfschecksum.<fqrn>` of the official layout; all tiers are looked into."""
        ...

    def save_state(self, fqrn: str, name: str, data: bytes) -> None:
        """Written atomically; silently left out where the cache is read-only."""
        ...

    def status(self) -> dict[str, Any]:
        """JSON-able: directory, kind, bytes, limit, pinned, entries, free_disk, tiers, hits, misses."""
        ...

    def entries(self) -> Iterable[dict[str, Any]]:
        """For `cache list`: {hash, size, path, kind, pinned, last_used}."""
        ...

    def evict(self, hashes: Iterable[Hash]) -> int:
        """Removes objects; returns bytes freed."""
        ...

    def pin(self, requests: Iterable[Request]) -> None:
        """Fetches and keeps them until :meth:`unpin`, across processes."""
        ...

    def unpin(self, hashes: Iterable[Hash]) -> None: ...

    def fsck(self, *, repair: bool = True, progress: Callable[[int], Any] | None = None) -> dict[str, Any]:
        """Checks every object against the kept digest; {checked, bytes, bad: [hash], repaired}."""
        ...

    def gc(self, *, limit: int | None = None) -> dict[str, Any]:
        """Evicts down to ``limit`` bytes (default: half the quota), sweeps left-overs; {freed, left}."""
        ...

    def close(self) -> None: ...


class Source(Protocol):
    """What prefetching needs of the repository; repository paths are bytes ("" is the root, else "/a/b")."""

    fqrn: str
    root_hash: Hash

    def lookup(self, path: bytes) -> Any:
        """The Entry of cvmfs_client.entry; follows no links."""
        ...

    def list_entries(self, path: bytes) -> Sequence[Any]:
        """The entries of a directory. May download a catalog."""
        ...

    def requests(self, path: bytes, entry: Any) -> Sequence[Request]:
        """The objects that hold the file's bytes; several for a chunked file, none for what is no file."""
        ...


class Prefetcher(Protocol):
    """Learns what is read together and fetches ahead. Called by the library; must never block or raise."""

    def opened(self, path: bytes, entry: Any) -> None:
        """A file is about to be read by the payload."""
        ...

    def close(self) -> None: ...


class Config(Protocol):
    """Configuration parameters as of cvmfs_client.config; names with their CVMFS_ prefix."""

    fqrn: str

    def get(self, name: str, default: str = "") -> str: ...
    def boolean(self, name: str, default: bool = False) -> bool: ...
    def integer(self, name: str, default: int) -> int: ...
    def items(self, name: str, separator: str) -> list[str]: ...


# constructors that cvmfs_client.repository uses:
#   cvmfs_client.download.HttpFetcher(config: Config, *, servers: Sequence[str], proxy: str | None) -> Fetcher
#       servers: base URLs of the repository with @fqrn@ expanded, ("http://...", "https://...", "file://...")
#       proxy: the text of CVMFS_HTTP_PROXY, "DIRECT" for none
#   cvmfs_client.cache.open_store(config: Config, fetcher: Fetcher | None, *, directory: str | None = None)
#       -> Store
#   cvmfs_client.prefetch.make_prefetcher(config: Config, source: Source, store: Store) -> Prefetcher
