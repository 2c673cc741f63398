"""The fsspec file system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cvmfs_client.errors import CvmfsError
from tests.cvmfs.conftest import FQRN, TIME, Published

fsspec = pytest.importorskip("fsspec")

from cvmfs_client.filesystem import CvmfsFileSystem  # noqa: E402


@pytest.fixture
def fs(published: Published, tmp_path: Path) -> Iterator[Any]:
    made = CvmfsFileSystem(
        server=published.url, keys=published.public_key, cache=str(tmp_path / "c"), skip_instance_cache=True
    )
    yield made
    for repository in made._repositories.values():
        repository.close()


def test_listing(fs: Any) -> None:
    assert fs.ls(FQRN, detail=False) == sorted(
        f"{FQRN}/{n}" for n in ("README", "big", "bin", "empty", "hard", "links", "nested", "odd", "pipe")
    )
    rows = {row["name"]: row for row in fs.ls(f"cvmfs://{FQRN}/")}
    assert rows[f"{FQRN}/README"]["size"] == 8 and rows[f"{FQRN}/bin"]["type"] == "directory"
    assert rows[f"{FQRN}/pipe"]["type"] == "other"
    assert fs.ls(f"{FQRN}/README", detail=False) == [f"{FQRN}/README"]
    assert fs.glob(f"{FQRN}/nested/*/deep/f*") == [
        f"{FQRN}/nested/alpha/deep/file",
        f"{FQRN}/nested/beta/deep/file",
    ]
    assert f"{FQRN}/bin/tool" in fs.find(f"{FQRN}/bin")
    assert len(list(fs.walk(f"{FQRN}/nested"))) == 5


def test_reading(fs: Any, published: Published) -> None:
    big = (published.tree / "big").read_bytes()
    assert fs.cat(f"{FQRN}/README") == b"read me\n"
    assert fs.cat_file(f"{FQRN}/big", 65_530, 65_540) == big[65_530:65_540]
    assert fs.cat_file(f"{FQRN}/big", -5) == big[-5:]
    assert fs.tail(f"{FQRN}/big", 3) == big[-3:]
    with fs.open(f"{FQRN}/README", "r") as f:
        assert f.read() == "read me\n"
    with fs.open(f"/cvmfs/{FQRN}/big") as f:
        f.seek(1000)
        assert f.read(4) == big[1000:1004]
    assert fs.size(f"{FQRN}/big") == len(big)
    assert fs.head(f"{FQRN}/big", 4) == big[:4]


def test_attributes(fs: Any) -> None:
    assert fs.isdir(f"{FQRN}/bin") and fs.isfile(f"{FQRN}/README") and not fs.exists(f"{FQRN}/none")
    info = fs.info(f"{FQRN}/links/chain")
    assert info["islink"] and info["type"] == "file" and info["destination"] == "relative"
    assert fs.info(f"{FQRN}/links/dangling")["type"] == "link"
    assert fs.modified(f"{FQRN}/README").timestamp() == TIME
    assert fs.ukey(f"{FQRN}/hard/a") == fs.ukey(f"{FQRN}/hard/b") != fs.ukey(f"{FQRN}/README")


def test_copying_out(fs: Any, published: Published, tmp_path: Path) -> None:
    fs.get(f"{FQRN}/nested", str(tmp_path / "nested"), recursive=True)
    assert (tmp_path / "nested" / "beta" / "deep" / "file").read_text() == "deep in beta\n"


def test_writing_is_refused(fs: Any) -> None:
    with pytest.raises(OSError) as caught:
        fs.open(f"{FQRN}/new", "wb")
    assert isinstance(caught.value, CvmfsError) and caught.value.errno == 30
    with pytest.raises(FileNotFoundError):
        fs.open(f"{FQRN}/none")


def test_the_entry_point(published: Published, tmp_path: Path) -> None:
    """What pyproject.toml declares loads, and gives the class for URLs."""
    import re

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    target = re.search(r'"fsspec.specs"\]\s*cvmfs = "([\w.]+):(\w+)"', text)
    assert target is not None and target.groups() == ("cvmfs_client.filesystem", "CvmfsFileSystem")
    fsspec.register_implementation("cvmfs", CvmfsFileSystem, clobber=True)
    options = {"server": published.url, "keys": published.public_key, "cache": str(tmp_path / "c")}
    with fsspec.open(f"cvmfs://{FQRN}/README", **options) as f:
        assert f.read() == b"read me\n"
    assert os.path.isdir(tmp_path / "c")
