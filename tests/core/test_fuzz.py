"""A short run of each fuzzer from its seeds: nothing is found. ``ci/fuzz`` runs them for longer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.core import fuzzing
from tests.support.needs import needs

pytestmark = [needs("clang"), pytest.mark.slow]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return fuzzing.objects(tmp_path_factory.mktemp("fuzz"), fuzzing.SANITIZERS)


@pytest.mark.parametrize("name", fuzzing.FUZZERS)
def test_nothing_is_found(checked: list[str], tmp_path: Path, name: str) -> None:
    """Always the same way, so that a failure is of what was changed; ``UDK_FUZZ_SECONDS`` and another
    ``UDK_SEED``, or ``ci/fuzz``, look further."""
    seconds, seed = os.environ.get("UDK_FUZZ_SECONDS", "5"), os.environ.get("UDK_SEED", "1")
    length = fuzzing.FUZZERS[name].max_len
    program = fuzzing.link(name, checked, fuzzing.SANITIZERS, tmp_path / name)
    corpus = fuzzing.unpack_seeds(name, tmp_path / "corpus")
    assert any(corpus.iterdir())
    done = fuzzing.run(
        program,
        [f"-max_len={length}", f"-max_total_time={seconds}", f"-seed={seed}", str(corpus)],
        tmp_path,
    )
    assert done.returncode == 0, done.stdout[-3000:]


# A bug put into a copy of the source: (file, what is there, what stands there instead). That it is found
# tells that its like would be.
PLANTED = {
    "the kernel follows the last link": (
        "core/calls_open.c",
        "r = sys_openat(dfd, name, (int)flags, mode);",
        "r = sys_openat(dfd, name, (int)flags & ~O_NOFOLLOW, mode);",
    ),
    "no copy-up before a mode is changed": (
        "core/calls_attr.c",
        "return r || p->magic ? r : for_change(c, p);",
        "return r;",
    ),
    "a descriptor is forgotten": (
        "core/union.c",
        "sys_close((int)in);",
        "",
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_found(checked: list[str], tmp_path: Path, bug: str) -> None:
    """From the seeds, within a minute."""
    name, right, wrong = PLANTED[bug]
    source = fuzzing.CSRC / name
    text = source.read_text()
    assert text.count(right) == 1, f"{name} has changed: plant this bug elsewhere"
    planted = tmp_path / source.name
    planted.write_text(text.replace(right, wrong))
    objects = fuzzing.plant(checked, source, planted, tmp_path)
    program = fuzzing.link("calls", objects, fuzzing.SANITIZERS, tmp_path / "calls")
    corpus = fuzzing.unpack_seeds("calls", tmp_path / "corpus")
    length = f"-max_len={fuzzing.FUZZERS['calls'].max_len}"
    done = fuzzing.run(program, [length, "-max_total_time=60", str(corpus)], tmp_path)
    assert done.returncode != 0 and list(tmp_path.glob("crash-*")), done.stdout[-2000:]
