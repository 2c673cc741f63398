"""A repository whose owner means harm: signed properly, and full of traps."""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cvmfs_client import CvmfsError, Repository
from cvmfs_client.copying import Copier
from cvmfs_client.errors import CatalogError, IntegrityError, PathNotFoundError, UnsupportedError
from cvmfs_client.export import Exporter, Rule
from cvmfs_client.hash import SHA1, Hash
from cvmfs_client.manifest import parse_manifest
from cvmfs_client.publish import RepositoryKeys
from tests.cvmfs.catalogmaker import key
from tests.cvmfs.conftest import FQRN, Published

QUICK = {"CVMFS_TIMEOUT": "2", "CVMFS_TIMEOUT_DIRECT": "2", "CVMFS_MAX_RETRIES": "0", "CVMFS_PREFETCH": "no"}


def store(published: Published, data: bytes, suffix: str = "", *, compress: bool = True) -> Hash:
    """Puts an object on the server."""
    stored = zlib.compress(data) if compress else data
    identity = Hash.of(SHA1, stored, suffix)
    place = published.directory / identity.path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(stored)
    return identity


def forge(published: Published, *statements: Any, root: bytes | None = None) -> None:
    """Changes the root catalog by SQL and signs the result, as the repository's owner can."""
    text = (published.directory / ".cvmfspublished").read_bytes()
    manifest = parse_manifest(text, FQRN)
    data = root
    if data is None:
        data = zlib.decompress((published.directory / manifest.catalog.path).read_bytes())
        place = published.directory.parent / "edited.db"
        place.write_bytes(data)
        db = sqlite3.connect(place, isolation_level=None)
        for statement in statements:
            if isinstance(statement, str):
                db.execute(statement)
            else:
                db.execute(*statement)
        db.close()
        data = place.read_bytes()
    identity = store(published, data, "C")
    lines = text.partition(b"\n--\n")[0].split(b"\n")
    changed = [
        b"C" + str(identity).encode()
        if line[:1] == b"C"
        else b"B%d" % len(data)
        if line[:1] == b"B"
        else line
        for line in lines
    ]
    keys = RepositoryKeys.load(str(published.keys), FQRN)
    (published.directory / ".cvmfspublished").write_bytes(keys.sign_manifest(b"\n".join(changed) + b"\n"))


def where(path: bytes) -> str:
    return "WHERE md5path_1={} AND md5path_2={}".format(*key(path))


@pytest.fixture
def victim(own_published: Published, tmp_path: Path) -> Callable[..., Repository]:
    opened: list[Repository] = []

    def open_it(**more: Any) -> Repository:
        repo = own_published.open(tmp_path / "c", config={**QUICK, **more})
        opened.append(repo)
        return repo

    yield open_it  # type: ignore[misc]
    for repo in opened:
        repo.close()


Victim = Callable[..., Repository]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/b", "..", ".", "", "nul\0"])
def test_names_that_climb_out(own_published: Published, victim: Victim, tmp_path: Path, name: str) -> None:
    forge(own_published, (f"UPDATE catalog SET name=? {where(b'/README')}", (name,)))
    repo = victim()
    with pytest.raises(CatalogError):
        repo.listdir("/")
    with pytest.raises(CatalogError):
        repo.stat("/README")
    target = tmp_path / "inner" / "out"
    target.parent.mkdir()
    before = set(tmp_path.rglob("*evil*"))
    assert Exporter(repo, target).run([Rule("tree", b"")]).errors
    copier = Copier(repo)
    real, entry = repo.view.resolve(b"/")
    copier.copy(real, entry, str(tmp_path / "copy"))
    assert copier.errors
    assert set(tmp_path.rglob("*evil*")) == before
    # elsewhere nothing suffers
    assert repo.read("/bin/tool")[:4] == b"\x7fELF"
    assert repo.listdir("/nested")


def test_a_link_and_a_directory_of_one_name(own_published: Published, victim: Victim, tmp_path: Path) -> None:
    """The classic way out of an extraction: a link first, then files below it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    columns = "parent_1, parent_2, hardlinks, size, mode, mtime, flags, name, symlink, uid, gid"
    values = f"SELECT {columns.replace('name, symlink', 'name, ?')} FROM catalog {where(b'/hard')}"
    forge(
        own_published,
        (
            f"INSERT INTO catalog (md5path_1, md5path_2, {columns}) SELECT 1, 2, * FROM ({values})",
            (str(outside),),
        ),
        f"UPDATE catalog SET mode={0o120777}, flags=12 WHERE md5path_1=1",
    )
    repo = victim()
    assert Exporter(repo, tmp_path / "out").run([Rule("tree", b"")]).errors
    copier = Copier(repo)
    copier.copy(*repo.view.resolve(b"/"), str(tmp_path / "copy"))
    assert copier.errors
    assert list(outside.iterdir()) == []


def test_files_below_a_link(own_published: Published, victim: Victim, tmp_path: Path) -> None:
    """A directory that becomes a link in the catalog while its children stay."""
    outside = tmp_path / "outside"
    outside.mkdir()
    forge(
        own_published,
        (f"UPDATE catalog SET mode={0o120777}, flags=12, symlink=? {where(b'/hard')}", (str(outside),)),
    )
    repo = victim()
    Exporter(repo, tmp_path / "out").run(
        [Rule("tree", b""), Rule("path", b"/hard/a"), Rule("tree", b"/hard")]
    )
    Copier(repo).copy(*repo.view.resolve(b"/"), str(tmp_path / "copy"))
    assert list(outside.iterdir()) == []
    with pytest.raises(PathNotFoundError, match="leads out"):
        repo.listdir("/hard")


def test_a_decompression_bomb(own_published: Published, victim: Victim, tmp_path: Path) -> None:
    """The right hash, a hundred thousand times the size that the catalog says: stopped early."""
    bomb = zlib.compress(bytes(200 << 20), 9)
    identity = Hash.of(SHA1, bomb)
    place = own_published.directory / identity.path
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(bomb)
    forge(own_published, (f"UPDATE catalog SET hash=? {where(b'/README')}", (identity.digest,)))
    repo = victim()
    with pytest.raises(IntegrityError):
        repo.read("/README")
    used = sum(p.stat().st_blocks * 512 for p in (tmp_path / "c").rglob("*") if p.is_file())
    assert used < 4 << 20
    assert repo.read("/hard/a") == b"same\n"


@pytest.mark.parametrize("size", [0, 7, 9, 1 << 40])
def test_sizes_that_lie(own_published: Published, victim: Victim, size: int) -> None:
    forge(own_published, f"UPDATE catalog SET size={size} {where(b'/README')}")
    repo = victim()
    assert repo.stat("/README").st_size == size
    if size:
        with pytest.raises(IntegrityError):
            repo.read("/README")
    else:
        assert repo.read("/README") == b""


def test_chunks_that_lie(own_published: Published, victim: Victim) -> None:
    """A chunk longer or shorter than its row is an error of its bytes only."""
    where_chunk = where(b"/big") + " AND offset=65536"
    forge(
        own_published,
        f"UPDATE chunks SET hash=(SELECT hash FROM chunks {where(b'/big')} AND offset=393216) {where_chunk}",
    )
    repo = victim()
    with repo.open("/big", buffering=0) as f:
        assert len(f.read(65536)) == 65536  # type: ignore[arg-type]
        with pytest.raises(IntegrityError):
            f.read(10)
        f.seek(131072)
        assert f.read(4) == (32768).to_bytes(4, "little")


def test_unknown_compression_and_hash(own_published: Published, victim: Victim) -> None:
    forge(
        own_published,
        f"UPDATE catalog SET flags=flags | {3 << 11} {where(b'/README')}",
        f"UPDATE catalog SET flags=flags | {7 << 8} {where(b'/bin/tool')}",
    )
    repo = victim()
    with pytest.raises(UnsupportedError) as caught:
        repo.read("/README")
    assert caught.value.errno == 5
    with pytest.raises(CvmfsError):
        repo.read("/bin/tool")
    assert repo.read("/hard/a") == b"same\n"


@pytest.mark.parametrize("what", ["text", "empty", "truncated", "other database"])
def test_root_catalogs_that_are_none(
    own_published: Published, victim: Victim, tmp_path: Path, what: str
) -> None:
    data = {
        "text": b"no database at all" * 100,
        "empty": b"",
        "truncated": b"SQLite format 3\0" + bytes(500),
    }.get(what)
    if data is None:
        place = tmp_path / "other.db"
        db = sqlite3.connect(place)
        db.execute("CREATE TABLE other (a)")
        db.commit()
        db.close()
        data = place.read_bytes()
    forge(own_published, root=data)
    with pytest.raises(CatalogError) as caught:
        victim()
    assert caught.value.status == 16


def test_a_nested_catalog_of_a_wrong_size(own_published: Published, victim: Victim) -> None:
    forge(own_published, "UPDATE nested_catalogs SET size=size+1")
    repo = victim()
    assert repo.read("/README") == b"read me\n"
    with pytest.raises(IntegrityError):
        repo.listdir("/nested")


def test_a_revision_bomb_of_names(own_published: Published, victim: Victim) -> None:
    """A directory of very many entries is read in bounded memory, and lookups in it are quick."""
    import tracemalloc

    names = [f"{i:09}" for i in range(30_000)]
    rows = [(*key(b"/odd/" + n.encode()), *key(b"/odd"), n) for n in names]
    text = (own_published.directory / ".cvmfspublished").read_bytes()
    manifest = parse_manifest(text, FQRN)
    place = own_published.directory.parent / "big.db"
    place.write_bytes(zlib.decompress((own_published.directory / manifest.catalog.path).read_bytes()))
    db = sqlite3.connect(place)
    db.executemany(
        "INSERT INTO catalog (md5path_1, md5path_2, parent_1, parent_2, hardlinks, size, mode, mtime, flags, "
        "name, symlink, uid, gid) VALUES (?, ?, ?, ?, 1, 0, 33188, 0, 4, ?, '', 0, 0)",
        rows,
    )
    db.commit()
    db.close()
    forge(own_published, root=place.read_bytes())
    repo = victim()
    tracemalloc.start()
    with repo.scandir("/odd") as entries:
        count = sum(1 for _ in entries)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 30_006 and peak < 4_000_000
    assert repo.stat("/odd/000029999").st_size == 0
    assert len(repo.listdir("/odd")) == 30_006


def test_links_to_everywhere(own_published: Published, victim: Victim) -> None:
    forge(
        own_published,
        (f"UPDATE catalog SET symlink=? {where(b'/links/relative')}", ("../" * 50 + "README",)),
        (f"UPDATE catalog SET symlink=? {where(b'/links/chain')}", ("chain/" * 2000,)),
        (f"UPDATE catalog SET symlink=? {where(b'/links/absolute')}", (f"/cvmfs/{FQRN}/../../etc/passwd",)),
    )
    repo = victim()
    assert repo.read("/links/relative") == b"read me\n"  # the root is its own parent
    with pytest.raises(CvmfsError):
        repo.read("/links/chain")
    with pytest.raises(PathNotFoundError):
        repo.read("/links/absolute")


def test_extended_attributes_that_are_none(own_published: Published, victim: Victim, tmp_path: Path) -> None:
    forge(own_published, (f"UPDATE catalog SET xattr=? {where(b'/README')}", (b"\x01\xffshort",)))
    repo = victim()
    assert repo.read("/README") == b"read me\n"
    with pytest.raises(CatalogError):
        repo.listxattr("/README")
    result = Exporter(repo, tmp_path / "out").run([Rule("path", b"/README"), Rule("tree", b"/bin")])
    assert [p for p, _ in result.errors] == ["/README"]
    assert os.path.exists(tmp_path / "out" / FQRN / "bin" / "tool")


def test_a_history_that_is_none(own_published: Published, victim: Victim) -> None:
    text = (own_published.directory / ".cvmfspublished").read_bytes()
    identity = store(own_published, b"not a database", "H")
    lines = text.partition(b"\n--\n")[0].split(b"\n")
    changed = [b"H" + str(identity).encode() if line[:1] == b"H" else line for line in lines]
    keys = RepositoryKeys.load(str(own_published.keys), FQRN)
    (own_published.directory / ".cvmfspublished").write_bytes(keys.sign_manifest(b"\n".join(changed) + b"\n"))
    repo = victim()
    with pytest.raises(CatalogError):
        repo.tags()
    assert repo.read("/README") == b"read me\n"
