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


def walk_entries(
    repository: Repository, top: bytes, *, ahead: bool = True, maxdepth: int | None = None
) -> Iterator[tuple[bytes, Entry]]:
    """(real path, entry) of everything below the real directory ``top``, without itself, parents first."""
    tree = repository.tree
    fetch = CatalogsAhead(repository) if ahead else None
    stack = [(top, 1)]
    while stack:
        path, depth = stack.pop()
        if maxdepth is not None and depth > maxdepth:
            continue
        if fetch is not None:
            fetch.entering(path, top)
        below: list[tuple[bytes, int]] = []
        for entry in tree.entries(path):
            child = path + b"/" + entry.name
            yield child, entry
            if entry.is_dir:
                below.append((child, depth + 1))
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


def catalogs_below(repository: Repository, top: bytes, *, load: bool = True) -> Iterator[Request]:
    """Requests for the nested catalogs at or below ``top``; without ``load`` only those whose parent is in
    the cache."""
    tree = repository.tree
    stack = [top]
    seen: set[bytes] = set()
    while stack:
        path = stack.pop()
        for nested in tree.catalog_of(path, enter=True).nested().values():
            if nested.hash is None or nested.path in seen:
                continue
            if not (nested.path == top or nested.path.startswith(top + b"/")):
                continue
            seen.add(nested.path)
            request = tree.nested_request(nested)
            yield request
            if load or repository.store.has(request):
                stack.append(nested.path)


def prefetch_catalogs(
    repository: Repository, *, progress: Callable[[int], Any] | None = None
) -> dict[str, int]:
    """Brings all catalogs of the revision into the cache, level by level. Raises the first error."""
    counts = {"files": 0, "objects": 0, "bytes": 0}
    tree = repository.tree
    level = [b""]
    while level:
        below = [n for path in level for n in tree.catalog_of(path, enter=True).nested().values() if n.hash]
        errors = repository.store.ensure([tree.nested_request(n) for n in below], progress=progress)
        if errors:
            raise errors[0][1]
        counts["objects"] += len(below)
        counts["bytes"] += sum(n.size for n in below)
        level = [n.path for n in below]
    return counts
