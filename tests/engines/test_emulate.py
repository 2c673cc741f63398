"""Programs for another machine (arm64, made by hand below) by the host's qemu."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from pathlib import Path
from typing import Any, Mapping

import pytest

from tests.engines.conftest import Box
from tests.support.needs import needs
from udk.engines import emulate, identity, select
from udk.engines.guard import spawn
from udk.engines.select import by_name
from udk.oci.platform import Platform

ENGINES = ("trap", "P1", "P2", "namespace")
OPENAT, READ, WRITE, EXIT, EXECVE = 56, 63, 64, 93, 221
BASE = 0x400000


def call(number: int) -> list[int]:
    return [0xD2800000 | number << 5 | 8, 0xD4000001]  # mov x8, number; svc 0


def move(register: int, value: int) -> list[int]:
    if value < 0:
        return [0x92800000 | (~value) << 5 | register]  # movn
    low, high = value & 0xFFFF, value >> 16
    return [0xD2800000 | low << 5 | register, 0xF2A00000 | high << 5 | register]  # movz, movk lsl 16


def program(code: list[int], data: bytes) -> bytes:
    """An ELF file for arm64 with one segment: header, ``code``, and ``data`` at BASE + 0x800."""
    text = b"".join(struct.pack("<I", word) for word in code)
    body = (struct.pack("<IIQQQQQQ", 1, 7, 0, BASE, BASE, 0x1000, 0x2000, 0x1000) + text).ljust(
        0x800 - 64, b"\0"
    )
    head = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        b"\x7fELF",
        2,
        1,
        1,
        0,
        0,
        2,
        183,
        1,
        BASE + 120,
        64,
        0,
        0,
        64,
        56,
        1,
        64,
        0,
        0,
    )
    return (head + body + data).ljust(0x1000, b"\0")


def cat(path: str, status: int) -> bytes:
    """Writes the first 99 bytes of ``path`` to its output."""
    buffer = BASE + 0x1800
    code = [*move(0, -100), *move(1, BASE + 0x800), *move(2, 0), *call(OPENAT)]
    code += [*move(1, buffer), *move(2, 99), *call(READ)]
    code += [0xAA0003E2, *move(0, 1), *move(1, buffer), *call(WRITE)]  # mov x2, x0
    return program([*code, *move(0, status), *call(EXIT)], path.encode() + b"\0")


def execute(path: str) -> bytes:
    """Becomes ``path``, without arguments."""
    code = [*move(0, BASE + 0x800), *move(1, BASE + 0x900), *move(2, BASE + 0x900), *call(EXECVE)]
    return program([*code, *move(0, 99), *call(EXIT)], path.encode() + b"\0")


@pytest.fixture
def arm(box: Box) -> Box:
    files = {"cat-it": cat("/etc/passwd", 42), "exec-it": execute("/cat-it"), "script": b"#!/cat-it -x\n"}
    for name, content in files.items():
        path = Path(box.lower) / name
        path.write_bytes(content)
        path.chmod(0o755)
    return box


@needs("qemu-aarch64-static")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("command", ("/cat-it", "/exec-it", "/script"))
def test_arm64_programs(arm: Box, engine: str, command: str) -> None:
    spec = arm.spec(command, emulate="arm64")
    chosen = by_name(engine)
    assert chosen.reasons_against(spec) == []
    if engine == "namespace" and tuple(map(int, os.uname().release.split(".")[:2])) < (6, 7):
        pytest.skip("binfmt_misc belongs to a user namespace since Linux 6.7")
    guard = spawn(
        spec, chosen.launch(spec), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = guard.communicate(timeout=60)
    assert (guard.returncode, out, err) == (42, b"root:x:0:0:root:/root:/bin/sh\n", b"")


# mov ebx, 1; mov ecx, text; mov edx, 7; mov eax, 4; int 0x80; mov ebx, 42; mov eax, 1; int 0x80
CODE386 = bytes.fromhex("bb01000000b980800408ba07000000b804000000cd80bb2a000000b801000000cd80")


EXIT386 = "f7d8 89c3 b801000000 cd80"  # neg eax; mov ebx, eax; mov eax, 1; int 0x80
# socket(AF_INET, SOCK_STREAM, 0) by socketcall and by its own number
SOCKET386 = {
    "socketcall": bytes.fromhex("6a00 6a01 6a02 89e1 bb01000000 b866000000 cd80" + EXIT386),
    "socket": bytes.fromhex("bb02000000 b901000000 ba00000000 b867010000 cd80" + EXIT386),
}


@pytest.fixture
def old(box: Box) -> Box:
    """An image for this machine with a 32-bit program in it."""
    program386(box, CODE386)
    return box


def program386(box: Box, code: bytes) -> None:
    base = 0x08048000
    head = struct.pack(
        "<4s5B7xHHIIIIIHHHHHH", b"\x7fELF", 1, 1, 1, 0, 0, 2, 3, 1, base + 0x100, 52, 0, 0, 52, 32, 1,
        40, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIIIIIII", 1, 0, base, base, 0x200, 0x200, 5, 0x1000)
    content = ((head + segment).ljust(0x80, b"\0") + b"thirty\n").ljust(0x100, b"\0") + code
    path = Path(box.lower) / "thirty"
    path.write_bytes(content.ljust(0x200, b"\0"))
    path.chmod(0o755)


def finish(box: Box, engine: str, changes: Mapping[str, Any] = {}, **more: Any) -> tuple[int, bytes, bytes]:
    spec = box.spec("/thirty", **changes)
    guard = spawn(
        spec, by_name(engine).launch(spec), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **more,
    )  # fmt: skip
    out, err = guard.communicate(timeout=60)
    return guard.returncode, out, err


@needs("qemu-i386-static")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="32-bit programs of x86_64")
def test_a_32_bit_program_is_emulated(old: Box) -> None:
    assert finish(old, "trap") == (42, b"thirty\n", b"")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="32-bit programs of x86_64")
@pytest.mark.parametrize("engine", ("P1", "P2", "namespace"))
def test_a_32_bit_program_is_run_without_an_emulator(
    old: Box, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulate, "_USUAL", ())
    assert finish(old, engine) == (42, b"thirty\n", b"")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="32-bit programs of x86_64")
@pytest.mark.parametrize("way", SOCKET386)
@pytest.mark.parametrize("engine", ("P1", "P2"))
def test_a_32_bit_program_has_no_network_either(box: Box, engine: str, way: str) -> None:
    program386(box, SOCKET386[way])
    assert finish(box, engine, {"network": "none"}) == (errno.EACCES, b"", b"")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="32-bit programs of x86_64")
def test_an_image_of_32_bits_needs_no_emulator(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulate, "find", lambda architecture: "")
    spec = box.spec("/thirty", emulate="386")
    program386(box, CODE386)
    for layer, order in ((True, ["ptrace", "trap", "namespace"]), (False, ["namespace", "ptrace", "trap"])):
        monkeypatch.setattr(identity, "wanted", lambda spec, layer=layer: layer)
        assert list(select._order(spec))[:3] == order
        foreign = box.spec("/hello", emulate="arm64")
        assert select._order(foreign)[0] == ("trap" if layer else "namespace")
    assert select.choose(spec).name in ("namespace", "ptrace")
    assert not by_name("ptrace").reasons_against(spec) and by_name("trap").reasons_against(spec)
    monkeypatch.setattr(select, "_order", lambda spec: ("ptrace",))
    guard = spawn(spec, select.choose(spec).launch(spec), stdout=subprocess.PIPE)
    assert guard.communicate(timeout=60)[0] == b"thirty\n" and guard.returncode == 42


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="32-bit programs of x86_64")
@pytest.mark.parametrize("engine", ("trap", "preload"))
def test_a_32_bit_program_without_an_emulator(old: Box, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything has run, with the streams as they were: another engine may have its turn."""
    monkeypatch.setattr(emulate, "_USUAL", ())
    status, out, err = finish(old, engine)
    assert (status, out) == (125, b"") and err.count(b"\n") == 1
    assert err.startswith(b"udk: error: /thirty is a 32-bit program") and b"namespace" in err
    next_one = ("one", "/bin/sh", "-c", 'echo "$UDK_ENGINE_FAILED"; cat; exit 7')
    status, out, err = finish(old, engine, fallback=next_one)
    assert (status, err) == (7, b"") and out.startswith(b"one: /thirty is a 32-bit program")


def test_engines_that_cannot_say_so(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = box.spec("/hello", emulate="arm64")
    for engine in ("preload", "runc", "singularity"):
        assert by_name(engine).reasons_against(spec), engine
    monkeypatch.setattr(emulate, "find", lambda architecture: "")
    assert "install qemu-user-static" in by_name("trap").reasons_against(spec)[0]


def test_architectures() -> None:
    host = Platform.host().normalized.architecture
    assert emulate.foreign(f"linux/{host}") == ""
    other = "arm64" if host == "amd64" else "amd64"
    assert emulate.foreign(f"linux/{other}") == other
    assert emulate.find("pdp11") == ""
    rule = emulate.rule("s390x")
    assert rule.startswith(":udk-s390x:M::\\x7f\\x45\\x4c\\x46\\x02\\x02\\x01")
    assert rule.endswith(":PF") and "\\x00\\x02\\x00\\x16:" in rule
    assert not emulate._is_static(os.path.realpath("/bin/sh"))
