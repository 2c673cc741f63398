"""tags, diff, info."""

from __future__ import annotations

import argparse
import json
import os
import re
from typing import Any

from ..diff import Change, compare
from ..errors import CvmfsIoError, TagError, UsageError
from ..hash import Hash
from ..repository import Repository
from ..tree import CatalogTree
from .common import json_lines, json_out, name_out, open_repository, out, parse_location, time_text


def tags(options: argparse.Namespace) -> int:
    """The named revisions, newest first."""
    with open_repository(
        options, parse_location(options.location).fqrn, tag=None, root_hash=None
    ) as repository:
        found = repository.tags()
    if options.json:
        json_lines(
            {
                "name": t.name,
                "revision": t.revision,
                "root_hash": str(t.hash),
                "timestamp": t.timestamp,
                "description": t.description,
                "branch": t.branch,
            }
            for t in found
        )
        return 0
    width = max((len(t.name) for t in found), default=4)
    out(f"{'NAME':<{width}}  REVISION  PUBLISHED (UTC)   {'ROOT HASH':<40}  DESCRIPTION")
    for t in found:
        published = time_text(t.timestamp)
        about = name_out(t.description)
        out(f"{t.name:<{width}}  {t.revision:>8}  {published}  {t.hash!s:<40}  {about}".rstrip())
    return 0


def _tree_of(repository: Repository, revision: str) -> CatalogTree:
    """The catalogs of a revision named by tag, date, number, hash, or HEAD."""
    if revision.upper() in ("HEAD", "CURRENT"):
        return repository.tree
    if re.fullmatch(r"[0-9a-f]{40}(-rmd160|-shake128)?", revision):
        return CatalogTree(repository.store, repository.fqrn, Hash.parse(revision))
    try:
        tag = repository._find_tag(revision, "")
    except TagError:
        if revision.isdigit() and int(revision) == repository.revision:
            return repository.tree
        raise
    return CatalogTree(repository.store, repository.fqrn, tag.hash)


_LETTERS = {"added": "A", "removed": "D", "modified": "M"}


def _change_json(change: Change) -> dict[str, Any]:
    row: dict[str, Any] = {"change": change.kind, "path": os.fsdecode(change.path) or "/"}
    if change.what:
        row["what"] = list(change.what)
    for side in ("old", "new"):
        entry = getattr(change, side)
        if entry is not None and entry.is_file:
            row[f"{side}_size"] = entry.size
    return row


def diff(options: argparse.Namespace) -> int:
    """Compares two revisions: A added, D removed, M modified and in what."""
    if options.tag or options.root_hash:
        raise UsageError("diff takes its revisions as arguments", "write `diff FQRN REV1 [REV2]`")
    location = parse_location(options.location)
    with open_repository(options, location.fqrn) as repository:
        old, new = _tree_of(repository, options.old), _tree_of(repository, options.new)
        top = location.path.rstrip("/").encode("utf-8", "surrogateescape")
        changes = compare(old, new, top)
        if options.stat:
            counts = dict.fromkeys(_LETTERS, 0)
            for change in changes:
                counts[change.kind] += 1
            if options.json:
                json_out(counts)
            else:
                out(", ".join(f"{count} {kind}" for kind, count in counts.items()))
        elif options.json:
            json_lines(map(_change_json, changes))
        else:
            for change in changes:
                what = f"  ({', '.join(change.what)})" if change.what else ""
                out(f"{_LETTERS[change.kind]} {name_out(os.fsdecode(change.path) or '/')}{what}")
    return 0


def info(options: argparse.Namespace) -> int:
    """Describes the open revision: where it comes from, what it holds, how far one can trust it."""
    with open_repository(options, parse_location(options.location).fqrn) as repository:
        status = repository.status()
        status["statistics"] = repository.statistics()
        manifest = repository.manifest
        opened = repository.opened
        if manifest is not None:
            status["certificate"] = str(manifest.certificate)
            status["garbage_collectable"] = manifest.garbage_collectable
            status["metainfo"] = None
            try:
                meta = repository.metainfo()
                status["metainfo"] = json.loads(meta) if meta else None
            except CvmfsIoError as e:  # as without a network: the rest is known all the same
                status["warnings"].append(str(e))
            except ValueError:
                pass
    if options.json:
        json_out(status)
        return 0
    rows = [
        ("Repository", status["fqrn"]),
        ("Revision", f"{status['revision']}{' (fixed)' if status['fixed'] else ''}"),
        ("Tag", status["tag"]),
        ("Root catalog", status["root_hash"]),
        ("Published", f"{time_text(status['published'])} UTC"),
        ("Certificate", status.get("certificate")),
        ("State", _state(opened, status)),
    ]
    counts = status["statistics"]
    if counts:
        rows.append(("Entries", f"{counts['entries']}"))
        rows.append(("Files", f"{counts.get('regular', 0)}, {counts.get('file_size', 0)} bytes"))
        rows.append(("Nested catalogs", str(counts.get("nested", 0))))
    about = status.get("metainfo")
    if isinstance(about, dict):
        for name in ("organisation", "description", "email", "url"):
            rows.append((name.capitalize(), about.get(name) or None))
    rows.append(("Cache", status["cache"].get("directory")))
    for name, value in rows:
        if value is not None:
            out(f"{name + ':':<17}{name_out(str(value))}")
    for text in status["warnings"]:
        out(f"Warning:         {text}")
    return 0


def _state(opened: Any, status: dict[str, Any]) -> str:
    if opened is None:
        return "fixed by its hash"
    if opened.origin == "server":
        return "as on the server"
    return f"kept from earlier: {opened.reason}"
