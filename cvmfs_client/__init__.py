"""A client of the CernVM File System that needs no privileges: library, command and publisher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import CvmfsError

if TYPE_CHECKING:
    from .repository import Repository

__all__ = ["CvmfsError", "Repository"]


def __getattr__(name: str) -> Any:
    # the publisher and tools that need only errors or hashes do not pay for the reader
    if name == "Repository":
        from .repository import Repository

        return Repository
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
