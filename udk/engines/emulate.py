"""Images for other machines: which of the host's emulators (qemu-user) runs their programs, and how.

``RunSpec.emulate`` is the image's architecture where it is not this machine's. The emulator is a program of
the host's; it must be static, because it runs where only the image's libraries are.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udk.runtime.spec import RunSpec

# architecture: the emulator's name, e_machine of its ELF files
_MACHINES = {
    "386": ("i386", 3),
    "amd64": ("x86_64", 62),
    "arm": ("arm", 40),
    "arm64": ("aarch64", 183),
    "ppc64le": ("ppc64le", 21),
    "riscv64": ("riscv64", 243),
    "s390x": ("s390x", 22),
}
_NATIVE_TOO = {("amd64", "386"), ("arm64", "arm")}  # (the host's, what its kernel runs as well)
_PT_INTERP = 3


def foreign(platform: str) -> str:
    """The architecture of ``platform`` ("linux/arm64") if it is not this machine's, else ``""``."""
    from udk.oci.platform import Platform

    wanted = Platform.parse(platform).normalized.architecture
    return "" if wanted == Platform.host().normalized.architecture else wanted


def native_too(architecture: str) -> bool:
    """Does this machine's kernel run these programs all the same?"""
    from udk.oci.platform import Platform

    return (Platform.host().normalized.architecture, architecture) in _NATIVE_TOO


def find(architecture: str) -> str:
    """The static emulator's path, or ``""``."""
    if architecture not in _MACHINES:
        return ""
    name = _MACHINES[architecture][0]
    path = os.environ.get("PATH", "") + ":/usr/local/bin:/usr/bin"
    for directory in path.split(":"):
        for candidate in (f"{directory}/qemu-{name}-static", f"{directory}/qemu-{name}"):
            if directory.startswith("/") and os.access(candidate, os.X_OK) and _is_static(candidate):
                return os.path.realpath(candidate)
    return ""


def _is_static(path: str) -> bool:
    try:
        with open(path, "rb") as f:
            head = f.read(4096)
    except OSError:
        return False
    if head[:5] != b"\x7fELF\x02":
        return False
    at, size, count = (int.from_bytes(head[a : a + n], "little") for a, n in ((32, 8), (54, 2), (56, 2)))
    types = (head[at + i * size : at + i * size + 4] for i in range(count))
    return all(int.from_bytes(t, "little") != _PT_INTERP for t in types)


def missing(spec: RunSpec) -> list[str]:
    """Why this host cannot emulate what the spec asks for; empty when it can."""
    if find(spec.emulate):
        return []
    name = _MACHINES.get(spec.emulate, (spec.emulate,))[0]
    return [f"the image is for {spec.emulate}, and there is no static qemu-{name}; install qemu-user-static"]


def unsupported(spec: RunSpec) -> list[str]:
    """The reason against ``spec`` of an engine that lets the kernel execute programs."""
    if not spec.emulate or native_too(spec.emulate):
        return []
    return [f"programs for {spec.emulate} need the trap or the ptrace engine here"]


def words(architecture: str) -> list[str]:
    """For the description that udk-trap reads: emulator and e_machine."""
    return ["emulator", find(architecture), "machine", str(_MACHINES[architecture][1])]
