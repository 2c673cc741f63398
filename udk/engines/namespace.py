"""The ``namespace`` engine: user, mount and pid namespaces, an overlay root, pivot_root; done by the guard in
C.

This module only compiles a RunSpec into the plan; ``csrc/namespace`` executes it. Nothing here needs
privileges.
"""

from __future__ import annotations

import os

from udk.engines import identity
from udk.engines.base import WITH_NAMESPACES, Engine, Launch
from udk.engines.plan import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)
from udk.errors import EngineError, UdkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udk.runtime.spec import Mount, RunSpec

# CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD
# AUDIT_WRITE SETFCAP: what root keeps within its own user namespace. Without SYS_ADMIN it cannot undo a read-
# only mount or uncover what a mount covers.
_KEPT_CAPABILITIES = sum(1 << c for c in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))

_TMPFS_FLAGS = frozenset(
    ("ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "rprivate", "private", "rslave", "slave")
)


class NamespaceEngine(Engine):
    name = "namespace"
    aliases = ("N1",)
    boundary = "namespaces"
    capabilities = WITH_NAMESPACES

    def probe(self) -> str:
        from udk.engines.guard import dry_run

        here = os.path.dirname(os.path.abspath(__file__))
        plan = [
            _clone(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS),
            *_one_id(0, 0),
            ("lower", here),
            ("proc", "/proc"),
            ("dev", "/dev"),
            ("devpts", "/dev/pts"),
            ("sys", "/sys"),
            ("readonly",),
            ("hostname", "probe"),
        ]
        error = dry_run(plan)
        return f"{error}{_remedy()}" if error else ""

    def reasons_against(self, spec: RunSpec) -> list[str]:
        reasons = []
        if spec.emulate:
            from udk.engines.emulate import missing, native_too

            reasons += [] if native_too(spec.emulate) else missing(spec)
        if spec.cvmfs and not _cvmfs_is_bound(spec):
            reasons.append("CVMFS repositories need a mounted /cvmfs")
        return reasons

    def launch(self, spec: RunSpec) -> Launch:
        flags = CLONE_NEWUSER | CLONE_NEWNS
        plan: list[tuple[str, ...]] = []
        if spec.pid == "private":
            flags |= CLONE_NEWPID
        if spec.hostname:
            flags |= CLONE_NEWUTS
            plan.append(("hostname", spec.hostname))
        if spec.network == "none":
            flags |= CLONE_NEWNET
            plan.append(("loopback",))
        if spec.confine:
            flags |= CLONE_NEWIPC
        plan.append(_clone(flags))
        plan += _identity(spec)
        plan += _root(spec)
        if spec.identity.subids and _is_fresh(spec.root.upper):
            for record in reversed(spec.root.records):
                if record:
                    plan += owner_ops(record)
        targets = {_normal(m.target) for m in spec.mounts}
        for mount in spec.mounts:
            plan += _mount(mount, targets)
        emulated = _emulator(spec) if spec.emulate else []
        plan += emulated
        plan.append(("dir", spec.cwd))
        if spec.root.readonly:
            plan.append(("readonly",))
        plan += [("cwd", spec.cwd), *_confined(spec)]
        launch = Launch(list(spec.argv), dict(spec.env), subreaper=spec.pid != "private", plan=tuple(plan))
        if identity.wanted(spec) and not emulated:
            return identity.add(spec, launch)
        return launch

    def join(self, spec: RunSpec, pid: int) -> Launch:
        first = _container_process(pid)
        plan: list[tuple[str, ...]] = [("join", str(first)), ("cwd", spec.cwd), _capabilities()]
        if spec.identity.subids:
            plan += _ids(spec)
        plan += _confined(spec)
        launch = Launch(list(spec.argv), dict(spec.env), plan=tuple(plan))
        return identity.join(spec, launch, first, 1 if spec.pid == "private" else first)

    def cleanup(self, spec: RunSpec) -> None:
        identity.cleanup(spec)


def _emulator(spec: RunSpec) -> list[tuple[str, ...]]:
    from udk.engines.emulate import native_too, rule

    if native_too(spec.emulate):
        return []
    return [("binfmt", "/proc/sys/fs/binfmt_misc", rule(spec.emulate))]


def _clone(flags: int) -> tuple[str, ...]:
    return ("clone", f"{flags:x}")


def _one_id(uid: int, gid: int) -> list[tuple[str, ...]]:
    return [("map-uid", str(uid), str(os.geteuid()), "1"), ("map-gid", str(gid), str(os.getegid()), "1")]


def _ids(spec: RunSpec) -> list[tuple[str, ...]]:
    groups = [("group", str(g)) for g in spec.identity.groups]
    return [("ids", str(spec.identity.uid), str(spec.identity.gid)), *groups, ("new-privileges",)]


def _confined(spec: RunSpec) -> list[tuple[str, ...]]:
    if not spec.confine:
        return []
    from udk.engines.confine import NAMESPACES, ops

    return ops(spec, NAMESPACES)


def _capabilities() -> tuple[str, ...]:
    return ("keep-caps", f"{_KEPT_CAPABILITIES:x}")


def _identity(spec: RunSpec) -> list[tuple[str, ...]]:
    if not spec.identity.subids:
        return [*_one_id(spec.identity.uid, spec.identity.gid), _capabilities()]
    from udk.engines.subids import map_ops

    return [*map_ops(), _capabilities(), *_ids(spec)]


def _root(spec: RunSpec) -> list[tuple[str, ...]]:
    root = spec.root
    for path in (*root.lower, root.upper, root.work):
        if path and not path.startswith("/"):
            raise UdkError(f"{path}: a root directory must be an absolute path")
    if not root.lower:
        return [("plain-root", root.upper)]
    ops: list[tuple[str, ...]] = [("lower", path) for path in root.lower]
    if root.upper:
        ops.append(("upper", root.upper, root.work, "volatile" if root.volatile else ""))
    return ops


def _is_fresh(upper: str) -> bool:
    """Whether a container starts for the first time: later its own chown calls are the truth."""
    if not upper:
        return True
    with os.scandir(upper) as entries:
        return next(entries, None) is None


def _normal(path: str) -> str:
    return os.path.normpath("/" + path)


def _mount(m: Mount, targets: set[str]) -> list[tuple[str, ...]]:
    flags = "r" if m.readonly else ""
    if m.kind == "bind":
        if not m.source.startswith("/"):
            raise UdkError(f"{m.source}: the source of a bind must be an absolute path")
        flags += ("o" if "optional" in m.options else "") + ("d" if m.is_dir else "")
        return [("bind", m.source, m.target, flags)]
    if m.kind == "file":
        return [("file", m.content, m.target, flags)]
    if m.kind == "tmpfs":
        flags += "n" if "noexec" in m.options else ""
        return [("tmpfs", m.target, _data(m, "mode=1777"), flags)]
    if m.kind == "shm":
        return [("shm", m.target, _data(m, "mode=1777"))]
    if m.kind == "dev":
        ops: list[tuple[str, ...]] = [("dev", m.target)]
        if _normal(m.target + "/pts") not in targets:
            ops.append(("devpts", m.target + "/pts"))
        if _normal(m.target + "/shm") not in targets:
            ops.append(("shm", m.target + "/shm", "mode=1777"))
        return ops
    if m.kind in ("proc", "sys", "devpts"):
        return [(m.kind, m.target)]
    raise UdkError(f"unknown kind of mount {m.kind} for {m.target}")


def _data(m: Mount, default: str) -> str:
    """File system options: those of the mount, plus the default of what it does not name."""
    options = [o for o in m.options if o not in _TMPFS_FLAGS and o != "optional"]
    name = default.partition("=")[0]
    if not any(o.startswith(name + "=") for o in options):
        options.insert(0, default)
    return ",".join(options)


def owner_ops(path: str) -> list[tuple[str, ...]]:
    """Operations that give the entries of a tree their recorded owners and set-id bits, where they are not
    0:0.

    Reads the record format of docs/architecture.md; raises UdkError when it is damaged."""
    import mmap
    import struct

    ops: list[tuple[str, ...]] = []
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:8] != b"UDKREC\0\1" or len(data) < 32:
            raise UdkError(f"{path}: not an identity record", "run udk store fsck")
        count, _, entries, strings = struct.unpack_from("<IIQQ", data, 8)
        for i in range(count):
            at, length, mode, uid, gid = struct.unpack_from("<QIIII", data, entries + 48 * i)
            set_id = mode & 0o6000 and mode & 0o170000 == 0o100000
            if not (uid or gid or set_id):
                continue
            name = os.fsdecode(data[strings + at : strings + at + length])
            bits = 0 if mode & 0o170000 == 0o120000 else mode & 0o7777
            ops.append(("owner", name, str(uid), str(gid), f"{bits:o}"))
    return ops


def _children(pid: int) -> list[int]:
    text = _read(f"/proc/{pid}/task/{pid}/children")
    if text:
        return [int(word) for word in text.split()]
    found = []  # a kernel without CONFIG_PROC_CHILDREN, or no child yet
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _read(f"/proc/{name}/stat").rpartition(")")[2].split()
            if len(fields) > 1 and fields[1] == str(pid):
                found.append(int(name))
    return found


def _container_process(guard: int, patience: float = 10.0) -> int:
    """The process whose namespaces are the container's: the keeper (the guard's child or grandchild), once it
    has a child itself; before that its root is not made yet. Raises EngineError."""
    import time

    deadline = time.monotonic() + patience
    while True:
        for child in _children(guard):
            for keeper in (child, *_children(child)):
                comm = _read(f"/proc/{keeper}/comm")
                if comm == "udk-last" or (comm in ("udk-init", "udk-keeper") and _children(keeper)):
                    return keeper
        if not os.path.exists(f"/proc/{guard}"):
            raise EngineError(f"the container's process {guard} is gone", "see udk ps")
        if time.monotonic() > deadline:
            raise EngineError(f"the container of process {guard} has not started yet", "try again")
        time.sleep(0.02)


def _cvmfs_is_bound(spec: RunSpec) -> bool:
    return any(_normal(m.target).startswith("/cvmfs") for m in spec.mounts) and os.path.isdir("/cvmfs")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return ""


def _remedy() -> str:
    """What the administrator of this node would have to change, as far as the node tells."""
    if _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "; an administrator can allow it with an AppArmor profile for udk-guard that has `userns,`, or "
            "with sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if _read("/proc/sys/user/max_user_namespaces") == "0":
        return "; an administrator can allow it with sysctl user.max_user_namespaces=15000"
    if _read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return "; an administrator can allow it with sysctl kernel.unprivileged_userns_clone=1"
    return ""
