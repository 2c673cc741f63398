"""A revision as callers see it: path resolution, attributes, ownership, links expanded. No network of its
own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping

from .config import Configuration
from .entry import Entry
from .errors import ConfigError, PathLike, PathLoopError, PathNotADirectoryError, PathNotFoundError
from .expand import expand
from .tree import CatalogTree

MAX_LINKS = 40
_CACHED = 10_000  # lookups remembered, in each of two generations
_LISTED = 5_000  # entries remembered of one listing


def to_bytes(path: PathLike | os.PathLike[str]) -> bytes:
    """A path as callers write it, as bytes."""
    return os.fsencode(path)


def parse_map(text: str, name: str) -> dict[int | None, int]:
    """A user or group id map: lines `<id or *> <new id>`; None is `*`. Raises ConfigError."""
    found: dict[int | None, int] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            source, target = words
            found[None if source == "*" else int(source)] = int(target)
        except ValueError as e:
            raise ConfigError(f"{name} has a malformed line {line!r}", "write `<id or *> <new id>`") from e
    return found


class Owners:
    """Which user and group an entry is shown to belong to."""

    def __init__(self, config: Configuration) -> None:
        self._claim = config.boolean("CVMFS_CLAIM_OWNERSHIP", True)
        self._maps = [self._read(config, "CVMFS_UID_MAP"), self._read(config, "CVMFS_GID_MAP")]

    @staticmethod
    def _read(config: Configuration, name: str) -> dict[int | None, int]:
        path = config.get(name)
        if not path:
            return {}
        text = config.files.read(path)
        if text is None:
            raise ConfigError(f"{name}={path} does not exist")
        return parse_map(text, path)

    def __call__(self, entry: Entry) -> tuple[int, int]:
        if self._claim:
            return os.geteuid(), os.getegid()
        uids, gids = self._maps
        uid = uids.get(entry.uid, uids.get(None, entry.uid)) if uids else entry.uid
        gid = gids.get(entry.gid, gids.get(None, entry.gid)) if gids else entry.gid
        return uid, gid


class View:
    """One revision with the settings of a caller. Thread-safe; paths are normalised bytes unless said
    otherwise."""

    def __init__(self, tree: CatalogTree, config: Configuration, environ: Mapping[str, str]) -> None:
        self.tree = tree
        self._owners = Owners(config)
        self._world_readable = config.boolean("CVMFS_WORLD_READABLE")
        self._environment = config.environment(environ)
        mount = os.fsencode(config.get("CVMFS_MOUNT_DIR", "/cvmfs"))
        self._mountpoints = {mount + b"/" + os.fsencode(config.fqrn), b"/cvmfs/" + os.fsencode(config.fqrn)}
        self._new: dict[bytes, Entry | None] = {}
        self._old: dict[bytes, Entry | None] = {}

    # --- entries
    def find(self, path: bytes) -> Entry | None:
        """The entry of a normalised path, or None; remembered."""
        new = self._new
        try:
            return new[path]
        except KeyError:
            pass
        old = self._old
        entry = old[path] if path in old else self.tree.find(path)
        if len(new) >= _CACHED:
            self._old, self._new = new, {}
        self._new[path] = entry
        return entry

    def remember(self, path: bytes, entry: Entry) -> None:
        """What a listing told about ``path``: who lists a directory mostly asks about its entries next."""
        if len(self._new) >= _CACHED:
            self._old, self._new = self._new, {}
        self._new[path] = entry

    def target(self, entry: Entry) -> bytes:
        """The target of a link as shown, variables put in."""
        return expand(entry.symlink, self._environment)

    def resolve(self, path: bytes, *, follow: bool = True) -> tuple[bytes, Entry]:
        """The real path and the entry of a path as callers write it; links on the way are followed, the last
        one with ``follow``.

        Raises PathNotFoundError, PathNotADirectoryError, PathLoopError."""
        parts = [p for p in path.split(b"/") if p and p != b"."]
        directory = path.endswith((b"/", b"/.")) and bool(parts)
        if b".." not in parts:
            direct = b"/" + b"/".join(parts) if parts else b""
            if b"\0" in direct:
                raise PathNotFoundError(path, "embedded null byte")
            entry = self.find(direct)
            if entry is not None and not (entry.is_link and (follow or directory)):
                if directory and not entry.is_dir:
                    raise PathNotADirectoryError(path)
                return direct, entry
        return self._walk(path, parts, follow or directory, directory)

    def _walk(self, path: bytes, parts: list[bytes], follow: bool, directory: bool) -> tuple[bytes, Entry]:
        todo = parts[::-1]
        current, links = b"", 0
        entry = self.tree.lookup(b"")
        while todo:
            name = todo.pop()
            if not entry.is_dir:
                raise PathNotADirectoryError(path)
            if name == b"..":
                current = current[: current.rfind(b"/")] if current else b""
                entry = self._must(current, path)
                continue
            candidate = current + b"/" + name
            found = self._must(candidate, path)
            if found.is_link and (todo or follow):
                links += 1
                if links > MAX_LINKS:
                    raise PathLoopError(path)
                target = self.target(found)
                if target.startswith(b"/"):
                    target = self._inside(target, path)
                    current = b""
                    entry = self.tree.lookup(b"")
                todo += [p for p in target.split(b"/") if p and p != b"."][::-1]
                continue
            current, entry = candidate, found
        if directory and not entry.is_dir:
            raise PathNotADirectoryError(path)
        return current, entry

    def _must(self, candidate: bytes, path: bytes) -> Entry:
        entry = self.find(candidate)
        if entry is None:
            raise PathNotFoundError(path)
        return entry

    def _inside(self, target: bytes, path: bytes) -> bytes:
        """An absolute link's target as a path in the repository."""
        for mountpoint in self._mountpoints:
            if target == mountpoint or target.startswith(mountpoint + b"/"):
                return target[len(mountpoint) :]
        raise PathNotFoundError(path, f"leads out of the repository, to {os.fsdecode(target)}")

    def entries(self, path: bytes) -> Iterator[Entry]:
        """The entries of a directory, in no order. ``path`` is real, its entry a directory."""
        return self.tree.entries(path)

    def listing(self, path: bytes) -> Iterator[Entry]:
        """The same, and lookups of the first of them are answered without asking the catalog again."""
        prefix = path + b"/"
        left = _LISTED
        for entry in self.tree.entries(path):
            if left:
                left -= 1
                self.remember(prefix + entry.name, entry)
            yield entry

    # --- attributes
    def stat(self, entry: Entry) -> os.stat_result:
        """What lstat on a mounted repository gives."""
        mode = entry.mode
        size = entry.size
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFLNK:
            size = len(self.target(entry))
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            size = 0
        if self._world_readable:
            mode |= 0o555 if kind == stat.S_IFDIR else 0o444 if kind == stat.S_IFREG else 0
        uid, gid = self._owners(entry)
        seconds = entry.mtime
        nanoseconds = seconds * 1_000_000_000 + entry.mtime_ns
        exact = seconds + entry.mtime_ns * 1e-9
        return os.stat_result(
            (mode, entry.ino, 0, entry.nlink, uid, gid, size, seconds, seconds, seconds),
            {
                "st_atime": exact,
                "st_mtime": exact,
                "st_ctime": exact,
                "st_atime_ns": nanoseconds,
                "st_mtime_ns": nanoseconds,
                "st_ctime_ns": nanoseconds,
                "st_blksize": 4096,
                "st_blocks": 1 + size // 512,
                "st_rdev": entry.rdev,
            },
        )
