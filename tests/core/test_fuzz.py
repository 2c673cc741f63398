"""A short run of each fuzzer from its seeds: nothing is found. ``ci/fuzz`` runs them for longer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.core import fuzzing
from tests.support.needs import needs

pytestmark = [needs("clang"), pytest.mark.slow]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return fuzzing.objects(tmp_path_factory.mktemp("fuzz"), fuzzing.SANITIZERS)


def run(program: Path, args: list[str], scratch: Path) -> subprocess.CompletedProcess[str]:
    done = fuzzing.run(program, args, scratch)
    if done.returncode == fuzzing.CANNOT:
        missing = done.stdout.strip()
        pytest.fail(missing) if os.environ.get("UDK_CI") == "1" else pytest.skip(missing)
    return done


@pytest.mark.parametrize("name", fuzzing.FUZZERS)
def test_nothing_is_found(checked: list[str], tmp_path: Path, name: str) -> None:
    """Always the same way, so that a failure is of what was changed; ``UDK_FUZZ_SECONDS`` and another
    ``UDK_SEED``, or ``ci/fuzz``, look further."""
    seconds, seed = os.environ.get("UDK_FUZZ_SECONDS", "5"), os.environ.get("UDK_SEED", "1")
    length = fuzzing.FUZZERS[name].max_len
    program = fuzzing.link(name, checked, fuzzing.SANITIZERS, tmp_path / name)
    corpus = fuzzing.unpack_seeds(name, tmp_path / "corpus")
    assert any(corpus.iterdir())
    args = [f"-max_len={length}", f"-max_total_time={seconds}", f"-seed={seed}", str(corpus)]
    done = run(program, args, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]


# A bug put into a copy of the source: (fuzzer, file, what is there, what stands there instead). That it is
# found tells that its like would be. Each is for another of the fuzzers' checks.
PLANTED = {
    "the kernel follows the last link": (
        "calls",
        "core/calls_open.c",
        "r = sys_openat(dfd, name, (int)flags, mode);",
        "r = sys_openat(dfd, name, (int)flags & ~O_NOFOLLOW, mode);",
    ),
    "no copy-up before a mode is changed": (
        "calls",
        "core/calls_attr.c",
        "return r || p->magic ? r : for_change(c, p);",
        "return r;",
    ),
    "a descriptor is forgotten": (
        "calls",
        "core/union.c",
        "sys_close((int)in);",
        "",
    ),
    "a directory is remembered as the image's alone": (
        "calls",
        "core/union.c",
        "changed(c->core);",
        "",
    ),
    "a removed name is still remembered": (
        "calls",
        "core/cache.c",
        "\t\tchanged(k);",
        "\t\t;",
    ),
    "memory is used that nobody wrote": (
        "calls",
        "core/walk.c",
        "w.keep = r >= 0 && w.keep",
        "w.keep = w.keep",
    ),
    "an owner is lost when the file is moved": (
        "identity",
        "core/calls_identity.c",
        "\tif (marked && (found || !only_in_upper))\n",
        "\tif (0)\n",
    ),
    "a descriptor of a file makes it one's own": (
        "identity",
        "core/calls_identity.c",
        " || flags & O_PATH",
        "",
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_found(checked: list[str], tmp_path: Path, bug: str) -> None:
    """From the seeds, within a minute."""
    fuzzer, name, right, wrong = PLANTED[bug]
    source = fuzzing.CSRC / name
    text = source.read_text()
    assert text.count(right) == 1, f"{name} has changed: plant this bug elsewhere"
    planted = tmp_path / source.name
    planted.write_text(text.replace(right, wrong))
    objects = fuzzing.plant(checked, source, planted, tmp_path)
    program = fuzzing.link(fuzzer, objects, fuzzing.SANITIZERS, tmp_path / fuzzer)
    corpus = fuzzing.unpack_seeds(fuzzer, tmp_path / "corpus")
    length = f"-max_len={fuzzing.FUZZERS[fuzzer].max_len}"
    done = run(program, [length, "-max_total_time=60", str(corpus)], tmp_path)
    assert done.returncode != 0 and list(tmp_path.glob("crash-*")), done.stdout[-2000:]
