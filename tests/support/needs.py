"""Tests that need a program of the system: skipped where it is missing, a failure with UDK_CI=1."""

from __future__ import annotations

import os
import shutil

import pytest


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


def needs(*programs: str) -> pytest.MarkDecorator:
    """Marks a test (or, as ``pytestmark``, a module) as needing programs: ``@needs("skopeo", "umoci")``."""
    return pytest.mark.needs(*programs)


def apptainer() -> str:
    """The path of the host's apptainer or singularity, or of the one that ``ci/apptainer`` unpacked; skips
    the running test (fails it with UDK_CI=1) where there is none."""
    cache = os.environ.get("UDK_TEST_CACHE", "")
    unpacked = f"{cache}/apptainer/usr/bin/apptainer"
    path = os.environ.get("UDK_SINGULARITY", "") or (unpacked if os.access(unpacked, os.X_OK) else "")
    path = path or find("apptainer") or find("singularity") or ""
    if not path:
        require("apptainer")
    return path
