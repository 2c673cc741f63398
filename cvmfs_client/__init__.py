"""A client of the CernVM File System that needs no privileges: library, command and publisher."""

from __future__ import annotations

from .errors import CvmfsError

__all__ = ["CvmfsError"]
