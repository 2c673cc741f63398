"""A configuration repository that nobody has mounted is read by the client itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvmfs_client import Repository
from cvmfs_client.errors import BlacklistedError, ConfigError
from cvmfs_client.publish import RepositoryKeys, publish
from tests.cvmfs.conftest import FQRN, Published

CONFIG = "cvmfs-config.example.net"


class Bootstrap:
    """A user with a few lines of configuration, and all else in a repository."""

    def __init__(self, published: Published, top: Path) -> None:
        self.published = published
        self.home = top / "home"
        self.tree = top / "config-tree"
        self.keys = RepositoryKeys.create(str(top / "config-keys"), CONFIG)
        self.directory = published.directory.parent / CONFIG
        shared = self.tree / "etc" / "cvmfs"
        (shared / "keys" / "example.org").mkdir(parents=True)
        key = Path(published.public_key)
        (shared / "keys" / "example.org" / key.name).write_bytes(key.read_bytes())
        (shared / "common.conf").write_text('[ "$CVMFS_HTTP_PROXY" = DIRECT ] && CVMFS_MAX_RETRIES=0\n')
        (shared / "domain.d").mkdir()
        (shared / "domain.d" / "example.org.conf").write_text(
            'CVMFS_MAX_RETRIES="$CVMFS_MAX_RETRIES"\n. ../common.conf\n'
            f"CVMFS_SERVER_URL={published.server.url}/cvmfs/@fqrn@\n"
            "CVMFS_KEYS_DIR=$CVMFS_MOUNT_DIR/$CVMFS_CONFIG_REPOSITORY/etc/cvmfs/keys/example.org\n"
        )
        self.publish()
        mine = self.home / ".config" / "cvmfs"
        (mine / "config.d").mkdir(parents=True)
        (mine / "default.conf").write_text(
            f"CVMFS_CONFIG_REPOSITORY={CONFIG}\nCVMFS_HTTP_PROXY=DIRECT\nCVMFS_BACKOFF_INIT=0\n"
        )
        (mine / "config.d" / f"{CONFIG}.conf").write_text(
            f"CVMFS_SERVER_URL={published.server.url}/cvmfs/@fqrn@\n"
            f"CVMFS_PUBLIC_KEY={top}/config-keys/{CONFIG}.pub\n"
        )
        self.environ = {"HOME": str(self.home), "CVMFS_CONFIG_DIR": str(top / "no-etc")}

    def publish(self) -> None:
        publish(str(self.tree), str(self.directory), fqrn=CONFIG, keys=self.keys)

    def open(self, cache: Path) -> Repository:
        return Repository(FQRN, cache=cache, environ=self.environ)


@pytest.fixture
def bootstrap(own_published: Published, tmp_path: Path) -> Bootstrap:
    return Bootstrap(own_published, tmp_path)


def test_everything_from_the_configuration_repository(bootstrap: Bootstrap, tmp_path: Path) -> None:
    with bootstrap.open(tmp_path / "c") as repo:
        assert repo.read("/README") == b"read me\n"
        assert repo.config.integer("CVMFS_MAX_RETRIES", 5) == 0
        assert repo.config.warnings == []
        source = repo.config.settings["CVMFS_SERVER_URL"].source
        assert source == f"/cvmfs/{CONFIG}/etc/cvmfs/domain.d/example.org.conf"


def test_its_blacklist_counts(bootstrap: Bootstrap, tmp_path: Path) -> None:
    (bootstrap.tree / "etc" / "cvmfs" / "blacklist").write_text(f"<{FQRN} 100\n")
    bootstrap.publish()
    with pytest.raises(BlacklistedError):
        bootstrap.open(tmp_path / "c")


def test_when_it_cannot_be_had(bootstrap: Bootstrap, tmp_path: Path) -> None:
    with bootstrap.open(tmp_path / "c"):
        pass
    bootstrap.published.server.stop()
    with bootstrap.open(tmp_path / "c") as repo:  # from the cache, both
        assert repo.listdir("/")
    with pytest.raises(ConfigError, match="no server is configured"):
        bootstrap.open(tmp_path / "empty")
    place = bootstrap.home / ".config" / "cvmfs" / "default.d"
    place.mkdir()
    (place / "required.conf").write_text("CVMFS_CONFIG_REPO_REQUIRED=yes\n")
    with pytest.raises(ConfigError, match=f"configuration repository {CONFIG} is not there"):
        bootstrap.open(tmp_path / "empty")
