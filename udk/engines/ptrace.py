"""The ``ptrace`` engine: a tracer sends the calls that are to be translated to the trap engine's handler.

With a system-call filter (P1) only those stop; where filters are refused (P2) all do. All else is the
trap engine's. What it rests on is in ``docs/adr/ptrace-engine.md``.
"""

from __future__ import annotations

from udk.engines.trap import TrapEngine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udk.runtime.spec import RunSpec

# csrc/core/core.h: OPT_PTRACE, OPT_EVERY_CALL, OPT_ONLY_FILTER, OPT_I386, OPT_LINUX32
_PTRACE, _EVERY_CALL, _ONLY_FILTER, _I386, _LINUX32 = 512, 1024, 4096, 8192, 16384


class PtraceEngine(TrapEngine):
    name = "ptrace"
    aliases = ("P1", "P2")
    refused = "ptrace is refused here, by a filter, a capability set or kernel.yama.ptrace_scope"
    options = 0

    def probe(self) -> str:
        self.probe_word = "probe-ptrace-1"
        reason = super().probe()
        if reason == self.refused:
            self.probe_word = "probe-ptrace-2"
            reason = super().probe()
        return reason

    def natively(self, spec: RunSpec) -> bool:
        if spec.emulate != "386" or spec.confine:
            return False
        from udk.engines.select import probe

        return not probe(_Narrow())

    def mechanism(self, spec: RunSpec, words: list[str]) -> int:
        narrow = 0 if spec.confine else _I386  # confined, only this machine's own calls are let through
        if spec.emulate == "386":
            narrow |= _LINUX32
        return super().mechanism(spec, words) | _PTRACE | self.options | narrow

    def in_mode(self, name: str) -> PtraceEngine:
        return {"P1": _Filtered, "P2": _EveryCall}.get(name, PtraceEngine)()


class _Narrow(PtraceEngine):
    """What 32-bit programs need of the kernel, to be probed."""

    mode = "ptrace-i386"
    probe_word = "probe-i386"
    refused = "this kernel runs no 32-bit programs"

    def probe(self) -> str:
        return TrapEngine.probe(self)


class _Filtered(PtraceEngine):
    """P1 and nothing else."""

    mode = "P1"
    options = _ONLY_FILTER
    probe_word = "probe-ptrace-1"
    refused = "ptrace or system-call filters are refused here; P2 does without the latter"

    def probe(self) -> str:
        return TrapEngine.probe(self)


class _EveryCall(PtraceEngine):
    """P2 and nothing else."""

    mode = "P2"
    options = _EVERY_CALL
    probe_word = "probe-ptrace-2"

    def probe(self) -> str:
        return TrapEngine.probe(self)
