"""Removal in two steps: a rename into ``trash/`` takes a thing out of the way at once, and then it goes.

An entry's name says when it came and from when on it may be deleted: ``<time>-<keep
seconds>-<unique>-<name>``."""

from __future__ import annotations

import os
import time

from udk.base.files import store_error, unique
from udk.base.remove import remove_tree


def to_trash(root: str, path: str, keep: float = 0.0) -> str:
    """Moves ``path`` into the trash of the store ``root``; returns where it is there, ``""`` when it was
    gone.

    ``keep`` is for how many seconds it stays at least. Raises StoreError."""
    name = os.path.basename(path)[:100]
    target = f"{root}/trash/{int(time.time())}-{int(keep)}-{unique()}-{name}"
    try:
        os.rename(path, target)
    except FileNotFoundError:
        if os.path.lexists(path):
            os.makedirs(f"{root}/trash", exist_ok=True)
            os.rename(path, target)
        else:
            return ""
    except PermissionError:
        # Moving a directory changes its "..", for which it must be writable.
        try:
            os.chmod(path, 0o700)
            os.rename(path, target)
        except OSError as e:
            raise store_error(e, path) from e
    except OSError as e:
        raise store_error(e, path) from e
    return target


def discard(root: str, path: str) -> None:
    """Removes ``path``. Raises StoreError."""
    target = to_trash(root, path)
    if target:
        try:
            remove_tree(target)
        except OSError as e:
            raise store_error(e, target) from e


def due(name: str, now: float) -> bool:
    """Whether the trash entry ``name`` may be deleted."""
    try:
        came, keep, _ = name.split("-", 2)
        return now >= int(came) + int(keep)
    except ValueError:
        return True
