"""Many files at once: what objects they need, and bringing those into the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Callable

from .directory import CatalogsAhead
from .entry import Entry
from .errors import CvmfsError
from .interfaces import Request
from .view import to_bytes

if TYPE_CHECKING:
    from .repository import Repository

BATCH = 512  # requests handed to the store at a time


def walk_entries(repository: Repository, top: bytes, *, ahead: bool = True) -> Iterator[tuple[bytes, Entry]]:
    """(real path, entry) of everything below the real directory ``top``, without itself, parents first."""
    tree = repository.tree
    fetch = CatalogsAhead(repository) if ahead else None
    stack = [top]
    while stack:
        path = stack.pop()
        if fetch is not None:
            fetch.entering(path, top)
        below: list[bytes] = []
        for entry in tree.entries(path):
            child = path + b"/" + entry.name
            yield child, entry
            if entry.is_dir:
                below.append(child)
        stack.extend(reversed(below))


def files_below(
    repository: Repository, paths: Sequence[Any], *, recursive: bool
) -> Iterator[tuple[bytes, Entry]]:
    """The regular files that ``paths`` lead to, links followed for the paths themselves."""
    for path in paths:
        real, entry = repository.view.resolve(to_bytes(path))
        if entry.is_file:
            yield real, entry
        elif entry.is_dir and recursive:
            for child, found in walk_entries(repository, real):
                if found.is_file:
                    yield child, found


def prefetch(
    repository: Repository,
    paths: Sequence[Any],
    *,
    recursive: bool = True,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, int]:
    """See Repository.prefetch."""
    counts = {"files": 0, "objects": 0, "bytes": 0}
    failed: CvmfsError | None = None
    seen: set[bytes] = set()
    batch: list[Request] = []

    def flush() -> None:
        nonlocal failed
        if batch:
            errors = repository.store.ensure(batch, progress=progress)
            if errors and failed is None:
                failed = errors[0][1]
            batch.clear()

    for path, entry in files_below(repository, paths, recursive=recursive):
        counts["files"] += 1
        for request in repository.tree.requests(path, entry):
            if request.hash.digest in seen:
                continue
            seen.add(request.hash.digest)
            counts["objects"] += 1
            counts["bytes"] += request.size or 0
            batch.append(request)
        if len(batch) >= BATCH:
            flush()
    flush()
    if failed is not None:
        raise failed
    return counts
