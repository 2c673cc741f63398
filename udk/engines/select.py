"""Which engine runs a container: the best one that works on this node and can do what the run asks for.

An engine works when its probe, which does the real thing in a child process, succeeded. What a probe found is
kept in a small file, keyed by all that can change the answer without a reboot; a refusal is believed for a
minute only, because it is what an administrator is asked to change.
"""

from __future__ import annotations

import os
import time

from udk.errors import EngineUnavailableError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udk.engines.base import Engine
    from udk.runtime.spec import RunSpec

# In order of preference; the last two on request only. name: (module, class, aliases)
_TABLE = {
    "namespace": ("udk.engines.namespace", "NamespaceEngine", ("N1",)),
    "trap": ("udk.engines.trap", "TrapEngine", ("T1",)),
    "ptrace": ("udk.engines.ptrace", "PtraceEngine", ("P1", "P2")),
    "preload": ("udk.engines.preload", "PreloadEngine", ("F1", "F2", "F3", "F4")),
    "runc": ("udk.engines.runc", "RuncEngine", ("R1", "R2", "R3")),
    "singularity": ("udk.engines.singularity", "SingularityEngine", ("S1",)),
}
_AUTOMATIC = ("namespace", "trap", "ptrace", "preload")
_GROUP = "udk.engines"

_REFUSAL_SECONDS = 60.0
_CACHE_LINES = 16


def by_name(name: str) -> Engine:
    """The engine of that name or of that udocker mode. Third parties' engines (entry points of the group
    ``udk.engines``) are found too. Raises UsageError."""
    for known, (module, cls, aliases) in _TABLE.items():
        if name == known or name in aliases:
            engine = _load(module, cls)
            if engine is None:
                raise EngineUnavailableError(f"engine {name} is not part of this installation")
            return engine.in_mode(name)
    from importlib.metadata import entry_points

    found: Any = entry_points()  # before Python 3.10 a plain mapping of groups
    for point in found.select(group=_GROUP) if hasattr(found, "select") else found.get(_GROUP, ()):
        if point.name == name:
            third: Engine = point.load()()
            return third
    known_names = ", ".join(e.name for e in all_engines())
    raise UsageError(f"no engine {name!r}", f"known are auto, {known_names}")


def _load(module: str, cls: str) -> Engine | None:
    try:
        loaded = __import__(module, fromlist=[cls])
    except ModuleNotFoundError as e:
        if e.name != module:
            raise
        return None
    engine: Engine = getattr(loaded, cls)()
    return engine


def all_engines() -> list[Engine]:
    """udk's own engines, best first."""
    loaded = (_load(module, cls) for module, cls, _ in _TABLE.values())
    return [engine for engine in loaded if engine is not None]


def choose(spec: RunSpec, wanted: str = "auto") -> Engine:
    """The engine for this run: ``wanted``, or with ``auto`` the first that works and can do all of it.

    Engines named in ``UDK_ENGINE_FAILED`` (lines ``name: reason``, written by the guard when a set-up failed)
    are passed over. Raises EngineUnavailableError with every engine's reason."""
    if wanted and wanted != "auto":
        engine = by_name(wanted)
        against = engine.reasons_against(spec)
        if against:
            raise EngineUnavailableError(f"engine {engine.name} cannot run this: {'; '.join(against)}")
        return engine
    failed = dict(line.partition(": ")[::2] for line in os.environ.get("UDK_ENGINE_FAILED", "").split("\n"))
    reasons = []
    for name in _order(spec):
        candidate = _load(*_TABLE[name][:2])
        if candidate is None:
            continue
        if name in failed:
            reasons.append(f"{name}: {failed[name]}")
            continue
        against = candidate.reasons_against(spec)
        if not against:
            reason = probe(candidate)
            if not reason:
                return candidate
            against = [reason]
        reasons.append(f"{name}: {'; '.join(against)}")
    raise EngineUnavailableError(
        f"no engine can run this container here ({' | '.join(reasons)})", "see udk doctor"
    )


def _order(spec: RunSpec) -> tuple[str, ...]:
    """Best first. The identity layer of namespaces does not see the calls of programs for another machine;
    what runs 32-bit programs by itself comes before what has them emulated."""
    if not spec.emulate:
        return _AUTOMATIC
    from udk.engines.identity import wanted
    from udk.engines.ptrace import PtraceEngine

    own = ("ptrace", "trap") if PtraceEngine().natively(spec) else ("trap", "ptrace")
    return (*own, "namespace", "preload") if wanted(spec) else ("namespace", *own, "preload")


def probe(engine: Engine, *, fresh: bool = False) -> str:
    """``""`` when the engine works here, else why not. ``fresh``: never from the cache."""
    key = f"{_circumstances()} {engine.mode or engine.name}"
    if not fresh:
        cached = _recall(key)
        if cached is not None:
            return cached
    reason = engine.probe()
    _remember(key, reason)
    return reason


def _circumstances() -> str:
    """All that a probe's answer depends on, as one word."""
    from udk.base.process import boot_id

    parts = [boot_id(), str(os.geteuid()), os.uname().release]
    for name in ("user", "mnt"):
        try:
            parts.append(os.readlink(f"/proc/self/ns/{name}"))
        except OSError:
            parts.append("")
    try:
        with open("/proc/self/attr/current", encoding="ascii", errors="replace") as f:
            parts.append(f.read().strip("\0\n"))
    except OSError:
        parts.append("")
    parts.append(_restrictions())
    from udk.engines.guard import GUARD

    try:
        st = os.stat(GUARD)
        parts.append(f"{st.st_mtime_ns}:{st.st_ino}")
    except OSError:
        parts.append("")
    return "/".join(p.replace(" ", "_").replace("/", "_") for p in parts)


def _restrictions() -> str:
    """What this process may be under, and others of its user not: filters, a tracer, fewer capabilities."""
    wanted = ("TracerPid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Seccomp_filters")
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as f:
            lines = [line.split() for line in f]
    except OSError:
        return ""
    found = {words[0].rstrip(":"): words[1] for words in lines if len(words) > 1}
    found["TracerPid"] = "0" if found.get("TracerPid", "0") == "0" else "1"
    return ",".join(found.get(name, "") for name in wanted)


def private_directory() -> str:
    """The user's own directory for udk on this node, "" where there can be none.

    What lies in it is about this node only, while a store may be shared by many."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    directory = f"{runtime}/udk" if runtime.startswith("/") else f"/tmp/udk-run-{os.geteuid()}"
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    except OSError:
        return ""
    st = os.lstat(directory)
    # somebody else's directory could make us believe anything
    return directory if st.st_uid == os.geteuid() and st.st_mode & 0o170077 == 0o040000 else ""


def _cache_path() -> str:
    directory = private_directory()
    return f"{directory}/probes" if directory else ""


def _lines() -> list[str]:
    path = _cache_path()
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read().splitlines()[-_CACHE_LINES:]
    except OSError:
        return []


def _recall(key: str) -> str | None:
    for line in reversed(_lines()):
        circumstances, name, when, reason = (line.split(" ", 3) + ["", "", ""])[:4]
        if f"{circumstances} {name}" != key:
            continue
        if reason and not (when.isdigit() and 0 <= time.time() - int(when) < _REFUSAL_SECONDS):
            return None
        return reason
    return None


def _remember(key: str, reason: str) -> None:
    path = _cache_path()
    if not path:
        return
    kept = [line for line in _lines() if not line.startswith(key + " ")]
    kept.append(f"{key} {int(time.time())} " + reason.replace("\n", " "))
    part = f"{path}.{os.getpid()}"
    try:
        with open(part, "w", encoding="utf-8", errors="replace") as f:
            f.write("\n".join(kept[-_CACHE_LINES:]) + "\n")
        os.rename(part, path)
    except OSError:
        pass  # without a cache every run probes
