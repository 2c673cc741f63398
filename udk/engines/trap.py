"""The ``trap`` engine: no namespaces, no ptrace, no privileges; system calls are intercepted inside the
payload's own processes.

This module describes one run to ``udk-trap`` (``csrc/trap``, over ``csrc/core``): the root, the mounts, who
the payload is. The description goes through a descriptor; the program makes of it the state file that every
process of the container maps. What it rests on is in ``docs/adr/trap-engine.md``.
"""

from __future__ import annotations

import os
import sys

from udk.engines import homes
from udk.engines.base import Engine, Launch, forget_home, linked_home
from udk.engines.guard import NATIVE
from udk.errors import EngineError, UdkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udk.runtime.spec import Mount, Root, RunSpec

LOADER = os.path.join(NATIVE, "udk-trap")

# csrc/core/core.h: enum mount_flags, enum plan_options
_RO, _FILE, _UNION, _PROC, _CACHE = 1, 2, 4, 8, 16
_PATCH, _FAST_RETURN, _FAKE_ROOT, _OWNERS, _WHITEOUT_FILE = 1, 2, 4, 8, 16
_NO_NETWORK, _NOEXEC, _KEPT = 64, 128, 1 << 18

_ST_NOEXEC = 8
_MAX_MOUNTS = 128
# what is shown as the host has it; /dev/shm because memory is what it is for
_HOST = {"proc": "/proc", "dev": "/dev", "sys": "/sys", "devpts": "/dev/pts", "shm": "/dev/shm"}
_STATE = "trap"  # a link beside the upper, to the directory of the run's state


class TrapEngine(Engine):
    name = "trap"
    aliases: tuple[str, ...] = ("T1",)
    boundary = "landlock"
    copies_code = True  # from trees that are mounted noexec
    capabilities = frozenset(("overlay", "readonly", "hostname", "static", "fake-root"))
    probe_word = "probe"  # what udk-trap is to try
    machines: tuple[str, ...] = ("x86_64", "aarch64")
    refused = (
        "a system-call filter with traps does not work here (seccomp is refused, or this is an emulator)"
    )

    def probe(self) -> str:
        if not os.path.exists(LOADER):
            return f"{LOADER} is not there; install udk anew, with a C compiler at hand"
        if sys.platform != "linux" or os.uname().machine not in self.machines:
            return f"not for {os.uname().machine}, only for {', '.join(self.machines)}; use another engine"
        pid = os.fork()
        if pid == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            try:
                os.execv(LOADER, [LOADER, self.probe_word])  # noqa: S606
            finally:
                os._exit(126)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return ""
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 126:
            return f"{LOADER} cannot be executed; install udk on a file system without noexec"
        return self.refused

    def reasons_against(self, spec: RunSpec) -> list[str]:
        reasons = []
        if len(spec.root.lower) > 1:
            reasons.append("the root has several lower trees")
        if spec.identity.subids:
            reasons.append("subordinate ids need user namespaces")
        if spec.confine:
            from udk.engines.confine import reasons_against

            reasons += reasons_against(spec, self)
        if spec.emulate and not self.natively(spec):
            from udk.engines.emulate import missing

            reasons += missing(spec)
            if spec.confine:
                reasons.append("an emulator lies outside of the confinement")
        if spec.cvmfs and not any(m.target.startswith("/cvmfs") for m in spec.mounts):
            reasons.append("CVMFS repositories need a mounted /cvmfs")
        if len(spec.mounts) >= _MAX_MOUNTS - 4:
            reasons.append(f"more than {_MAX_MOUNTS - 4} mounts")
        if not self.copies_code:
            reasons += [f"{tree} is on a file system mounted noexec" for tree in _noexec(spec)]
        return reasons

    def remarks(self, spec: RunSpec) -> list[str]:
        sized = [m for m in spec.mounts if any(o.startswith("size=") for o in m.options)]
        return [
            f"the size of {m.target} is no limit with engine {self.name}: "
            + ("it is the host's" if m.kind == "shm" and not spec.confine else "it is a directory on disk")
            for m in sized
        ]

    def launch(self, spec: RunSpec) -> Launch:
        from udk.engines.plan import to_descriptor

        if len(spec.root.lower) > 1:  # a caller that did not ask reasons_against: the others would be missing
            raise EngineError("the root has several lower trees", "use engine namespace, or flatten them")
        made = make_home(spec)
        home = made.path
        words: list[str] = []
        options = _FAST_RETURN | _OWNERS | self.mechanism(spec, words)
        if spec.identity.fake_root:
            options |= _FAKE_ROOT
        if spec.network == "none":
            options |= _NO_NETWORK
        if self.copies_code and _noexec(spec):
            options |= _NOEXEC
        if os.environ.get("UDK_TRAP_FAST_RETURN") == "0":
            options &= ~_FAST_RETURN
        words += _root(spec, home)
        upper = spec.root.upper or f"{home}/upper"
        if spec.root.lower and not _whiteouts_work(os.path.dirname(upper)):
            options |= _WHITEOUT_FILE
        mounts = spec.mounts
        if spec.confine:
            from udk.engines.confine import private_mounts

            mounts = private_mounts(spec)
        for number, mount in enumerate(mounts):
            words += _mount(mount, f"{home}/{number}")
        words += ["loader", _loader(home), "state", f"{home}/state", "options", str(options)]
        sockets = homes.sockets(home)
        words += ["sockets", sockets]
        if spec.hostname:
            words += ["hostname", spec.hostname]
        words += self._emulator(spec)
        words += _who(spec)
        report = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # reserves the number of the guard's pipe
        fd = to_descriptor(_encode([*words, "report", str(report)]))
        plan = [("program", _loader(home)), *made.ops, ("remove", sockets), ("report", str(report))]
        return Launch(
            [_loader(home), "run", str(fd), *spec.argv],
            dict(spec.env),
            fds=(fd, report, *made.fds),
            plan=(*plan, *_confined(spec, home, fd, report)),
        )

    def natively(self, spec: RunSpec) -> bool:
        """Whether the programs of an image for another machine are run without an emulator."""
        return False

    def _emulator(self, spec: RunSpec) -> list[str]:
        from udk.engines.emulate import beside_ours, words

        # Of an image for this machine, 32-bit programs. Confinement keeps the emulator out of reach.
        return words(spec.emulate or ("" if spec.confine else beside_ours()))

    def mechanism(self, spec: RunSpec, words: list[str]) -> int:
        """The options by which calls come to the engine; what else it must be told is added to ``words``."""
        from udk.engines.code import code_directory

        if os.environ.get("UDK_TRAP_PATCH") == "0":
            return 0
        # What one confined payload wrote there, another container would execute.
        directory = "" if spec.confine or os.uname().machine != "x86_64" else code_directory()
        if directory:
            words += ["code", directory]
        return _PATCH | _KEPT if directory else _PATCH

    def join(self, spec: RunSpec, pid: int) -> Launch:
        from udk.engines.plan import to_descriptor

        if not spec.root.upper:
            raise EngineError("a container without a private layer cannot be joined")
        home = linked_home(spec.root.upper, _STATE)
        if not home:
            raise EngineError(f"the container of process {pid} has no state", "see udk ps")
        fd = to_descriptor(_encode(_who(spec)))
        return Launch(
            [LOADER, "join", f"{home}/state", str(fd), *spec.argv],
            dict(spec.env),
            fds=(fd,),
            plan=(("program", _loader(home)), *_confined(spec, home, fd)),
        )

    def cleanup(self, spec: RunSpec) -> None:
        forget_home(spec.root.upper, _STATE)


def _noexec(spec: RunSpec) -> list[str]:
    """The trees from which the kernel maps no code."""
    trees = [tree for tree in (*spec.root.lower, spec.root.upper) if tree and os.path.isdir(tree)]
    return [tree for tree in trees if os.statvfs(tree).f_flag & _ST_NOEXEC]


def make_home(spec: RunSpec) -> homes.Home:
    """A new directory for the run's state: beside the upper, so that whoever removes the layer of a killed
    container removes it too; else in memory. Raises EngineError."""
    others = () if spec.root.upper else (homes.MEMORY, homes.temporary())
    return homes.make(spec.root.upper, f"{_STATE}.", _STATE, others, noexec=True)


def _confined(spec: RunSpec, home: str, *fds: int) -> list[tuple[str, ...]]:
    """The plan's operations for confinement; what the payload's own processes need of the engine is made."""
    if not spec.confine:  # without a network the engine's own filter is enough
        return []
    from udk.engines import confine

    sockets = homes.sockets(home)
    os.makedirs(sockets, mode=0o700, exist_ok=True)
    reach = [*confine.reach(spec), (_loader(home), "rx"), (home, "rwx"), (sockets, "rw")]
    index = index_of(spec.root)
    if index:
        reach.append((index, "r"))
    reach += [(path, "rx") for path in (os.path.join(NATIVE, "udk-ldconfig"),) if os.path.exists(path)]
    if spec.root.upper and spec.root.lower:
        changes = spec.root.changes or f"{os.path.dirname(_real(spec.root.upper))}/changes"
        os.close(os.open(changes, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        reach.append((changes, "rw"))
    return confine.ops(spec, confine.LANDLOCK, reach, keep=fds)


def _loader(home: str) -> str:
    """The engine's program where it can be executed: as installed, or a copy beside the state."""
    path = os.path.realpath(LOADER)
    if not os.path.exists(path):
        raise EngineError(f"{LOADER} is not there", "install udk anew, with a C compiler at hand")
    if not os.statvfs(path).f_flag & _ST_NOEXEC:
        return path
    if os.statvfs(home).f_flag & _ST_NOEXEC:
        raise EngineError(
            f"both {NATIVE} and {home} are mounted noexec", "set TMPDIR to a directory that is not"
        )
    copy = f"{home}/udk-trap"
    if not os.path.exists(copy):
        import shutil

        shutil.copy(path, copy)
    return copy


def _encode(words: list[str]) -> bytes:
    for word in words:
        if "\0" in word:
            raise UdkError(f"a NUL byte in {word!r}", "remove it")
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _who(spec: RunSpec) -> list[str]:
    identity = spec.identity
    words = ["uid", str(identity.uid), "gid", str(identity.gid), "cwd", spec.cwd]
    for group in identity.groups:
        words += ["group", str(group)]
    return words


def _real(path: str) -> str:
    """A host path as the kernel reports it; "" for the root itself."""
    if not path.startswith("/"):
        raise UdkError(f"{path}: a root directory must be an absolute path")
    return os.path.realpath(path).rstrip("/")


def _root(spec: RunSpec, home: str) -> list[str]:
    root = spec.root
    flags = _CACHE | (_RO if root.readonly else 0)
    if not root.lower:
        return ["mount", str(flags), "", _real(root.upper), ""]
    lower = _real(root.lower[0])
    record = root.records[0] if root.records else ""
    words = ["record", os.path.realpath(record)] if record else []
    index = index_of(root)
    if index:
        words += ["index", index]
    if root.upper:
        upper, work = _real(root.upper), _real(root.work)
        changes = root.changes or f"{os.path.dirname(upper)}/changes"
    else:  # what is written lives as long as the run, in memory where possible
        upper, work, changes = f"{home}/upper", f"{home}/work", f"{home}/changes"
        os.mkdir(upper, 0o755)
        os.mkdir(work, 0o700)
    words += ["work", work, "changes", os.path.realpath(changes)]
    return [*words, "mount", str(flags | _UNION), "", upper, lower]


def index_of(root: Root) -> str:
    """The index of the lower tree, which the store keeps beside the record; ``""`` where there is none."""
    record = root.records[0] if len(root.lower) == 1 and root.records else ""
    index = os.path.join(os.path.dirname(os.path.realpath(record)), "index")
    wanted = record and os.environ.get("UDK_TRAP_INDEX") != "0" and os.path.exists(index)
    return index if wanted else ""


def _whiteouts_work(directory: str) -> bool:
    """Whether a 0:0 device can be made there: Linux >= 5.8 lets everybody, not every file system does."""
    path = f"{directory}/.whiteout-{os.getpid()}"
    try:
        os.mknod(path, 0o020000, 0)
        os.unlink(path)
    except OSError:
        return False
    return True


def _mount(m: Mount, private: str) -> list[str]:
    """The words for one mount; ``private`` is a name that it may use in the state directory."""
    flags = _RO if m.readonly else 0
    target = os.path.normpath("/" + m.target.lstrip("/"))
    if m.kind == "bind":
        if not m.source.startswith("/"):
            raise UdkError(f"{m.source}: the source of a bind must be an absolute path")
        if not os.path.lexists(m.source):
            if "optional" in m.options:
                return []
            raise EngineError(f"{m.source} does not exist on this host")
        source = _real(m.source)
        if not os.path.isdir(source or "/"):
            flags |= _FILE
    elif m.kind == "file":
        with open(private, "w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(m.content)
        source, flags = private, flags | _FILE
    elif m.kind == "tmpfs":
        mode = next((o[5:] for o in m.options if o.startswith("mode=")), "1777")
        os.mkdir(private)
        os.chmod(private, int(mode, 8))
        source = private
    elif m.kind in _HOST:
        source = _HOST[m.kind]
        flags |= _PROC if m.kind == "proc" else 0
    else:
        raise UdkError(f"unknown kind of mount {m.kind} for {m.target}")
    return ["mount", str(flags), target, source, ""]
