"""Fixtures every room may use. Tests import their helpers as ``from tests.support.needs import needs``."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.needs import require


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        raise pytest.UsageError(
            "run the tests as an ordinary user (ci/test makes one): root hides what matters here"
        )


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        require(*mark.args)


def pytest_configure(config: pytest.Config) -> None:
    """One hypothesis profile for all rooms: the same examples in every run, no clocks, nothing left on
    disk. Signals of the keyboard as in a terminal: what a shell starts in the background ignores them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    try:
        from hypothesis import HealthCheck, settings
    except ImportError:
        return
    settings.register_profile(
        "udk",
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=60,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("udk")
