"""The command `cvmfs`, also reachable as `udk cvmfs`."""

from __future__ import annotations

from .main import main

__all__ = ["main"]
