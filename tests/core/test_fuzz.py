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
    """``UDK_FUZZ_SECONDS`` makes it longer."""
    seconds = os.environ.get("UDK_FUZZ_SECONDS", "5")
    program = fuzzing.link(name, checked, fuzzing.SANITIZERS, tmp_path / name)
    corpus = fuzzing.unpack_seeds(name, tmp_path / "corpus")
    assert any(corpus.iterdir())
    done = fuzzing.run(
        program,
        [f"-max_len={fuzzing.FUZZERS[name].max_len}", f"-max_total_time={seconds}", str(corpus)],
        tmp_path,
    )
    assert done.returncode == 0, done.stdout[-3000:]
