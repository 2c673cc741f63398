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
from udk.engines.base import Launch
from udk.engines.namespace import _KEPT_CAPABILITIES as KEPT
from udk.engines.outer import OuterEngine, inner_plan, layered, normal, staged_root, through_gate
from udk.engines.plan import encode
from udk.errors import EngineError, UdkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udk.runtime.spec import Mount, RunSpec

_INIT = ".udk"  # in the container's /dev
_CAPABILITIES = {
    0: "CHOWN", 1: "DAC_OVERRIDE", 3: "FOWNER", 4: "FSETID", 5: "KILL", 6: "SETGID", 7: "SETUID",
    8: "SETPCAP", 10: "NET_BIND_SERVICE", 13: "NET_RAW", 18: "SYS_CHROOT", 27: "MKNOD",
    29: "AUDIT_WRITE", 31: "SETFCAP",
}  # fmt: skip
_NAMES = ["CAP_" + name for number, name in _CAPABILITIES.items() if KEPT >> number & 1]


class RuncEngine(OuterEngine):
    name = "runc"
    aliases = ("R1", "R2", "R3")
    variable = "UDK_OCI_RUNTIME"
    runtimes = ("runc", "crun")
    package = "runc or crun"
    memory = ("/dev/shm",)

    def probe_spec(self) -> RunSpec:
        from udk.runtime.spec import Mount

        mounts = (Mount(kind="proc", target="/proc"), Mount(kind="dev", target="/dev"))
        spec: RunSpec = super().probe_spec().replace(mounts=mounts)
        return spec

    def start(self, spec: RunSpec, home: str, runtime: str, dry: bool = False) -> Launch:
        return _launch(spec, home, runtime, dry)

    def reasons_against(self, spec: RunSpec) -> list[str]:
        reasons = []
        if spec.emulate:
            from udk.engines.emulate import unsupported

            reasons += unsupported(spec)
        if spec.engine in ("R2", "R3") and not layered(spec):
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


def bundle(spec: RunSpec, home: str, layer: str = "") -> dict[str, Any]:
    """``config.json`` for the run (OCI runtime specification 1.0.2, config.md and config-linux.md), with the
    root at ``home``/rootfs; ``layer`` is the directory of the private layer, for the identity layer. Raises
    UdkError."""
    namespaces = [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")]
    if spec.network == "none":
        namespaces.append({"type": "network"})
    dev = next(normal(m.target) for m in spec.mounts if m.kind == "dev")
    mounts: list[dict[str, Any]] = []
    names = _NAMES
    targets = {normal(m.target) for m in spec.mounts}
    for number, mount in enumerate(spec.mounts):
        mounts += _mount(mount, f"{home}/file{number}", targets, spec)
    for name in ("init", "plan", "gate"):
        mounts.extend(_bind(f"{home}/{name}", f"{dev}/{_INIT}/{name}", True))
    if layer:  # its init needs it for a moment; see csrc/guard/keeper.c
        mounts.extend(_bind(layer, f"{dev}/{_INIT}/layer", False))
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


def _bind(source: str, target: str, readonly: bool) -> list[dict[str, Any]]:
    options = ["rbind", "rprivate", "ro" if readonly else "rw"]
    below: list[str] = []
    if readonly and os.path.isdir(source):  # what is mounted below too; crun takes it for directories only
        if _release() >= (5, 12):
            options.append("rro")
        else:  # each by itself: there is no mount_setattr
            below = _mounted_below(os.path.realpath(source))
    made = [{"destination": target, "type": "bind", "source": source, "options": options}]
    for path in below:
        there = target.rstrip("/") + path[len(os.path.realpath(source).rstrip("/")) :]
        made.append({"destination": there, "type": "bind", "source": path, "options": ["bind", "ro"]})
    return made


def _release() -> tuple[int, ...]:
    """The kernel's version, two numbers."""
    words = os.uname().release.split(".")[:2]
    return tuple(int("".join(c for c in word if c.isdigit()) or "0") for word in words)


def _mounted_below(directory: str) -> list[str]:
    """Mount points below ``directory``, the outer ones first."""
    found = []
    with open("/proc/self/mountinfo", "rb") as f:
        for line in f:
            path = os.fsdecode(line.split()[4].decode("unicode_escape").encode("latin-1"))
            if path.startswith(directory.rstrip("/") + "/") and os.path.exists(path):
                found.append(path)
    return sorted(set(found))


def _fresh(kind: str, target: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}


def _pts(target: str, spec: RunSpec) -> dict[str, Any]:
    group = ["gid=5"] if spec.identity.subids else []  # tty; with one mapped id there is no such group
    options = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *group)
    return _fresh("devpts", target, *options)


def _mount(m: Mount, private: str, targets: set[str], spec: RunSpec) -> list[dict[str, Any]]:
    """The bundle's mounts for one of the spec's; ``private`` is where a file's content may go."""
    target = normal(m.target)
    mode = next((o for o in m.options if o.startswith("mode=")), "mode=1777")
    size = [o for o in m.options if o.startswith("size=")]
    if m.kind == "bind":
        if not m.source.startswith("/"):
            raise UdkError(f"{m.source}: the source of a bind must be an absolute path")
        if not os.path.exists(m.source):
            if "optional" in m.options:
                return []
            raise EngineError(f"{m.source} does not exist on this host")
        return _bind(m.source, target, m.readonly)
    if m.kind == "file":
        with open(private, "w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(m.content)
        return _bind(private, target, m.readonly)
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
        return _bind("/sys", target, True)
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


def _launch(spec: RunSpec, home: str, runtime: str, dry: bool = False) -> Launch:
    import json
    import shutil

    from udk.engines.guard import GUARD

    for name in ("rootfs", "state", "bundle", "run"):
        os.mkdir(f"{home}/{name}", 0o700)
    shutil.copy(GUARD, f"{home}/init")
    dev = next(normal(m.target) for m in spec.mounts if m.kind == "dev")
    layer = identity.Layer(spec) if not dry and layered(spec) else None
    inner = [("through", f"{dev}/{_INIT}/gate"), *inner_plan(spec, dry, before=layer.words if layer else ())]
    plan = staged_root(spec)
    fds: list[int] = []
    if layer:
        within, around, fds = through_gate(spec, layer, f"{dev}/{_INIT}")
        inner += within
        plan += around
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
