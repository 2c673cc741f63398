"""Images for other machines: which of the host's emulators (qemu-user) runs their programs, and how.

``RunSpec.emulate`` is the image's architecture where it is not this machine's. The emulator is a program of
the host's; it must be static, because it runs where only the image's libraries are.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udk.runtime.spec import RunSpec

# architecture: the emulator's name; e_machine, class (bits) and byte order of its ELF files
_MACHINES = {
    "386": ("i386", 3, 32, "little"),
    "amd64": ("x86_64", 62, 64, "little"),
    "arm": ("arm", 40, 32, "little"),
    "arm64": ("aarch64", 183, 64, "little"),
    "ppc64le": ("ppc64le", 21, 64, "little"),
    "riscv64": ("riscv64", 243, 64, "little"),
    "s390x": ("s390x", 22, 64, "big"),
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


_USUAL = ("/usr/local/bin", "/usr/bin")


def find(architecture: str) -> str:
    """The static emulator's path, or ``""``."""
    if architecture not in _MACHINES:
        return ""
    return _find(architecture, (*os.environ.get("PATH", "").split(":"), *_USUAL))


def beside_ours() -> str:
    """The architecture of programs that may be met in an image for this machine, and that an engine which
    translates system calls can only have emulated; ``""`` where there is none or no emulator in the usual
    places (every run asks)."""
    return "386" if os.uname().machine == "x86_64" and _find("386", _USUAL) else ""


def _find(architecture: str, directories: tuple[str, ...]) -> str:
    name = _MACHINES[architecture][0]
    for directory in directories:
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
    other = ", or use the engine namespace, which needs none" if native_too(spec.emulate) else ""
    remedy = f"install qemu-user-static{other}"
    return [f"the image is for {spec.emulate}, and there is no static qemu-{name}; {remedy}"]


def unsupported(spec: RunSpec) -> list[str]:
    """The reason against ``spec`` of an engine that lets the kernel execute programs."""
    if not spec.emulate or native_too(spec.emulate):
        return []
    return [f"programs for {spec.emulate} need the engine namespace, trap or ptrace"]


def rule(architecture: str) -> str:
    """What binfmt_misc is told: the kernel opens the emulator at once, and hands it the program's argv[0]."""
    _, machine, bits, order = _MACHINES[architecture]
    head = b"\x7fELF" + bytes((bits // 32, 1 if order == "little" else 2, 1))
    kind, number = ((2).to_bytes(2, order), machine.to_bytes(2, order))  # type: ignore[arg-type]
    magic = head + bytes(9) + kind + number
    loose = b"\xfe\xff" if order == "little" else b"\xff\xfe"  # position-independent ones, too
    mask = b"\xff" * 7 + bytes(9) + loose + b"\xff\xff"
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in (magic, mask))
    return f":udk-{architecture}:M::{':'.join(escaped)}:{find(architecture)}:PF"


def words(architecture: str) -> list[str]:
    """For the description that udk-trap reads: emulator and e_machine."""
    emulator = find(architecture) if architecture else ""
    if not emulator:  # of engines that do without one
        return []
    return ["emulator", emulator, "machine", str(_MACHINES[architecture][1])]
