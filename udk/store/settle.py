"""Whether a tree is known to be on the disk, not only in the page cache.

Flushing the tens of thousands of files of a tree when it is published would cost more than making it. So a
new tree carries a file ``unsettled``, saying on which host and boot it was made. A later command of the
same boot flushes the file system once, which by then is nearly free, and removes the mark. A tree that
still has it after that host was booted anew may have lost what a power failure takes, so it is made anew
from the blobs, which were flushed. On the run path: one failed open for a settled tree."""

from __future__ import annotations

import os
import time

from udk.base import jsonlite
from udk.base.files import atomic_write, read_file
from udk.base.process import own_identity

SETTLE_SECONDS = (
    60.0  # after which the kernel has written most of it back on its own (dirty_expire_centisecs)
)


def mark_unsettled(staging: str) -> None:
    """Marks the tree that is about to be published from ``staging``. Raises OSError."""
    own = own_identity()
    data = jsonlite.dumps({"host": own["host"], "boot": own["boot"], "time": time.time()})
    atomic_write(f"{staging}/unsettled", data.encode(), durable=True)


def tree_is_sound(root: str, key: str) -> bool:
    """Whether the tree ``key`` is there and complete, and no crash can have taken parts of it."""
    top = f"{root}/trees/{key}"
    try:
        raw = read_file(f"{top}/unsettled", 4096)
    except FileNotFoundError:
        return os.path.exists(f"{top}/tree.json")
    except OSError:
        return False
    own = own_identity()
    try:
        data = jsonlite.loads(raw)
        same_host, same_boot = data["host"] == own["host"], data["boot"] == own["boot"]
    except (ValueError, KeyError, TypeError):
        return False  # the mark itself was lost in a crash
    # What another host made came over a network file system, which flushes when a file is closed.
    return (same_boot or not same_host) and os.path.exists(f"{top}/tree.json")


def settle(root: str) -> int:
    """Flushes trees made in this boot and some time ago, and removes their marks; returns how many.

    Never raises: a tree that stays unsettled only costs work later."""
    due = []
    try:
        keys = os.listdir(f"{root}/trees")
    except OSError:
        return 0
    own = own_identity()
    for key in keys:
        path = f"{root}/trees/{key}/unsettled"
        try:
            data = jsonlite.loads(read_file(path, 4096))
            old = time.time() - float(data["time"]) > SETTLE_SECONDS
            if data["host"] != own["host"] or (data["boot"] == own["boot"] and old):
                due.append(path)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    if not due or not _sync(f"{root}/trees"):
        return 0
    for path in due:
        try:
            os.unlink(path)
        except OSError:
            pass
    return len(due)


def _sync(path: str) -> bool:
    """syncfs(2) on the file system of ``path``."""
    import ctypes

    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (AttributeError, OSError):
        os.sync()
        return True
    try:
        return bool(syncfs(fd) == 0)
    finally:
        os.close(fd)
