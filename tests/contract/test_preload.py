"""The preload engine where a node refuses all that the others need; what it refuses; what it keeps."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.conftest import Arena, add_libraries
from tests.contract.test_cases import EXPECTED
from tests.support.needs import needs
from tests.support.roots import root_tar
from udk.engines.guard import remove
from udk.engines.preload import PreloadEngine
from udk.runtime.spec import Mount, Root

ENGINE = PreloadEngine()
TOP = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(bool(ENGINE.probe()), reason=f"preload does not work here: {ENGINE.probe()}")

# What the cases themselves need of the node, and there is not.
WITHOUT = {
    "traced_child", "filter_errno", "filter_errno_on_a_path_call", "filter_sees_arguments", "filter_kills",
    "filter_allow_list", "filter_traps",
}  # fmt: skip


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory of this test's own: nothing is known of the node, no code is kept."""
    where = tmp_path / "runtime"
    where.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(where))
    return where


def chosen(launcher: str, mode: str) -> str:
    ask = (
        "from udk.engines.select import choose; from udk.runtime.spec import RunSpec, Root\n"
        "print(choose(RunSpec(argv=('x',), env={}, root=Root(lower=('/',)))).name)"
    )
    return subprocess.run(
        [launcher, mode, sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True, check=True, cwd=TOP
    ).stdout.strip()


def test_it_is_chosen_where_nothing_else_works(launcher: str, runtime: Path) -> None:
    assert chosen(launcher, "nothing") == "preload"


@pytest.mark.slow
@pytest.mark.parametrize("build", ("glibc", "musl"))
def test_a_node_that_refuses_everything(
    arena: Arena, programs: dict[str, str], launcher: str, build: str, runtime: Path
) -> None:
    done = arena.run(ENGINE, programs[build], env={"CONTRACT_FAKE_ROOT": "1"}, launcher=(launcher, "nothing"))
    failed = {line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("FAIL ")}
    assert failed <= WITHOUT | EXPECTED["preload"], done.stdout
    assert " passed, " in done.stdout, done.stdout


@pytest.mark.slow
def test_without_a_place_to_keep_code(
    arena: Arena, programs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/none")
    done = arena.run(ENGINE, programs["glibc"], env={"CONTRACT_FAKE_ROOT": "1"})
    failed = {line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("FAIL ")}
    assert failed <= EXPECTED["preload"], done.stdout
    assert " passed, " in done.stdout, done.stdout


def program(arena: Arena, name: str, text: str, *flags: str) -> str:
    """A C program in the image; its path there."""
    source = arena.where / f"{name}.c"
    source.write_text(text)
    target = arena.root / "opt" / name
    subprocess.run(["gcc", "-w", *flags, str(source), "-o", str(target)], check=True)
    if "-static" not in flags:
        add_libraries(target, arena.root)
    return f"/opt/{name}"


CALLER = r"""
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
int main() {
    long r; const char *path = "/opt/contract";
    __asm__ volatile("syscall" : "=a"(r) : "a"(SYS_access), "D"(path), "S"(0) : "rcx", "r11", "memory");
    printf("%ld %d %ld\n", r, access(path, 0), syscall(SYS_access, path, 0)); return 0;
}
"""
LAYOUTS = {
    "pie": ("-pie", "-fPIE"), "fixed address": ("-no-pie",), "code and constants in one segment":
    ("-Wl,-z,noseparate-code",), "the same at a fixed address": ("-no-pie", "-Wl,-z,noseparate-code"),
    "at a very low address": ("-no-pie", "-Wl,-Ttext-segment=0x10000"), "no frames":
    ("-fno-asynchronous-unwind-tables", "-Wl,--no-eh-frame-hdr"), "large pages":
    ("-Wl,-z,max-page-size=0x200000",),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kept", (True, False))
def test_layouts(arena: Arena, name: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs as linkers of any time have laid them out."""
    if not kept:
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/none")
    path = program(arena, f"layout-{list(LAYOUTS).index(name)}", CALLER, *LAYOUTS[name])
    host = arena.root / path.lstrip("/")
    before = host.read_bytes()
    for _ in range(2):
        done = arena.run(ENGINE, path)
        assert (done.returncode, done.stdout) == (0, "0 0 0\n"), done.stdout
    assert host.read_bytes() == before


PROBE = (
    CALLER[: CALLER.index("int main")]
    + r"""
long probe(const char *path) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(SYS_access), "D"(path), "S"(0) : "rcx", "r11", "memory");
    return r ? r : access(path, 0);
}
"""
)
OPENER = r"""
#include <dlfcn.h>
#include <stdio.h>
int main(int c, char **v) {
    for (int i = 1; i < c; i++) {
        void *l = dlopen(v[i], RTLD_NOW);
        long (*probe)(const char *) = l ? dlsym(l, "probe") : 0;
        printf("%ld\n", probe ? probe("/opt/contract") : -1);
        if (i % 2 && l) dlclose(l); /* the next one may come to the same place */
    }
    return 0;
}
"""
BENT = "-Wl,--section-start=.text=0x100000"  # elsewhere in memory than in the file


def test_kept_layouts(arena: Arena, runtime: Path) -> None:
    """The same, and libraries, as they are kept: nothing is looked at twice, the guest sees no difference."""
    programs = [program(arena, f"kept-{i}", CALLER, *flags) for i, flags in enumerate(LAYOUTS.values())]
    programs.append(program(arena, "kept-bent", CALLER, BENT))
    large = "static const char large[5 << 20] = {1}; const char *all(void) { return large; }"
    libraries = [
        program(arena, f"{name}.so", text, "-shared", "-fPIC", *flags)
        for name, text, flags in (
            ("plain", PROBE, ()), ("one-segment", PROBE, ("-Wl,-z,noseparate-code",)),
            ("bent", PROBE, (BENT,)), ("large", PROBE + large, ()),
            ("large-pages", PROBE, ("-Wl,-z,max-page-size=0x200000",)),
        )
    ]  # fmt: skip
    opener = program(arena, "opener", OPENER, "-ldl")
    time.sleep(3.1)

    def run() -> dict[str, int]:
        for path in programs:
            done = arena.run(ENGINE, path)
            assert (done.returncode, done.stdout) == (0, "0 0 0\n"), (path, done.stdout)
        done = arena.run(ENGINE, opener, *libraries, *libraries)
        assert (done.returncode, done.stdout) == (0, "0\n" * 2 * len(libraries)), done.stdout
        (code,) = (runtime / "udk").glob("code-*")
        return {p.name: p.stat().st_mtime_ns for p in code.iterdir()}

    kept = run()
    assert len(kept) >= len(programs) + len(libraries)
    assert [run() for _ in range(2)] == [kept, kept]


WRITER = (
    '#include <stdio.h>\nint main(int c, char **v) { FILE *f = fopen(v[1], "w"); puts("ran"); return !f; }\n'
)
STARTER = (
    "#include <errno.h>\n#include <stdio.h>\n#include <unistd.h>\n"
    "int main(int c, char **v) { execv(v[1], v + 1); fflush(0); return errno == EACCES ? 42 : 43; }\n"
)


def test_a_static_program_does_nothing_at_all(arena: Arena) -> None:
    """Neither started by udk nor by a program inside: it would have left its mark on the host."""
    static = program(arena, "writer", WRITER, "-static")
    mark = arena.where / "mark"
    done = arena.run(ENGINE, static, str(mark))
    assert done.returncode == 125 and done.stdout.count("\n") == 1, done.stdout
    assert "/opt/writer is a static program" in done.stdout and "namespace" in done.stdout
    starter = program(arena, "starter", STARTER)
    done = arena.run(ENGINE, starter, static, str(mark))
    assert done.returncode == 42 and "/opt/writer is a static program" in done.stdout, done.stdout
    assert "ran" not in done.stdout and not mark.exists()


def test_ldconfig(arena: Arena, tmp_path: Path) -> None:
    """A distribution's is static: ours runs in its place, and the image's own ld.so finds what it found."""
    root, libraries = tmp_path / "root", tmp_path / "root/opt/libs"
    for name in ("sbin", "bin", "proc", "tmp", "etc/ld.so.conf.d", "opt/libs", "opt/more"):
        (root / name).mkdir(parents=True)
    (root / "etc/ld.so.conf").write_text("include ld.so.conf.d/*.conf # all of them\n")
    (root / "etc/ld.so.conf.d/a.conf").write_text("# ours\n\t/opt/libs/ \n/none\n")
    (root / "etc/ld.so.conf.d/b.txt").write_text("/opt/more\n")

    def built(name: str, text: str, *flags: str) -> Path:
        source = tmp_path / "source.c"
        source.write_text(text)
        target = root / name
        subprocess.run(["gcc", "-w", str(source), "-o", str(target), *flags], check=True)
        return target

    built("sbin/ldconfig", WRITER, "-static")
    shared = ("-shared", "-fPIC", "-Wl,-soname,libone.so.1")
    for version in (2, 10):
        built(f"opt/libs/libone.so.1.{version}", f"int version(void) {{ return {version}; }}", *shared)
    built("opt/more/libmore.so", "int more;", "-shared", "-fPIC")
    (libraries / "libone.so").symlink_to("libone.so.1.10")
    (libraries / "liblost.so.1").symlink_to("nowhere")
    whole = (libraries / "libone.so.1.10").read_bytes()
    for name, content in (
        ("libtext.so", b"INPUT(-lc)"),
        ("libcut.so", whole[:100]),
        ("libhole.so", whole[:2000]),
    ):
        (libraries / name).write_bytes(content)
    user = built(
        "bin/user", "int version(void); int main() { return version(); }", str(libraries / "libone.so")
    )
    subprocess.run(["strip", str(user)], check=True)
    add_libraries(user, root)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        mounts = (Mount(kind="proc", target="/proc"),)
        return arena.run(ENGINE, *words, root=Root(lower=(), upper=str(root)), mounts=mounts)

    assert run("/bin/user").returncode == 127
    done = run("/sbin/ldconfig")
    assert (done.returncode, done.stdout) == (0, "")
    assert os.readlink(libraries / "libone.so.1") == "libone.so.1.10"
    assert run("/bin/user").returncode == 10
    listed = {
        line.split()[0]: line.split()[-1] for line in run("/sbin/ldconfig", "-p").stdout.splitlines()[1:]
    }
    assert listed["libone.so.1"] == "/opt/libs/libone.so.1" and listed["libone.so"] == "/opt/libs/libone.so"
    assert not {"libtext.so", "libcut.so", "liblost.so.1", "libmore.so"} & set(listed)
    assert sorted(p.name for p in (root / "etc").iterdir()) == ["ld.so.cache", "ld.so.conf", "ld.so.conf.d"]
    done = run("/sbin/ldconfig", "-z")
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)


def test_a_loader_as_the_program(arena: Arena) -> None:
    """ld.so has no interpreter either, but is not a static program."""
    dynamic = program(arena, "dynamic", '#include <stdio.h>\nint main() { puts("ran"); }\n')
    for loader in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-x86-64.so.2"):
        if (arena.root / loader.lstrip("/")).exists():
            done = arena.run(ENGINE, loader, dynamic)
            assert (done.returncode, done.stdout) == (0, "ran\n")
            return
    pytest.fail("no loader in the image")


COUNT = r"""
#include <stdio.h>
#include <string.h>
int main() {
    char b[4096]; FILE *f = fopen("/proc/self/smaps", "r"); long n = 0, v, whole = 0;
    while (fgets(b, 4096, f)) {
        if (sscanf(b, "Anonymous: %ld", &v) == 1) n += v;
        whole += strstr(b, " r-xp 00000000 ") && (strstr(b, "/libc.so.6") || strstr(b, "/ld-"));
    }
    printf("%ld %ld\n", n, whole);
}
"""


def test_code_is_looked_at_once(arena: Arena, runtime: Path) -> None:
    """The second run finds what the first kept: no file is added or written, pages are shared, libraries have
    headers and code in one mapping; a file that changed is looked at anew."""
    counter = program(arena, "counter", COUNT)
    for path in arena.root.rglob("*"):  # as if the image had been there for a while
        if path.is_file() and not path.is_symlink() and path.stat().st_ctime > time.time() - 3:
            time.sleep(3.1)
            break
    first = arena.run(ENGINE, counter)
    assert first.returncode == 0, first.stdout
    (code,) = (runtime / "udk").glob("code-*")
    kept = {p.name: p.stat().st_mtime_ns for p in code.iterdir()}
    assert len(kept) >= 3 and not any("." in name for name in kept)  # the program, its loader, its library
    second = arena.run(ENGINE, counter)
    assert {p.name: p.stat().st_mtime_ns for p in code.iterdir()} == kept
    sizes, whole = zip(*(map(int, done.stdout.split()) for done in (first, second)))
    assert max(sizes) < 300 and whole[1] == 2, (first.stdout, second.stdout)
    for path in code.iterdir():  # a broken one is no obstacle
        path.write_bytes(b"x" * 100)
    third = arena.run(ENGINE, counter)
    assert third.returncode == 0 and third.stdout.split()[0].isdigit(), third.stdout


def test_nothing_of_it_is_seen(arena: Arena) -> None:
    reader = program(
        arena, "reader",
        '#include <stdio.h>\nint main(int c, char **v) { char b[4096]; FILE *f = fopen(v[1], "r");\n'
        "while (fgets(b, 4096, f)) fputs(b, stdout); }\n",
    )  # fmt: skip
    maps = arena.run(ENGINE, reader, "/proc/self/maps").stdout
    assert "/code-" not in maps and "udk" not in maps and str(arena.root) not in maps, maps
    library = next(line.split()[-1] for line in maps.splitlines() if "/libc" in line)
    st = (arena.root / library.lstrip("/")).stat()
    for line in maps.splitlines():
        if line.endswith(library):
            words = line.split()
            assert int(words[4]) == st.st_ino, line
            assert words[3] == f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}", line
    offsets = [int(line.split()[2], 16) for line in maps.splitlines() if line.endswith(library)]
    assert offsets == sorted(offsets) and offsets[0] == 0, maps


# ---- a distribution -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    where = tmp_path_factory.mktemp("debian")
    root = where / "rootfs"
    root.mkdir()
    tar = root_tar("debian12")
    subprocess.run(
        ["tar", "-xf", str(tar), "-C", str(root), "--exclude=./dev/*", "--no-same-owner"], check=True
    )
    yield Arena(root, where)
    remove([str(root)])


SYSTEM = (
    Mount(kind="proc", target="/proc"),
    Mount(kind="dev", target="/dev"),
    Mount(kind="sys", target="/sys"),
)
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


@pytest.mark.slow
@needs("tar")
def test_debian_where_everything_is_refused(debian: Arena, launcher: str, runtime: Path) -> None:
    def run(*argv: str) -> str:
        done = debian.run(ENGINE, *argv, launcher=(launcher, "nothing"), mounts=SYSTEM, env=ENV)
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert run("python3", "-c", "import ssl, json, ctypes, sqlite3; print(6 * 7)") == "42\n"
    threads = (
        "import threading, subprocess, os\n"
        "def f(i): assert subprocess.run(['sh', '-c', f'exit {i}']).returncode == i\n"
        "all = [threading.Thread(target=f, args=(i,)) for i in range(8)]\n"
        "[t.start() for t in all]; [t.join() for t in all]; print(os.path.exists('/etc/debian_version'))"
    )
    assert run("python3", "-c", threads) == "True\n"
    script = """
        set -e; cat <(echo substituted); useradd -m somebody; id -u somebody
        mkdir -p /tmp/p/DEBIAN /tmp/p/opt; echo x > /tmp/p/opt/file; cd /tmp/p/DEBIAN
        printf 'Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@m>\nDescription: d\n' > control
        dpkg-deb --root-owner-group -b /tmp/p /tmp/p.deb >/dev/null
        dpkg -i /tmp/p.deb >/dev/null; cat /opt/file
        ldd /bin/ls | grep -c libc.so
    """
    assert run("bash", "-c", script).split() == ["substituted", "1000", "x", "1"]
    if (debian.root / "usr/lib/python3/dist-packages/numpy").exists():
        assert run("python3", "-c", "import numpy; print(numpy.arange(4).dot(numpy.arange(4)))") == "14\n"


def test_a_plain_tree(arena: Arena) -> None:
    """No union: what is written is in the tree."""
    starter = program(arena, "plain", WRITER)
    done = arena.run(
        ENGINE, starter, "/tmp/plain-mark", root=Root(lower=(), upper=str(arena.root)), mounts=()
    )
    assert done.returncode == 0 and (arena.root / "tmp/plain-mark").exists(), done.stdout
    (arena.root / "tmp/plain-mark").unlink()
