"""cat, cp, export, prefetch, stat-cache."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from ..bulk import catalogs_below, files_below, prefetch_catalogs
from ..copying import Copier
from ..errors import CvmfsError, PathIsADirectoryError, UsageError
from ..export import Exporter, Rule, collect_garbage, parse_rule
from ..repository import Repository
from .common import (
    Counter,
    Repositories,
    json_lines,
    json_out,
    locations,
    out,
    size_text,
    warn,
    words_of_file,
)

_BLOCK = 1 << 20


def cat(options: argparse.Namespace) -> int:
    """Writes files to standard output; goes on after one that fails."""
    status = 0
    with Repositories(options) as repositories:
        wanted = locations(options.location)
        for location in wanted:
            try:
                with repositories(location.fqrn).open(location.path, buffering=0) as f:
                    left = options.length
                    if options.offset:
                        f.seek(options.offset)
                    while left:
                        data = f.read(min(_BLOCK, left) if left > 0 else _BLOCK)
                        if not data:
                            break
                        left -= len(data) if left > 0 else 0
                        sys.stdout.buffer.write(data)
            except CvmfsError as e:
                if len(wanted) == 1:
                    raise
                warn(options, f"error: {e}")
                status = status or e.status
    return status


def _report(options: argparse.Namespace, errors: Any) -> int:
    """Prints what failed; the exit status of the first."""
    for path, error in errors:
        # the message often begins with the path
        text = str(error)
        warn(options, f"error: {text}" if path in text else f"error: {path}: {text}")
    return errors[0][1].status if errors else 0


def cp(options: argparse.Namespace) -> int:
    """Copies files, and with -r directories, to a local path."""
    destination = options.destination
    wanted = locations(options.location)
    directory = os.path.isdir(destination)
    if len(wanted) > 1 and not directory:
        raise UsageError(f"{destination} is not a directory, and several things are to be copied")
    preserve = options.preserve or options.archive
    recursive = options.recursive or options.archive
    status = 0
    results: list[dict[str, Any]] = []
    with Repositories(options) as repositories, Counter(options, "copying") as progress:
        for location in wanted:
            repository = repositories(location.fqrn)
            follow = options.dereference or not recursive
            real, entry = repository.view.resolve(os.fsencode(location.path), follow=follow)
            if entry.is_dir and not recursive:
                raise PathIsADirectoryError(location.shown)
            name = os.path.basename(location.path.rstrip("/")) or repository.fqrn
            target = os.path.join(destination, name) if directory else destination
            copier = Copier(
                repository,
                jobs=options.jobs,
                preserve=preserve,
                dereference=options.dereference,
                progress=progress,
            )
            copier.copy(real, entry, target)
            if options.json:
                errors = [{"path": path, "error": e.message, "status": e.status} for path, e in copier.errors]
                results.append({"from": location.shown, "to": target, "errors": errors})
                status = status or (copier.errors[0][1].status if errors else 0)
            else:
                status = status or _report(options, copier.errors)
    if options.json:
        json_out(results)
    return status


def _rules(options: argparse.Namespace) -> dict[str, list[Rule]]:
    """For each repository what is to be exported; directories named are exported whole."""
    found: dict[str, list[Rule]] = {}
    for location in locations(options.location):
        rules = found.setdefault(location.fqrn, [])
        if options.spec or options.trace:
            if location.path != "/":
                raise UsageError("with --spec or --trace name only the repository")
        else:
            path = location.path.rstrip("/")
            rules.append(parse_rule(path + "/*") if not path.endswith("/*") else parse_rule(path))
    for fqrn, rules in found.items():
        for name in options.spec:
            rules += [parse_rule(line, fqrn) for line in words_of_file(name)]
        for name in options.trace:
            rules += [Rule("path", path) for path in trace_paths(name, fqrn)]
    return found


def trace_paths(name: str, fqrn: str) -> list[bytes]:
    """Paths of a trace: one a line, or the third column of the official client's CVMFS_TRACEFILE."""
    found: dict[bytes, None] = {}
    prefix = f"/cvmfs/{fqrn}"
    for line in words_of_file(name):
        columns = line.split('","')
        path = columns[2].strip('"') if line.startswith('"') and len(columns) >= 4 else line
        if path.startswith(prefix + "/"):
            path = path[len(prefix) :]
        elif path.startswith("/cvmfs/"):
            continue
        if path.startswith("/"):
            found[os.fsencode(path.rstrip("/"))] = None
    return list(found)


def export(options: argparse.Namespace) -> int:
    """Exports to DIR/FQRN; can be interrupted and run again."""
    results: list[dict[str, Any]] = []
    status = 0
    rules = _rules(options)
    with Repositories(options) as repositories, Counter(options, "exporting") as progress:
        for fqrn, wanted in rules.items():
            repository = repositories(fqrn)
            exporter = Exporter(
                repository, options.to, jobs=options.jobs, verify=options.verify, progress=progress
            )
            result = exporter.run(_existing(repository, wanted))
            status = status or _report(options, result.errors)
            row = result._asdict()
            row["errors"] = [{"path": p, "error": str(e)} for p, e in result.errors]
            results.append({"fqrn": fqrn, "revision": repository.revision, **row})
    freed = collect_garbage(options.to) if options.gc else (0, 0)
    if options.json:
        json_out({"repositories": results, "garbage": {"files": freed[0], "bytes": freed[1]}})
    else:
        for row in results:
            out(
                f"{row['fqrn']} revision {row['revision']}: {row['files']} files, "
                f"{row['directories']} directories, {row['links']} links; "
                f"{row['copied']} copied ({size_text(row['bytes'], True)}), "
                f"{row['removed']} removed"
            )
            if row["skipped"]:
                warn(options, f"{len(row['skipped'])} special files are left out, only root can make them")
    return status


def _existing(repository: Repository, rules: list[Rule]) -> list[Rule]:
    """A single file that is named is not a tree."""
    found: list[Rule] = []
    for rule in rules:
        entry = repository.view.find(rule.path) if rule.kind == "tree" else None
        found.append(Rule("path", rule.path) if entry is not None and not entry.is_dir else rule)
    return found


def prefetch(options: argparse.Namespace) -> int:
    """Brings files into the cache, and reports how many."""
    rows: list[dict[str, Any]] = []
    with Repositories(options) as repositories:
        wanted = locations(options.location)
        groups: dict[str, list[str]] = {}
        for location in wanted:
            groups.setdefault(location.fqrn, []).append(location.path)
        if options.list:
            if len(groups) != 1 or any(location.path != "/" for location in wanted):
                raise UsageError("with --from name only one repository")
            fqrn = next(iter(groups))
            groups[fqrn] = [os.fsdecode(p) for p in trace_paths(options.list, fqrn)]
        for fqrn, paths in groups.items():
            repository = repositories(fqrn)
            with Counter(options, f"prefetching {fqrn}") as progress:
                if options.catalogs:
                    counts = prefetch_catalogs(repository, progress=progress)
                else:
                    counts = repository.prefetch(paths, recursive=not options.no_recursive, progress=progress)
            rows.append({"fqrn": fqrn, **counts})
    if options.json:
        json_lines(rows)
    else:
        for row in rows:
            size = size_text(row["bytes"], True)
            out(f"{row['fqrn']}: {row['files']} files, {row['objects']} objects, {size}")
    return 0


def stat_cache(options: argparse.Namespace) -> int:
    """How many of the files and bytes below paths are in the cache."""
    rows: list[dict[str, Any]] = []
    with Repositories(options) as repositories:
        for location in locations(options.location):
            repository = repositories(location.fqrn)
            row: dict[str, Any] = {"fqrn": location.fqrn, "path": location.path}
            row.update(dict.fromkeys(("files", "files_cached", "bytes", "bytes_cached"), 0))
            seen: set[bytes] = set()
            for path, entry in files_below(repository, [os.fsencode(location.path)], recursive=True):
                requests = repository.tree.requests(path, entry)
                present = [r for r in requests if repository.store.has(r)]
                row["files"] += 1
                row["files_cached"] += len(present) == len(requests)
                fresh = [r for r in requests if r.hash.digest not in seen]
                seen.update(r.hash.digest for r in requests)
                row["bytes"] += sum(r.size or 0 for r in fresh)
                row["bytes_cached"] += sum(r.size or 0 for r in fresh if r in present)
            top = repository.view.resolve(os.fsencode(location.path))[0]
            catalogs = list(catalogs_below(repository, top, load=False))
            row["catalogs"] = len(catalogs)
            row["catalogs_cached"] = sum(repository.store.has(r) for r in catalogs)
            rows.append(row)
    if options.json:
        json_lines(rows)
        return 0
    for row in rows:
        share = 100 * row["bytes_cached"] / row["bytes"] if row["bytes"] else 100
        out(
            f"{row['fqrn']}:{row['path']}: {row['files_cached']} of {row['files']} files, "
            f"{size_text(row['bytes_cached'], True)} of {size_text(row['bytes'], True)} ({share:.0f} %) "
            "in the cache"
        )
    return 0
