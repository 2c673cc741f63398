"""The engine contract: what every way of running a container offers, and nothing more.

An engine turns a :class:`~udk.runtime.spec.RunSpec` into a :class:`Launch`: a program for the guard to start.
The guard (:mod:`udk.engines.guard`, ``csrc/guard``) is the process that stays; it forwards signals, runs the
terminal, enforces limits, writes the stats file and cleans up, the same way for every engine.
"""

from __future__ import annotations

import os

from udk.errors import EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udk.runtime.spec import RunSpec


class Launch:
    """What the guard starts.

    With an empty ``plan``, ``argv[0]`` is a host path (a loader, another runtime) that is executed as it is,
    in the caller's working directory. With a ``plan`` (operations of :mod:`.plan`), the guard first makes the
    root and the namespaces that it describes, and ``argv`` is the payload's own, looked up in the guest's
    PATH.

    ``env`` is the program's whole environment. ``fds`` are descriptors that it inherits, beside 0, 1, 2 and
    those that udk itself inherited from its caller (PMI_FD, a jobserver); all others of udk's own are closed
    on exec.
    """

    __slots__ = ("argv", "env", "fds", "gate", "limits", "plan", "subreaper")

    def __init__(
        self,
        argv: list[str],
        env: dict[str, str],
        fds: tuple[int, ...] = (),
        subreaper: bool = True,
        plan: tuple[tuple[str, ...], ...] = (),
        limits: bool = True,
        gate: str = "",
    ) -> None:
        self.argv = argv
        self.env = env
        self.fds = fds
        self.subreaper = subreaper  # False where a pid namespace already bounds the payload's processes
        self.plan = plan
        self.limits = limits  # False where the engine itself sets the resource limits, further inside
        # another runtime starts our init, which gets the streams from the guard, and reads this plan
        self.gate = gate


def linked_home(upper: str, name: str) -> str:
    """The directory of a run's state, by the link ``name`` that was left beside its upper; ``""`` where there
    is none. A payload may reach what lies beside its upper: only a directory of ours is believed in."""
    beside = os.path.dirname(upper)
    try:
        home = os.readlink(f"{beside}/{name}")
        known = {os.path.realpath(p) for p in (beside, "/dev/shm", os.environ.get("TMPDIR", "/tmp"))}
        mine = os.lstat(home).st_uid == os.geteuid() and not os.path.islink(home)
    except OSError:
        return ""
    where, _, last = home.rpartition("/")
    return home if mine and where in known and last.startswith(("udk-", "trap.")) else ""


def forget_home(upper: str, name: str) -> None:
    """Removes a run's state and its link beside the upper, where there is one."""
    if not upper:
        return
    home = linked_home(upper, name)
    try:
        os.unlink(f"{os.path.dirname(upper)}/{name}")
    except OSError:
        return
    if home:
        from udk.engines.homes import discard

        try:
            discard(home)
        except OSError as e:
            raise EngineError(f"{home} cannot be removed: {e.strerror}") from None


# Engine.capabilities of those with namespaces and an overlay of their own
WITH_NAMESPACES = frozenset(
    ["overlay", "readonly", "pidns", "netns", "hostname", "subids", "static", "private-mounts", "fake-root"]
)


class Engine:
    """One way of running containers. Instances hold no state; :mod:`.select` caches a probe's result."""

    name: str = ""
    aliases: tuple[str, ...] = ()  # udocker's execution modes
    # of: "overlay", "readonly", "pidns", "netns", "hostname", "subids", "static", "private-mounts",
    # "fake-root"
    capabilities: frozenset[str] = frozenset()
    boundary: str = ""  # of `--confine` (udk.engines.confine): "namespaces", "landlock", "" where it has none

    mode: str = ""  # the alias that it was asked for by, where that means more than the engine

    def in_mode(self, name: str) -> Engine:
        """The engine as one of its aliases means it."""
        return self

    def probe(self) -> str:
        """``""`` when this engine works on this node, else one line that says why not and what would help.

        Does the real thing in a child process, within milliseconds, and leaves nothing behind."""
        raise NotImplementedError

    def reasons_against(self, spec: RunSpec) -> list[str]:
        """What this spec asks for that this engine cannot do; empty when it can run it."""
        raise NotImplementedError

    def remarks(self, spec: RunSpec) -> list[str]:
        """What of this spec is done in a lesser way here, though it is run; for the dry run."""
        return []

    def prepare(self, spec: RunSpec) -> None:
        """Makes what the run needs on disk beyond what the spec's maker made. Idempotent."""

    def launch(self, spec: RunSpec) -> Launch:
        """The program that runs the payload. Raises EngineError."""
        raise NotImplementedError

    def join(self, spec: RunSpec, pid: int) -> Launch:
        """The program that runs ``spec`` inside the running container whose first process is ``pid``."""
        raise NotImplementedError

    def cleanup(self, spec: RunSpec) -> None:
        """Removes what :meth:`prepare` made. Idempotent: the sweeper calls it for containers that died."""
