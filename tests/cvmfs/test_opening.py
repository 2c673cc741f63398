"""Which revision is opened: lagging, lying, expired and absent servers, and no network at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cvmfs_client.errors import (
    BlacklistedError,
    ConfigError,
    ExpiredError,
    NameMismatchError,
    NetworkError,
    ObjectNotFoundError,
    OfflineError,
    ProxyError,
    RepositoryNotFoundError,
    RolledBackError,
    SignatureError,
)
from cvmfs_client.opening import Breadcrumb, age
from cvmfs_client.publish import RepositoryKeys, publish
from tests.cvmfs.conftest import FQRN, Published
from tests.support.webserver import WebServer

QUICK = {
    "CVMFS_TIMEOUT": "1",
    "CVMFS_TIMEOUT_DIRECT": "1",
    "CVMFS_MAX_RETRIES": "0",
    "CVMFS_BACKOFF_INIT": "0",
}


@pytest.fixture
def old(own_published: Published, tmp_path: Path) -> WebServer:
    """A server that stayed at the first revision, while the main one has a second."""
    shutil.copytree(own_published.directory, tmp_path / "old" / "cvmfs" / FQRN)
    (own_published.tree / "README").write_text("second\n")
    own_published.publish()
    server = WebServer(tmp_path / "old")
    yield server  # type: ignore[misc]
    server.stop()


def both(first: WebServer, second: WebServer) -> str:
    return ";".join(f"{s.url}/cvmfs/{FQRN}" for s in (first, second))


def test_a_lagging_server_is_passed_over(own_published: Published, old: WebServer, tmp_path: Path) -> None:
    with own_published.open(tmp_path / "c", config=QUICK) as repo:
        newest = repo.revision
    # the first in the list lags: the second is asked, and the reason is kept
    with own_published.open(tmp_path / "c", server=both(old, own_published.server), config=QUICK) as repo:
        assert repo.revision == newest and repo.opened is not None and repo.opened.origin == "server"
        switches = repo.network_status()["switches"]
        assert any("older than revision" in s["reason"] for s in switches)


def test_when_all_servers_lag_the_newest_verified_stays(
    own_published: Published, old: WebServer, tmp_path: Path
) -> None:
    with own_published.open(tmp_path / "c", config=QUICK) as repo:
        assert repo.read("/README") == b"second\n"
    with own_published.open(tmp_path / "c", server=f"{old.url}/cvmfs/{FQRN}", config=QUICK) as repo:
        assert repo.read("/README") == b"second\n"
        assert repo.opened is not None
        assert repo.opened.origin == "kept" and "older than revision 2" in repo.opened.reason


def test_rollback_is_refused_without_a_copy(own_published: Published, old: WebServer, tmp_path: Path) -> None:
    with own_published.open(tmp_path / "c", config=QUICK):
        pass
    # the breadcrumb stays, the rest is gone
    for place in (tmp_path / "c").rglob("*"):
        if place.is_file() and place.name != f"cvmfschecksum.{FQRN}":
            place.unlink()
    with pytest.raises(RolledBackError) as caught:
        own_published.open(tmp_path / "c", server=f"{old.url}/cvmfs/{FQRN}", config=QUICK)
    assert caught.value.status == 33 and "revision 1" in caught.value.message


def test_a_first_visitor_takes_what_there_is(
    own_published: Published, old: WebServer, tmp_path: Path
) -> None:
    with own_published.open(tmp_path / "c", server=f"{old.url}/cvmfs/{FQRN}", config=QUICK) as repo:
        assert repo.read("/README") == b"read me\n"


def test_refresh_keeps_the_revision_when_servers_lag(
    own_published: Published, old: WebServer, tmp_path: Path
) -> None:
    with own_published.open(tmp_path / "c", config=QUICK) as repo:
        text = (tmp_path / "old" / "cvmfs" / FQRN / ".cvmfspublished").read_bytes()
        own_published.server.virtual[f"/cvmfs/{FQRN}/.cvmfspublished"] = text
        assert not repo.refresh()
        assert repo.revision == 2 and repo.status()["origin"] == "kept"


@pytest.mark.parametrize("fault", ["status", "drop", "flip", "truncate", "garbage", "short"])
def test_the_next_host_when_the_first_is_bad(own_published: Published, tmp_path: Path, fault: str) -> None:
    with WebServer(own_published.directory.parents[1]) as bad:
        bad.fault(".cvmfspublished", fault, value=503)
        servers = both(bad, own_published.server)
        with own_published.open(tmp_path / "c", server=servers, config=QUICK) as repo:
            assert repo.read("/README") == b"read me\n"
            assert any(s["reason"] for s in repo.network_status()["switches"])


def test_a_changed_manifest_on_all_hosts(own_published: Published, tmp_path: Path) -> None:
    own_published.server.fault(".cvmfspublished", "flip")
    with pytest.raises(SignatureError):
        own_published.open(tmp_path / "c", config=QUICK)
    assert not list((tmp_path / "c").rglob("manifest*")), "nothing unverified is kept"


def test_refusals_outweigh_a_silent_host(own_published: Published, tmp_path: Path) -> None:
    """One host is dead, the other lies: the lie is what the user must hear of."""
    with WebServer(own_published.directory.parents[1]) as dead:
        url = dead.url
    own_published.server.fault(".cvmfspublished", "flip")
    with pytest.raises(SignatureError):
        own_published.open(tmp_path / "c", server=f"{url}/cvmfs/{FQRN};{own_published.url}", config=QUICK)


def test_another_repository(own_published: Published, tmp_path: Path) -> None:
    keys = RepositoryKeys.create(str(tmp_path / "k"), "other.example.org")
    other = own_published.directory.parent / "other.example.org"
    publish(str(own_published.tree / "bin"), str(other), fqrn="other.example.org", keys=keys)
    with pytest.raises(NameMismatchError) as caught:
        own_published.open(
            tmp_path / "c", server=own_published.url.replace(FQRN, "other.example.org"), config=QUICK
        )
    assert caught.value.status == 31


def test_a_repository_that_is_not_there(own_published: Published, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError) as caught:
        own_published.open(tmp_path / "c", server=own_published.server.url + "/cvmfs/none", config=QUICK)
    assert caught.value.status == 34 and FQRN in caught.value.message


def test_wrong_key(own_published: Published, tmp_path: Path) -> None:
    RepositoryKeys.create(str(tmp_path / "k"), "x.example.org")
    with pytest.raises(SignatureError, match="not signed by any of the 1 master keys"):
        own_published.open(tmp_path / "c", keys=str(tmp_path / "k" / "x.example.org.pub"), config=QUICK)
    # one of several is enough: a directory, a list, PEM bytes
    pem = Path(own_published.public_key).read_bytes()
    for keys in (str(own_published.keys), [str(tmp_path / "k"), pem], pem):
        with own_published.open(tmp_path / "c", keys=keys, config=QUICK):
            pass
    for bad in (str(tmp_path / "none.pub"), str(tmp_path), b"-----BEGIN nothing"):
        with pytest.raises(ConfigError):
            own_published.open(tmp_path / "c", keys=bad)


def test_expired_whitelist(own_published: Published, tmp_path: Path) -> None:
    with own_published.open(tmp_path / "c", config=QUICK):
        pass
    (own_published.tree / "README").write_text("new\n")
    own_published.publish()
    text = RepositoryKeys.load(str(own_published.keys), FQRN).whitelist(-1)
    own_published.server.virtual[f"/cvmfs/{FQRN}/.cvmfswhitelist"] = text
    for cache in ("c", "fresh"):
        with pytest.raises(ExpiredError) as caught:
            own_published.open(tmp_path / cache, config=QUICK)
        assert caught.value.status == 32


def test_blacklist(own_published: Published, tmp_path: Path) -> None:
    blacklist = tmp_path / "blacklist"
    blacklist.write_text(f"<{FQRN} 2\n")
    config = {**QUICK, "CVMFS_BLACKLIST": str(blacklist)}
    with pytest.raises(BlacklistedError, match="revisions from 2 on are accepted") as caught:
        own_published.open(tmp_path / "c", config=config)
    assert caught.value.status == 25
    blacklist.write_text(RepositoryKeys.load(str(own_published.keys), FQRN).fingerprint() + "\n")
    with pytest.raises(BlacklistedError, match="certificate"):
        own_published.open(tmp_path / "c", config=config)


# --- without a network


def test_offline_after_one_run(own_published: Published, tmp_path: Path) -> None:
    with own_published.open(tmp_path / "c", config=QUICK) as repo:
        repo.read("/README")
        repo.listdir("/nested")
    own_published.server.stop()
    with own_published.open(tmp_path / "c", config=QUICK) as repo:
        assert repo.read("/README") == b"read me\n"
        assert repo.listdir("/nested")
        with pytest.raises(NetworkError) as caught:
            repo.read("/bin/tool")
        assert caught.value.errno == 5
        status = repo.status()
        assert status["origin"] == "kept" and status["reason"]
        assert status["network"]["online"] is False and status["network"]["offline_since"]
    with own_published.open(tmp_path / "c", offline=True, config=QUICK) as repo:
        assert repo.read("/README") == b"read me\n"
        with pytest.raises(OfflineError):
            repo.read("/bin/tool")


def test_offline_and_never_seen(own_published: Published, tmp_path: Path) -> None:
    with pytest.raises(OfflineError):
        own_published.open(tmp_path / "c", offline=True)
    own_published.server.stop()
    with pytest.raises(NetworkError) as caught:
        own_published.open(tmp_path / "c", config=QUICK)
    assert caught.value.status == 30 and own_published.server.url[7:] in str(caught.value)


def test_a_server_that_lost_the_repository(own_published: Published, tmp_path: Path) -> None:
    with own_published.open(tmp_path / "c", config=QUICK) as repo:
        repo.read("/README")
    own_published.server.fault("/cvmfs/", "status", value=404)
    with own_published.open(tmp_path / "c", config=QUICK) as repo:
        assert repo.read("/README") == b"read me\n"
        assert repo.opened is not None and repo.opened.origin == "kept"
        with pytest.raises(ObjectNotFoundError):
            repo.read("/bin/tool")


def test_what_is_kept_is_verified_again(own_published: Published, tmp_path: Path) -> None:
    """Who can write to the cache's state can not put another revision in."""
    with own_published.open(tmp_path / "c", config=QUICK):
        pass
    own_published.server.stop()
    states = [
        p for p in (tmp_path / "c").rglob("*") if p.is_file() and b"\nN" + FQRN.encode() in p.read_bytes()
    ]
    assert states
    for place in states:
        data = place.read_bytes()
        place.chmod(0o600)
        place.write_bytes(data[:-20] + bytes(20))
    with pytest.raises((SignatureError, NetworkError)):
        with own_published.open(tmp_path / "c", config=QUICK) as repo:
            assert repo.opened is not None and repo.opened.origin == "breadcrumb"
            raise NetworkError("the breadcrumb of our own cache was used")


def test_no_proxy_configured(own_published: Published, tmp_path: Path) -> None:
    config = {**QUICK, "CVMFS_SERVER_URL": own_published.url}
    with pytest.raises(ProxyError, match="proxy") as caught:
        own_published.open(tmp_path / "c", server=None, config=config)
    assert caught.value.status == 23
    assert own_published.server.requests == [], "nothing goes out directly unless that is configured"
    with own_published.open(tmp_path / "c", server=None, proxy="DIRECT", config=config):
        pass
    # who names the server himself goes there directly, unless a proxy is configured
    with pytest.raises(NetworkError):
        own_published.open(tmp_path / "d", config={**QUICK, "CVMFS_HTTP_PROXY": "http://127.0.0.1:1"})


def test_no_server(tmp_path: Path, own_published: Published) -> None:
    with pytest.raises(ConfigError, match="no server is configured"):
        own_published.open(tmp_path / "c", server=None, config={"CVMFS_HTTP_PROXY": "DIRECT"})


def test_file_urls(own_published: Published, tmp_path: Path) -> None:
    with own_published.open(tmp_path / "c", server=f"file://{own_published.directory}") as repo:
        assert repo.read("/README") == b"read me\n"


def test_a_wrong_size_in_the_manifest(own_published: Published, tmp_path: Path) -> None:
    """A root catalog of another size than the manifest says is not opened."""
    from cvmfs_client.manifest import parse_manifest

    text = (own_published.directory / ".cvmfspublished").read_bytes()
    manifest = parse_manifest(text, FQRN)
    size = f"\nB{manifest.catalog_size}\n".encode()
    keys = RepositoryKeys.load(str(own_published.keys), FQRN)
    body = text.partition(b"\n--\n")[0] + b"\n"
    changed = (b"\n" + body).replace(size, b"\nB5\n")[1:]
    assert changed != body
    own_published.server.virtual[f"/cvmfs/{FQRN}/.cvmfspublished"] = keys.sign_manifest(changed)
    with pytest.raises(OSError):
        own_published.open(tmp_path / "c", config=QUICK)


def test_breadcrumbs() -> None:
    text = b"300cb3ea2284c7f61bed3598af9a18ebe0911bccT1795197105R4"
    crumb = Breadcrumb.parse(text)
    assert crumb is not None and crumb.pack() == text and crumb.revision == 4
    assert Breadcrumb.parse(text.partition(b"R")[0]) == crumb._replace(revision=0)
    for bad in (b"", None, b"x", text[1:], text + b"x", b"\xff"):
        assert Breadcrumb.parse(bad) is None
    assert (age(0, 59), age(0, 7200), age(0, 200_000)) == ("59 s", "2 h", "2 d")
