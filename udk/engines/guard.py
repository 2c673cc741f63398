"""Handing over to the guard: this process becomes ``udk-guard`` by exec, keeping its pid, and runs the
container.

``docs/adr/guard-protocol.md`` describes what the guard does. From the moment signals are blocked here until
the guard reads them nothing is lost: they stay pending across the exec.
"""

from __future__ import annotations

import os
import sys

from udk.engines import plan
from udk.errors import EngineError, EngineUnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

    from udk.engines.base import Launch
    from udk.runtime.spec import RunSpec

    Ops = list[tuple[str, ...]]

NATIVE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_native")
GUARD = os.path.join(NATIVE, "udk-guard")

# Python ignores these from its start on, whatever its caller had: the payload gets the default action back.
_RESTORED = (13, 25)  # SIGPIPE, SIGXFSZ


def compile_plan(
    spec: RunSpec,
    launch: Launch,
    *,
    leases: Iterable[str] = (),
    fallback: Sequence[str] = (),
    sigmask: int = 0,
) -> Ops:
    """The whole plan of one run: the engine's operations, the payload, and what the guard is to do.

    ``leases``: files to be unlinked when all is over. ``fallback``: an engine's name, then a command to be
    executed instead when that engine's set-up fails before the payload was started (``UDK_ENGINE_FAILED``
    then tells why); what ``spec.cleanup`` names stays for it.
    """
    ops: Ops = list(launch.plan)
    if not launch.plan:
        ops.append(("program", launch.argv[0]))
    ops += [("arg", a) for a in launch.argv]
    env = launch.env
    joins = any(op[0] == "join" for op in launch.plan)
    if spec.cookie:
        if not joins:  # a joining command has the container's cookie, and must not end the container with it
            ops.append(("cookie", spec.cookie))
        if "UDK_COOKIE" not in env:
            env = {**env, "UDK_COOKIE": spec.cookie}
    ops += [("env", f"{k}={v}") for k, v in env.items()]
    if launch.gate:
        pass  # the init inside sees to it
    elif spec.tty:
        ops.append(("tty",))
    elif not spec.stdin:
        ops.append(("null-stdin",))
    if launch.limits:
        ops += plan.limits(spec.limits.rlimits)
    if spec.limits.timeout:
        milliseconds = (
            max(1, round(s * 1000)) if s > 0 else 0 for s in (spec.limits.timeout, spec.limits.kill_after)
        )
        ops.append(("timeout", *map(str, milliseconds)))
    ops.append(("stop-signal", str(spec.stop_signal)))
    if spec.stats:
        ops.append(("stats", os.path.abspath(spec.stats)))
    ops += [("remove", path) for path in spec.cleanup]
    ops += [("unlink", path) for path in leases]
    ops += [("fallback", word) for word in fallback]
    ops.append(("sigmask", f"{sigmask:x}"))
    ops.append(("default-signals", f"{sum(1 << (s - 1) for s in _RESTORED):x}"))
    return ops


def exec_guard(
    spec: RunSpec,
    launch: Launch,
    *,
    leases: Iterable[str] = (),
    fallback: Sequence[str] = (),
    last_out: int = -1,
    share: int = -1,
) -> NoReturn:
    """Replaces this process by the guard, which runs ``launch`` and ends with the payload's status.

    ``last_out``: a descriptor on which whoever joins the container holds a shared lock: the container lasts
    until it is free; ``share``: this is such a lock. See :func:`compile_plan` for the others. Returns never;
    raises EngineError when the guard cannot be executed.
    """
    import _signal  # type: ignore[import-not-found]  # `signal` itself costs two milliseconds of enum

    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    try:
        ops = compile_plan(
            spec,
            launch,
            leases=leases,
            fallback=fallback,
            sigmask=sum(1 << (s - 1) for s in before),
        )
        if last_out >= 0 and launch.gate:
            with open(launch.gate, "ab") as inner:  # it comes through the gate, under its number
                inner.write(b"last-out\0%d\0" % last_out)
            if spec.confine:
                ops.append(("keep-fd", str(last_out)))
        elif last_out >= 0:
            ops.append(("last-out", str(last_out)))
        if share >= 0:
            ops = [op for op in ops if op[0] != "cookie"]
            ops.append(("share", str(share)))
        fd = plan.to_descriptor(plan.encode(ops))
        for keep in (*launch.fds, *(n for n in (last_out, share) if n >= 0)):
            os.set_inheritable(keep, True)
        os.execve(GUARD, _guard_argv(spec, fd), os.environ)  # noqa: S606
    except OSError as e:
        raise _cannot_execute(e) from None
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


def _guard_argv(spec: RunSpec, fd: int) -> list[str]:
    """What follows the descriptor is for ps and top only."""
    return ["udk-guard", "run", str(fd), spec.name or spec.image or "container", *spec.argv[:1]]


def _cannot_execute(e: OSError) -> EngineError:
    return EngineError(
        f"{GUARD} cannot be executed: {e.strerror}",
        "install udk anew, with a C compiler at hand, on a file system without noexec",
    )


def spawn(spec: RunSpec, launch: Launch, **options: Any) -> Any:
    """Starts the guard as a child: a ``subprocess.Popen``. ``leases`` and ``fallback`` as for
    :func:`exec_guard`, the other options are Popen's. The library's and the tests' way to run a container."""
    import signal
    import subprocess

    mine: dict[str, Any] = {k: options.pop(k) for k in ("leases", "fallback") if k in options}
    # As in exec_guard: a signal that comes before the guard listens must wait, not kill it unprepared.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    mine["sigmask"] = sum(1 << (s - 1) for s in before)
    fd = -1
    try:
        fd = plan.to_descriptor(plan.encode(compile_plan(spec, launch, **mine)))
        return subprocess.Popen(
            _guard_argv(spec, fd),
            executable=GUARD,
            pass_fds=(fd, *launch.fds, *options.pop("pass_fds", ())),
            **options,
        )
    except OSError as e:
        raise _cannot_execute(e) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if fd >= 0:
            os.close(fd)
        for op in launch.plan:
            if op[0] == "hold":  # a lock that is the guard's alone from now on
                os.close(int(op[1]))


def _run_guard(verb: str, argument: str) -> str:
    """Runs the guard to its end with its error output caught; ``""`` or what it complained about. (Done by
    hand: `subprocess` costs as much to import as a container's start.)"""
    read, write = os.pipe()
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, write, 2),
        ]
        pid = os.posix_spawn(GUARD, ["udk-guard", verb, argument], os.environ, file_actions=actions)
        os.close(write)
        write = -1
        said = b""
        while True:
            block = os.read(read, 4096)
            if not block:
                break
            said += block
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except OSError as e:
        return str(_cannot_execute(e))
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
    if status == 0:
        return ""
    text = said.decode("utf-8", "surrogateescape").strip()
    return text[len("udk: error: ") :] if text.startswith("udk: error: ") else text or f"status {status}"


def dry_run(ops: Ops) -> str:
    """Does all of a plan's set-up in a child, without a payload; ``""`` or why it failed."""
    fd = plan.to_descriptor(plan.encode([*ops, ("dry",)]))
    try:
        return _run_guard("run", str(fd))
    finally:
        os.close(fd)


def remove(paths: Iterable[str], *, subids: bool = False) -> None:
    """Removes trees whatever their modes (overlay's work directories have none), files of subordinate ids
    included when ``subids``. Missing ones are fine. Raises EngineError naming what could not be removed."""
    ops: Ops = [("remove", p) for p in paths]
    if not ops:
        return
    if subids:
        from udk.engines.subids import map_ops

        ops += map_ops()
    fd = plan.to_descriptor(plan.encode([*ops, ("dry",)]))
    try:
        error = _run_guard("remove", str(fd))
    finally:
        os.close(fd)
    if error:
        raise EngineError(error)


def kill_by_cookie(cookie: str) -> None:
    """Kills every process of this user that carries the cookie in its environment; for containers that died
    badly."""
    error = _run_guard("kill", cookie)
    if error:
        raise EngineUnavailableError(error)
