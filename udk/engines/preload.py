"""The ``preload`` engine: nothing of the node's is needed, neither namespaces nor ptrace nor seccomp.

Program, loader and libraries are changed as they are mapped, so that their system calls come to the core
(``csrc/preload``, over ``csrc/trap``). Everything else is the trap engine's. What it rests on is in
``docs/adr/preload-engine.md``.
"""

from __future__ import annotations

import os

from udk.engines.code import code_directory
from udk.engines.guard import NATIVE
from udk.engines.trap import TrapEngine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udk.runtime.spec import RunSpec

_EAGER = 256  # csrc/core/core.h: OPT_EAGER
_LDCONFIG = os.path.join(NATIVE, "udk-ldconfig")


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
