"""What the publisher writes, read back by an independent reader and checked with independent cryptography."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

from cvmfs_client.errors import ConfigError, UsageError
from cvmfs_client.publish import Options, PublishError, RepositoryKeys, publish
from tests.cvmfs import plainreader

FQRN = "sw.example.org"
OLD = 1_600_000_000


def make_tree(top: Path, seed: int = 1) -> None:
    """A small tree with every kind of entry an ordinary user can make."""
    generator = random.Random(seed)
    top.mkdir()
    for i in range(6):
        directory = top / f"dir{i}"
        directory.mkdir()
        for j in range(8):
            (directory / f"file{j}").write_bytes(generator.randbytes(generator.randrange(3000)))
    (top / "nested" / "deep").mkdir(parents=True)
    (top / "nested" / ".cvmfscatalog").touch()
    (top / "nested" / "deep" / "text").write_text("hello\n" * 1000)
    (top / "empty").touch()
    (top / "big").write_bytes(generator.randbytes(50_000) + bytes(50_000))
    os.symlink("dir1/file2", top / "link")
    os.symlink("$(ARCH:-x86_64)/bin", top / "variant")
    os.mkfifo(top / "pipe")
    os.link(top / "dir0" / "file0", top / "dir0" / "same")
    os.link(top / "dir0" / "file1", top / "dir1" / "elsewhere")
    with open(os.fsencode(top) + b"/odd\xff \n name", "wb") as file:
        file.write(b"odd")
    os.chmod(top / "dir2" / "file0", 0o4751)
    try:
        os.setxattr(top / "dir3" / "file0", "user.colour", b"blue")
    except OSError:
        pass
    age(top)


def age(top: Path, when: int = OLD) -> None:
    """Moves all times into the past, so that nothing looks as if it were changed during publication."""
    for directory, _, files in os.walk(os.fsencode(top), topdown=False):
        for name in [*files, b"."]:
            ns = when * 10**9 + 123456789
            os.utime(os.path.join(directory, name), ns=(ns, ns), follow_symlinks=False)


def assert_equal(top: Path, found: dict[bytes, dict[str, Any]], *, hidden: int = 0) -> None:
    seen = {b""}
    root = os.fsencode(top)
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            entry = found[path[len(root) :]]
            seen.add(path[len(root) :])
            assert entry["mode"] == st.st_mode
            assert entry["mtime_ns"] == st.st_mtime_ns
            assert (entry["uid"], entry["gid"]) == (st.st_uid, st.st_gid)
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as file:
                    assert entry["content"] == file.read()
            elif stat.S_ISLNK(st.st_mode):
                assert entry["link"] == os.readlink(path)
                assert entry["size"] == len(entry["link"])
            elif stat.S_ISDIR(st.st_mode):
                assert entry["nlink"] == 2 + sum(
                    1 for e in os.scandir(path) if e.is_dir(follow_symlinks=False)
                )
    extra = set(found) - seen
    assert len(extra) == hidden
    assert all(found[path]["flags"] & 0x8000 and path.endswith(b"/.cvmfscatalog") for path in extra)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    make_tree(top)
    return top


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("keys"))
    RepositoryKeys.create(directory, FQRN)
    return directory


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(algorithm="rmd160", chunk_size=30_000),
        Options(algorithm="shake128", chunk_size=4096),
        Options(compress=False, chunk_size=20_000),
        Options(chunk_size=0, level=1, catalog_entries=0),
    ],
    ids=["default", "rmd160", "shake128", "uncompressed", "one-piece"],
)
def test_reads_back_identical(tree: Path, tmp_path: Path, keys: str, options: Options) -> None:
    repository = tmp_path / "repo"
    result = publish(str(tree), str(repository), fqrn=FQRN, keys=keys, options=options)
    found = plainreader.entries(repository)
    assert_equal(tree, found)
    assert result.entries == len(found)
    counters, revision = plainreader.totals(repository)
    assert revision == result.revision == 1
    # the nested root counts in both catalogs
    assert counters["dir"] == 1 + sum(stat.S_ISDIR(e["mode"]) for e in found.values())
    assert counters["regular"] == sum(stat.S_ISREG(e["mode"]) for e in found.values())
    assert counters["nested"] == 1
    assert (found[b"/big"]["flags"] & 64 != 0) == (0 < options.chunk_size < 100_000)
    assert {mode for _, mode in ((p, os.stat(p).st_mode & 0o777) for p in repository.rglob("*P"))} <= {0o644}


def test_hard_links_of_one_directory_are_a_group_others_are_copies(
    tree: Path, tmp_path: Path, keys: str
) -> None:
    repository = tmp_path / "repo"
    publish(str(tree), str(repository), fqrn=FQRN, keys=keys)
    found = plainreader.entries(repository)
    assert found[b"/dir0/file0"]["nlink"] == found[b"/dir0/same"]["nlink"] == 2
    assert found[b"/dir0/file0"]["group"] == found[b"/dir0/same"]["group"] != 0
    assert found[b"/dir0/file1"]["nlink"] == found[b"/dir1/elsewhere"]["nlink"] == 1
    assert found[b"/dir1/elsewhere"]["group"] == 0


def test_signatures_stand_up_to_independent_cryptography(tree: Path, tmp_path: Path, keys: str) -> None:
    repository = tmp_path / "repo"
    publish(str(tree), str(repository), fqrn=FQRN, keys=keys, options=Options(algorithm="shake128"))
    fields = plainreader.manifest_fields(repository)
    pem = zlib.decompress(plainreader.stored(repository, fields["X"], "X"))
    certificate = x509.load_pem_x509_certificate(pem)
    body, _, rest = (repository / ".cvmfspublished").read_bytes().partition(b"--\n")
    text, _, signature = rest.partition(b"\n")
    assert text.decode() == plainreader.digest(body, 2)
    certificate.public_key().verify(signature, text, padding.PKCS1v15(), hashes.SHA1())  # type: ignore  # noqa: S303

    body, _, rest = (repository / ".cvmfswhitelist").read_bytes().partition(b"--\n")
    text, _, signature = rest.partition(b"\n")
    assert text.decode() == plainreader.digest(body, 2)
    public: Any = serialization.load_pem_public_key((Path(keys) / f"{FQRN}.pub").read_bytes())
    assert public.recover_data_from_signature(signature, padding.PKCS1v15(), None) == text
    lines = body.decode().split("\n")
    assert lines[2] == "N" + FQRN
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert lines[3].replace(":", "").lower() == hashlib.shake_128(der).hexdigest(20) + "-shake128"
    assert time.strptime(lines[1][1:], "%Y%m%d%H%M%S") > time.gmtime(time.time() + 29 * 86400)
    for name in (".key", ".masterkey"):
        assert os.stat(Path(keys) / (FQRN + name)).st_mode & 0o077 == 0


def test_reflog_names_everything_signed(tree: Path, tmp_path: Path, keys: str) -> None:
    repository = tmp_path / "repo"
    publish(str(tree), str(repository), fqrn=FQRN, keys=keys)
    (tree / "new").write_text("x")
    publish(str(tree), str(repository), fqrn=FQRN, keys=keys)
    fields = plainreader.manifest_fields(repository)
    log = (repository / ".cvmfsreflog").read_bytes()
    assert fields["Y"] == plainreader.digest(log)
    refs = {h.decode(): t for h, t in plainreader.database(log).execute("SELECT hash, type FROM refs")}
    assert (
        refs[fields["C"]] == 0
        and refs[fields["X"]] == 1
        and refs[fields["H"]] == 2
        and refs[fields["M"]] == 3
    )
    assert sum(t == 0 for t in refs.values()) == 2


def test_second_publication_of_one_changed_file_uploads_only_that(
    tree: Path, tmp_path: Path, keys: str
) -> None:
    repository = tmp_path / "repo"
    publish(str(tree), str(repository), fqrn=FQRN, keys=keys)
    before = {p: p.stat().st_ino for p in (repository / "data").rglob("*") if p.is_file()}
    first = plainreader.manifest_fields(repository)
    (tree / "nested" / "deep" / "text").write_bytes(b"changed")
    result = publish(str(tree), str(repository), fqrn=FQRN, keys=keys)
    # the file, two catalogs, the tag database
    assert result.read_files == 1
    assert result.new_catalogs == 2
    assert result.new_objects == 4
    after = {p: p.stat().st_ino for p in (repository / "data").rglob("*") if p.is_file()}
    assert len(after) == len(before) + 4
    assert all(after[p] == inode for p, inode in before.items())
    assert_equal(tree, plainreader.entries(repository))
    assert_equal_revision(repository, first["C"], b"hello\n" * 1000)
    tags = plainreader.tags(repository)
    assert tags["trunk"][1] == 2 and tags["trunk-previous"] == (first["C"], 1)


def assert_equal_revision(repository: Path, root: str, content: bytes) -> None:
    assert plainreader.entries(repository, root)[b"/nested/deep/text"]["content"] == content


def test_nothing_changed_makes_no_revision_but_a_tag_does(tree: Path, tmp_path: Path, keys: str) -> None:
    repository = tmp_path / "repo"
    publish(str(tree), str(repository), fqrn=FQRN, keys=keys)
    manifest = (repository / ".cvmfspublished").read_bytes()
    result = publish(str(tree), str(repository), fqrn=FQRN, keys=keys)
    assert not result.changed and result.new_objects == 0 and result.revision == 1
    assert (repository / ".cvmfspublished").read_bytes() == manifest
    result = publish(str(tree), str(repository), fqrn=FQRN, keys=keys, tag="v1", description="first")
    assert result.changed and result.revision == 2
    assert plainreader.tags(repository)["v1"] == (result.root_hash, 2)
    result = publish(str(tree), str(repository), fqrn=FQRN, keys=keys, tag="v1")
    assert not result.changed


def test_a_file_rewritten_in_the_second_of_the_publication_is_read_again(
    tree: Path, tmp_path: Path, keys: str
) -> None:
    repository = tmp_path / "repo"
    target = tree / "dir0" / "file2"
    target.write_bytes(b"one")
    ns = target.stat().st_mtime_ns
    publish(str(tree), str(repository), fqrn=FQRN, keys=keys)
    target.write_bytes(b"two")
    os.utime(target, ns=(ns, ns))
    publish(str(tree), str(repository), fqrn=FQRN, keys=keys)
    assert plainreader.entries(repository)[b"/dir0/file2"]["content"] == b"two"


def test_catalogs_are_split_by_size_with_hidden_markers_and_stay(
    tree: Path, tmp_path: Path, keys: str
) -> None:
    repository = tmp_path / "repo"
    options = Options(catalog_entries=30, catalog_least=8)
    publish(str(tree), str(repository), fqrn=FQRN, keys=keys, options=options)
    found = plainreader.entries(repository)
    mountpoints = {p for p, e in found.items() if e["flags"] & 2}
    assert len(mountpoints) > 2
    assert_equal(tree, found, hidden=len(mountpoints) - 1)
    # a subtree that shrinks keeps its catalog
    shrunk = os.fsdecode(next(iter(sorted(mountpoints))))
    for name in ("file4", "file5", "file6"):
        os.unlink(f"{tree}{shrunk}/{name}")
    publish(str(tree), str(repository), fqrn=FQRN, keys=keys, options=options)
    found = plainreader.entries(repository)
    assert {p for p, e in found.items() if e["flags"] & 2} == mountpoints
    assert_equal(tree, found, hidden=len(mountpoints) - 1)


def test_owner_can_be_set(tree: Path, tmp_path: Path, keys: str) -> None:
    repository = tmp_path / "repo"
    publish(str(tree), str(repository), fqrn=FQRN, keys=keys, options=Options(owner=(0, 42)))
    assert {(e["uid"], e["gid"]) for e in plainreader.entries(repository).values()} == {(0, 42)}


def test_equal_trees_give_equal_repositories(tmp_path: Path, keys: str) -> None:
    roots = []
    for i in range(2):
        make_tree(tmp_path / f"tree{i}")
        options = Options(timestamp=1_700_000_000)
        roots.append(
            publish(
                str(tmp_path / f"tree{i}"), str(tmp_path / f"r{i}"), fqrn=FQRN, keys=keys, options=options
            )
        )
    assert roots[0].root_hash == roots[1].root_hash


def test_refusals(tree: Path, tmp_path: Path, keys: str) -> None:
    with pytest.raises(UsageError, match="not a repository name"):
        publish(str(tree), str(tmp_path / "r"), fqrn="../evil", keys=keys)
    with pytest.raises(PublishError, match="not a directory"):
        publish(str(tree / "empty"), str(tmp_path / "r"), fqrn=FQRN, keys=keys)
    with pytest.raises(UsageError, match="tag"):
        publish(str(tree), str(tmp_path / "r"), fqrn=FQRN, keys=keys, tag="trunk")
    os.chmod(tree / "dir1" / "file1", 0)
    with pytest.raises(PublishError, match="file1"):
        publish(str(tree), str(tmp_path / "r"), fqrn=FQRN, keys=keys)
    assert not (tmp_path / "r" / ".cvmfspublished").exists()
    os.chmod(tree / "dir1" / "file1", 0o644)
    publish(str(tree), str(tmp_path / "r"), fqrn=FQRN, keys=keys)
    with pytest.raises(ConfigError, match="no keys of"):
        publish(str(tree), str(tmp_path / "r"), fqrn=FQRN, keys=str(tmp_path / "nokeys"))
    with pytest.raises(UsageError, match="holds the repository"):
        publish(str(tree), str(tmp_path / "r"), fqrn="other.example.org", keys=keys)


def test_killed_publishers_leave_the_old_revision_or_the_new(tmp_path: Path, keys: str) -> None:
    tree, repository = tmp_path / "tree", tmp_path / "repo"
    make_tree(tree)
    publish(str(tree), str(repository), fqrn=FQRN, keys=keys)
    script = (
        "import sys; from cvmfs_client.publish import publish; "
        f"publish({str(tree)!r}, {str(repository)!r}, fqrn={FQRN!r}, keys={keys!r})"
    )
    generator = random.Random(3)
    possible = {(tree / "dir1" / "file1").read_bytes()}
    for i in range(8):
        possible.add(b"%d" % i)
        (tree / "dir1" / "file1").write_bytes(b"%d" % i)
        process = subprocess.Popen(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": os.getcwd()}
        )
        time.sleep(generator.uniform(0.05, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = plainreader.entries(repository)[b"/dir1/file1"]["content"]
        assert content in possible
    publish(str(tree), str(repository), fqrn=FQRN, keys=keys)
    assert_equal(tree, plainreader.entries(repository))
    assert os.listdir(repository / "data" / "txn") == []
