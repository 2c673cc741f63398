"""An fsspec file system: ``fsspec.open("cvmfs://name.example.org/path")``. Registered by entry point."""

from __future__ import annotations

import os
import stat
from typing import Any, ClassVar

from fsspec.spec import AbstractFileSystem

from .entry import Entry
from .errors import PathNotADirectoryError, ReadOnlyError
from .repository import Repository

_TYPES = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}


class CvmfsFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Read-only. Paths are ``FQRN/path``; further arguments (server, keys, proxy, cache, tag, root_hash,
    config) are those of :class:`~cvmfs_client.Repository`."""

    protocol: ClassVar[Any] = "cvmfs"
    root_marker = ""

    def __init__(self, **options: Any) -> None:
        names = ("server", "keys", "proxy", "cache", "tag", "root_hash", "config", "offline")
        self._arguments = {name: options.pop(name) for name in names if name in options}
        super().__init__(**options)
        self._repositories: dict[str, Repository] = {}

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, (list, tuple)):
            return [cls._strip_protocol(p) for p in path]
        text = os.fspath(path)
        for prefix in ("cvmfs://", "/cvmfs/"):
            if text.startswith(prefix):
                text = text[len(prefix) :]
        return text.strip("/")

    def repository(self, fqrn: str) -> Repository:
        """The repository of that name, opened once."""
        found = self._repositories.get(fqrn)
        if found is None:
            found = self._repositories.setdefault(fqrn, Repository(fqrn, **self._arguments))
        return found

    def _split(self, path: str) -> tuple[Repository, str]:
        fqrn, _, rest = self._strip_protocol(path).partition("/")
        return self.repository(fqrn), "/" + rest

    def _describe(
        self, repository: Repository, name: str, entry: Entry, st: os.stat_result
    ) -> dict[str, Any]:
        kind = stat.S_IFMT(st.st_mode)
        found: dict[str, Any] = {
            "name": name,
            "size": st.st_size if kind != stat.S_IFDIR else 0,
            "type": _TYPES.get(kind, "other"),
            "mode": st.st_mode,
            "uid": st.st_uid,
            "gid": st.st_gid,
            "mtime": st.st_mtime,
            "ino": st.st_ino,
            "nlink": st.st_nlink,
            "islink": entry.is_link,
        }
        if entry.is_link:
            found["destination"] = os.fsdecode(repository.view.target(entry))
        if entry.hash is not None:
            found["checksum"] = str(entry.hash)
        return found

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """What a path is; links are followed, as for local files."""
        repository, rest = self._split(path)
        real, link = repository.view.resolve(os.fsencode(rest), follow=False)
        entry = link
        if link.is_link:
            try:
                entry = repository.view.resolve(real)[1]
            except FileNotFoundError:
                pass
        found = self._describe(repository, self._strip_protocol(path), entry, repository.view.stat(entry))
        if link.is_link:
            found["islink"] = True
            found["destination"] = os.fsdecode(repository.view.target(link))
        return found

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The entries of a directory, or the file itself."""
        repository, rest = self._split(path)
        name = self._strip_protocol(path)
        try:
            with repository.scandir(rest) as entries:
                found = [
                    self._describe(repository, f"{name}/{e.name}", e.entry, e.stat(follow_symlinks=False))
                    for e in entries
                ]
        except PathNotADirectoryError:
            found = [self.info(path)]
        return (
            sorted(found, key=lambda row: str(row["name"]))
            if detail
            else sorted(row["name"] for row in found)
        )

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode != "rb":
            raise ReadOnlyError(path)
        repository, rest = self._split(path)
        return repository.open(rest)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes of a file from ``start`` to ``end``; negative ones count from its end."""
        repository, rest = self._split(path)
        with repository.open(rest) as f:
            size = f.seek(0, os.SEEK_END)
            first = 0 if start is None else max(0, size + start if start < 0 else start)
            last = size if end is None else max(0, size + end if end < 0 else end)
            f.seek(first)
            data: bytes = f.read(max(0, last - first))
            return data

    def isdir(self, path: str) -> bool:
        try:
            return bool(self.info(path)["type"] == "directory")
        except OSError:
            return False

    def isfile(self, path: str) -> bool:
        try:
            return bool(self.info(path)["type"] == "file")
        except OSError:
            return False

    def created(self, path: str) -> Any:
        """Publication keeps only the time of modification."""
        return self.modified(path)

    def modified(self, path: str) -> Any:
        """Time of the last modification, UTC."""
        from datetime import datetime, timezone

        return datetime.fromtimestamp(self.info(path)["mtime"], timezone.utc)

    def ukey(self, path: str) -> str:
        """Changes whenever the contents do."""
        repository, rest = self._split(path)
        real, entry = repository.view.resolve(os.fsencode(rest))
        return ",".join(str(r.hash) for r in repository.tree.requests(real, entry))

    checksum = ukey
