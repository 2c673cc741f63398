"""Sizes, durations, signals, limits and processor lists."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udk.errors import UsageError
from udk.runtime import values


@pytest.mark.parametrize(
    "text, count",
    [("0", 0), ("1024", 1024), ("64m", 64 << 20), ("64M", 64 << 20), ("1.5g", 3 << 29), ("2GiB", 2 << 30),
     ("10kb", 10240), ("7b", 7), (" 1 k ", 1024)],
)  # fmt: skip
def test_size(text: str, count: int) -> None:
    assert values.size(text, "--x") == count


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1 2", "inf", "nan", "1e400", "9999999p", "1_0", "٣"])
def test_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        values.size(text, "--x")


@pytest.mark.parametrize(
    "text, seconds",
    [("0", 0), ("90", 90), ("1.5", 1.5), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("500ms", 0.5)],
)
def test_duration(text: str, seconds: float) -> None:
    assert values.duration(text, "--x") == seconds


@pytest.mark.parametrize("text", ["", "-5", "5d", "h", "1h30", "inf", "nan", "1m-5s"])
def test_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration"):
        values.duration(text, "--x")


def test_signals_are_the_kernel_s() -> None:
    for name, number in values.COMMON_SIGNALS.items():
        if hasattr(signal, "SIG" + name):
            assert getattr(signal, "SIG" + name) == number, name
    assert values.signal_number("SIGTERM", "--x") == values.signal_number("term", "--x") == 15
    assert values.signal_number("RTMIN+3", "--x") == 37 and values.signal_number("9", "--x") == 9


@pytest.mark.parametrize("text", ["", "0", "65", "NOPE", "RTMIN+99", "-1", "SIG", "TERM+1"])
def test_no_signal(text: str) -> None:
    with pytest.raises(UsageError, match="is not a signal"):
        values.signal_number(text, "--x")


def test_rlimits() -> None:
    assert values.rlimit("nofile=1024") == ("nofile", 1024, 1024)
    assert values.rlimit("core=0:-1") == ("core", 0, -1)
    assert values.rlimit("memlock=unlimited") == ("memlock", -1, -1)


@pytest.mark.parametrize("text", ["nofile", "nofile=", "nope=1", "nofile=2:1", "nofile=-1:5", "nofile=1:2:3"])
def test_no_rlimit(text: str) -> None:
    with pytest.raises(UsageError, match="--ulimit"):
        values.rlimit(text)


def test_processors() -> None:
    assert values.cpu_list("0-3,7,2", "--x") == [0, 1, 2, 3, 7]


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1,", "0-99999"])
def test_no_processors(text: str) -> None:
    with pytest.raises(UsageError):
        values.cpu_list(text, "--x")


@given(st.text(max_size=12))
def test_only_usage_errors(text: str) -> None:
    for call in (values.size, values.duration, values.signal_number, values.cpu_list):
        try:
            call(text, "--x")  # type: ignore[operator]
        except UsageError:
            pass
    try:
        values.rlimit(text)
    except UsageError:
        pass
