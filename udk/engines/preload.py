"""The ``preload`` engine: nothing of the node's is needed, neither namespaces nor ptrace nor seccomp.

Program, loader and libraries are changed as they are mapped, so that their system calls come to the core
(``csrc/preload``, over ``csrc/trap``). Everything else is the trap engine's. What it rests on is in
``docs/adr/preload-engine.md``.
"""

from __future__ import annotations

import os

from udk.engines.guard import NATIVE
from udk.engines.trap import TrapEngine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udk.runtime.spec import RunSpec

_EAGER = 256  # csrc/core/core.h: OPT_EAGER
_LDCONFIG = os.path.join(NATIVE, "udk-ldconfig")
_KEEP = 2000  # files of changed code; the oldest go first


class PreloadEngine(TrapEngine):
    name = "preload"
    aliases = ("F1", "F2", "F3", "F4")
    capabilities = frozenset(("overlay", "readonly", "hostname", "fake-root"))
    copies_code = False
    machines = ("x86_64",)  # whose code the patcher reads
    probe_word = "probe-code"
    refused = "code cannot be changed here: a security policy keeps what is mapped from being made executable"

    def reasons_against(self, spec: RunSpec) -> list[str]:
        reasons = super().reasons_against(spec)
        if spec.emulate:
            reasons.append(f"qemu, which runs programs for {spec.emulate}, is a static program")
        return reasons

    def _emulator(self, spec: RunSpec) -> list[str]:
        return []

    def mechanism(self, spec: RunSpec, words: list[str]) -> int:
        # What one confined payload wrote there, another container would execute.
        directory = "" if spec.confine else code_directory()
        if directory:
            words += ["code", directory]
        if os.path.exists(_LDCONFIG):
            words += ["ldconfig", os.path.realpath(_LDCONFIG)]
        return _EAGER


def code_directory() -> str:
    """Where changed code is kept for all of this user's containers on this node; "" where there is no such
    place, which only costs time."""
    from udk.base.process import boot_id
    from udk.engines.guard import remove
    from udk.engines.select import private_directory

    where = private_directory()
    if not where:
        return ""
    # of this boot only: what was written shortly before a crash may be there in part
    path = f"{os.path.realpath(where)}/code-{boot_id()[:8]}"
    try:
        if not os.path.isdir(path):
            os.makedirs(path, mode=0o700, exist_ok=True)
            for name in os.listdir(where):
                if name.startswith("code-") and name != os.path.basename(path):
                    remove([f"{where}/{name}"])
        if os.statvfs(path).f_flag & os.ST_NOEXEC:
            return ""
        _prune(path)
    except OSError:
        return ""
    return path if len(os.fsencode(path)) < 400 else ""


def _prune(path: str) -> None:
    with os.scandir(path) as found:
        names = [entry.name for entry in found]
    if len(names) <= _KEEP:
        return
    ages = []
    for name in names:
        try:
            ages.append((os.stat(f"{path}/{name}").st_atime_ns, name))
        except FileNotFoundError:
            continue
    for _, name in sorted(ages)[: len(ages) - _KEEP // 2]:
        try:
            os.unlink(f"{path}/{name}")
        except FileNotFoundError:
            continue
