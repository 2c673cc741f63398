"""Subordinate ids: the ranges of /etc/subuid and /etc/subgid as id maps (``--subids``)."""

from __future__ import annotations

import os

from udk.errors import EngineUnavailableError

_MAX_RANGES = 30  # the guard takes 32 lines


def _ranges(path: str, uid: int, name: str) -> list[tuple[int, int]]:
    found = []
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                parts = line.strip().split(":")
                if len(parts) == 3 and parts[0] in (name, str(uid)):
                    try:
                        found.append((int(parts[1]), int(parts[2])))
                    except ValueError:
                        continue
    except OSError:
        pass
    return [r for r in found if r[1] > 0][:_MAX_RANGES]


def _ranges_of_directory(option: list[str], name: str) -> list[tuple[int, int]]:
    """What getsubids tells, where ids are kept in a directory service (nsswitch.conf's ``subid``)."""
    import shutil
    import subprocess

    tool = shutil.which("getsubids", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/sbin")
    if not tool:
        return []
    done = subprocess.run(
        [tool, *option, name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    rows = (line.split() for line in done.stdout.decode("ascii", "replace").splitlines())
    return [(int(r[2]), int(r[3])) for r in rows if len(r) == 4 and r[2].isdigit() and r[3].isdigit()]


def _tool(name: str) -> str:
    for directory in (*os.environ.get("PATH", "").split(":"), "/usr/bin", "/bin", "/usr/sbin"):
        path = f"{directory}/{name}"
        if directory.startswith("/") and os.access(path, os.X_OK):
            return path
    raise EngineUnavailableError(
        f"subordinate ids need {name}, which is not installed", "ask for the uidmap (shadow-utils) package"
    )


def map_ops() -> list[tuple[str, ...]]:
    """Map operations: the caller is 0 inside, his subordinate ids follow from 1. Raises
    EngineUnavailableError."""
    import pwd

    uid, gid = os.geteuid(), os.getegid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    ops: list[tuple[str, ...]] = [("map-tools", _tool("newuidmap"), _tool("newgidmap"))]
    for op, own, path in (("map-uid", uid, "/etc/subuid"), ("map-gid", gid, "/etc/subgid")):
        ranges = _ranges(path, uid, name) or _ranges_of_directory(["-g"] if op == "map-gid" else [], name)
        if not ranges:
            raise EngineUnavailableError(
                f"{path} has no subordinate ids for {name}",
                f"ask for a line such as {name}:100000:65536 in it, or run without --subids",
            )
        ops.append((op, "0", str(own), "1"))
        inside = 1
        for first, count in ranges:
            ops.append((op, str(inside), str(first), str(count)))
            inside += count
    return ops
