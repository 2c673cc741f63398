"""Stand-in until download and cache land: urllib and a directory. To be deleted."""

from __future__ import annotations

import os
import tempfile
import urllib.error
import urllib.request
import zlib
from typing import Any, Callable
from urllib.parse import quote

from .errors import CvmfsError, IntegrityError, NetworkError, ObjectNotFoundError
from .hash import new_hasher


class SimpleFetcher:
    def __init__(self, config: Any, *, servers: Any, proxy: Any) -> None:
        self.servers = list(servers)
        self.config = config
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.requests = 0

    def _get(self, url: str, headers: dict[str, str] | None = None) -> bytes:
        self.requests += 1
        try:
            with self._opener.open(urllib.request.Request(url, headers=headers or {}), timeout=10) as r:
                return r.read()  # type: ignore[no-any-return]
        except urllib.error.HTTPError as e:
            raise ObjectNotFoundError(f"{url}: {e.code}") from e
        except OSError as e:
            raise NetworkError(f"{url}: {e}") from e

    def get(self, path: str, check: Callable[[bytes], Any], *, limit: int = 0) -> Any:
        first: CvmfsError | None = None
        for s in self.servers:
            try:
                return check(self._get(f"{s}/{path}"))
            except CvmfsError as e:
                if first is None or isinstance(first, NetworkError):
                    first = e
        assert first
        raise first

    def fetch(self, request: Any, sink: Any, restart: Any) -> None:
        url = f"{self.servers[0]}/{request.hash.path}"
        headers = {}
        if request.external:
            url = self.config.get("CVMFS_EXTERNAL_URL") + quote(request.external.path)
            if not request.external.whole:
                end = request.external.offset + request.external.length - 1
                headers["Range"] = f"bytes={request.external.offset}-{end}"
        body = self._get(url, headers)
        h = new_hasher(request.hash.algorithm)
        h.update(body)
        if h.digest() != request.hash.digest:
            raise IntegrityError(f"{url}: wrong hash")
        try:
            data = zlib.decompress(body) if request.compressed else body
        except zlib.error as e:
            raise IntegrityError(f"{url}: {e}") from e
        if request.size is not None and len(data) != request.size:
            raise IntegrityError(f"{url}: wrong size")
        sink(data)

    def status(self) -> dict[str, Any]:
        return {"hosts": [{"url": s, "active": True} for s in self.servers], "proxies": [], "online": True}

    def use_hosts(self, hosts: Any) -> None:
        self.servers = list(hosts)

    def probe(self) -> None: ...
    def close(self) -> None: ...


class SimpleStore:
    def __init__(self, config: Any, fetcher: Any, *, directory: str | None = None) -> None:
        self.fetcher = fetcher
        self.directory = directory or tempfile.mkdtemp(prefix="cvmfs-standin-")

    def _path(self, request: Any) -> str:
        return os.path.join(self.directory, request.hash.cache_path)

    def open(self, request: Any) -> int:
        path = self._path(request)
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            data: list[bytes] = []
            self.fetcher.fetch(request, data.append, data.clear)
            fd, tmp = tempfile.mkstemp(dir=self.directory)
            with os.fdopen(fd, "wb") as f:
                f.writelines(data)
            os.rename(tmp, path)
        return os.open(path, os.O_RDONLY)

    def path(self, request: Any) -> str | None:
        return self._path(request)

    def has(self, request: Any) -> bool:
        return os.path.exists(self._path(request))

    def ensure(self, requests: Any, *, progress: Any = None) -> list[Any]:
        bad = []
        for r in requests:
            try:
                os.close(self.open(r))
                if progress:
                    progress(r.size or 0)
            except CvmfsError as e:
                bad.append((r, e))
        return bad

    def load_state(self, fqrn: str, name: str) -> bytes | None:
        try:
            with open(os.path.join(self.directory, f"{name}.{fqrn}"), "rb") as f:
                return f.read()
        except OSError:
            return None

    def save_state(self, fqrn: str, name: str, data: bytes) -> None:
        with open(os.path.join(self.directory, f"{name}.{fqrn}"), "wb") as f:
            f.write(data)

    def status(self) -> dict[str, Any]:
        return {"directory": self.directory}

    def entries(self) -> Any:
        return []

    def evict(self, hashes: Any) -> int:
        return 0

    def pin(self, requests: Any) -> None: ...
    def unpin(self, hashes: Any) -> None: ...
    def fsck(self, *, repair: bool = True, progress: Any = None) -> dict[str, Any]:
        return {}

    def gc(self, *, limit: int | None = None) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...
