"""The contract: what every engine must do alike, judged by one program of many cases inside a container."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.support.needs import apptainer, find
from udk.engines.base import Engine
from udk.engines.guard import spawn
from udk.engines.select import by_name, probe
from udk.layers.index import has_index, write_index
from udk.layers.record import RecordWriter
from udk.runtime.spec import Identity, Mount, Root, RunSpec

PATIENCE = 250  # seconds for one run of the cases
ENGINES = ("namespace", "trap", "P1", "P2", "preload", "runc", "singularity")
CASES = sorted((Path(__file__).parent / "cases").glob("*.c"))

# name -> compiler and its arguments; the dynamic ones bring their interpreter and libraries along
BUILDS: Mapping[str, tuple[str, ...]] = {
    "glibc": ("gcc", "-pie", "-fPIE"),
    "static": ("gcc", "-static"),
    "static-pie": ("gcc", "-static-pie"),
    "musl": ("musl-gcc", "-pie", "-fPIE"),
    "musl-static": ("musl-gcc", "-static"),
    "i386": ("i686-linux-gnu-gcc", "-static", "-D_FILE_OFFSET_BITS=64"),
}


def build(name: str, where: Path) -> Optional[Path]:
    """The cases as a program, or None where the compiler is missing."""
    compiler, *flags = BUILDS[name]
    if not find(compiler):
        return None
    target = where / name / "cases"
    target.parent.mkdir(parents=True)
    headers = []
    if compiler == "musl-gcc":  # has no kernel headers of its own
        include = where / name / "include"
        include.mkdir()
        for sub in ("linux", "asm", "asm-generic"):
            real = Path("/usr/include") / sub
            if not real.exists():
                real = Path(f"/usr/include/{os.uname().machine}-linux-gnu") / sub
            (include / sub).symlink_to(real)
        headers = ["-idirafter", str(include)]
    subprocess.run(
        [compiler, "-w", "-pthread", *flags, *headers, *map(str, CASES), "-o", str(target)], check=True
    )
    return target


def add_libraries(program: Path, root: Path) -> None:
    """Copies what a dynamic program needs to the same paths below ``root``."""
    text = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
    interpreter = subprocess.run(
        ["readelf", "-lW", str(program)], capture_output=True, text=True, check=True
    ).stdout
    wanted = {word for word in text.split() if word.startswith("/") and os.path.exists(word)}
    if "ld-musl" in interpreter:  # is the library too; glibc's ldd does not know
        wanted = set()
    wanted |= {w.rstrip("]") for w in interpreter.split() if w.startswith("/lib") and w.endswith("]")}
    for path in wanted:
        target = root / path.lstrip("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(path), target)


def make_lower(root: Path) -> None:
    """The image that ``union.c``, ``image.c`` and ``listing.c`` of ``cases`` describe."""
    for name in ("etc", "tmp", "proc", "dev", "sys", "opt/contract"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    files = {
        "dir/one": "1", "dir/two": "2", "dir/sub/deep": "deep", "file": "lower", "ro": "ro", "tree/x": "x",
        "tree/sub/y": "y", "ren/a": "a", "ren/b": "b", "ren/e": "e", "ren/sub/z": "z", "hard": "hard",
        "fds/f": "ff", "fds/g": "g", "fds/h": "h", "map": "mapp", "cwd/f": "f", "race": "race", "xattr": "x",
        "special/lowerfile": "s", "owned": "o", "bound": "not bound", "gone/deep/f": "f", "joined": "j",
    }  # fmt: skip
    files.update({f"many/lower{i}": "" for i in range(200)})
    files = {f"lower/{name}": text for name, text in files.items()}
    known = ("tree/x", "tree/sub/y", "dir/two", "dir/sub/deep", "chain/third", "kinds/file", "kinds/dir/in")
    files.update({f"image/{name}": name for name in known})
    many = [f"{where}/{i}" for where in ("many", "gone") for i in range(200)]
    files.update({f"image/{name}": "" for name in ("hard", "ro", *many)})
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "lower/link").symlink_to("file")
    (root / "lower/kept-link").symlink_to("file")
    (root / "lower/empty").mkdir()
    os.link(root / "lower/hard", root / "lower/hard2")
    (root / "lower/ro").chmod(0o444)
    (root / "image/link").symlink_to("tree")
    links = {"first": "second", "second": "third", "out": "../hard", "none": "nothing", "self": "self"}
    for name, target in links.items():
        (root / "image/chain" / name).symlink_to(target)
    (root / "image/kinds/link").symlink_to("file")
    os.link(root / "image/hard", root / "image/hard2")
    (root / "image/ro").chmod(0o444)


def add_copies(program: Path) -> None:
    """What ``programs.c`` of ``cases`` describes."""
    for n in range(7):
        place = program.parent / f"run-{n}"
        place.mkdir()
        for name, mark in (("one", b"1"), ("two", b"2")):
            if n:
                os.link(program.parent / "run-0" / name, place / name)
            else:
                (place / name).write_bytes(program.read_bytes().replace(b"MARK:0", b"MARK:" + mark))
                (place / name).chmod(0o755)
        (place / "now").symlink_to("one")
    (program.parent / "again").symlink_to("run-0")
    (program.parent / "later").symlink_to("run-4")
    (program.parent / "links").mkdir()
    (program.parent / "links/now").symlink_to("../run-4/one")


class Arena:
    """An image with the cases, and a way to run them by an engine."""

    def __init__(self, root: Path, where: Path) -> None:
        self.root, self.image, self.where = root, root.parent, where
        RecordWriter(f"{self.image}/record").close()
        for name, text in (("bind/file", "bind"), ("nested/file", "nested"), ("ro/file", "ro")):
            path = where / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (where / "bind" / "nested").mkdir()

    def mounts(self) -> tuple[Mount, ...]:
        bind, nested = str(self.where / "bind"), str(self.where / "nested")
        return (
            Mount(kind="proc", target="/proc"),
            Mount(kind="dev", target="/dev"),
            Mount(kind="sys", target="/sys"),
            Mount(source=bind, target="/rw"),
            Mount(source=nested, target="/rw/nested"),
            Mount(source=str(self.where / "ro"), target="/ro", readonly=True),
            Mount(source=f"{bind}/file", target="/lower/bound", is_dir=False),
        )

    def records(self) -> tuple[str]:
        """As the store would make it: nothing in the record, beside it the index of what is there now."""
        if not has_index(str(self.image)):
            write_index(str(self.image))
        return (f"{self.image}/record",)

    def spec(self, *argv: str, **changes: Any) -> RunSpec:
        home = self.where / uuid.uuid4().hex[:8]
        for name in ("upper", "work"):
            (home / name).mkdir(parents=True)
        fixed: dict[str, Any] = {
            "root": Root(
                lower=(str(self.root),), upper=f"{home}/upper", work=f"{home}/work",
                changes=f"{home}/changes", records=self.records(), volatile=True,
            ),
            "mounts": self.mounts(),
            "env": {"PATH": "/bin:/opt/contract", **changes.pop("env", {})},
            "cookie": uuid.uuid4().hex[:16],
            "identity": Identity(),
            "cleanup": (str(home),),
        }  # fmt: skip
        return RunSpec(argv=argv, **{**fixed, **changes})

    def run(self, engine: Engine, *argv: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        launcher = changes.pop("launcher", ())
        pass_fds = changes.pop("pass_fds", ())
        spec = self.spec(*argv, **changes)
        options: dict[str, Any] = {
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True,
            "errors": "replace",
        }  # fmt: skip
        if launcher:
            command = [*launcher, sys.executable, "-m", "tests.contract.start", engine.name]
            del options["stdin"]
            return subprocess.run(command, **options, input=spec.to_json(), check=False, timeout=PATIENCE)
        guard = spawn(spec, engine.launch(spec), pass_fds=pass_fds, **options)
        out, _ = guard.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(argv, guard.returncode, out, "")


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    where = tmp_path_factory.mktemp("contract")
    root = where / "image/rootfs"
    root.mkdir(parents=True)
    make_lower(root)
    return Arena(root, where)


@pytest.fixture(scope="session")
def programs(arena: Arena, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The builds of the cases: name -> path inside."""
    where = tmp_path_factory.mktemp("builds")
    made = {}
    for name in BUILDS:
        program = build(name, where)
        if program is None:
            continue
        target = arena.root / "opt/contract" / name / "cases"
        target.parent.mkdir()
        shutil.copy(program, target)
        add_copies(target)
        add_libraries(program, arena.root)
        made[name] = f"/opt/contract/{name}/cases"
    return made


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """``launcher MODE PROGRAM...``: a program that makes this node worse, see ``launcher.c``."""
    target = tmp_path_factory.mktemp("launcher") / "launcher"
    subprocess.run(
        ["gcc", "-O1", "-Wall", "-Werror", str(Path(__file__).parent / "launcher.c"), "-o", str(target)],
        check=True,
    )
    return str(target)


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    chosen = by_name(request.param)
    if request.param == "singularity":
        os.environ["UDK_SINGULARITY"] = apptainer()
    reason = probe(chosen, fresh=True)
    if reason:
        if os.environ.get("UDK_CI") == "1":
            pytest.fail(f"{request.param}: {reason}")
        pytest.skip(f"{request.param} does not work here: {reason}")
    yield chosen
