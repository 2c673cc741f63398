"""Leases: who uses what. A file per use, judged by whether the process that wrote it still lives.

A tree may be taken into use while a collector is about to remove it. Both write before they look: the user
its lease, then it looks for the collector's mark (a lease of kind ``condemn``) and for the tree; the
collector its mark, then it looks for leases. So one of them always sees the other; the collector gives way.
On the run path."""

from __future__ import annotations

import os
import time

from udk.base import jsonlite
from udk.base.files import read_file, unique, write_all
from udk.base.process import FOREIGN_SECONDS, is_alive, own_identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any

_UNREADABLE_SECONDS = 3600.0  # a lease cut short by a kill between creation and writing


class Lease:
    """One lease; ``path`` is its file (``""`` in a store that cannot be written, where nothing is ever
    removed).

    It lasts until :meth:`release`, or until the process dies. Leaving it to exec keeps it: the guard removes
    ``path`` in the end."""

    __slots__ = ("kind", "path", "target")

    def __init__(self, kind: str, target: str, path: str) -> None:
        self.kind = kind
        self.target = target
        self.path = path

    def release(self) -> None:
        """Gives up the lease. Idempotent."""
        if self.path:
            try:
                os.unlink(self.path)
            except OSError:
                pass
            self.path = ""

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def take(root: str, kind: str, target: str, extra: dict[str, Any] | None = None) -> Lease:
    """Writes a lease on ``target`` for this process. Raises OSError."""
    if "/" in target or "/" in kind or "-" in kind or not target:
        raise ValueError(f"bad lease {kind} {target}")
    path = f"{root}/leases/{kind}-{target}-{unique()}"
    data = {**own_identity(), "kind": kind, "target": target, **(extra or {})}
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        write_all(fd, jsonlite.dumps(data).encode())
    finally:
        os.close(fd)
    return Lease(kind, target, path)


def all_leases(root: str, prefix: str = "") -> Iterator[tuple[str, dict[str, Any], float]]:
    """(path, content, age in seconds) of the lease files whose name begins with ``prefix``.

    One that cannot be parsed has an empty content."""
    try:
        names = os.listdir(f"{root}/leases")
    except FileNotFoundError:
        return
    for name in names:
        if not name.startswith(prefix):
            continue
        path = f"{root}/leases/{name}"
        try:
            age = max(0.0, time.time() - os.stat(path).st_mtime)
            raw = read_file(path, 16 << 20)
        except OSError:
            continue  # released meanwhile
        try:
            data = jsonlite.loads(raw)
        except ValueError:
            data = {}
        yield path, data if isinstance(data, dict) else {}, age


def lease_alive(data: dict[str, Any], age: float, foreign_seconds: float = FOREIGN_SECONDS) -> bool:
    """Whether the process that wrote a lease can still be at work."""
    if not data:
        return age < _UNREADABLE_SECONDS
    return is_alive(data, age, foreign_seconds)


def mark_path(root: str, key: str) -> str:
    """Where a collector announces that it is about to remove the tree ``key``."""
    return f"{root}/leases/condemn-{key}"


def condemned(root: str, key: str) -> bool:
    """Whether a live collector is about to remove the tree ``key``. One failed open where none is."""
    path = mark_path(root, key)
    try:
        data = jsonlite.loads(read_file(path, 1 << 16))
        age = time.time() - os.stat(path).st_mtime
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and lease_alive(data, age, 3600.0)
