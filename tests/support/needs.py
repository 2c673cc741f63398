"""Tests that need a program of the system: skipped where it is missing, a failure with UDK_CI=1."""

from __future__ import annotations

import os
import shutil
from typing import Callable, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., object])


def require(*programs: str) -> None:
    """Skips the running test (fails it with UDK_CI=1) unless all ``programs`` are there."""
    missing = [p for p in programs if find(p) is None]
    if missing:
        reason = f"needs {', '.join(missing)}"
        if os.environ.get("UDK_CI") == "1":
            pytest.fail(reason + ", and with UDK_CI=1 nothing may be skipped", pytrace=False)
        pytest.skip(reason)


def find(program: str) -> str | None:
    """The path of ``program``, in the administrator's directories too."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def needs(*programs: str) -> Callable[[Test], Test]:
    """Marks a test as needing ``programs``: ``@needs("skopeo", "umoci")``."""

    def mark(test: Test) -> Test:
        marked: Test = pytest.mark.needs(*programs)(test)
        return marked

    return mark
