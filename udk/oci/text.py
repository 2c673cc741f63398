"""Printing of text that came from elsewhere: one line, no terminal escapes, bounded."""

from __future__ import annotations


def clean(text: object, limit: int = 200) -> str:
    """``text`` as one printable line of at most ``limit`` characters; what is not printable becomes
    ``\\xNN``.

    A registry or an image chooses this text, and it ends on a terminal: control characters could move the
    cursor, set the title or hide the rest of the message."""
    text = str(text)
    shown = text[:limit]
    if not (shown.isascii() and shown.isprintable()):
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)[:limit]
    return shown + "..." if len(text) > limit else shown


def quoted(text: object, limit: int = 200) -> str:
    """:func:`clean` within single quotes."""
    return f"'{clean(text, limit)}'"
