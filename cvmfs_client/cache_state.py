"""Small files beside the objects: what an offline start needs, and the paths that `cache list` shows."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

from .cache_layout import Directory
from .errors import UsageError, show
from .forksafe import ForkSafe
from .hash import Hash

_LIMIT = 64 << 20
_BATCH = 64


class State(ForkSafe):
    """Files by repository and name, in the first directory that has them; written to the writable one."""

    def __init__(self, directories: Sequence[Directory]) -> None:
        super().__init__()
        self._directories = list(directories)
        self._upper = next((d for d in directories if d.writable), None)
        self._lock = threading.Lock()
        self._names: list[str] = []

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._names = []

    def load(self, fqrn: str, name: str) -> bytes | None:
        """The file's bytes; None where no tier has it."""
        for directory in self._directories:
            try:
                with open(_place(directory, fqrn, name), "rb") as file:
                    data = file.read(_LIMIT + 1)
                if len(data) <= _LIMIT:
                    return data
            except OSError:
                continue
        return None

    def save(self, fqrn: str, name: str, data: bytes) -> None:
        """Atomically; does nothing where there is no writable tier or no space."""
        directory = self._upper
        if directory is None:
            return
        target = _place(directory, fqrn, name)
        part = f"{target}.{os.getpid()}.{time.monotonic_ns():x}"
        try:
            if name != "breadcrumb":
                os.makedirs(os.path.dirname(target), mode=0o770 if directory.shared else 0o700, exist_ok=True)
            fd = os.open(
                part,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                0o660 if directory.shared else 0o600,
            )
            try:
                with open(fd, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(part, target)
            except BaseException:
                os.unlink(part)
                raise
        except OSError:
            pass

    # --- paths of objects, for listings only

    def note(self, name: Hash, path: bytes) -> None:
        """Remembers a path in the repository that an object belongs to."""
        if self._upper is None or not path:
            return
        with self._lock:
            self._names.append(f"{name} {show(path)}\n")
            if len(self._names) < _BATCH:
                return
        self.flush()

    def flush(self) -> None:
        """Writes noted paths out, one write for many."""
        with self._lock:
            names, self._names = self._names, []
        if names and self._upper is not None:
            try:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                fd = os.open(f"{self._upper.path}/paths.log", flags, 0o660 if self._upper.shared else 0o600)
                try:
                    os.write(fd, "".join(names).encode("utf-8", "replace"))
                finally:
                    os.close(fd)
            except OSError:
                pass

    def paths(self) -> dict[str, str]:
        """Text form of a hash -> a path it was fetched for."""
        found: dict[str, str] = {}
        self.flush()
        for directory in reversed(self._directories):
            try:
                with open(f"{directory.path}/paths.log", encoding="utf-8", errors="replace") as file:
                    for line in file:
                        name, _, path = line.rstrip("\n").partition(" ")
                        if path:
                            found[name] = path
            except OSError:
                continue
        return found

    def compact(self, present: set[str]) -> None:
        """Rewrites the list of paths for the objects that are left."""
        if self._upper is None:
            return
        kept = {name: path for name, path in self.paths().items() if name in present}
        target = f"{self._upper.path}/paths.log"
        part = f"{target}.{os.getpid()}.{time.monotonic_ns():x}"
        try:
            with open(part, "w", encoding="utf-8") as file:
                file.writelines(f"{name} {path}\n" for name, path in kept.items())
            os.rename(part, target)
        except OSError:
            pass


def _place(directory: Directory, fqrn: str, name: str) -> str:
    for part in (fqrn, name):
        if not part or "/" in part or "\0" in part or part.startswith("."):
            raise UsageError(f"{part[:80]!r} cannot be a name in the cache")
    if name == "breadcrumb":
        return f"{directory.path}/cvmfschecksum.{fqrn}"
    return f"{directory.path}/state/{fqrn}/{name}"
