"""Objects that stay usable in a forked child: each gets a call there to renew its locks and drop shared
descriptors.
"""

from __future__ import annotations

import os
import weakref

_objects: weakref.WeakSet[ForkSafe] = weakref.WeakSet()


class ForkSafe:
    """Base of classes with locks or sockets. ``_after_fork`` runs in the child, where only one thread is
    left.
    """

    def __init__(self) -> None:
        _objects.add(self)

    def _after_fork(self) -> None:
        raise NotImplementedError


def _renew() -> None:
    for item in list(_objects):
        item._after_fork()


os.register_at_fork(after_in_child=_renew)
