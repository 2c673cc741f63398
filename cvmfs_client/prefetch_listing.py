"""Directories as prefetching looks at them: each is listed once, and only while it pays."""

from __future__ import annotations

from typing import Any

from .errors import CvmfsError
from .interfaces import Source

_DIRECTORIES = 4_000
_ENTRIES = 20_000  # a directory with more is not looked at


class Listings:
    """Remembers the entries of directories. Not thread-safe; raises nothing: what cannot be listed is
    empty.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[bytes, dict[bytes, Any]] = {}
        self._extensions: dict[bytes, dict[bytes, list[bytes]]] = {}

    def names(self, path: bytes) -> dict[bytes, Any]:
        """Name -> entry of a directory, in the order of the catalog."""
        known = self._known.get(path)
        if known is not None:
            return known
        if len(self._known) >= _DIRECTORIES:
            self._known.clear()
            self._extensions.clear()
        found: dict[bytes, Any] = {}
        try:
            for entry in self._source.list_entries(path):
                found[entry.name] = entry
                if len(found) > _ENTRIES:
                    found = {}
                    break
        except (CvmfsError, OSError):
            found = {}
        self._known[path] = found
        return found

    def entry(self, path: bytes) -> Any:
        """The entry of a path, or None."""
        directory, _, name = path.rpartition(b"/")
        return self.names(directory).get(name)

    def file(self, path: bytes) -> Any:
        """The entry of a regular file, or None."""
        entry = self.entry(path)
        return entry if entry is not None and entry.is_file else None

    def extensions(self, path: bytes) -> dict[bytes, list[bytes]]:
        """Module name -> names of the extension modules of a directory."""
        known = self._extensions.get(path)
        if known is None:
            known = {}
            for name in self.names(path):
                if name.endswith(b".so"):
                    known.setdefault(name.split(b".")[0], []).append(name)
            self._extensions[path] = known
        return known

    def resolve(self, path: bytes, links: int = 8) -> bytes:
        """The path with symbolic links followed as far as they stay in the repository; b"" if it leads
        nowhere.
        """
        parts = [p for p in path.split(b"/") if p][::-1]
        current = b""
        while parts:
            part = parts.pop()
            if part == b".":
                continue
            if part == b"..":
                current = current.rpartition(b"/")[0]
                continue
            entry = self.names(current).get(part)
            if entry is None:
                return b""
            if entry.is_link:
                links -= 1
                target: bytes = entry.symlink
                if links < 0 or target.startswith(b"/") or b"$(" in target:
                    return b""
                parts.extend([p for p in target.split(b"/") if p][::-1])
                continue
            current = current + b"/" + part
        return current
