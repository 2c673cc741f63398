"""Who a process is, so that another one, perhaps on another host, can tell whether it still lives.

A pid alone says nothing: it is reused, other pid namespaces have their own, and a store on a network file
system is used by several hosts. Light: the run path imports this."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FOREIGN_SECONDS = 30 * 86400.0  # for how long a process that cannot be judged counts as alive

_own: dict[str, Any] | None = None


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""
    finally:
        os.close(fd)


def boot_id() -> str:
    """The kernel's identity since it was booted; ``""`` where /proc does not tell."""
    return _read("/proc/sys/kernel/random/boot_id").decode("ascii", "replace").strip()


def host_id() -> str:
    """A name for this host that differs from its neighbours' also where all are called localhost."""
    machine = _read("/etc/machine-id").decode("ascii", "replace").strip()
    return f"{os.uname().nodename}/{machine}"


def start_time(pid: int) -> int:
    """When process ``pid`` was started, in clock ticks since boot; 0 when it does not exist or is a
    zombie."""
    stat = _read(f"/proc/{pid}/stat")
    fields = stat[stat.rfind(b")") + 2 :].split()  # the name before may hold spaces and parentheses
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return 0
    return int(fields[19])


def pid_namespace() -> int:
    """The inode of this process's pid namespace; 0 where /proc does not tell."""
    try:
        return int(os.readlink("/proc/self/ns/pid").partition("[")[2].rstrip("]"))
    except (OSError, ValueError):
        return 0


def own_identity() -> dict[str, Any]:
    """The identity of this process: ``host``, ``boot``, ``pidns``, ``pid``, ``start``. It survives exec."""
    global _own
    pid = os.getpid()
    if _own is None or _own["pid"] != pid:
        _own = {
            "host": host_id(), "boot": boot_id(), "pidns": pid_namespace(), "pid": pid,
            "start": start_time(pid),
        }  # fmt: skip
    return _own


def is_alive(identity: dict[str, Any], age: float, foreign_seconds: float = FOREIGN_SECONDS) -> bool:
    """Whether the process of ``identity`` can still be at work.

    ``age`` is the time in seconds since the identity was written. On this host and boot, and in this pid
    namespace, /proc decides; after a reboot of this host it is dead. Any other host's, or another pid
    namespace's, process counts as alive for ``foreign_seconds``: a job suspended there must not lose its
    root."""
    own = own_identity()
    if identity.get("host") != own["host"]:
        return age < foreign_seconds
    if identity.get("boot") != own["boot"]:
        return False
    if identity.get("pidns") != own["pidns"]:
        return age < foreign_seconds
    pid = identity.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    started = start_time(pid)
    if started:
        return not identity.get("start") or started == identity["start"]
    try:  # /proc hides other users' processes (hidepid), or is not there
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return not identity.get("start") and not own["start"]
