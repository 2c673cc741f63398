"""Where changed code is kept (``csrc/preload/map.c`` writes it), for the engines that call by it."""

from __future__ import annotations

import os

_KEEP = 2000  # files of changed code; the oldest go first
_MANY = 32768  # bytes of a directory that may hold so many


def code_directory() -> str:
    """Where changed code is kept for all of this user's containers on this node; "" where there is no such
    place, which only costs time."""
    from udk.base.process import boot_id
    from udk.engines.guard import remove
    from udk.engines.select import private_directory

    where = private_directory()
    if not where:
        return ""
    # of this boot only: what was written shortly before a crash may be there in part
    path = f"{os.path.realpath(where)}/code-{boot_id()[:8]}"
    try:
        if not os.path.isdir(path):
            os.makedirs(path, mode=0o700, exist_ok=True)
            for name in os.listdir(where):
                if name.startswith("code-") and name != os.path.basename(path):
                    remove([f"{where}/{name}"])
        if os.statvfs(path).f_flag & os.ST_NOEXEC:
            return ""
        if os.stat(path).st_size > _MANY:
            _prune(path)
    except OSError:
        return ""
    return path if len(os.fsencode(path)) < 400 else ""


def _prune(path: str) -> None:
    with os.scandir(path) as found:
        names = [entry.name for entry in found]
    if len(names) <= _KEEP:
        return
    ages = []
    for name in names:
        try:
            ages.append((os.stat(f"{path}/{name}").st_atime_ns, name))
        except FileNotFoundError:
            continue
    for _, name in sorted(ages)[: len(ages) - _KEEP // 2]:
        try:
            os.unlink(f"{path}/{name}")
        except FileNotFoundError:
            continue
