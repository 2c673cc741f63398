"""What the engines share that have the container made by another program of the host (runc, apptainer).

The guard makes user, mount and pid namespaces with the overlay root in them, as for the ``namespace`` engine,
and runs the other program there, which starts our init (the guard again: ``csrc/guard/gate.c``) with a plan
of its own, through the gate. So statuses, signals, streams and errors mean the same as everywhere, and when
the guard is killed the outer pid namespace ends with all that is in it.
"""

from __future__ import annotations

import os

from udk.engines import homes, identity
from udk.engines.base import WITH_NAMESPACES, Engine, Launch, forget_home
from udk.engines.namespace import _KEPT_CAPABILITIES as KEPT
from udk.engines.namespace import _capabilities, _confined, _ids
from udk.engines.plan import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, encode, limits
from udk.errors import EngineError, EngineUnavailableError, UdkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from udk.runtime.spec import RunSpec


class OuterEngine(Engine):
    """An engine whose container the first of ``runtimes`` that is here makes, or the one that the environment
    variable ``variable`` names. Its state's directory is linked beside the upper by the engine's name."""

    boundary = "namespaces"
    capabilities = WITH_NAMESPACES
    variable = ""
    runtimes: tuple[str, ...] = ()
    package = ""  # what to ask an administrator for
    memory: tuple[str, ...] = ()  # where the state goes, before TMPDIR, when there is no layer to lie beside

    def start(self, spec: RunSpec, home: str, runtime: str, dry: bool = False) -> Launch:
        """The launch of ``runtime``, with its state in ``home``; ``dry``: all but the payload."""
        raise NotImplementedError

    def probe_spec(self) -> RunSpec:
        from udk.engines.guard import NATIVE
        from udk.runtime.spec import Root, RunSpec

        return RunSpec(argv=("/probe",), env={}, root=Root(lower=(NATIVE,)), hostname="probe")

    def find_runtime(self) -> str:
        """The program's path. Raises EngineUnavailableError."""
        wanted = os.environ.get(self.variable, "")
        either = " or ".join(self.runtimes)
        if wanted.startswith("/"):
            if os.access(wanted, os.X_OK):
                return wanted
            raise EngineUnavailableError(f"{self.variable}={wanted} cannot be executed", f"name {either}")
        usual = ("/usr/bin", "/usr/sbin", "/usr/local/bin")
        for name in (wanted,) if wanted else self.runtimes:
            for directory in (*os.environ.get("PATH", "").split(":"), *usual):
                path = f"{directory}/{name}"
                if directory.startswith("/") and os.access(path, os.X_OK):
                    return path
        missing = wanted or f"neither {' nor '.join(self.runtimes)}"
        raise EngineUnavailableError(f"{missing} is installed here", f"ask for the package {self.package}")

    def probe(self) -> str:
        try:
            runtime = self.find_runtime()
        except EngineUnavailableError as e:
            return str(e)
        from udk.engines.guard import _run_guard, remove
        from udk.engines.plan import to_descriptor

        spec = self.probe_spec()
        home = ""
        try:
            held = _make_home(spec, self.name, self.memory)
            home = held.path
            launch = self.start(spec, home, runtime, dry=True)
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
                for fd in held.fds:
                    os.close(fd)
        line = _last_line(error)
        named = not line or line.startswith(os.path.basename(runtime))
        return line if named else f"{runtime}: {line}"

    def launch(self, spec: RunSpec) -> Launch:
        against = self.reasons_against(spec)
        if against:
            raise EngineError(f"engine {self.name} cannot run this: {'; '.join(against)}")
        runtime = self.find_runtime()
        held = _make_home(spec, self.name, self.memory)
        try:
            launch = self.start(spec, held.path, runtime)
        except BaseException:
            from udk.engines.guard import remove

            remove([held.path])
            raise
        launch.fds = (*launch.fds, *held.fds)
        launch.plan = (*launch.plan, *held.ops[:-1])
        return launch

    def join(self, spec: RunSpec, pid: int) -> Launch:
        keeper = _inner_keeper(pid)
        plan: list[tuple[str, ...]] = [("join", str(keeper)), ("cwd", spec.cwd), _capabilities()]
        if spec.identity.subids:
            plan += _ids(spec)
        plan += _confined(spec)
        launch = Launch(list(spec.argv), dict(spec.env), plan=tuple(plan))
        return identity.join(spec, launch, keeper, _pid_inside(keeper))

    def cleanup(self, spec: RunSpec) -> None:
        identity.cleanup(spec)
        forget_home(spec.root.upper, self.name)


def layered(spec: RunSpec) -> bool:
    return spec.engine != "R1" and identity.wanted(spec)


def through_gate(
    spec: RunSpec, layer: identity.Layer, init: str
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]], list[int]]:
    """What the identity layer asks of the init inside, whose directory is ``init``, and of the namespaces
    around the runtime; and the descriptors, which come through the gate as they are. Raises OSError."""
    fds = [*layer.fds, os.open(layer.loader(), os.O_PATH | os.O_CLOEXEC)]
    inner: list[tuple[str, ...]] = [("loader", f"/proc/self/fd/{fds[-1]}", str(len(layer.words)))]
    inner.append(("anchor", f"{init}/layer"))
    outer = [*layer.held.ops, *([("xino",)] if layer.xino else [])]
    if spec.confine:
        inner += [("keep-fd", str(fd)) for fd in layer.fds]
        outer += [("keep-fd", str(fd)) for fd in fds]
    return inner, outer, [*fds, *layer.held.fds]


def normal(path: str) -> str:
    return os.path.normpath("/" + path.lstrip("/"))


def inner_plan(
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


def staged_root(spec: RunSpec, own_network: bool = False) -> list[tuple[str, ...]]:
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


def _make_home(spec: RunSpec, link: str, memory: tuple[str, ...]) -> homes.Home:
    """A new directory for the bundle and the runtime's state: beside the upper layer, where the sweep of a
    run that was killed finds it, else in one of ``memory``. Our init is to be executed there."""
    return homes.make(spec.root.upper, "udk-", link, (*memory, homes.temporary()))


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
