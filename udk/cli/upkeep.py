"""``udk store gc``, ``fsck`` and ``df``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from udk.cli import output

if TYPE_CHECKING:
    from udk.cli.main import Context
    from udk.store.store import Store


def gc(context: Context, store: Store, as_json: bool) -> int:
    """Removes what nobody needs; 1 when something could not be removed."""
    dry = bool(context.options.get("dry_run"))
    config = context.config()
    found = store.gc(
        partial_seconds=config.store_partial_days * 86400,
        lease_seconds=config.store_lease_days * 86400,
        dry_run=dry,
    )
    if as_json:
        rows = [{"category": c, "name": n, "bytes": b} for c, n, b in found.removed]
        output.write_json({"removed": rows, "freed": found.freed, "failed": found.failed, "dry_run": dry})
    else:
        if not context.quiet:
            for category, name, count in found.removed:
                output.write(f"{category} {output.clean(name)} ({output.size(count)})")
        output.write(f"{'would free' if dry else 'freed'} {output.size(found.freed)}")
        for text in found.failed:
            print(f"udk: warning: {output.clean(text)}", file=sys.stderr)
    return 1 if found.failed else 0


def fsck(context: Context, store: Store, as_json: bool) -> int:
    """Checks the store; 1 when something is wrong and was not repaired."""
    from udk.base.progress import progress_for

    progress = progress_for(sys.stderr, context.quiet)
    try:
        problems = store.fsck(
            repair=bool(context.options.get("repair")),
            hashes=not context.options.get("fast"),
            progress=progress,
        )
    finally:
        progress.close()
    bad = [p for p in problems if p.serious and not p.repaired]
    if as_json:
        output.write_json({"clean": not bad, "problems": [p.as_dict() for p in problems]})
    else:
        for problem in problems:
            if problem.serious or not context.quiet:
                output.write(str(problem))
        if not context.quiet:
            output.write("clean" if not bad else f"{len(bad)} problem{'s' if len(bad) > 1 else ''}")
    return 1 if bad else 0


def df(context: Context, store: Store, as_json: bool) -> int:
    """Shows what takes how much disk."""
    lines = store.df()
    if as_json:
        output.write_json([line.as_dict() for line in lines])
        return 0
    rows = [[u.category, str(u.count), output.size(u.bytes), output.size(u.reclaimable)] for u in lines]
    rows.append(
        [
            "total",
            "",
            output.size(sum(u.bytes for u in lines)),
            output.size(sum(u.reclaimable for u in lines)),
        ]
    )
    output.table(["WHAT", "COUNT", "SIZE", "RECLAIMABLE"], rows)
    return 0
