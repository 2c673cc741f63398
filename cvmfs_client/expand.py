"""Variant symbolic links: ``$(NAME)`` and ``$(NAME:-default)`` in a target (formats reference 6)."""

from __future__ import annotations

from collections.abc import Mapping


def expand(target: bytes, environment: Mapping[bytes, bytes]) -> bytes:
    """The target with variables put in. Not recursive; what is no complete reference stays as it is."""
    at = target.find(b"$(")
    if at < 0:
        return target
    out = bytearray()
    done = 0
    # a reference needs at least one byte behind "$("
    while 0 <= at < len(target) - 2:
        end = target.find(b")", at + 2)
        if end < 0:
            break
        name, has_default, default = target[at + 2 : end].partition(b":-")
        out += target[done:at]
        out += environment.get(name, default if has_default else b"")
        done = end + 1
        at = target.find(b"$(", done)
    return bytes(out + target[done:])
