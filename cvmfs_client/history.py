"""The history database: named revisions (formats reference 8). The manifest signs it, so it is as trusted as
that."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import NamedTuple

from .database import Database
from .errors import CatalogError, FormatError, TagError
from .hash import SUFFIX_CATALOG, Hash

MAX_TAGS = 1_000_000


class Tag(NamedTuple):
    """A named revision. ``timestamp`` in s since the epoch, ``size`` of the root catalog in bytes (0:
    unknown)."""

    name: str
    hash: Hash
    revision: int
    timestamp: int
    description: str
    size: int
    branch: str


def read_tags(database: Database) -> list[Tag]:
    """All tags, newest first. Raises CatalogError."""
    have = database.tables.get("tags", set())
    if not have >= {"name", "hash", "revision", "timestamp"}:
        raise CatalogError(f"{database.label} has no table of tags")
    description = "description" if "description" in have else "NULL"
    size = "size" if "size" in have else "0"
    branch = "branch" if "branch" in have else "NULL"
    rows = database.rows(
        f"SELECT name, hash, revision, timestamp, {description}, {size}, {branch} FROM tags "
        "ORDER BY timestamp DESC, revision DESC LIMIT ?",
        (MAX_TAGS,),
    )
    found: list[Tag] = []
    for name, text, revision, timestamp, about, length, on in rows:
        try:
            identity = Hash.parse(text.decode("latin-1"), SUFFIX_CATALOG)
            tag = Tag(
                name.decode("utf-8", "surrogateescape"),
                identity,
                int(revision),
                int(timestamp),
                (about or b"").decode("utf-8", "replace"),
                int(length or 0),
                (on or b"").decode("utf-8", "surrogateescape"),
            )
        except (FormatError, AttributeError, TypeError, ValueError) as e:
            raise CatalogError(f"{database.label} has a malformed tag") from e
        found.append(tag)
    return found


def parse_date(text: str) -> datetime:
    """A UTC date as CVMFS_REPOSITORY_DATE has it: 2026-01-31, with T12:00, T12:00:00, and Z. Raises
    TagError."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d)?(?:\.\d+)?)?Z?", text.strip())
    try:
        if not match:
            raise ValueError(text)
        day, minutes, seconds = match.groups()
        stamp = f"{day} {minutes or '00:00'}{seconds or ':00'}"
        return datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
    except ValueError as e:
        raise TagError(f"{text!r} is not a date", "write it like 2026-01-31T12:00:00Z, in UTC") from e


def tag_by_name(tags: list[Tag], name: str) -> Tag:
    """Raises TagError."""
    for tag in tags:
        if tag.name == name:
            return tag
    raise TagError(f"there is no tag {name!r}", "`cvmfs tags` lists them")


def tag_by_date(tags: list[Tag], text: str) -> Tag:
    """The newest on the trunk that is not newer than a date. Raises TagError."""
    limit = parse_date(text).timestamp()
    fitting = [t for t in tags if t.timestamp <= limit and not t.branch]
    if not fitting:
        raise TagError(f"no tag is as old as {text}", "`cvmfs tags` lists them")
    return max(fitting, key=lambda t: (t.timestamp, t.revision))


def tag_by_revision(tags: list[Tag], revision: int) -> Tag:
    """Raises TagError."""
    for tag in tags:
        if tag.revision == revision:
            return tag
    raise TagError(f"no tag names revision {revision}", "`cvmfs tags` lists them")
