"""Running the real `udk` as a caller would: an own HOME and store, PATH and nothing else in the
environment."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

REPOSITORY = Path(__file__).resolve().parents[2]


def _bytecode() -> str:
    """Where this session's udk processes keep their bytecode: compiling it each time would take longer than
    the tests, and the checkout may not be writable."""
    global _bytecode_directory
    if not _bytecode_directory:
        _bytecode_directory = tempfile.mkdtemp(prefix="udk-test-bytecode-")
        atexit.register(shutil.rmtree, _bytecode_directory, ignore_errors=True)
    return _bytecode_directory


_bytecode_directory = ""


class Done(NamedTuple):
    """A finished command."""

    status: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def error(self) -> str:
        return self.err.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Udk:
    """A caller with the directory ``base`` for its home, its store (unless ``UDK_HOME`` says otherwise) and
    its scratch."""

    def __init__(self, base: Path, python: str = sys.executable) -> None:
        self.base = base
        self.python = python
        self.home = base / "home"
        self.scratch = base / "scratch"
        for path in (self.home, self.scratch):
            path.mkdir(parents=True, exist_ok=True)
        self.env = {
            "HOME": str(self.home), "PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(self.scratch),
            "PYTHONPATH": str(REPOSITORY), "PYTHONPYCACHEPREFIX": _bytecode(),
        }  # fmt: skip

    @property
    def store(self) -> Path:
        return self.home / ".local/share/udk"

    def argv(self, *args: str) -> list[str]:
        return [self.python, "-m", "udk", *args]

    def environ(self, changes: Optional[Mapping[str, Optional[str]]] = None) -> dict[str, str]:
        merged: dict[str, Optional[str]] = {**self.env, **(changes or {})}
        return {k: v for k, v in merged.items() if v is not None}

    def popen(
        self, *args: str, env: Optional[Mapping[str, Optional[str]]] = None, **more: Any
    ) -> subprocess.Popen[bytes]:
        """Starts a command; stdin is empty unless ``stdin`` says otherwise."""
        more.setdefault("stdin", subprocess.DEVNULL)
        more.setdefault("cwd", self.base)
        return subprocess.Popen(self.argv(*args), env=self.environ(env), **more)

    def __call__(
        self,
        *args: str,
        env: Optional[Mapping[str, Optional[str]]] = None,
        input: Optional[bytes] = None,
        timeout: float = 120,
        **more: Any,
    ) -> Done:
        """Runs a command to its end."""
        if input is not None:
            more["stdin"] = subprocess.PIPE
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.PIPE)
        with self.popen(*args, env=env, **more) as process:
            try:
                out, err = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        return Done(process.returncode, out or b"", err or b"")

    def ok(self, *args: str, **more: Any) -> str:
        """The output of a command that must succeed without a word on stderr."""
        done = self(*args, **more)
        assert (done.status, done.error) == (0, ""), (args, done)
        return done.text

    def fails(self, *args: str, status: int = 125, **more: Any) -> str:
        """The one error line of a command that must fail with nothing on stdout."""
        done = self(*args, **more)
        assert done.status == status and done.out == b"", (args, done)
        lines = done.error.splitlines()
        assert len(lines) == 1 and lines[0].startswith("udk: error: "), done.error
        return lines[0]

    def layers(self) -> list[str]:
        """Private layers in the scratch directory."""
        return sorted(n for n in os.listdir(self.scratch) if n.startswith("udk-"))

    def leftovers(self) -> list[str]:
        """What ephemeral runs must not leave: layers, container records, leases."""
        found = self.layers()
        for name in ("containers", "leases"):
            directory = self.store / name
            found += (
                [f"{name}/{n}" for n in os.listdir(directory) if n[0] != "."] if directory.is_dir() else []
            )
        return found


def busybox_layer(extra: Sequence[tuple[str, bytes, int]] = ()) -> bytes:
    """A layer with a static busybox and its applets, users root, ann (1000) and nobody; ``extra``: (path,
    content, mode) of further files."""
    import io
    import tarfile

    program = Path("/bin/busybox").read_bytes()
    applets = (
        subprocess.run(["/bin/busybox", "--list"], stdout=subprocess.PIPE, check=True).stdout.decode().split()
    )
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, content: Optional[bytes] = None, **fields: Any) -> None:
            info = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(info, key, value)
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content) if content is not None else None)

        directories = {
            "bin": 0o755,
            "etc": 0o755,
            "root": 0o700,
            "tmp": 0o1777,
            "home": 0o755,
            "home/ann": 0o755,
        }
        for name, mode in directories.items():
            owner = 1000 if name == "home/ann" else 0
            add(name, type=tarfile.DIRTYPE, mode=mode, uid=owner, gid=owner)
        add("bin/busybox", program, mode=0o755)
        for applet in applets:
            if applet != "busybox":
                add(f"bin/{applet}", type=tarfile.SYMTYPE, linkname="busybox")
        add(
            "etc/passwd",
            b"root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000:Ann:/home/ann:/bin/sh\n",
            mode=0o644,
        )
        add("etc/group", b"root:x:0:\nann:x:1000:\nwheel:x:10:ann\n", mode=0o644)
        add("etc/os-release", b'NAME="test"\n', mode=0o644)
        for path, content, mode in extra:
            add(path, content, mode=mode)
    return out.getvalue()
