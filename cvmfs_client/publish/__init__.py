"""Publishes directories as repositories that official and own clients can read; needs no privileges."""

from __future__ import annotations

from .collect import CollectResult, collect, renew_whitelist
from .keys import RepositoryKeys
from .objects import PublishError
from .publisher import Options, PublishResult, publish

__all__ = [
    "CollectResult",
    "Options",
    "PublishError",
    "PublishResult",
    "RepositoryKeys",
    "collect",
    "publish",
    "renew_whitelist",
]
