"""The plan: what the guard and the namespace launcher are told, as a list of typed operations.

An operation is a tuple of strings, its name first; ``docs/adr/guard-protocol.md`` lists them. The C side
checks the whole plan before it acts on any of it.
"""

from __future__ import annotations

import os

from udk.errors import UdkError

VERSION = "1"

# clone(2) flags
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_RLIMITS = (
    "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending",
    "msgqueue", "nice", "rtprio", "rttime",
)  # fmt: skip
_UNLIMITED = (1 << 64) - 1


def encode(ops: list[tuple[str, ...]]) -> bytes:
    """The plan on the wire. Raises UdkError for a string that no system call could take."""
    words = ["udk-plan", VERSION]
    for op in ops:
        words.extend(op)
    text = "\0".join(words) + "\0"
    if text.count("\0") != len(words):
        bad = next(op for op in ops if any("\0" in word for word in op))
        raise UdkError(f"a NUL byte in {bad[0]} {bad[1]!r}", "remove it")
    return os.fsencode(text)


def to_descriptor(data: bytes) -> int:
    """An inheritable descriptor from which ``data`` can be mapped: a memfd, or an unlinked file on old
    systems."""
    if hasattr(os, "memfd_create"):
        try:
            fd = os.memfd_create("udk-plan", 0)
        except OSError:
            fd = -1
    else:
        fd = -1
    if fd < 0:
        import tempfile

        fd, path = tempfile.mkstemp(prefix="udk-plan-")
        os.unlink(path)
        os.set_inheritable(fd, True)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def limits(rlimits: tuple[tuple[str, int, int], ...]) -> list[tuple[str, ...]]:
    """Operations for resource limits, given as (name, soft, hard), -1 for unlimited. Raises UdkError."""
    ops = []
    for name, soft, hard in rlimits:
        if name not in _RLIMITS:
            raise UdkError(f"unknown resource limit {name}", "known are " + ", ".join(_RLIMITS))
        values = (str(_UNLIMITED if v < 0 else v) for v in (soft, hard))
        ops.append(("limit", str(_RLIMITS.index(name)), *values))
    return ops
