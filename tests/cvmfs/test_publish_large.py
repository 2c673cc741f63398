"""A tree of 50,000 files: published, read back through the client, and published again after one change."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest

from cvmfs_client.publish import RepositoryKeys, publish
from cvmfs_client.repository import Repository
from tests.cvmfs.test_publish import FQRN, age
from tests.support.webserver import WebServer

_FILES = 50_000


def make_large_tree(top: Path, files: int = _FILES) -> None:
    """Packages of 25 files each, five levels; a tenth of the contents occurs more than once."""
    generator = random.Random(7)
    noise = generator.randbytes(1 << 16)
    for start in range(0, files, 25):
        a, b, c = start // 25 % 10, start // 250 % 20, start // 5000
        directory = top / f"arch{a}" / f"group{b}" / f"package{c}-{start}"
        directory.mkdir(parents=True)
        for i in range(start, min(start + 25, files)):
            size = generator.randrange(10, 200)
            at = generator.randrange(len(noise) - size)
            content = b"shared" if i % 10 == 0 else noise[at : at + size] + b"%d" % i
            with open(directory / f"file{i}", "wb") as file:
                file.write(content)
        os.symlink(f"file{start}", directory / "link")


@pytest.mark.slow
def test_fifty_thousand_files(tmp_path: Path) -> None:
    tree, web, keys = tmp_path / "tree", tmp_path / "web", tmp_path / "keys"
    make_large_tree(tree)
    age(tree)
    RepositoryKeys.create(str(keys), FQRN)
    first = publish(str(tree), str(web / FQRN), fqrn=FQRN, keys=str(keys))
    assert first.entries >= _FILES and first.read_files == _FILES
    assert first.new_catalogs > 3

    changed = next(p for p in tree.rglob("file12345"))
    changed.write_bytes(b"changed")
    second = publish(str(tree), str(web / FQRN), fqrn=FQRN, keys=str(keys))
    assert second.read_files == 1
    # the file, its catalog, the root catalog, the tag database
    assert (second.new_catalogs, second.new_objects) == (2, 4)
    assert second.new_bytes < first.new_bytes / 5

    with WebServer(web) as server:
        with Repository(
            FQRN,
            server=f"{server.url}/{FQRN}",
            keys=str(keys / f"{FQRN}.pub"),
            proxy="DIRECT",
            cache=str(tmp_path / "c"),
        ) as repository:
            seen = 0
            for directory, names, files in repository.walk("/"):
                local = str(tree) + directory.rstrip("/")
                found = {e.name: e.stat(follow_symlinks=False) for e in os.scandir(local)}
                assert set(found) == {*names, *files}
                for name, status in found.items():
                    shown = repository.lstat(f"{directory.rstrip('/')}/{name}")
                    assert (shown.st_mode, shown.st_mtime_ns) == (status.st_mode, status.st_mtime_ns)
                    if not stat.S_ISDIR(status.st_mode):
                        assert shown.st_size == status.st_size
                    seen += 1
            assert seen >= _FILES
            paths = [
                str(p.relative_to(tree)) for p in random.Random(1).sample(sorted(tree.rglob("file*")), 3000)
            ]
            summary = repository.prefetch(["/" + p for p in paths])
            assert summary["files"] == 3000
            for path in [*paths, str(changed.relative_to(tree))]:
                assert repository.read("/" + path) == (tree / path).read_bytes()
