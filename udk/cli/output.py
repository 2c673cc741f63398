"""Text and JSON for people and programs: aligned tables, ages, sizes."""

from __future__ import annotations

import json
import sys
import time

from udk.base.text import human_size, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any


def clean(text: str) -> str:
    """``text`` with control characters and undecodable bytes shown, not sent, to a terminal."""
    return one_line(text, 100_000)


def write(text: str) -> None:
    """Prints a line; what the terminal's encoding lacks is escaped."""
    data = text + "\n"
    try:
        sys.stdout.write(data)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(data.encode(encoding, "backslashreplace").decode(encoding))


def write_json(value: Any) -> None:
    """Prints ``value`` as indented JSON."""
    write(json.dumps(value, indent=2))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints columns as wide as needed, two blanks apart, no blanks at line ends."""
    lines = [list(heads), *([clean(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        write("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def age(then: float | None) -> str:
    """``5 minutes ago``; empty for None."""
    if then is None:
        return ""
    seconds = max(0, int(time.time() - then))
    for width, unit in ((86400 * 365, "year"), (86400 * 30, "month"), (86400 * 7, "week"), (86400, "day"),
                        (3600, "hour"), (60, "minute"), (1, "second")):  # fmt: skip
        count = seconds // width
        if count >= (2 if unit in ("week", "month") else 1):
            return f"{count} {unit}{'s' if count != 1 else ''} ago"
    return "just now"


def iso(then: float | None) -> str | None:
    """RFC 3339 in UTC, as docker writes times."""
    if then is None:
        return None
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(then))
    return f"{whole}.{int(then % 1 * 1e6):06d}Z"


size = human_size


def short_id(digest: str) -> str:
    """Twelve digits of a digest or an id."""
    return digest.partition(":")[2][:12] if ":" in digest else digest[:12]
