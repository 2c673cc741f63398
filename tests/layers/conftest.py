"""The place that hostile layers are tried in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.layers.hostile import remove, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Path]:
    """Where the tree goes; beside it ``outside/secret`` and ``outside/dir/file`` to protect."""
    where = tmp_path / "protected"
    (where / "outside/dir").mkdir(parents=True)
    (where / "outside/secret").write_text("secret")
    (where / "outside/dir/file").write_text("file")
    # What absolute links from inside mean on the host: never followed.
    tree = where / "tree"
    before = snapshot(where, tree)
    yield tree
    remove(tree)  # some are deeper than what removes pytest's directories can go
    assert snapshot(where, tree) == before
