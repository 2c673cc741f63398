"""Fake root in the engines with namespaces, with one mapped id: the trap engine's program without its paths.

All files of a container are the caller's, whom the kernel shows as root; ``chown``, ``setgroups`` and what
builds on them (apt, useradd, su) would fail. ``udk-trap`` answers the calls that concern identity from the
image's record and the container's record of changes, so that owners are the same under every engine.
``docs/adr/identity-layer.md`` tells how; ``UDK_IDENTITY=0`` switches it off.
"""

from __future__ import annotations

import os

from udk.engines.base import Launch, linked_home
from udk.errors import UdkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udk.runtime.spec import RunSpec

# csrc/core/core.h: enum plan_options, enum mount_flags
_PATCH, _FAST_RETURN, _FAKE_ROOT, _OWNERS, _IDENTITY, _XINO = 1, 2, 4, 8, 1 << 16, 1 << 17
_MOUNT_PROC = 8
_LINK = "trap"  # as the trap engine's: a link beside the upper, to the directory of the run's state


def wanted(spec: RunSpec) -> bool:
    """Whether the run gets the layer: guest root with one mapped id, on an image with a private layer."""
    root = spec.root
    return (
        spec.identity.fake_root
        and not (spec.identity.uid or spec.identity.gid or spec.identity.subids)
        and len(root.lower) == 1
        and bool(root.upper)
        and os.path.dirname(root.changes) == os.path.dirname(root.upper)
        and any(m.kind == "proc" and m.target.rstrip("/") == "/proc" for m in spec.mounts)
        and os.environ.get("UDK_IDENTITY", "") != "0"
        and "UDK_COOKIE" not in os.environ  # inside a container, whose layer may be in force already
        and _works()
    )


def _works() -> bool:
    from udk.engines.select import probe
    from udk.engines.trap import TrapEngine

    return not probe(TrapEngine())


class Layer:
    """The layer of one run: ``fds`` that its program needs, ``home`` with its state, ``words`` before the
    payload's argv, ``xino`` whether overlayfs has to mark inodes."""

    __slots__ = ("fds", "held", "home", "layer", "words", "xino")

    def __init__(self, spec: RunSpec) -> None:
        """Makes the state's directory. Raises UdkError, OSError."""
        from udk.engines.plan import to_descriptor
        from udk.engines.trap import LOADER, _encode, make_home

        root = spec.root
        self.layer = os.path.realpath(os.path.dirname(root.upper))
        self.held = make_home(spec)
        self.home = self.held.path
        self.fds: list[int] = []
        try:
            self.fds.append(os.open(root.lower[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            words = ["lower-fd", str(self.fds[0])]
            record = root.records[0] if root.records else ""
            if record:
                self.fds.append(os.open(record, os.O_RDONLY | os.O_CLOEXEC))
                words += ["record-fd", str(self.fds[1])]
            self.xino = os.fstat(self.fds[0]).st_dev != os.stat(root.upper).st_dev
            words += ["options", str(_options() | (_XINO if self.xino else 0))]
            words += ["mount", "0", "", "", "", "mount", str(_MOUNT_PROC), "/proc", "/proc", ""]
            words += ["loader", "/proc/self/exe", "state", f"/{os.path.basename(self.home)}/state"]
            words += ["work", "/upper", "changes", f"/{os.path.basename(root.changes)}", *_who(spec)]
            self.fds.append(to_descriptor(_encode(words)))
        except (OSError, UdkError):
            self.discard()
            raise
        self.words = [LOADER, "run", str(self.fds[-1])]

    def discard(self) -> None:
        from udk.engines.guard import remove

        remove([self.home])

    def loader(self) -> str:
        """The program's path, where it can be executed."""
        from udk.engines.trap import _loader

        return _loader(self.home)


def add(spec: RunSpec, launch: Launch) -> Launch:
    """The launch with the layer in it. Raises UdkError, OSError."""
    made = Layer(spec)
    plan = [
        *launch.plan, ("loader", made.loader(), str(len(made.words))), ("anchor", made.layer),
        *made.held.ops,
    ]  # fmt: skip
    if made.xino:
        plan.append(("xino",))
    if spec.confine:
        plan += [("keep-fd", str(fd)) for fd in made.fds]
    return Launch(
        [*made.words, *launch.argv],
        launch.env,
        fds=(*launch.fds, *made.fds, *made.held.fds),
        subreaper=launch.subreaper,
        plan=tuple(plan),
        limits=launch.limits,
    )


def _home(spec: RunSpec) -> str:
    """The state's directory of a container that runs with the layer, else empty."""
    home = linked_home(spec.root.upper, _LINK)
    return home if home and os.path.isdir(home) else ""  # else of an earlier run


def join(spec: RunSpec, launch: Launch, keeper: int, inside: int) -> Launch:
    """The launch of a further command in a container, with the layer if the container has it. ``keeper`` is
    the process id of the container's keeper, ``inside`` the one that the container's processes know."""
    from udk.engines.plan import to_descriptor
    from udk.engines.trap import LOADER, _encode

    home = _home(spec)
    if not home:
        return launch
    fd = to_descriptor(_encode(_who(spec)))
    copy = f"{home}/udk-trap"
    loader = copy if os.path.exists(copy) else os.path.realpath(LOADER)
    plan = [*launch.plan, ("loader", loader, "4")]
    state = f"/{os.path.basename(home)}/state"
    if any(op[0] == "landlock" for op in plan):  # from a domain of its own the keeper cannot be looked at
        plan += [("anchor-of", str(keeper), state), ("keep-fd", str(fd))]
        state = ""
    else:
        state = f"/proc/{inside}/cwd{state}"
    return Launch(
        [LOADER, "join", state, str(fd), *launch.argv], launch.env, fds=(*launch.fds, fd), plan=tuple(plan)
    )


def _options() -> int:
    options = _OWNERS | _IDENTITY | _FAKE_ROOT
    if os.environ.get("UDK_TRAP_PATCH") != "0":
        options |= _PATCH
    if os.environ.get("UDK_TRAP_FAST_RETURN") != "0":
        options |= _FAST_RETURN
    return options


def _who(spec: RunSpec) -> list[str]:
    identity = spec.identity
    words = ["uid", str(identity.uid), "gid", str(identity.gid), "cwd", spec.cwd]
    for group in identity.groups:
        words += ["group", str(group)]
    return words


def cleanup(spec: RunSpec) -> None:
    """Removes the state of a run. Idempotent."""
    from udk.engines.trap import TrapEngine

    TrapEngine().cleanup(spec)
