"""Publishes directories as repositories that official and own clients can read; needs no privileges."""

from __future__ import annotations

from .keys import RepositoryKeys
from .objects import PublishError
from .publisher import Options, PublishResult, publish

__all__ = ["Options", "PublishError", "PublishResult", "RepositoryKeys", "publish"]
