"""Text for people: sizes, and foreign text made harmless."""

from __future__ import annotations


def human_size(count: float) -> str:
    """``count`` bytes with three significant digits and a decimal prefix: ``1.23 GB``."""
    if count < 999.5:
        return f"{int(count)} B"
    prefixes = iter("kMGTPE")
    prefix = ""
    while count >= 999.5 and prefix != "E":
        prefix = next(prefixes)
        count /= 1000
    return f"{count:.{2 if count < 9.995 else 1 if count < 99.95 else 0}f} {prefix}B"


def one_line(text: object, limit: int = 200) -> str:
    """``text`` as one printable line of at most ``limit`` characters.

    File names and answers from elsewhere end on terminals and in logs: control characters, escape sequences
    and characters that change the direction of writing are shown as escapes."""
    text = str(text)
    shown = text[: limit + 1]
    if not (shown.isascii() and shown.isprintable()):
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
    return shown[: limit - 3] + "..." if len(shown) > limit else shown
