"""Confinement: what ``--confine`` and ``--network none`` ask of an engine, and what they come to on a node.

There are two boundaries. With *namespaces* the mount tree closes what lies outside. Without them *Landlock*
does, for all that is opened, and a system-call filter for what Landlock does not know. :data:`ROWS` says for
each attempt from which Landlock version on it is stopped; ``docs/security.md`` shows that table, ``udk
doctor`` and the dry run print what it comes to, and a test runs all of it under every engine.
"""

from __future__ import annotations

import os

from udk.errors import EngineError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from udk.engines.base import Engine
    from udk.runtime.spec import Mount, RunSpec

    Ops = list[tuple[str, ...]]

NAMESPACES, LANDLOCK = "namespaces", "landlock"
ON, ALLOW_UNIX = "on", "allow-unix"  # values of RunSpec.confine, beside ""

MAX_ABI = 999  # the newest version of Landlock that is used; tests lower it
ALWAYS, NEVER = 0, 1000

# attempt, text, and the version of Landlock from which on it is stopped: with namespaces, without
ROWS = (
    ("read", "read a file", ALWAYS, 1),
    ("list", "list a directory", ALWAYS, 1),
    ("write", "open a file for writing", ALWAYS, 1),
    ("create", "create a file, directory, link, FIFO", ALWAYS, 1),
    ("remove", "remove a file or directory", ALWAYS, 1),
    ("rename", "rename or hard-link, there or from there to the inside", ALWAYS, 1),
    ("truncate", "truncate(2)", ALWAYS, 1),
    ("exec", "execute a program", ALWAYS, 1),
    ("stat", "stat, access, readlink, statfs: learn what is there", ALWAYS, NEVER),
    ("chmod", "chmod", ALWAYS, NEVER),
    ("utime", "utime", ALWAYS, NEVER),
    ("setxattr", "setxattr", ALWAYS, NEVER),
    ("unix-path", "connect or send to a pathname AF_UNIX socket", ALWAYS, 1),
    ("unix-abstract", "connect to an abstract AF_UNIX socket", 6, 1),
    ("proc-root", "/proc/PID/root, cwd, fd, mem, environ of another process", ALWAYS, 1),
    ("ptrace", "ptrace, process_vm_readv, pidfd_getfd of another process", ALWAYS, 1),
    ("signal", "send a signal to another process of the caller's", ALWAYS, 6),
    ("processes", "see other processes, their command lines (`ps`)", ALWAYS, NEVER),
    ("sysv-ipc", "System V shared memory, semaphores, queues of the caller's", ALWAYS, NEVER),
    ("terminal", "open the caller's other terminals", ALWAYS, 1),
    ("io-uring", "io_uring", ALWAYS, ALWAYS),
    ("int80", "system calls by int 0x80", ALWAYS, ALWAYS),
    ("x32", "system calls by x32 numbers", ALWAYS, ALWAYS),
    ("descriptor", "use a descriptor beyond 0, 1, 2 that udk inherited", ALWAYS, ALWAYS),
    ("tcp", "connect by TCP", NEVER, NEVER),
    ("udp", "send by UDP", NEVER, NEVER),
)

# What --network none changes in both columns, --confine=allow-unix and --pid host in one.
_NETWORK_NONE = {"tcp": (ALWAYS, ALWAYS), "udp": (ALWAYS, ALWAYS), "unix-abstract": (ALWAYS, 1)}
_ALLOW_UNIX = {"unix-path": NEVER, "unix-abstract": 6}
_PID_HOST = {"signal": 6, "processes": NEVER}

_NODES = ("null", "zero", "full", "random", "urandom", "tty")


def parse(value: Any) -> str:
    """The value of ``--confine``: given alone (True), with a word, or not at all. Raises UsageError."""
    if value in (None, False, "", "false", "no", "off"):
        return ""
    if value in (True, ON, "true", "yes"):
        return ON
    if value == ALLOW_UNIX:
        return ALLOW_UNIX
    raise UsageError(f"--confine={value} is unknown", f"write --confine or --confine={ALLOW_UNIX}")


def kernel_abi() -> int:
    """The version of this kernel's Landlock as the guard finds it; 0 without one. Raises EngineError."""
    from udk.engines.guard import GUARD

    try:
        pid = os.posix_spawn(GUARD, ["udk-guard", "landlock"], os.environ)
    except OSError as e:
        raise EngineError(f"{GUARD} cannot be executed: {e.strerror}", "install udk anew") from None
    _, status = os.waitpid(pid, 0)
    return min(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0, MAX_ABI)


def minimum_abi(row: tuple[str, str, int, int], boundary: str, spec: RunSpec) -> int:
    """From which version of Landlock on a row's attempt is stopped for this run: ALWAYS ... NEVER."""
    key, _, namespaces, landlock = row
    if spec.network == "none" and key in _NETWORK_NONE:
        namespaces, landlock = _NETWORK_NONE[key]
    if spec.confine == ALLOW_UNIX:
        landlock = _ALLOW_UNIX.get(key, landlock)
    if spec.pid == "host":
        namespaces = _PID_HOST.get(key, namespaces)
    return namespaces if boundary == NAMESPACES else landlock


def level(spec: RunSpec, boundary: str, abi: int) -> dict[str, Any]:
    """What confinement comes to: ``boundary``, ``landlock`` (its version, 0 for none), ``not_stopped`` (keys
    of :data:`ROWS`)."""
    return {
        "boundary": boundary,
        "landlock": abi,
        "not_stopped": [row[0] for row in ROWS if minimum_abi(row, boundary, spec) > abi],
    }


def describe(engine: Engine, abi: int) -> str:
    """The level that an engine reaches on this node, as a phrase."""
    if engine.boundary == NAMESPACES:
        return "by namespaces" + (f", Landlock {abi}" if abi >= 6 else "")
    if engine.boundary == LANDLOCK:
        return f"by Landlock {abi}" if abi else "no: the kernel has no Landlock"
    return "no"


def reasons_against(spec: RunSpec, engine: Engine) -> list[str]:
    """Why an engine cannot confine this run on this node; empty when it can, or need not."""
    if not spec.confine or engine.boundary == NAMESPACES:
        return []
    if engine.boundary != LANDLOCK:
        return ["it has no confinement"]
    abi = kernel_abi()
    if not abi:
        return [
            "--confine needs Landlock in it, which this kernel does not have (Linux 5.13, enabled at boot "
            "with lsm=landlock,...)"
        ]
    if abi == 1 and spec.root.lower:
        return [
            "--confine: the first version of Landlock (Linux 5.13 to 5.18) forbids renames between "
            "directories, on which the private layer rests"
        ]
    return []


def ops(spec: RunSpec, boundary: str, reach: Iterable[tuple[str, str]] = (), keep: Iterable[int] = ()) -> Ops:
    """Operations of the plan that confine the payload just before its exec.

    ``reach``: pairs of an absolute host path and its rights (``csrc/guard/plan.h``), all that stays reachable
    without namespaces; ``keep``: descriptors that the program started needs."""
    calls, rules = "", ""
    if spec.confine:
        calls, rules = "ad", "a"
        if boundary == LANDLOCK:
            rules = "fas" + ("n" if spec.network == "none" else "")
            calls += "u" if spec.confine != ALLOW_UNIX else ""
        elif spec.pid == "host":
            rules += "s"
    if spec.network == "none" and boundary == LANDLOCK:
        calls = (calls or "a") + "n"
    if not calls:
        return []
    made: Ops = [("confine", calls)]
    if rules:
        made.append(("landlock", str(MAX_ABI), rules))
        made += [("keep-fd", str(fd)) for fd in keep]
        if boundary == LANDLOCK:
            made += [("landlock-path", path or "/", rights) for path, rights in reach]
    return made


def reach(spec: RunSpec) -> list[tuple[str, str]]:
    """What a payload without namespaces reaches of the host by its spec: the trees, its private layer, the
    mounts. An engine adds what is its own (its program, the directory of its state)."""
    root = spec.root
    paths = [(path, "rx") for path in root.lower]
    paths += [(path, "r") for path in root.records if path]
    if root.upper:
        paths.append((root.upper, "rwx"))
    if root.work:
        paths.append((root.work, "rwx"))
    for m in spec.mounts:
        if m.kind == "bind":
            rights = "rxi" if m.readonly else "rwxi"
            paths.append((os.path.realpath(m.source), rights + ("o" if "optional" in m.options else "")))
        elif m.kind == "proc":
            paths.append(("/proc", "rw"))
        elif m.kind == "sys":
            paths.append(("/sys", "r"))
        elif m.kind == "dev":  # names of what is there, and the nodes that every container has
            paths.append(("/dev", "lo"))
            paths += [(f"/dev/{name}", "rwio") for name in _NODES]
    return paths


def private_mounts(spec: RunSpec) -> tuple[Mount, ...]:
    """The mounts for an engine that has no mount namespace: a confined payload gets a directory of its own as
    /dev/shm, where otherwise the host's is shown."""
    if not spec.confine:
        return spec.mounts
    mounts = [m.replace(kind="tmpfs") if m.kind == "shm" else m for m in spec.mounts]
    targets = {os.path.normpath(m.target) for m in mounts}
    for m in spec.mounts:
        target = os.path.normpath(m.target + "/shm")
        if m.kind == "dev" and target not in targets:
            mounts.append(m.replace(kind="tmpfs", target=target, options=("mode=1777",)))
    return tuple(mounts)


def table() -> str:
    """The table of ``docs/security.md``: attempts, and what stops them."""
    lines = [
        "| outside of the container | namespace, runc, singularity | trap, ptrace, preload |",
        "|---|---|---|",
    ]
    for _, text, namespaces, landlock in ROWS:
        lines.append(f"| {text} | {_cell(namespaces)} | {_cell(landlock)} |")
    return "\n".join(lines) + "\n"


def _cell(abi: int) -> str:
    if abi >= NEVER:
        return "**not stopped**"
    return "stopped" if abi <= 1 else f"stopped with Landlock {abi} or newer, else **not stopped**"
