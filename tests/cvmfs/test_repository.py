"""The library: what os functions give on the published tree, the repository gives too."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cvmfs_client
from cvmfs_client import CvmfsError, Repository, errors
from cvmfs_client.errors import (
    AttributeMissingError,
    ConfigError,
    PathInvalidError,
    PathLoopError,
    PathNotADirectoryError,
    PathNotFoundError,
    ReadOnlyError,
    UsageError,
)
from tests.cvmfs.conftest import FQRN, TIME, Published


def local_tree(top: Path) -> dict[bytes, os.stat_result]:
    """Every path below ``top`` with its attributes."""
    root = os.fsencode(top)
    found = {b"": os.lstat(root)}
    for folder, dirs, files in os.walk(root):
        for name in dirs + files:
            path = folder + b"/" + name
            found[path[len(root) :]] = os.lstat(path)
    return found


def test_all_attributes_and_contents(repo: Repository, published: Published) -> None:
    local = local_tree(published.tree)
    for path, expected in local.items():
        found = repo.lstat(path or b"/")
        assert found.st_mode == expected.st_mode, path
        assert found.st_mtime_ns == expected.st_mtime_ns
        assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())
        if stat.S_ISREG(expected.st_mode):
            assert found.st_size == expected.st_size
            assert found.st_nlink == expected.st_nlink
            assert repo.read(path) == Path(os.fsdecode(os.fsencode(published.tree) + path)).read_bytes()
    walked = {b""}
    for folder, dirs, files in repo.walk(b""):
        walked.update(folder + b"/" + name for name in dirs + files)
    assert walked == set(local)


def test_walk_is_os_walk(repo: Repository, published: Published) -> None:
    base = os.fsencode(published.tree)

    def normal(rows: Any, cut: int) -> list[Any]:
        return sorted((f[cut:].rstrip(b"/"), sorted(d), sorted(n)) for f, d, n in rows)

    for topdown in (True, False):
        expected = normal(os.walk(base, topdown=topdown), len(base))
        # a link that leads out of the repository to a directory would differ, there is none
        assert normal(repo.walk(b"/", topdown=topdown), 0) == expected
    order = [f for f, _, _ in repo.walk("/nested", topdown=False)]
    assert order.index("/nested/alpha/deep") < order.index("/nested/alpha") < order.index("/nested")


def test_walk_can_be_pruned_and_reports_errors(repo: Repository) -> None:
    seen = []
    for folder, dirs, _ in repo.walk("/nested"):
        seen.append(folder)
        if "alpha" in dirs:
            dirs.remove("alpha")
    assert seen == ["/nested", "/nested/beta", "/nested/beta/deep"]
    problems: list[CvmfsError] = []
    assert list(repo.walk("/none", onerror=problems.append)) == []
    assert isinstance(problems[0], FileNotFoundError)
    assert list(repo.walk("/README")) == []


def test_walk_through_links(repo: Repository) -> None:
    followed = [folder for folder, _, _ in repo.walk("/links", followlinks=True)]
    assert followed == ["/links", "/links/directory", "/links/directory/deep"]
    _, dirs, files = next(iter(repo.walk("/links")))
    assert dirs == ["directory"] and "dangling" in files


def test_str_and_bytes(repo: Repository) -> None:
    assert "日本" in repo.listdir("/odd") and "日本".encode() in repo.listdir(b"/odd")
    assert os.fsdecode(b"bad\xff\xfeutf8") in repo.listdir("odd")
    assert repo.read(os.fsdecode(b"/odd/bad\xff\xfeutf8")) == b"bad\xff\xfeutf8"
    assert repo.readlink("/links/relative") == "../README"
    assert repo.readlink(b"/links/relative") == b"../README"
    assert repo.listdir(Path("/bin")) == ["tool"]  # type: ignore[arg-type]


def test_links(repo: Repository, published: Published, tmp_path: Path) -> None:
    for name in ("relative", "chain", "absolute", "variant"):
        assert repo.read(f"/links/{name}") == b"read me\n"
        assert repo.stat(f"/links/{name}").st_size == 8
    assert stat.S_ISLNK(repo.lstat("/links/chain").st_mode)
    assert repo.listdir("/links/directory") == ["deep"]
    assert repo.read("/links/directory/deep/file") == b"deep in alpha\n"
    assert repo.realpath("/links/directory/deep/../deep") == "/nested/alpha/deep"
    assert repo.realpath("/links/../links/chain") == "/README"
    with pytest.raises(PathLoopError) as caught:
        repo.stat("/links/loop")
    assert caught.value.errno == 40
    with pytest.raises(PathNotFoundError):
        repo.stat("/links/dangling")
    with pytest.raises(PathNotFoundError, match="leads out of the repository, to /etc/hostname"):
        repo.stat("/links/outside")
    assert repo.lstat("/links/outside").st_size == len("/etc/hostname")
    with published.open(tmp_path / "other", environ={"NAME": "empty"}) as other:
        assert other.readlink("/links/variant") == "../empty"
        assert other.lstat("/links/variant").st_size == len("../empty")
        assert (
            other.getxattr("/links/variant", "user.rawlink", follow_symlinks=False) == b"../$(NAME:-README)"
        )
        assert other.read("/links/variant") == b""


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/none", PathNotFoundError),
        ("/README/x", PathNotADirectoryError),
        ("/README/", PathNotADirectoryError),
        ("/README/..", PathNotADirectoryError),
        ("/bin/tool/x/y", PathNotADirectoryError),
        ("/nested/none/x", PathNotFoundError),
        ("/a\0b", PathNotFoundError),
        ("/" + "x" * 20_000, PathNotFoundError),
    ],
)
def test_paths_that_lead_nowhere(repo: Repository, path: str, error: type[CvmfsError]) -> None:
    with pytest.raises(error):
        repo.stat(path)
    assert not repo.exists(path)


def test_equivalent_paths(repo: Repository) -> None:
    for path in ("/bin/tool", "bin/tool", "//bin//tool", "/./bin/./tool", "/bin/../bin/tool", "/../bin/tool"):
        assert repo.stat(path).st_size == 5124
    for path in ("", "/", ".", "/.", "/..", "bin/.."):
        assert "README" in repo.listdir(path)
    assert repo.listdir("/bin/") == ["tool"]


def test_errors_of_wrong_kinds(repo: Repository) -> None:
    with pytest.raises(IsADirectoryError):
        repo.open("/bin")
    with pytest.raises(NotADirectoryError):
        repo.listdir("/README")
    with pytest.raises(PathInvalidError):
        repo.readlink("/README")
    with pytest.raises(PathInvalidError, match="not a regular file"):
        repo.open("/pipe")
    for mode in ("w", "a", "r+", "x", "wb"):
        with pytest.raises(ReadOnlyError):
            repo.open("/README", mode)
    with pytest.raises(UsageError):
        repo.open("/README", "q")


def test_open_files(repo: Repository, published: Published) -> None:
    expected = (published.tree / "big").read_bytes()
    with repo.open("/big") as f:
        assert f.read(5) == expected[:5]
        assert f.seek(200_001) == 200_001
        assert f.read(70_000) == expected[200_001:270_001]
        assert f.seek(-3, os.SEEK_END) == len(expected) - 3
        assert f.read() == expected[-3:] and f.read() == b""
        assert f.name == b"/big"
        with pytest.raises((io.UnsupportedOperation, OSError)):
            f.write(b"x")
    with pytest.raises(ValueError):
        f.read()
    with repo.open("/README", "r", encoding="utf-8") as text:
        assert list(text) == ["read me\n"]
    with repo.open("/empty") as f:
        assert f.read() == b"" and f.seek(0, os.SEEK_END) == 0
    with repo.open("/bin/tool", buffering=0) as f:
        assert f.read(4) == b"\x7fELF"
    assert repo.read("/big", 65_530, 12) == expected[65_530:65_542]
    assert repo.read("/big", 10**9) == b""


def test_chunks_are_fetched_as_they_are_touched(published: Published, tmp_path: Path) -> None:
    with published.open(tmp_path / "c", config={"CVMFS_PREFETCH": "no"}) as repo:
        published.server.clear()
        with repo.open("/big") as f:
            f.seek(390_000)
            f.read(10)
            fetched = [p for p in published.server.paths("/data/") if p.endswith("P")]
            assert len(fetched) == 1
            assert not f.seekable() or f.tell() == 390_010


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 401_000), st.integers(0, 150_000)), max_size=10))
def test_random_reads_of_a_chunked_file(
    repo: Repository, published: Published, reads: list[tuple[int, int]]
) -> None:
    expected = (published.tree / "big").read_bytes()
    with repo.open("/big") as f, repo.open("/big", buffering=0) as raw:
        for offset, size in reads:
            f.seek(offset)
            assert f.read(size) == expected[offset : offset + size]
            assert raw.pread(size, offset) == expected[offset : offset + size]


def test_scandir(repo: Repository) -> None:
    with repo.scandir("/") as entries:
        found = {e.name: e for e in entries}
    assert found["bin"].is_dir() and not found["bin"].is_file()
    assert found["README"].is_file() and found["README"].path == "/README"
    assert found["README"].stat().st_mtime == TIME
    assert found["README"].inode() == repo.stat("/README").st_ino
    with repo.scandir(b"/links") as entries:
        links = {e.name: e for e in entries}
    assert links[b"directory"].is_dir() and not links[b"directory"].is_dir(follow_symlinks=False)
    assert links[b"dangling"].is_symlink() and not links[b"dangling"].is_file()
    assert links[b"loop"].path == b"/links/loop"
    assert os.fspath(links[b"loop"]) == b"/links/loop"


def test_hard_links_share_their_inode(repo: Repository) -> None:
    a, b = repo.stat("/hard/a"), repo.stat("/hard/b")
    assert a.st_ino == b.st_ino and a.st_nlink == b.st_nlink == 2
    inodes = [repo.lstat(os.path.join(f, n)).st_ino for f, d, names in repo.walk("/") for n in d + names]
    assert len(set(inodes)) == len(inodes) - 1
    assert all(0 < i < 1 << 63 for i in inodes)


def test_xattrs(repo: Repository, published: Published) -> None:
    if "user.colour" in os.listxattr(published.tree / "README"):
        assert repo.getxattr("/README", "user.colour") == b"blue"
        assert repo.listxattr("/README") == ["user.colour"]
    with pytest.raises(AttributeMissingError) as caught:
        repo.getxattr("/README", "user.none")
    assert caught.value.errno == 61
    assert repo.getxattr("/", "user.fqrn") == FQRN.encode()
    assert repo.getxattr("/bin", b"user.revision") == str(repo.revision).encode()
    assert repo.getxattr("/", "user.root_hash") == str(repo.root_hash).encode()
    assert repo.getxattr("/README", "user.compression") == b"zlib"
    assert repo.getxattr("/big", "user.chunks") == b"7"
    lines = repo.getxattr("/big", "user.chunk_list").decode().splitlines()
    assert lines[0] == "hash,offset,size" and len(lines) == 8
    assert repo.getxattr("/README", "user.lhash") == b"Not in cache"
    repo.read("/README")
    assert repo.getxattr("/README", "user.lhash") == repo.getxattr("/README", "user.hash")
    counters = repo.getxattr("/nested/beta", "user.catalog_counters").decode()
    assert "catalog_mountpoint: /nested/beta\n" in counters
    for name in repo.listxattr("/"):
        repo.getxattr("/", name)
    assert {"user.fqrn", "user.pid", "user.host"} <= set(repo.listxattr("/"))
    with pytest.raises(AttributeMissingError):
        repo.getxattr("/README", "trusted.fqrn")


def test_statistics_and_status(repo: Repository) -> None:
    counts = repo.statistics()
    assert counts["nested"] == 2
    assert counts["entries"] == 1 + sum(len(d) + len(f) for _, d, f in repo.walk("/"))
    status = repo.status()
    assert status["origin"] == "server" and status["reason"] == ""
    assert status["network"]["online"] and status["network"]["counters"]["requests"] >= 4
    import json

    json.dumps(status)


def test_requests_of_a_cold_open(published: Published, tmp_path: Path) -> None:
    """Whitelist and manifest at once, then certificate, then root catalog: four in all, like the official
    client."""
    with published.open(tmp_path / "cache"):
        paths = published.server.paths()
    assert sorted(p.rpartition("/")[2] for p in paths[:2]) == [".cvmfspublished", ".cvmfswhitelist"]
    assert [p[-1] for p in paths[2:]] == ["X", "C"]
    published.server.clear()
    with published.open(tmp_path / "cache", config={"CVMFS_PREFETCH": "no"}) as again:
        assert published.server.paths() == [f"/cvmfs/{FQRN}/.cvmfspublished"]
        again.listdir("/nested")
        again.read("/README")
    assert len(published.server.paths()) == 3


def test_ownership(published: Published, tmp_path: Path) -> None:
    config = {"CVMFS_CLAIM_OWNERSHIP": "no"}
    mine = os.lstat(published.tree / "README")
    with published.open(tmp_path / "c", config=config) as repo:
        assert (repo.stat("/README").st_uid, repo.stat("/README").st_gid) == (mine.st_uid, mine.st_gid)
    uids, gids = tmp_path / "uids", tmp_path / "gids"
    uids.write_text(f"# map\n{mine.st_uid} 4711\n")
    gids.write_text("* 4712\n")
    config.update(CVMFS_UID_MAP=str(uids), CVMFS_GID_MAP=str(gids), CVMFS_WORLD_READABLE="yes")
    with published.open(tmp_path / "c", config=config) as repo:
        st_ = repo.stat("/README")
        assert (st_.st_uid, st_.st_gid) == (4711, 4712)
    gids.write_text("1 2 3\n")
    with pytest.raises(ConfigError, match="malformed line"):
        published.open(tmp_path / "c", config=config)


def test_world_readable(own_published: Published, tmp_path: Path) -> None:
    os.chmod(own_published.tree / "README", 0o600)
    own_published.publish()
    with own_published.open(tmp_path / "c") as repo:
        assert stat.S_IMODE(repo.stat("/README").st_mode) == 0o600
    with own_published.open(tmp_path / "c", config={"CVMFS_WORLD_READABLE": "yes"}) as repo:
        assert stat.S_IMODE(repo.stat("/README").st_mode) == 0o644


def test_tags(own_published: Published, tmp_path: Path) -> None:
    (own_published.tree / "README").write_text("second\n")
    own_published.publish(tag="second", timestamp=TIME + 10**8)
    with own_published.open(tmp_path / "c") as repo:
        names = {t.name: t for t in repo.tags()}
        assert {"first", "second"} <= set(names)
        assert repo.read("/README") == b"second\n" and not repo.fixed
        first = names["first"]
    for wanted in ({"tag": "first"}, {"tag": first.revision}, {"root_hash": str(first.hash)}):
        with own_published.open(tmp_path / "c", **wanted) as old:
            assert old.read("/README") == b"read me\n"
            assert old.fixed and old.revision == first.revision and not old.refresh()
            assert old.getxattr("/", "user.expires") == b"never (fixed root catalog)"
    for config in ({"CVMFS_REPOSITORY_TAG": "first"}, {"CVMFS_ROOT_HASH": str(first.hash)}):
        with own_published.open(tmp_path / "c", config=config) as old:
            assert old.revision == first.revision
    for bad in ("none", "1969-01-01", "99"):
        with pytest.raises(errors.TagError):
            own_published.open(tmp_path / "c", tag=bad)
    with pytest.raises(UsageError):
        own_published.open(tmp_path / "c", tag="first", root_hash=str(first.hash))
    with pytest.raises(UsageError):
        own_published.open(tmp_path / "c", root_hash="x")


def test_tags_by_date(own_published: Published, tmp_path: Path) -> None:
    import time

    (own_published.tree / "README").write_text("later\n")
    own_published.publish(tag="later", timestamp=int(time.time()) + 86_400)
    today = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
    for wanted in ({"tag": today}, {"config": {"CVMFS_REPOSITORY_DATE": today}}):
        with own_published.open(tmp_path / "c", **wanted) as repo:
            assert repo.tag is not None and repo.tag.name == "first"


def test_refresh(own_published: Published, tmp_path: Path) -> None:
    with own_published.open(tmp_path / "c") as repo:
        assert not repo.refresh()
        (own_published.tree / "README").write_text("new\n")
        (own_published.tree / "added").write_text("x")
        before = repo.open("/README")
        own_published.publish()
        assert not repo.exists("/added")
        assert repo.refresh()
        assert repo.exists("/added") and repo.read("/README") == b"new\n"
        assert before.read() == b"read me\n"
        before.close()


def test_prefetch(published: Published, tmp_path: Path) -> None:
    with published.open(tmp_path / "c") as repo:
        counts = repo.prefetch("/nested")
        assert counts["files"] == 4
        seen: list[int] = []
        repo.prefetch(["/big", "/links/relative"], progress=seen.append)
        assert sum(seen) == 400_008
        published.server.clear()
        for path in ("/nested/alpha/deep/file", "/nested/beta/deep/file", "/big", "/README"):
            repo.read(path)
        assert published.server.paths("/data/") == []
        with pytest.raises(PathNotFoundError):
            repo.prefetch("/none")


def test_threads(published: Published, tmp_path: Path) -> None:
    failures: list[BaseException] = []
    with published.open(tmp_path / "c") as repo:
        digest = hashlib.sha256((published.tree / "big").read_bytes()).hexdigest()

        def work() -> None:
            try:
                for _ in range(3):
                    assert hashlib.sha256(repo.read("/big")).hexdigest() == digest
                    assert sum(len(f) for _, _, f in repo.walk("/")) > 20
                    assert repo.read("/nested/beta/deep/file") == b"deep in beta\n"
            except BaseException as e:
                failures.append(e)

        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    objects = published.server.paths("/data/")
    assert len(objects) == len(set(objects)), "an object was downloaded twice"


def test_fork(published: Published, tmp_path: Path) -> None:
    with published.open(tmp_path / "c") as repo:
        repo.read("/README")
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                repo.lstat("/nested/beta/deep/file")
                repo.listdir("/odd")

        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            children = []
            for _ in range(6):
                child = os.fork()
                if not child:
                    try:
                        ok = repo.read("/bin/tool")[:4] == b"\x7fELF" and len(repo.listdir("/odd")) == 6
                        ok = ok and repo.read("/nested/alpha/deep/file") == b"deep in alpha\n"
                        os._exit(0 if ok else 1)
                    except BaseException:
                        os._exit(2)
                children.append(child)
            assert [os.waitpid(c, 0)[1] for c in children] == [0] * 6
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert repo.read("/big")[:4] == bytes(4)


def test_close_is_final_and_idempotent(published: Published, tmp_path: Path) -> None:
    repo = published.open(tmp_path / "c")
    f = repo.open("/README")
    repo.close()
    repo.close()
    assert f.read() == b"read me\n"
    f.close()


def test_every_error_is_a_cvmfs_error_and_survives_pickling() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, CvmfsError)]
    assert len(classes) > 25
    for cls in classes:
        error = cls("/some/path") if issubclass(cls, errors.PathError) else cls("what", "try that")
        again = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert type(again) is cls and str(again) == str(error)
        assert error.status > 0 and "\n" not in str(error)
    # each refusal that the issue names has a status of its own
    named = [errors.NetworkError, errors.NameMismatchError, errors.ExpiredError, errors.SignatureError]
    named += [errors.RolledBackError, errors.BlacklistedError, errors.RepositoryNotFoundError]
    statuses = [cls.status for cls in named]
    assert len(set(statuses)) == len(named)
    for cls in (errors.PathError, errors.IntegrityError, errors.NetworkError, errors.CatalogError):
        assert issubclass(cls, OSError)


def test_error_tree_is_drawn_truthfully() -> None:
    import re

    assert errors.__doc__
    drawn = dict(re.findall(r"(\w+Error)\s+(\d+)\b", errors.__doc__))
    for name, status in drawn.items():
        assert getattr(errors, name).status == int(status), name
    classes = {n for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, CvmfsError)}
    assert classes - set(drawn) == {"CvmfsIoError"}


def test_public_names() -> None:
    assert cvmfs_client.__all__ == ["CvmfsError", "Repository"]
    public = {n for n in dir(Repository) if not n.startswith("_")}
    required = {"close", "getxattr", "listdir", "listxattr", "lstat", "open", "prefetch", "read", "readlink"}
    required |= {"refresh", "scandir", "stat", "statistics", "status", "tags", "walk"}
    assert required <= public


def test_imports_of_the_library() -> None:
    """Opening a repository loads neither a crypto library nor an HTTP one, nor anything of udk but
    udk.base."""
    code = (
        "import sys; before = set(sys.modules)\n"  # what the site's own hooks load is not ours
        "import cvmfs_client.repository, cvmfs_client.download, cvmfs_client.cache\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    loaded = set(done.stdout.split())
    for name in (
        "cryptography",
        "requests",
        "urllib3",
        "click",
        "zstandard",
        "argparse",
        "subprocess",
        "fsspec",
        "uuid",
        "_strptime",
        "locale",
        "cvmfs_client.download_pac",
        "cvmfs_client.authz",
        "cvmfs_client.publish",
    ):
        assert name not in loaded, name
    mine = {m for m in loaded if m == "udk" or m.startswith("udk.")}
    assert all(m in ("udk", "udk.base", "udk.errors") or m.startswith("udk.base.") for m in mine), mine


def test_memory_stays_small(published: Published, tmp_path: Path) -> None:
    """The library in a fresh process, after a walk and reads, is far below 100 MB."""
    cache = str(tmp_path / "c")
    code = f"""
from cvmfs_client import Repository
with Repository({FQRN!r}, server={published.url!r}, keys={published.public_key!r}, cache={cache!r}) as r:
    for folder, _, files in r.walk('/'):
        for name in files:
            try:
                r.read(folder + '/' + name)
            except OSError:
                pass
print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 80_000


def test_dependencies_point_one_way() -> None:
    """The client uses udk.base and nothing else of udk; nobody but its command line prints."""
    import ast

    package = Path(cvmfs_client.__file__).parent
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                assert not name.startswith("udk") or name.startswith("udk.base"), (path, name)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                assert path.parent.name == "cli", path
        assert len(path.read_text().splitlines()) <= 510, path


def test_what_was_listed_is_not_asked_for_again(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walk that looks at the attributes of everything asks no catalog about a file."""
    from cvmfs_client.catalog import Catalog

    asked: list[bytes] = []
    real = Catalog.find

    def find(self: Catalog, path: bytes) -> Any:
        asked.append(path)
        return real(self, path)

    with published.open(tmp_path / "c") as repo:
        monkeypatch.setattr(Catalog, "find", find)
        regular = set()
        for folder, dirs, files in repo.walk(b"/"):
            for name in dirs + files:
                path = os.path.join(folder, name)
                if stat.S_ISREG(repo.lstat(path).st_mode):
                    regular.add(path)
        for name in repo.listdir("/"):
            repo.lstat("/" + name)
    assert len(regular) > 10
    assert regular.isdisjoint(asked)
