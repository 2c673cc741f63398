"""Stand-in until download and cache land: urllib and a directory. To be deleted."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from .errors import CvmfsError


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
