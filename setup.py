"""Builds the C programs of ``csrc/`` into ``udk/_native/``; everything else is in pyproject.toml.

The programs are freestanding (no libc), so that one build serves glibc and musl hosts and guests alike and
gcc with the kernel's headers is all that is needed.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop
from setuptools.dist import Distribution

HERE = Path(__file__).resolve().parent
CSRC = HERE / "csrc"
NATIVE = HERE / "udk" / "_native"

# Warnings are errors where the code is written, not where an unknown compiler builds a release of it.
WARNINGS = ["-Wall", "-Wextra", *(["-Werror"] if (HERE / ".git").exists() else [])]
FREESTANDING = [
    "-std=c11", "-O2", "-ffreestanding", "-fno-stack-protector", "-fno-asynchronous-unwind-tables",
    "-fno-builtin", "-nostdlib", "-nostartfiles", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-s",
]  # fmt: skip
STATIC = ["-fno-pie", "-no-pie", "-static"]

# One fixed address, so that the filter can tell the engine's own calls from the guest's; no vector registers,
# so that a guest's are untouched; position-independent code, because the address is beyond what absolute code
# reaches.
TRAP = [
    *STATIC, "-fPIC", "-fvisibility=hidden", "-mgeneral-regs-only", "-fcf-protection=none", "-Wl,--no-relax",
    "-ffunction-sections", "-fdata-sections", "-Wl,-z,norelro", "-T", str(CSRC / "trap" / "layout.ld"),
]  # fmt: skip

# The image's program has an interpreter, itself: engines that run only programs with one run it, and it needs
# no other file. The kernel maps it a second time, so that it must not care where it is.
LOADED = ["-fPIE", "-pie", "-Wl,--dynamic-linker=/hello", "-Wl,-z,text"]
# The preload engine loads it as if it were its own interpreter, too, wherever it lies.

# program -> (directories of csrc whose *.c are compiled, extra compiler and linker arguments)
PROGRAMS: dict[str, tuple[list[str], list[str]]] = {
    "udk-guard": (["sys", "guard", "namespace"], STATIC),
    "udk-hello": (["sys", "hello"], STATIC),
    "udk-hello-loaded": (["sys", "hello"], LOADED),
    "udk-ldconfig": (["sys", "ldconfig"], LOADED),
    "udk-trap": (["sys", "core", "trap", "ptrace", "preload"], TRAP),
}


def machine_options(cc: list[str]) -> list[str]:
    """gcc's atomics for aarch64 ask a libc which instructions there are; older ones have no such option."""
    option = "-mno-outline-atomics"
    null = subprocess.DEVNULL
    probe = [*cc, "-Werror", option, "-E", "-x", "c", os.devnull]
    known = not subprocess.run(probe, stdout=null, stderr=null, check=False).returncode
    return [option] if known else []


def compile_program(name: str, dirs: list[str], extra: list[str]) -> None:
    sources = sorted(str(p) for d in dirs for p in (CSRC / d).glob("*.c"))
    inputs = [*sources, *(str(p) for e in ("*.h", "*.ld") for p in CSRC.rglob(e)), __file__]
    target = NATIVE / name
    if target.exists() and target.stat().st_mtime >= max(os.stat(p).st_mtime for p in inputs):
        return
    cc = shlex.split(os.environ.get("CC", "gcc"))
    part = target.with_name(f".{name}.{os.getpid()}")
    try:
        subprocess.run(
            [
                *cc, *FREESTANDING, *machine_options(cc), *WARNINGS, f"-I{CSRC}", *sources, *extra,
                "-lgcc", "-o", str(part),
            ],
            check=True,
        )  # fmt: skip
        part.chmod(0o755)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def make_hello_image() -> None:
    """The OCI layout of the embedded image, for the architecture that the compiler builds for."""
    compiler = shlex.split(os.environ.get("CC", "gcc"))
    machine = subprocess.run(
        [*compiler, "-dumpmachine"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    spec = importlib.util.spec_from_file_location("hello_layout", CSRC / "hello" / "layout.py")
    assert spec and spec.loader
    layout = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layout)
    layout.write(NATIVE / "hello", NATIVE / "udk-hello-loaded", machine.partition("-")[0])


def build_native() -> None:
    NATIVE.mkdir(parents=True, exist_ok=True)
    for name, (dirs, extra) in PROGRAMS.items():
        compile_program(name, dirs, extra)
    make_hello_image()


class BuildNative(Command):
    description = "compile the C programs into udk/_native"
    user_options: list[tuple[str, str, str]] = []

    def initialize_options(self) -> None: ...

    def finalize_options(self) -> None: ...

    def run(self) -> None:
        build_native()


class Build(build):
    sub_commands = [("build_native", None), *build.sub_commands]


class BuildPy(build_py):
    def run(self) -> None:
        build_native()
        self.data_files = self._get_data_files()
        super().run()


class Develop(develop):
    def run(self) -> None:
        build_native()
        super().run()


class NativeDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True  # the wheel is for one architecture


try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1
    from wheel.bdist_wheel import bdist_wheel  # type: ignore[no-redef]


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        """One wheel serves every Python 3: what is native are programs, not extension modules."""
        return ("py3", "none", super().get_tag()[2])


if __name__ == "__main__":
    if sys.argv[1:] == ["native"]:
        build_native()
    else:
        setup(
            distclass=NativeDistribution,
            cmdclass={
                "build_native": BuildNative, "build": Build, "build_py": BuildPy, "develop": Develop,
                "bdist_wheel": Wheel,
            },
        )  # fmt: skip
