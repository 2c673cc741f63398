"""The ``runc`` engine: the container is made by the host's runc or crun, from an OCI bundle.

The guard makes user, mount and pid namespaces with the overlay root in them, as for the ``namespace`` engine,
and runs the runtime there; the runtime makes its own namespaces inside, all mounts, and starts our init (the
guard again, with a plan of its own), which becomes the payload's parent. So a status, a signal and an error
mean the same as under every other engine, and when the guard is killed the outer pid namespace ends with all
that is in it. What the runtime is told is ``config.json`` of the OCI runtime specification, version 1.0.2.
"""

from __future__ import annotations

import os

from udk.engines import identity
from udk.engines.base import Engine, Launch, linked_home
from udk.engines.namespace import _KEPT_CAPABILITIES as KEPT
from udk.engines.namespace import _confined
from udk.engines.plan import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    encode,
    limits,
)
from udk.errors import EngineError, EngineUnavailableError, UdkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from udk.runtime.spec import Mount, RunSpec

RUNTIMES = ("runc", "crun")
_LINK = "runc"  # a link beside the upper, to the directory of the bundle
_INIT = ".udk"  # in the container's /dev
_CAPABILITIES = {
    0: "CHOWN", 1: "DAC_OVERRIDE", 3: "FOWNER", 4: "FSETID", 5: "KILL", 6: "SETGID", 7: "SETUID",
    8: "SETPCAP", 10: "NET_BIND_SERVICE", 13: "NET_RAW", 18: "SYS_CHROOT", 27: "MKNOD",
    29: "AUDIT_WRITE", 31: "SETFCAP",
}  # fmt: skip
_NAMES = ["CAP_" + name for number, name in _CAPABILITIES.items() if KEPT >> number & 1]


class RuncEngine(Engine):
    name = "runc"
    aliases = ("R1", "R2", "R3")
    boundary = "namespaces"
    capabilities = frozenset(
        (
            "overlay",
            "readonly",
            "pidns",
            "netns",
            "hostname",
            "subids",
            "static",
            "private-mounts",
            "fake-root",
        )
    )

    def probe(self) -> str:
        try:
            runtime = find_runtime()
        except EngineUnavailableError as e:
            return str(e)
        from udk.engines.guard import NATIVE, _run_guard, remove
        from udk.engines.plan import to_descriptor
        from udk.runtime.spec import Mount, Root, RunSpec

        spec = RunSpec(
            argv=("/probe",), env={}, root=Root(lower=(NATIVE,)), hostname="probe",
            mounts=(Mount(kind="proc", target="/proc"), Mount(kind="dev", target="/dev")),
        )  # fmt: skip
        home = ""
        try:
            home = _state_directory(spec)
            launch = _launch(spec, home, runtime, dry=True)
            ops = [
                *launch.plan,
                *(("arg", a) for a in launch.argv),
                *(("env", f"{k}={v}") for k, v in launch.env.items()),
            ]
            fd = to_descriptor(encode(ops))
            try:
                error = _run_guard("run", str(fd))
            finally:
                os.close(fd)
        except (UdkError, OSError) as e:
            error = str(e)
        finally:
            if home:
                remove([home])
        return f"{runtime}: {_last_line(error)}" if error else ""

    def reasons_against(self, spec: RunSpec) -> list[str]:
        reasons = []
        if spec.emulate:
            from udk.engines.emulate import unsupported

            reasons += unsupported(spec)
        if spec.engine in ("R2", "R3") and not _layered(spec):
            reasons.append(f"{spec.engine} asks for an identity layer, which this run cannot have; take R1")
        if not spec.root.lower:
            reasons.append("a plain tree as root is not implemented in it")
        if spec.pid != "private":
            reasons.append("the host's pid namespace is not implemented in it")
        if spec.cvmfs and not any(m.target.startswith("/cvmfs") for m in spec.mounts):
            reasons.append("CVMFS repositories need a mounted /cvmfs")
        if not any(m.kind == "dev" for m in spec.mounts):
            reasons.append("it needs a /dev of its own, for its init")
        for text in (spec.hostname, *(w for m in spec.mounts for w in (m.source, m.target))):
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                reasons.append(f"{os.fsencode(text)!r} is not UTF-8, which a bundle cannot tell")
        return reasons

    def launch(self, spec: RunSpec) -> Launch:
        against = self.reasons_against(spec)
        if against:
            raise EngineError(f"engine runc cannot run this: {'; '.join(against)}")
        runtime = find_runtime()
        home = _state_directory(spec)
        try:
            return _launch(spec, home, runtime)
        except BaseException:
            from udk.engines.guard import remove

            remove([home])
            raise

    def join(self, spec: RunSpec, pid: int) -> Launch:
        from udk.engines.namespace import _capabilities, _ids

        keeper = _inner_keeper(pid)
        plan: list[tuple[str, ...]] = [("join", str(keeper)), ("cwd", spec.cwd), _capabilities()]
        if spec.identity.subids:
            plan += _ids(spec)
        plan += _confined(spec)
        launch = Launch(list(spec.argv), dict(spec.env), plan=tuple(plan))
        return identity.join(spec, launch, _pid_inside(keeper))

    def cleanup(self, spec: RunSpec) -> None:
        identity.cleanup(spec)
        if not spec.root.upper:
            return
        home = linked_home(spec.root.upper, _LINK)
        try:
            os.unlink(f"{os.path.dirname(spec.root.upper)}/{_LINK}")
        except OSError:
            return
        from udk.engines.guard import remove

        if home:
            remove([home])


def find_runtime() -> str:
    """The runtime to use: ``UDK_OCI_RUNTIME`` (a name or a path), else runc or crun of PATH or the system's
    directories. Raises EngineUnavailableError."""
    wanted = os.environ.get("UDK_OCI_RUNTIME", "")
    if wanted.startswith("/"):
        if os.access(wanted, os.X_OK):
            return wanted
        raise EngineUnavailableError(f"UDK_OCI_RUNTIME={wanted} cannot be executed", "name runc or crun")
    for name in (wanted,) if wanted else RUNTIMES:
        for directory in (*os.environ.get("PATH", "").split(":"), "/usr/bin", "/usr/sbin", "/usr/local/bin"):
            path = f"{directory}/{name}"
            if directory.startswith("/") and os.access(path, os.X_OK):
                return path
    missing = wanted or "neither runc nor crun"
    raise EngineUnavailableError(f"{missing} is installed here", "ask for the package runc or crun")


def bundle(spec: RunSpec, home: str, layer: str = "") -> dict[str, Any]:
    """``config.json`` for the run (OCI runtime specification 1.0.2, config.md and config-linux.md), with the
    root at ``home``/rootfs; ``layer`` is the directory of the private layer, for the identity layer. Raises
    UdkError."""
    namespaces = [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")]
    if spec.network == "none":
        namespaces.append({"type": "network"})
    dev = next(_normal(m.target) for m in spec.mounts if m.kind == "dev")
    mounts: list[dict[str, Any]] = []
    names = _NAMES
    targets = {_normal(m.target) for m in spec.mounts}
    for number, mount in enumerate(spec.mounts):
        mounts += _mount(mount, f"{home}/file{number}", targets, spec)
    for name in ("init", "plan", "gate"):
        mounts.append(_bind(f"{home}/{name}", f"{dev}/{_INIT}/{name}", True))
    if layer:  # its init needs it for a moment; see csrc/guard/keeper.c
        mounts.append(_bind(layer, f"{dev}/{_INIT}/layer", False))
        names = [*_NAMES, "CAP_SYS_ADMIN"]
    elif (
        spec.confine and spec.identity.subids
    ):  # without no_new_privs its init needs it for filter and Landlock
        names = [*_NAMES, "CAP_SYS_ADMIN"]
    config: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0, "umask": _umask()},
            "args": [f"{dev}/{_INIT}/init", "run", f"{dev}/{_INIT}/plan", "container"],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names),
            "noNewPrivileges": not spec.identity.subids,
        },
        "root": {"path": f"{home}/rootfs", "readonly": spec.root.readonly},
        "mounts": mounts,
        "linux": {"namespaces": namespaces},
    }
    if spec.hostname:
        config["hostname"] = spec.hostname
    else:
        config["hostname"] = os.uname().nodename
    return config


def _umask() -> int:
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


def _normal(path: str) -> str:
    return os.path.normpath("/" + path.lstrip("/"))


def _bind(source: str, target: str, readonly: bool) -> dict[str, Any]:
    options = ["rbind", "rprivate", "ro" if readonly else "rw"]
    if readonly and os.path.isdir(source):  # what is mounted below too; crun takes it for directories only
        options.append("rro")
    return {"destination": target, "type": "bind", "source": source, "options": options}


def _fresh(kind: str, target: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}


def _pts(target: str, spec: RunSpec) -> dict[str, Any]:
    group = ["gid=5"] if spec.identity.subids else []  # tty; with one mapped id there is no such group
    options = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *group)
    return _fresh("devpts", target, *options)


def _mount(m: Mount, private: str, targets: set[str], spec: RunSpec) -> list[dict[str, Any]]:
    """The bundle's mounts for one of the spec's; ``private`` is where a file's content may go."""
    target = _normal(m.target)
    mode = next((o for o in m.options if o.startswith("mode=")), "mode=1777")
    size = [o for o in m.options if o.startswith("size=")]
    if m.kind == "bind":
        if not m.source.startswith("/"):
            raise UdkError(f"{m.source}: the source of a bind must be an absolute path")
        if not os.path.exists(m.source):
            if "optional" in m.options:
                return []
            raise EngineError(f"{m.source} does not exist on this host")
        return [_bind(m.source, target, m.readonly)]
    if m.kind == "file":
        with open(private, "w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(m.content)
        return [_bind(private, target, m.readonly)]
    if m.kind == "tmpfs":
        more = [o for o in m.options if o == "noexec"] + (["ro"] if m.readonly else [])
        return [_fresh("tmpfs", target, "nosuid", "nodev", *more, mode, *size)]
    if m.kind == "shm":
        return [_fresh("tmpfs", target, "nosuid", "nodev", mode, *size)]
    if m.kind == "proc":
        return [_fresh("proc", target, "nosuid", "nodev", "noexec")]
    if m.kind == "sys":  # the kernel gives a new one only to who owns the network namespace
        if spec.network == "none":
            return [_fresh("sysfs", target, "nosuid", "nodev", "noexec", "ro")]
        return [_bind("/sys", target, True)]
    if m.kind == "devpts":
        return [_pts(target, spec)]
    if m.kind == "dev":
        made = [_fresh("tmpfs", target, "nosuid", "mode=755", "size=65536k")]
        if target + "/pts" not in targets:
            made.append(_pts(target + "/pts", spec))
        if target + "/shm" not in targets:
            made.append(_fresh("tmpfs", target + "/shm", "nosuid", "nodev", "mode=1777"))
        return made
    raise UdkError(f"unknown kind of mount {m.kind} for {m.target}")


def _layered(spec: RunSpec) -> bool:
    # a confined container gets no descriptors
    return spec.engine != "R1" and not spec.confine and identity.wanted(spec)


def _inner_plan(
    spec: RunSpec, dry: bool, ids: tuple[int, int] = (0, 0), before: Sequence[str] = ()
) -> list[tuple[str, ...]]:
    """What our init inside is told: who the payload is, and the payload. ``ids``: who the init is there;
    ``before``: words in front of the payload's."""
    import signal

    who = spec.identity
    ops: list[tuple[str, ...]] = [("cwd", spec.cwd), ("keep-caps", f"{KEPT:x}")]
    if who.subids:
        ops.append(("ids", str(who.uid), str(who.gid)))
        ops += [("group", str(g)) for g in who.groups]
        ops.append(("new-privileges",))
    elif (who.uid, who.gid) != ids:
        # the runtime knows one user only: a namespace inside its own shows another
        ops.append(("clone", f"{CLONE_NEWUSER:x}"))
        ops += [("map-uid", str(who.uid), str(ids[0]), "1")]
        ops += [("map-gid", str(who.gid), str(ids[1]), "1")]
    ops += [("arg", a) for a in (*before, *spec.argv)]
    env = dict(spec.env)
    if spec.cookie:
        env.setdefault("UDK_COOKIE", spec.cookie)
    ops += [("env", f"{k}={v}") for k, v in env.items()]
    ops += limits(spec.limits.rlimits)
    ops.append(("stop-signal", str(spec.stop_signal)))
    ops.append(("default-signals", f"{1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1):x}"))
    ops += _confined(spec)
    if spec.tty:
        ops.append(("tty",))
    elif not spec.stdin:
        ops.append(("null-stdin",))
    return [*ops, ("dry",)] if dry else ops


def _staged_root(spec: RunSpec, own_network: bool = False) -> list[tuple[str, ...]]:
    """Operations for the namespaces in which another runtime runs, and for the root that it is shown."""
    from udk.engines.subids import map_ops

    root = spec.root
    network = CLONE_NEWNET if own_network else 0
    plan: list[tuple[str, ...]] = [("clone", f"{CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | network:x}")]
    if network:
        plan.append(("loopback",))
    if spec.identity.subids:
        plan += [*map_ops(), ("new-privileges",)]
    else:
        plan += [("map-uid", "0", str(os.geteuid()), "1"), ("map-gid", "0", str(os.getegid()), "1")]
    for path in (*root.lower, root.upper, root.work):
        if path and not path.startswith("/"):
            raise UdkError(f"{path}: a root directory must be an absolute path")
    plan += [("lower", path) for path in root.lower]
    if not root.lower:
        plan.append(("plain-root", root.upper))
    elif root.upper:
        plan.append(("upper", root.upper, root.work, "volatile" if root.volatile else ""))
    if spec.identity.subids:
        from udk.engines.namespace import _is_fresh, owner_ops

        if _is_fresh(root.upper):
            for record in reversed(root.records):
                plan += owner_ops(record) if record else []
    return plan


def _launch(spec: RunSpec, home: str, runtime: str, dry: bool = False) -> Launch:
    import json
    import shutil

    from udk.engines.guard import GUARD

    for name in ("rootfs", "state", "bundle", "run"):
        os.mkdir(f"{home}/{name}", 0o700)
    shutil.copy(GUARD, f"{home}/init")
    dev = next(_normal(m.target) for m in spec.mounts if m.kind == "dev")
    layer = identity.Layer(spec) if not dry and _layered(spec) else None
    inner = [("through", f"{dev}/{_INIT}/gate"), *_inner_plan(spec, dry, before=layer.words if layer else ())]
    plan = _staged_root(spec)
    fds: list[int] = []
    if layer:
        # descriptors come through the gate under their numbers
        fds = [*layer.fds, os.open(layer.loader(), os.O_PATH | os.O_CLOEXEC)]
        inner += [("loader", f"/proc/self/fd/{fds[-1]}", str(len(layer.words)))]
        inner += [("anchor", f"{dev}/{_INIT}/layer")]
        plan.append(("remove", layer.home))
        if layer.xino:
            plan.append(("xino",))
    with open(f"{home}/plan", "wb") as plan_file:
        plan_file.write(encode(inner))
    with open(f"{home}/bundle/config.json", "w", encoding="utf-8") as f:
        json.dump(bundle(spec, home, layer.layer if layer else ""), f)
    plan += [("gate", f"{home}/gate", f"{home}/said"), ("confine", "d" if spec.confine else "c")]
    plan += [("dir", spec.cwd), ("stage", f"{home}/rootfs")]
    words = [runtime, "--root", f"{home}/state"]
    if os.path.basename(runtime) == "crun":
        # crun refuses to run where the cgroup hierarchies are mixed, even when told to leave cgroups alone
        words += ["--cgroup-manager=disabled"]
        if os.path.isdir("/sys/fs/cgroup/unified"):
            plan.append(("over", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"))
    else:  # it warns about cgroups that it was not to touch; an error still goes to the error output
        words += ["--log", f"{home}/log"]
    words += ["run", "--bundle", f"{home}/bundle", os.path.basename(home)]
    path = os.environ.get("PATH", "") or "/usr/bin:/bin"
    env = {"PATH": path, "HOME": home, "XDG_RUNTIME_DIR": f"{home}/run", "TMPDIR": home}
    return Launch(
        words, env, fds=tuple(fds), subreaper=False, plan=(*plan, ("program", runtime), ("remove", home)),
        limits=False, gate=f"{home}/plan",
    )  # fmt: skip


def _state_directory(spec: RunSpec, link_name: str = _LINK) -> str:
    """A new private directory for the bundle and the runtime's state: beside the upper layer, where the sweep
    of a run that was killed finds it, else in memory."""
    token = os.urandom(6).hex()
    error: OSError | None = None
    beside = [os.path.realpath(os.path.dirname(spec.root.upper))] if spec.root.upper else []
    memory = ["/dev/shm"] if link_name == _LINK else []  # apptainer binds nothing of /dev to /dev
    for parent in (*beside, *memory, os.environ.get("TMPDIR", "/tmp")):
        home = f"{parent}/udk-{token}"
        try:
            if os.statvfs(parent).f_flag & os.ST_NOEXEC:  # our init is to be executed there
                continue
            os.mkdir(home, 0o700)
        except OSError as e:
            error = e
            continue
        if spec.root.upper:
            link = f"{os.path.dirname(spec.root.upper)}/{link_name}"
            try:
                os.unlink(link)  # of an earlier run
            except OSError:
                pass
            try:
                os.symlink(home, link)
            except OSError:
                pass  # the guard removes it all the same
        return home
    raise EngineError(
        f"no directory for the bundle: {error}", "set TMPDIR to one you can write, without noexec"
    )


def _inner_keeper(guard: int, patience: float = 10.0) -> int:
    """The parent of the payload, in the container's namespaces. Raises EngineError."""
    import time

    from udk.engines.namespace import _children, _read

    deadline = time.monotonic() + patience
    while True:
        level = _children(guard)[:1]
        while level:
            for pid in level:
                comm = _read(f"/proc/{pid}/comm")
                if comm not in ("udk-keeper", "udk-last") or not _is_inside(pid, guard):
                    continue
                if comm == "udk-last" or _children(pid):
                    return pid
            level = [child for pid in level for child in _children(pid)]
        if not os.path.exists(f"/proc/{guard}"):
            raise EngineError(f"the container's process {guard} is gone", "see udk ps")
        if time.monotonic() > deadline:
            raise EngineError(f"the container of process {guard} has not started yet", "try again")
        time.sleep(0.02)


def _pid_inside(pid: int) -> int:
    """The number that a process has in its own pid namespace."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
            row = next(line for line in f if line.startswith("NSpid:"))
    except (OSError, StopIteration):
        return pid
    return int(row.split()[-1])


def _is_inside(pid: int, guard: int) -> bool:
    """Whether a process is in another pid namespace than the guard."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") != os.readlink(f"/proc/{guard}/ns/pid")
    except OSError:
        return False


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else text
