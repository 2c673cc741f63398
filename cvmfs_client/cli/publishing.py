"""The verbs `publish`, `collect` and `resign`."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from ..errors import UsageError, show
from .common import json_out, out, parse_size, size_text, warn


def publish(options: argparse.Namespace) -> int:
    """Publishes a directory as the next revision of a repository on disk."""
    from ..publish import Options
    from ..publish import publish as run

    result = run(
        options.source,
        options.repository,
        fqrn=options.fqrn,
        keys=options.keys,
        tag=options.tag,
        description=options.description,
        metainfo=_metainfo(options.metainfo),
        options=Options(
            algorithm=options.hash,
            compress=not options.no_compress,
            level=options.level,
            chunk_size=parse_size(options.chunk_size),
            catalog_entries=options.catalog_entries,
            ttl=options.ttl,
            owner=_owner(options.owner),
            xattrs=not options.no_xattrs,
            reread=options.reread,
            volatile=options.volatile,
            membership=options.membership,
            whitelist_days=options.whitelist_days,
        ),
    )
    if options.json:
        json_out({**result._asdict(), "skipped_xattrs": [show(p) for p in result.skipped_xattrs]})
        return 0
    for path in result.skipped_xattrs:
        warn(options, f"warning: {show(path)}: extended attributes beyond the format's limits are left out")
    if not options.quiet and not result.changed:
        out(f"{result.fqrn}: nothing has changed since revision {result.revision}")
    elif not options.quiet:
        out(
            f"{result.fqrn} revision {result.revision}: {result.entries} entries, "
            f"{result.new_objects} new objects ({size_text(result.new_bytes, True)}), "
            f"root catalog {result.root_hash}"
        )
    return 0


def collect(options: argparse.Namespace) -> int:
    """Garbage collection of a repository on disk."""
    from ..publish import collect as run

    result = run(
        options.repository,
        keys=options.keys,
        days=options.days,
        remove_tags=options.remove_tag,
        dry_run=options.dry_run,
    )
    if options.json:
        json_out(result._asdict())
    elif not options.quiet:
        out(
            f"{result.removed_objects} objects ({size_text(result.removed_bytes, True)}) of "
            f"{result.removed_revisions} revisions {'could be' if options.dry_run else 'were'} removed; "
            f"{result.kept_objects} objects of {result.kept_revisions} revisions stay"
        )
    return 0


def resign(options: argparse.Namespace) -> int:
    """A new whitelist for a repository on disk."""
    from ..publish import renew_whitelist

    renew_whitelist(options.repository, keys=options.keys, days=options.days)
    if options.json:
        json_out({"repository": options.repository, "days": options.days})
    elif not options.quiet:
        out(f"the whitelist is valid for {options.days:g} days")
    return 0


def _owner(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", text)
    if not match:
        raise UsageError(f"--owner {text}: write UID:GID, two numbers")
    return int(match.group(1)), int(match.group(2))


def _metainfo(path: str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as f:
            found = json.load(f)
    except (OSError, ValueError) as e:
        raise UsageError(f"--metainfo {path} cannot be read: {e}") from e
    if not isinstance(found, dict):
        raise UsageError(f"--metainfo {path} is not a JSON object")
    return found
