"""ls, tree, find, du, stat."""

from __future__ import annotations

import argparse
import fnmatch
import os
import stat as st_mode
from collections.abc import Iterator
from typing import Any

from ..bulk import walk_entries
from ..entry import Entry
from ..errors import CvmfsError
from ..history import parse_date
from ..repository import Repository
from .common import (
    KINDS,
    Location,
    Repositories,
    json_lines,
    json_out,
    locations,
    long_line,
    name_out,
    out,
    parse_size,
    size_text,
    stat_json,
    time_text,
    warn,
)


def _target(repository: Repository, entry: Entry) -> str | None:
    return os.fsdecode(repository.view.target(entry)) if entry.is_link else None


def _join(prefix: str, name: str) -> str:
    return prefix + name if prefix.endswith("/") else f"{prefix}/{name}"


def ls(options: argparse.Namespace) -> int:
    """Lists directories; files that are named come first."""
    long = options.long or options.numeric
    status = 0
    rows: list[dict[str, Any]] = []

    def line(repository: Repository, entry: Entry, name: str, path: str) -> None:
        if options.json:
            rows.append(stat_json(path, repository.view.stat(entry), _target(repository, entry)))
            return
        inode = f"{entry.ino} " if options.inode else ""
        if not long:
            out(inode + name_out(name))
            return
        st, target = repository.view.stat(entry), _target(repository, entry)
        out(inode + long_line(st, name, target, human=options.human, numeric=options.numeric))

    with Repositories(options) as repositories:
        wanted = locations(options.location)
        directories: list[tuple[Repository, bytes, Location]] = []
        for location in wanted:
            try:
                repository = repositories(location.fqrn)
                # `ls LINK` shows the directory it leads to, `ls -l LINK` the link
                follow = not long and not options.directory
                real, entry = repository.view.resolve(os.fsencode(location.path), follow=follow)
            except CvmfsError as e:
                if len(wanted) == 1:
                    raise
                warn(options, f"error: {e}")
                status = e.status
                continue
            if entry.is_dir and not options.directory:
                directories.append((repository, real, location))
            else:
                line(repository, entry, location.shown, location.path)
        heading = len(wanted) > 1 or options.recursive
        for repository, real, location in directories:
            pending = [(real, location.shown, location.path)]
            while pending:
                real, shown, path = pending.pop()
                if heading and not options.json:
                    out(f"{name_out(shown)}:")
                entries = sorted(repository.tree.entries(real), key=lambda e: e.name)
                for entry in entries:
                    name = os.fsdecode(entry.name)
                    if options.all or not name.startswith(".") or options.json:
                        line(repository, entry, name, _join(path, name))
                if options.recursive:
                    below = [e for e in entries if e.is_dir and (options.all or not e.name.startswith(b"."))]
                    for entry in reversed(below):
                        name = os.fsdecode(entry.name)
                        pending.append((real + b"/" + entry.name, _join(shown, name), _join(path, name)))
                if heading and not options.json:
                    out()
    if options.json:
        json_lines(rows)
    return status


def tree(options: argparse.Namespace) -> int:
    """Shows directories as an indented tree."""
    with Repositories(options) as repositories:
        for location in locations(options.location):
            repository = repositories(location.fqrn)
            real, entry = repository.view.resolve(os.fsencode(location.path))
            if options.json:
                json_out(_subtree(repository, real, entry, location.path, options, 1))
                continue
            out(name_out(location.shown))
            for text in _branches(repository, real, "", options, 1) if entry.is_dir else ():
                out(text)
    return 0


def _children(repository: Repository, real: bytes, options: argparse.Namespace) -> list[Entry]:
    found = (e for e in repository.tree.entries(real) if e.is_dir or not options.directories)
    return sorted(found, key=lambda e: e.name)


def _branches(
    repository: Repository, real: bytes, indent: str, options: argparse.Namespace, depth: int
) -> Iterator[str]:
    # an explicit stack: the depth of a tree is the publisher's choice
    stack = [(real, indent, iter(_last(_children(repository, real, options))), depth)]
    while stack:
        real, indent, children, depth = stack[-1]
        step = next(children, None)
        if step is None:
            stack.pop()
            continue
        entry, last = step
        target = _target(repository, entry)
        arrow = f" -> {name_out(target)}" if target is not None else ""
        yield f"{indent}{'`-- ' if last else '|-- '}{name_out(os.fsdecode(entry.name))}{arrow}"
        if entry.is_dir and (not options.depth or depth < options.depth):
            below = real + b"/" + entry.name
            deeper = indent + ("    " if last else "|   ")
            stack.append((below, deeper, iter(_last(_children(repository, below, options))), depth + 1))


def _last(entries: list[Entry]) -> list[tuple[Entry, bool]]:
    return [(e, i == len(entries) - 1) for i, e in enumerate(entries)]


def _subtree(
    repository: Repository, real: bytes, entry: Entry, path: str, options: argparse.Namespace, depth: int
) -> dict[str, Any]:
    node = stat_json(path, repository.view.stat(entry), _target(repository, entry))
    if entry.is_dir and (not options.depth or depth <= options.depth) and depth < 200:
        node["children"] = [
            _subtree(
                repository, real + b"/" + e.name, e, _join(path, os.fsdecode(e.name)), options, depth + 1
            )
            for e in _children(repository, real, options)
        ]
    return node


def find(options: argparse.Namespace) -> int:
    """Everything below directories that meets the conditions."""
    matches = _conditions(options)
    end = "\0" if options.null else "\n"
    rows = _found(options, matches)
    if options.json:
        json_lines(stat_json(path, r.view.stat(e), _target(r, e)) for r, e, path, _ in rows)
        return 0
    for repository, entry, _, shown in rows:
        if options.long:
            st = repository.view.stat(entry)
            out(long_line(st, shown, _target(repository, entry), human=False, numeric=False), end)
        else:
            out(shown if options.null else name_out(shown), end)
    return 0


def _found(options: argparse.Namespace, matches: Any) -> Iterator[tuple[Repository, Entry, str, str]]:
    with Repositories(options) as repositories:
        for location in locations(options.location):
            repository = repositories(location.fqrn)
            real, entry = repository.view.resolve(os.fsencode(location.path))
            top = location.shown.rstrip("/") or "/"
            path = location.path.rstrip("/")
            if matches(entry):
                yield repository, entry, path or "/", top
            if not entry.is_dir:
                continue
            base = len(real)
            for child, found in walk_entries(repository, real, maxdepth=options.maxdepth):
                if matches(found):
                    below = os.fsdecode(child[base:])
                    shown = below if top == "/" else top + below
                    yield repository, found, path + below, shown


def _conditions(options: argparse.Namespace) -> Any:
    tests: list[Any] = []
    if options.name is not None:
        pattern = os.fsencode(options.name)
        tests.append(lambda e: fnmatch.fnmatchcase(e.name, pattern))
    if options.type is not None:
        kind = {letter: mode for mode, letter in KINDS.items()}[options.type]
        tests.append(lambda e: st_mode.S_IFMT(e.mode) == kind)
    if options.size is not None:
        sign, limit = options.size[:1], parse_size(options.size.lstrip("+-"))
        tests.append(
            lambda e: (
                e.is_file
                and (e.size > limit if sign == "+" else e.size < limit if sign == "-" else e.size == limit)
            )
        )
    if options.newer is not None:
        since = parse_date(options.newer).timestamp()
        tests.append(lambda e: e.mtime > since)
    return lambda entry: all(test(entry) for test in tests)


def du(options: argparse.Namespace) -> int:
    """Sizes of files below directories; those of one hard-link group count once."""
    rows: list[dict[str, Any]] = []
    depth = 0 if options.summarize else options.max_depth
    with Repositories(options) as repositories:
        for location in locations(options.location):
            repository = repositories(location.fqrn)
            real, entry = repository.view.resolve(os.fsencode(location.path))
            for path, size, files in _sums(repository, real, entry, depth):
                below = os.fsdecode(path[len(real) :])
                shown = (location.shown.rstrip("/") + below) or "/"
                if options.json:
                    rows.append(
                        {"path": location.path.rstrip("/") + below or "/", "bytes": size, "files": files}
                    )
                else:
                    out(f"{size_text(size, options.human)}\t{name_out(shown)}")
    if options.json:
        json_lines(rows)
    return 0


def _sums(
    repository: Repository, real: bytes, entry: Entry, depth: int | None
) -> Iterator[tuple[bytes, int, int]]:
    if not entry.is_dir:
        yield real, entry.size if entry.is_file else 0, 1
        return
    groups: set[int] = set()
    base = real.count(b"/")
    # (path, bytes, files) of the directories that are open, innermost last
    totals: list[list[Any]] = [[real, 0, 0]]

    def leave() -> tuple[bytes, int, int] | None:
        path, size, files = totals.pop()
        if totals:
            totals[-1][1] += size
            totals[-1][2] += files
        level = path.count(b"/") - base
        return (path, size, files) if depth is None or level <= depth else None

    stack: list[tuple[bytes, Iterator[Entry]]] = [(real, repository.tree.entries(real))]
    while stack:
        path, entries = stack[-1]
        found = next(entries, None)
        if found is None:
            stack.pop()
            result = leave()
            if result is not None:
                yield result
            continue
        if found.is_dir:
            below = path + b"/" + found.name
            totals.append([below, 0, 0])
            stack.append((below, repository.tree.entries(below)))
            continue
        totals[-1][2] += 1
        if found.is_file and not (found.group and found.ino in groups):
            totals[-1][1] += found.size
            if found.group:
                groups.add(found.ino)


_TYPES = {
    "f": "regular file",
    "d": "directory",
    "l": "symbolic link",
    "p": "fifo",
    "s": "socket",
    "c": "character device",
    "b": "block device",
}


def stat(options: argparse.Namespace) -> int:
    """Attributes of paths; of a bare repository its state, as `cvmfs_config stat` gives it."""
    if all(":" not in word and "/" not in word for word in options.location):
        from .admin import config_stat

        return config_stat(options)
    rows: list[dict[str, Any]] = []
    with Repositories(options) as repositories:
        for location in locations(options.location):
            repository = repositories(location.fqrn)
            real, entry = repository.view.resolve(os.fsencode(location.path), follow=options.follow)
            st = repository.view.stat(entry)
            row = stat_json(location.path, st, _target(repository, entry))
            row["xattrs"] = {
                name: os.fsdecode(repository.getxattr(real or b"/", name, follow_symlinks=False))
                for name in repository.listxattr(real or b"/", follow_symlinks=False)
                if options.json or real
            }
            if entry.is_file:
                row["hash"] = str(entry.hash) if entry.hash is not None else None
                row["chunks"] = len(repository.tree.chunks(real, entry)) if entry.is_chunked else 1
                row["external"] = entry.is_external
            row["catalog"] = os.fsdecode(repository.tree.catalog_of(real).mountpoint) or "/"
            rows.append(row)
            if not options.json:
                _print_stat(location.shown, row, st)
    if options.json:
        json_lines(rows)
    return 0


def _print_stat(shown: str, row: dict[str, Any], st: os.stat_result) -> None:
    arrow = f" -> {name_out(row['target'])}" if "target" in row else ""
    out(f"  File: {name_out(shown)}{arrow}")
    out(f"  Size: {st.st_size}\tType: {_TYPES[row['type']]}\tInode: {st.st_ino}\tLinks: {st.st_nlink}")
    mode = st_mode.filemode(st.st_mode)
    out(f"  Mode: {oct(st_mode.S_IMODE(st.st_mode))[2:].zfill(4)}/{mode}\tUid: {st.st_uid}\tGid: {st.st_gid}")
    if "rdev" in row:
        out(f"Device: {row['rdev'][0]},{row['rdev'][1]}")
    out(f"Modify: {time_text(int(st.st_mtime))}:{int(st.st_mtime) % 60:02}.{st.st_mtime_ns % 10**9:09} UTC")
    if row.get("hash"):
        out(f"  Hash: {row['hash']}")
    if row.get("chunks", 1) > 1:
        out(f"Chunks: {row['chunks']}")
    out(f"Catalog: {name_out(row['catalog'])}")
    for name, value in row["xattrs"].items():
        out(f" Xattr: {name}={name_out(value)}")
