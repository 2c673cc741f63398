"""Small values as docker writes them: sizes, durations, signals, resource limits, processor lists."""

from __future__ import annotations

from udk.errors import UsageError

UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

# docker's names -> the kernel's (resource.RLIMIT_*), numbers by <asm-generic/resource.h>
RLIMITS = (
    "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending",
    "msgqueue", "nice", "rtprio", "rttime",
)  # fmt: skip


def size(text: str, option: str) -> int:
    """Bytes of ``64m``, ``1.5g``, ``1024``, ``2GiB`` (binary units, as docker's)."""
    t = text.strip().lower()
    for suffix in ("ib", "b"):
        if t.endswith(suffix) and t[: -len(suffix)][-1:].isalpha():
            t = t[: -len(suffix)]
            break
    number, unit = (t[:-1], t[-1]) if t[-1:].isalpha() else (t, "")
    try:
        value = _plain(number) * UNITS[unit.strip()]
        if not value < 1 << 63:
            raise ValueError
        return int(value)
    except (ValueError, KeyError, OverflowError):
        raise UsageError(
            f"{option} {text!r} is not a size", "write bytes, or a number with k, m or g"
        ) from None


def _plain(text: str) -> float:
    """A decimal number without sign, exponent and Python's other liberties."""
    text = text.strip()
    if not text or text.strip("0123456789.") or not text.isascii():
        raise ValueError
    return float(text)


def duration(text: str, option: str) -> float:
    """Seconds of ``90``, ``1.5``, ``90s``, ``15m``, ``1h30m``, ``500ms``."""
    total, number, rest = 0.0, "", text.strip()
    try:
        if rest and not rest[-1].isalpha():
            total = _plain(rest)
        else:
            while rest:
                cut = 0
                while cut < len(rest) and not rest[cut].isalpha():
                    cut += 1
                end = cut
                while end < len(rest) and rest[end].isalpha():
                    end += 1
                number, unit, rest = rest[:cut], rest[cut:end], rest[end:]
                total += _plain(number) * SECONDS[unit]
            if not text.strip():
                raise ValueError
        if total > 1e12:
            raise ValueError
        return total
    except (ValueError, KeyError):
        raise UsageError(
            f"{option} {text!r} is not a duration", "write seconds, or a number with s, m or h"
        ) from None


def signal_number(text: str, option: str) -> int:
    """The number of ``TERM``, ``SIGTERM``, ``15``, ``RTMIN+3``."""
    word = text.strip().upper()
    number = 0
    if word.isascii() and word.isdigit():
        number = int(word)
    else:
        word = word[3:] if word.startswith("SIG") else word
        number = COMMON_SIGNALS.get(word, 0)
        if not number:
            base, sign, offset = word.partition("+") if "+" in word else word.partition("-")
            if base in ("RTMIN", "RTMAX") and (not sign or (offset.isascii() and offset.isdigit())):
                number = 34 if base == "RTMIN" else 64
                number += int(offset or 0) * (-1 if sign == "-" else 1)
    if not 1 <= number <= 64:
        raise UsageError(f"{option} {text!r} is not a signal", "write a name such as SIGTERM, or a number")
    return number


# x86_64 and aarch64 number them the same (asm-generic/signal.h); importing signal costs more than this
COMMON_SIGNALS = {
    "HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "IOT": 6, "BUS": 7, "FPE": 8, "KILL": 9,
    "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17,
    "CLD": 17, "CONT": 18, "STOP": 19, "TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25,
    "VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29, "POLL": 29, "PWR": 30, "SYS": 31,
}  # fmt: skip


def rlimit(text: str) -> tuple[str, int, int]:
    """``nofile=1024:2048`` as (name, soft, hard); -1 or ``unlimited`` is no limit."""
    name, equals, bounds = text.partition("=")
    soft, colon, hard = bounds.partition(":")
    try:
        if name not in RLIMITS or not equals:
            raise ValueError
        low = _bound(soft)
        high = _bound(hard) if colon else low
    except ValueError:
        raise UsageError(
            f"--ulimit {text!r} is not NAME=SOFT[:HARD]", "names: " + " ".join(sorted(RLIMITS))
        ) from None
    if high != -1 and (low == -1 or low > high):
        raise UsageError(f"--ulimit {text!r}: the soft limit is above the hard one")
    return name, low, high


def _bound(text: str) -> int:
    if text in ("-1", "unlimited"):
        return -1
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)


def cpu_list(text: str, option: str) -> list[int]:
    """The processors of ``0-3,7``, sorted."""
    cpus: set[int] = set()
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            low, high = int(first), int(last if dash else first)
            if not 0 <= low <= high < 4096:
                raise ValueError
            cpus.update(range(low, high + 1))
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a list of processors", "write 0-3,7") from None
    return sorted(cpus)


def is_env_name(name: str) -> bool:
    """Whether ``name`` can be the name of an environment variable: anything but empty, ``=`` and NUL."""
    return bool(name) and "=" not in name and "\0" not in name
