"""The official tools' repositories: every entry of every expectation, and what must be refused."""

from __future__ import annotations

import collections
import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cvmfs_client import CvmfsError, Repository
from cvmfs_client.errors import ExpiredError, IntegrityError, ObjectNotFoundError, SignatureError
from cvmfs_client.expand import expand
from tests.cvmfs.conftest import Official, official_data, unpack

BLOCK = 1 << 20


def expectations(official: Official, name: str) -> list[dict[str, Any]]:
    with gzip.open(official.data / f"{name}.expect.jsonl.gz", "rt") as f:
        return [json.loads(line) for line in f]


def differences(repo: Repository, rows: list[dict[str, Any]], *, nanoseconds: bool = True) -> list[Any]:
    """What differs, leaving out what the data's own description calls right: the root's time, variables put
    into links, nanoseconds where none were published. Where the overlay file system that the expectations
    were recorded on gave a directory that it merges one link, the catalog's count (which the official client
    shows) is that of its subdirectories and two."""
    found: list[Any] = []
    subdirectories = collections.Counter(
        os.path.dirname(bytes.fromhex(r["px"])) for r in rows if r["mode"].startswith("0o4") and r["p"] != "/"
    )
    for row in rows:
        path = bytes.fromhex(row["px"])
        if row["mode"].startswith("0o4") and row["nlink"] == 1:
            row["nlink"] = 2 + subdirectories[path]
        try:
            found += [(row["p"], *d) for d in _differences(repo, path, row, nanoseconds)]
        except CvmfsError as e:
            found.append((row["p"], "error", type(e)))
    return found


def _differences(repo: Repository, path: bytes, row: dict[str, Any], nanoseconds: bool) -> list[Any]:
    st = repo.lstat(path)
    pairs: list[Any] = [
        ("mode", row["mode"], oct(st.st_mode)),
        ("owner", (row["uid"], row["gid"]), (st.st_uid, st.st_gid)),
    ]
    if path != b"/":
        shift = 1 if nanoseconds else 10**9
        pairs.append(("mtime", row["mtime"] // shift, st.st_mtime_ns // shift))
    pairs.append(("nlink", row["nlink"], st.st_nlink))
    target = expand(bytes.fromhex(row["linkx"]), VARIABLES(repo)) if "linkx" in row else None
    if target is not None:
        pairs.append(("link", target, repo.readlink(path)))
        pairs.append(("size", len(target), st.st_size))
    else:
        pairs.append(("size", row["size"], st.st_size))
    if "rdev" in row:
        pairs.append(("rdev", row["rdev"], [os.major(st.st_rdev), os.minor(st.st_rdev)]))
    if path != b"/":  # the client's own attributes are listed there
        names = sorted(repo.listxattr(path, follow_symlinks=False))
        pairs.append(("names of attributes", sorted(row.get("xattr", {})), names))
    for name, value in row.get("xattr", {}).items():
        pairs.append((f"xattr {name}", value, repo.getxattr(path, name, follow_symlinks=False).hex()))
    if "sha256" in row:
        digest = hashlib.sha256()
        with repo.open(path) as f:
            while block := f.read(BLOCK):
                digest.update(block)
        pairs.append(("content", row["sha256"], digest.hexdigest()))
    return [p for p in pairs if p[1] != p[2]]


def VARIABLES(repo: Repository) -> dict[bytes, bytes]:
    return {b"CVMFS_REPOSITORY_NAME": repo.fqrn.encode(), b"CVMFS_FQRN": repo.fqrn.encode()}


def walked(repo: Repository) -> set[bytes]:
    found = {b"/"}
    for folder, dirs, files in repo.walk(b"/"):
        found.update(os.path.join(folder, name) for name in dirs + files)
    return found


@pytest.mark.parametrize("tag", ["HEAD", "v1.0", "v2.0", "v3.0"])
def test_small(official: Official, tmp_path: Path, tag: str) -> None:
    rows = expectations(official, f"A.{tag}")
    with official.open("small", tmp_path / "c", tag=None if tag == "HEAD" else tag) as repo:
        assert differences(repo, rows) == []
        assert walked(repo) == {bytes.fromhex(row["px"]) for row in rows}


VARIANTS = ["sha1", "rmd160", "shake128", "nocomp", "external", "tinychunk", "snap", "autocat"]


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(official: Official, tmp_path: Path, name: str) -> None:
    rows = expectations(official, "C")
    if name == "snap":
        rows[0]["nlink"] += 1  # its hidden /.cvmfs
    with official.open(name, tmp_path / "c") as repo:
        assert differences(repo, rows, nanoseconds=name != "autocat") == []
        more = walked(repo) - {bytes.fromhex(row["px"]) for row in rows}
        assert all(p.endswith((b"/.cvmfscatalog", b"/.cvmfsautocatalog")) for p in more)


def test_ripemd_without_openssl(official: Official, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = hashlib.new

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "ripemd160":
            raise ValueError("unsupported hash type")
        return real(name, *rest, **more)

    monkeypatch.setattr(hashlib, "new", without)
    with official.open("rmd160", tmp_path / "c") as repo:
        assert repo.read("/README").startswith(b"repo") or repo.read("/README")


def test_snapshots(official: Official, tmp_path: Path) -> None:
    with official.open("snap", tmp_path / "c") as repo:
        assert ".cvmfs" not in repo.listdir("/")
        assert repo.listdir("/.cvmfs/snapshots") == ["v1"]
        rows = expectations(official, "C")
        for row in rows:
            row["px"] = (b"/.cvmfs/snapshots/v1" + bytes.fromhex(row["px"]).rstrip(b"/")).hex()
        found = differences(repo, rows)
        assert [d for d in found if d[0] != "/"] == []


def test_expired(official: Official, tmp_path: Path) -> None:
    with pytest.raises(ExpiredError, match=r"expired on 2026-11-17 17:00 UTC") as caught:
        official.open("expired", tmp_path / "c")
    assert caught.value.status == 32


def test_tampered(official: Official, tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="changed after it was signed") as caught:
        official.open("tampered", tmp_path / "c")
    assert caught.value.status == 15


def test_corrupt(official: Official, tmp_path: Path) -> None:
    """Three bad files give input/output errors; nothing else suffers."""
    rows = expectations(official, "C")
    with official.open("corrupt", tmp_path / "c") as repo:
        found = differences(repo, rows, nanoseconds=False)
        assert sorted((path, kind) for path, kind, _ in found) == [
            ("/README", "error"),
            ("/bin/x", "error"),
            ("/many/f000", "error"),
        ]
        for path, error in (
            ("/README", IntegrityError),
            ("/bin/x", IntegrityError),
            ("/many/f000", ObjectNotFoundError),
        ):
            with pytest.raises(error) as caught:
                repo.read(path)
            assert caught.value.errno == 5 and isinstance(caught.value, OSError)


def test_tags(official: Official, tmp_path: Path) -> None:
    with official.open("small", tmp_path / "c") as repo:
        assert {(t.name, t.revision) for t in repo.tags()} == {
            ("trunk", 4),
            ("trunk-previous", 3),
            ("v3.0", 3),
            ("v2.0", 2),
            ("v1.0", 1),
        }
        counts = repo.statistics()
        assert counts["entries"] == len(walked(repo))


def test_preloaded_alien_cache(official: Official, tmp_path: Path) -> None:
    """A cache that the official preload tool filled is read as it is: nothing that it holds is fetched."""
    data = official_data()
    assert data is not None
    unpack(data / "preloaded-alien-cache.small.test.repo.tar.zst", tmp_path)
    alien = next(p.parent for p in tmp_path.rglob("cvmfschecksum.small.test.repo"))
    config = {"CVMFS_ALIEN_CACHE": str(alien), "CVMFS_QUOTA_LIMIT": "-1", "CVMFS_SHARED_CACHE": "no"}
    rows = expectations(official, "A.HEAD")
    with official.open("small", None, config=config) as repo:  # type: ignore[arg-type]
        assert differences(repo, rows) == []
    # only what is short-lived
    assert {p.rpartition("/")[2] for p in official.server.paths()} <= {".cvmfspublished", ".cvmfswhitelist"}
    official.server.stop()
    with official.open("small", None, config=config) as repo:  # type: ignore[arg-type]
        assert differences(repo, rows) == []
        assert repo.opened is not None and repo.opened.reason


def test_preloaded_alien_cache_that_is_read_only(official: Official, tmp_path: Path) -> None:
    data = official_data()
    assert data is not None
    unpack(data / "preloaded-alien-cache.small.test.repo.tar.zst", tmp_path)
    alien = next(p.parent for p in tmp_path.rglob("cvmfschecksum.small.test.repo"))
    for folder, _, files in os.walk(alien, topdown=False):
        for name in files:
            os.chmod(os.path.join(folder, name), 0o444)
        os.chmod(folder, 0o555)
    try:
        config = {"CVMFS_ALIEN_CACHE": str(alien), "CVMFS_QUOTA_LIMIT": "-1", "CVMFS_SHARED_CACHE": "no"}
        with official.open("small", None, config=config, offline=True) as repo:  # type: ignore[arg-type]
            assert differences(repo, expectations(official, "A.HEAD")) == []
            assert repo.opened is not None and repo.opened.origin == "breadcrumb"
    finally:
        for folder, _, _ in os.walk(alien):
            os.chmod(folder, 0o755)
