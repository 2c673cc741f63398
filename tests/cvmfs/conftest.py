"""Repositories to read: one published here, and the official tools' where ../shared is."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cvmfs_client import Repository
from cvmfs_client.publish import Options, RepositoryKeys, publish
from tests.support.webserver import WebServer

FQRN = "sw.example.org"
TIME = 1_700_000_000


def write_tree(top: Path) -> None:
    """A small tree with every kind of entry that an ordinary user can make."""
    top.mkdir(parents=True)
    (top / "README").write_text("read me\n")
    (top / "empty").touch()
    (top / "bin").mkdir()
    (top / "bin" / "tool").write_bytes(b"\x7fELF" + bytes(range(256)) * 20)
    os.chmod(top / "bin" / "tool", 0o755)
    (top / "big").write_bytes(b"".join(i.to_bytes(4, "little") for i in range(100_000)))
    for name in ("alpha", "beta"):
        (top / "nested" / name / "deep").mkdir(parents=True)
        (top / "nested" / name / "deep" / "file").write_text(f"deep in {name}\n")
    (top / "nested" / ".cvmfscatalog").touch()
    (top / "nested" / "beta" / ".cvmfscatalog").touch()
    links = top / "links"
    links.mkdir()
    for name, target in {
        "relative": "../README",
        "directory": "../nested/alpha",
        "chain": "relative",
        "loop": "loop",
        "dangling": "nowhere",
        "outside": "/etc/hostname",
        "absolute": f"/cvmfs/{FQRN}/README",
        "variant": "../$(NAME:-README)",
    }.items():
        (links / name).symlink_to(target)
    (top / "hard").mkdir()
    (top / "hard" / "a").write_text("same\n")
    os.link(top / "hard" / "a", top / "hard" / "b")
    (top / "odd").mkdir()
    for name in (b"new\nline", b"bad\xff\xfeutf8", "日本".encode(), b" space ", b"-dash", b"back\\slash"):
        with open(os.fsencode(top / "odd") + b"/" + name, "wb") as f:
            f.write(name)
    os.mkfifo(top / "pipe")
    try:
        os.setxattr(top / "README", "user.colour", b"blue")
    except OSError:
        pass
    age(top)


def age(top: Path, when: int = TIME) -> None:
    """Sets all times below ``top``."""
    for folder, dirs, files in os.walk(top):
        for name in dirs + files:
            os.utime(os.path.join(folder, name), (when, when), follow_symlinks=False)
    os.utime(top, (when, when))


class Published(NamedTuple):
    """A published repository and the server that serves it."""

    fqrn: str
    tree: Path
    directory: Path
    keys: Path
    server: WebServer

    @property
    def url(self) -> str:
        return f"{self.server.url}/cvmfs/{self.fqrn}"

    @property
    def public_key(self) -> str:
        return str(self.keys / f"{self.fqrn}.pub")

    def publish(self, tag: str = "", **options: Any) -> Any:
        """Publishes the tree again."""
        given = {"chunk_size": 64 << 10, **options}
        return publish(
            str(self.tree),
            str(self.directory),
            fqrn=self.fqrn,
            keys=RepositoryKeys.load(str(self.keys), self.fqrn),
            tag=tag,
            options=Options(**given),
        )

    def open(self, cache: Path, **more: Any) -> Repository:
        """The repository opened with the cache directory given."""
        given: dict[str, Any] = {"server": self.url, "keys": self.public_key, "cache": cache, "environ": {}}
        return Repository(self.fqrn, **{**given, **more})


def make_published(top: Path, **options: Any) -> Published:
    """Publishes :func:`write_tree` below ``top`` and serves it."""
    write_tree(top / "tree")
    keys = RepositoryKeys.create(str(top / "keys"), FQRN)
    directory = top / "www" / "cvmfs" / FQRN
    given = {"chunk_size": 64 << 10, **options}
    publish(str(top / "tree"), str(directory), fqrn=FQRN, keys=keys, tag="first", options=Options(**given))
    return Published(FQRN, top / "tree", directory, top / "keys", WebServer(top / "www"))


@pytest.fixture(scope="session")
def shared_published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """One repository for all tests that do not change it."""
    made = make_published(tmp_path_factory.mktemp("published"))
    with made.server:
        yield made


@pytest.fixture
def published(shared_published: Published) -> Published:
    """The shared repository, its server without faults and with an empty log."""
    shared_published.server.clear()
    shared_published.server.latency = 0
    return shared_published


@pytest.fixture
def own_published(shared_published: Published, tmp_path: Path) -> Iterator[Published]:
    """A repository that the test may change: a copy of the shared one, as making keys takes long."""
    top = tmp_path / "own"
    subprocess.run(["cp", "-a", str(shared_published.tree.parent), str(top)], check=True)
    with WebServer(top / "www") as server:
        yield Published(FQRN, top / "tree", top / "www" / "cvmfs" / FQRN, top / "keys", server)


@pytest.fixture
def repo(published: Published, tmp_path: Path) -> Iterator[Repository]:
    """The shared repository opened with an empty cache."""
    with published.open(tmp_path / "cache") as repository:
        yield repository


class Official(NamedTuple):
    """The repositories that the official tools wrote."""

    data: Path  # where expectations and keys are
    top: Path  # unpacked
    server: WebServer

    def open(self, name: str, cache: Path, **more: Any) -> Repository:
        """``name`` without its domain; owners as published."""
        fqrn = f"{name}.test.repo"
        config = {"CVMFS_CLAIM_OWNERSHIP": "no", "CVMFS_EXTERNAL_URL": f"{self.server.url}/ext"}
        given: dict[str, Any] = {
            "server": f"{self.server.url}/cvmfs/{fqrn}",
            "keys": str(self.data / "keys" / f"{fqrn}.pub"),
            "config": {**config, **more.pop("config", {})},
            "cache": cache,
            "environ": {},
        }
        return Repository(fqrn, **{**given, **more})


def official_data() -> Path | None:
    """Where the samples are, if anywhere."""
    given = os.environ.get("UDK_SHARED")
    places = [Path(given)] if given else [Path(__file__).parents[3] / "shared" / "data"]
    return next(
        (p / "cvmfs" for p in places if (p / "cvmfs" / "official-repositories.tar.zst").exists()), None
    )


def unpack(archive: Path, target: Path) -> None:
    """Unpacks a .tar.zst."""
    import zstandard

    with open(archive, "rb") as f:
        stream = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(f)
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                member.mode |= 0o600 if member.isfile() else 0o700
                tar.extract(member, target, set_attrs=False)


@pytest.fixture(scope="session")
def official_top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = official_data()
    if data is None:
        pytest.skip("the official tools' repositories (../shared/data/cvmfs) are not here")
    top = tmp_path_factory.mktemp("official")
    unpack(data / "official-repositories.tar.zst", top)
    return top


@pytest.fixture
def official(official_top: Path) -> Iterator[Official]:
    data = official_data()
    assert data is not None
    with WebServer(official_top) as server:
        yield Official(data, official_top, server)
