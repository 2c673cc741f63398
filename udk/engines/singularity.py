"""The ``singularity`` engine: the container is made by the host's apptainer or singularity, from the image's
tree as a sandbox directory.

For nodes where it is what the administrator provides. The guard makes namespaces with the overlay root in
them, as for ``runc``, and runs it there; it makes its own pid, ipc and, as asked for, uts and network
namespaces, the mounts, and starts our init (the guard again: ``csrc/guard/gate.c``), which becomes the
payload's parent: statuses, signals, streams and environment are udk's. A configuration of our own keeps it
from mounting what nobody asked for. (Its own ``--overlay`` lacks the option ``userxattr``: directories of the
image could not be removed.) An installation with set-id programs takes no configuration and sees no mounts of
ours: there only a plain tree can be run.
"""

from __future__ import annotations

import errno
import os
import shutil

from udk.engines import identity
from udk.engines.base import Launch
from udk.engines.outer import OuterEngine, inner_plan, layered, normal, staged_root, through_gate
from udk.engines.plan import encode
from udk.errors import EngineError, EngineUnavailableError, UdkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udk.runtime.spec import Mount, RunSpec

_INIT = "/.udk"  # where our init is inside
_OWN = ("proc", "sys", "dev", "devpts", "shm")  # made by the runtime where we cannot

# Nothing but what is asked for; only an installation without set-id programs takes it.
_CONFIGURATION = """\
allow setuid = no
allow pid ns = yes
config passwd = no
config group = no
config resolv_conf = no
mount proc = yes
mount sys = no
mount dev = no
mount devpts = no
mount home = no
mount tmp = no
mount hostfs = no
mount slave = yes
user bind control = yes
enable fusemount = no
enable overlay = yes
enable underlay = no
sessiondir max size = 64
"""


class SingularityEngine(OuterEngine):
    name = "singularity"
    aliases = ("S1",)
    variable = "UDK_SINGULARITY"
    runtimes = ("apptainer", "singularity")
    package = "apptainer"
    memory = ()  # it binds nothing of /dev to /dev

    def start(self, spec: RunSpec, home: str, runtime: str, dry: bool = False) -> Launch:
        return _launch(spec, home, runtime, dry)

    def reasons_against(self, spec: RunSpec) -> list[str]:
        reasons = []
        if spec.emulate:
            from udk.engines.emulate import unsupported

            reasons += unsupported(spec)
        root = spec.root
        if root.lower and _has_set_id():
            reasons.append(
                "this installation has set-id programs and shows users no mounts of their own; make the "
                "container's tree a plain one (udk inspect -p NAME)"
            )
        if spec.pid != "private":
            reasons.append("the host's pid namespace is not implemented in it")
        if spec.cvmfs and not any(m.target.startswith("/cvmfs") for m in spec.mounts):
            reasons.append("CVMFS repositories need a mounted /cvmfs")
        for m in spec.mounts:
            target = normal(m.target)
            if m.kind == "proc" and target != "/proc":
                reasons.append(f"proc is at /proc there, not at {target}")
            if (
                not root.lower
                and m.kind not in _OWN
                and target.startswith("/dev/")
                and not _gpu(m)
                and _has_set_id()
            ):
                reasons.append(f"nothing can be mounted at {target} there")
        return reasons


def _is_set_id(runtime: str) -> bool:
    """Whether the installation has a set-id starter, which refuses a configuration of the user's."""
    prefix = os.path.dirname(os.path.dirname(os.path.realpath(runtime)))
    for libexec in ("libexec", "lib", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"):
        for name in SingularityEngine.runtimes:
            try:
                mode = os.stat(f"{prefix}/{libexec}/{name}/bin/starter-suid").st_mode
            except OSError:
                continue
            if mode & 0o4000:
                return True
    return False


def _has_set_id() -> bool:
    try:
        return _is_set_id(SingularityEngine().find_runtime())
    except EngineUnavailableError:
        return False


def _make_target(tree: str, target: str, is_dir: bool) -> None:
    """Makes what a bind into a plain tree needs, as far as no link is on the way. Raises EngineError."""
    parts = target.strip("/").split("/")
    fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number, name in enumerate(parts):
            last = number == len(parts) - 1
            try:
                if not last or is_dir:
                    os.mkdir(name, 0o755, dir_fd=fd)
                else:
                    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=fd))
            except FileExistsError:
                pass
            if not last:
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = below
    except OSError as e:
        if e.errno not in (errno.ELOOP, errno.ENOTDIR):  # a link: the runtime follows it, or says why not
            raise EngineError(f"{target} cannot be made in {tree}: {e.strerror}") from None
    finally:
        os.close(fd)


def _gpu(m: Mount) -> str:
    """The option that brings a mount's device in; "" for all others."""
    if m.kind == "bind" and m.target.startswith("/dev/nvidia"):
        return "--nv"
    if m.kind == "bind" and (m.target == "/dev/kfd" or m.target.startswith("/dev/dri")):
        return "--rocm"
    return ""


def _bind(source: str, target: str, readonly: bool) -> list[str]:
    """The words of one bind; paths may hold what the short form takes as syntax."""
    if "\n" in source + target:
        raise UdkError(f"{source!r}: a bind whose path has a line break cannot be told to apptainer")
    fields = ["type=bind", f"source={source}", f"destination={target}", *(["ro"] if readonly else [])]
    return [
        "--mount",
        ",".join('"' + f.replace('"', '""') + '"' if '"' in f or "," in f else f for f in fields),
    ]


def _mount(m: Mount, private: str) -> list[str]:
    target = normal(m.target)
    if m.kind in _OWN or _gpu(m):
        return []
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
    elif m.kind == "tmpfs":
        mode = next((o[5:] for o in m.options if o.startswith("mode=")), "1777")
        os.mkdir(private)
        os.chmod(private, int(mode, 8))
    else:
        raise UdkError(f"unknown kind of mount {m.kind} for {m.target}")
    return _bind(private, target, m.readonly)


def _launch(spec: RunSpec, home: str, runtime: str, dry: bool = False) -> Launch:
    from udk.engines.guard import GUARD

    for name in ("in", "conf", "root"):
        os.mkdir(f"{home}/{name}", 0o700)
    shutil.copy(GUARD, f"{home}/in/init")
    words = [runtime, "--silent", "--nocolor"]
    plan: list[tuple[str, ...]]
    layer: identity.Layer | None = None
    fds: list[int] = []
    if _is_set_id(runtime):
        # The node's root mounts, in a mount namespace where ours are not: it needs a tree as it lies on disk.
        ids, tree = (os.geteuid(), os.getegid()), spec.root.upper
        plan, binds = [("new-privileges",)], _plain_binds(spec, home)
        network = ["--net", "--network", "none"] if spec.network == "none" else []
    else:
        ids, tree = (0, 0), f"{home}/root"
        ops, binds = _staged_binds(spec, tree)
        plan = [*staged_root(spec, spec.network == "none"), *ops, ("stage", tree)]
        network = []
        with open(f"{home}/conf/udk.conf", "w", encoding="utf-8") as f:
            f.write(_CONFIGURATION)
        words += ["--config", f.name]
        layer = identity.Layer(spec) if not dry and layered(spec) else None
    inner = inner_plan(spec, dry, ids, before=layer.words if layer else ())
    if layer:
        within, around, fds = through_gate(spec, layer, _INIT)
        inner += within
        plan += around
        os.mkdir(f"{home}/in/layer")
    with open(f"{home}/in/plan", "wb") as file:
        file.write(encode([("through", f"{_INIT}/gate"), *inner]))
    words += ["exec", "--contain", "--no-home", "--pid", "--no-init", "--ipc", "--pwd", "/", *network]
    words += ["--no-mount", "cwd,tmp,home,hostfs,bind-paths"]
    if not spec.root.readonly:
        words.append("--writable")
    if spec.hostname:
        words += ["--hostname", spec.hostname]
    for m in spec.mounts:
        if _gpu(m) and _gpu(m) not in words:
            words.append(_gpu(m))
    words += [*binds, *_bind(f"{home}/in", _INIT, True)]
    if layer:
        words += _bind(layer.layer, f"{_INIT}/layer", False)
    words += [tree, f"{_INIT}/init", "run", f"{_INIT}/plan", "container"]
    env = {"PATH": os.environ.get("PATH", "") or "/usr/bin:/bin", "HOME": home, "TMPDIR": home}
    for prefix in ("APPTAINER", "SINGULARITY"):
        env.update({f"{prefix}_CONFIGDIR": f"{home}/conf", f"{prefix}_TMPDIR": home})
    plan += [("gate", f"{home}/in/gate", f"{home}/said"), ("confine", "d" if spec.confine else "c")]
    plan += [("program", runtime), ("remove", home)]
    if spec.root.upper:
        plan.append(("remove", spec.root.upper + _INIT))
    return Launch(
        words, env, tuple(fds), plan=tuple(plan), subreaper=False, limits=False, gate=f"{home}/in/plan"
    )


def _staged_binds(spec: RunSpec, tree: str) -> tuple[list[tuple[str, ...]], list[str]]:
    """Every mount is made by the guard, beside the root (read-only with all that is mounted below, a tmpfs of
    the size that was asked for); the runtime binds it to its place, which must be there: in a writable root
    it makes nothing. Returns the guard's operations and the runtime's words."""
    from udk.engines.namespace import _mount as mount_ops

    ops: list[tuple[str, ...]] = [("dir", target) for target in ("/proc", _INIT, spec.cwd)]
    words: list[str] = []
    targets = {normal(m.target) for m in spec.mounts}
    placed: list[tuple[str, str]] = []  # targets, and where they are for now; later ones cover earlier ones
    if any(_gpu(m) for m in spec.mounts):
        ops.append(("dir", "/.singularity.d/libs"))  # where the libraries of --nv and --rocm go
    for number, m in enumerate(spec.mounts):
        target, place = normal(m.target), f"{_INIT}/m/{number}"
        if m.kind == "proc" and target == "/proc":  # of its own pid namespace
            continue
        if m.kind == "bind" and not os.path.exists(m.source):
            if "optional" in m.options:
                continue
            raise EngineError(f"{m.source} does not exist on this host")
        # What lies within an earlier mount, or covers it, goes along with that.
        for above, there in reversed(placed):
            if target == above or target.startswith(above + "/"):
                place = there + target[len(above) :]
                break
        else:
            is_dir = os.path.isdir(m.source) if m.kind == "bind" else m.kind != "file"
            ops.append(("dir" if is_dir else "touch", target))
            words += _bind(tree + place, target, m.readonly)
        inside = {place + t[len(target) :] for t in targets if t.startswith(target + "/")}
        ops += mount_ops(m.replace(target=place), inside)
        placed.append((target, place))
    return ops, words


def _plain_binds(spec: RunSpec, home: str) -> list[str]:
    tree = spec.root.upper
    words: list[str] = []
    for target in ("/dev", "/proc", "/sys", _INIT):
        _make_target(tree, target, True)
    for number, m in enumerate(spec.mounts):
        made = _mount(m, f"{home}/{number}")
        if made:
            _make_target(tree, normal(m.target), m.kind == "tmpfs" or os.path.isdir(m.source))
        words += made
    return words
