"""The store as its users see it: images, trees, leases, other stores; and what the run path costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.store.support import add_image
from tests.support.needs import needs
from udk.errors import CorruptStoreError, InUseError, StoreError
from udk.oci.reference import Reference
from udk.store import Store, leases

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "s"))


def test_image_config_manifest_and_tree(store: Store) -> None:
    image = add_image(store, "app:1", {"hello": "world"})
    assert store.config(image)["config"] == {"Cmd": ["/hello"]}
    assert store.manifest(image)["config"]["digest"] == image.config_digest == image.image_id
    rootfs, record = store.tree(image)
    assert Path(rootfs, "hello").read_text() == "world"
    assert Path(record).is_file()


def test_missing_or_damaged_config_is_named(store: Store) -> None:
    image = add_image(store, "app:1")
    path = Path(store.blob_path(image.config_digest))
    path.chmod(0o600)
    path.write_text("[]")
    with pytest.raises(CorruptStoreError, match="udk pull app:1"):
        store.config(image)
    path.unlink()
    with pytest.raises(CorruptStoreError, match=image.config_digest[7:]):
        store.config(image)


def test_image_without_its_tree_is_not_found(store: Store) -> None:
    image = add_image(store, "app:1")
    store.discard(f"{store.path}/trees/{image.tree}")
    assert store.find(Reference.parse("app:1")) is None
    assert [i.familiar for i in store.images()] == ["app:1"]
    with pytest.raises(InUseError, match="udk pull"):
        store.use(image)
    assert list(leases.all_leases(store.path)) == []


def test_lease_names_its_process_and_goes(store: Store) -> None:
    image = add_image(store, "app:1")
    with store.use(image) as lease:
        data = json.loads(Path(lease.path).read_text())
        assert data["pid"] == os.getpid()
        assert data["target"] == image.tree
        assert lease.path.startswith(f"{store.path}/leases/tree-{image.tree}-")
    assert os.listdir(f"{store.path}/leases") == []
    lease.release()
    with pytest.raises(ValueError, match="bad lease"):
        store.lease("x", "../y")


def test_publishing_twice_keeps_the_first(store: Store) -> None:
    image = add_image(store, "app:1")
    inode = os.stat(f"{store.path}/trees/{image.tree}").st_ino
    staging, lease = store.staging("test")
    Path(staging, "tree.json").write_text("{}")
    store.publish_tree(image.tree, staging)
    lease.release()
    assert os.stat(f"{store.path}/trees/{image.tree}").st_ino == inode
    assert os.listdir(f"{store.path}/staging") == []


def test_unfinished_tree_is_not_published(store: Store) -> None:
    staging, _ = store.staging("test")
    with pytest.raises(StoreError, match="not a finished tree"):
        store.publish_tree("a" * 64 + "-1", staging)
    assert os.listdir(f"{store.path}/trees") == []


def test_half_tree_is_replaced(store: Store) -> None:
    image = add_image(store, "app:1")
    Path(store.path, "trees", image.tree, "tree.json").unlink()
    assert not store.has_tree(image.tree)
    add_image(store, "app:1")
    assert store.has_tree(image.tree)


def test_blobs_are_verified_and_read_only(store: Store) -> None:
    from tests.support.images import sha256
    from udk.errors import IntegrityError

    data = b"some bytes"
    store.put_blob(sha256(data), data)
    assert os.stat(store.blob_path(sha256(data))).st_mode & 0o777 == 0o444
    assert store.has_blob(sha256(data), len(data))
    assert not store.has_blob(sha256(data), 3)
    with pytest.raises(IntegrityError):
        store.put_blob(sha256(b"other"), data)
    assert not store.has_blob(sha256(b"other"))


class TestOtherStores:
    @pytest.fixture
    def site(self, tmp_path: Path) -> Store:
        site = Store.open(str(tmp_path / "site"))
        add_image(site, "site:1", {"where": "site"})
        add_image(site, "both:1", {"where": "site"})
        return site

    def test_are_looked_into_after_the_own(self, tmp_path: Path, site: Store) -> None:
        own = Store.open(str(tmp_path / "s"), [site.path, str(tmp_path / "missing")])
        add_image(own, "both:1", {"where": "own"})
        for name, where in (("site:1", "site"), ("both:1", "own")):
            image = own.find(Reference.parse(name))
            assert image is not None
            assert Path(own.tree(image)[0], "where").read_text() == where
            assert own.config(image)["os"] == "linux"
        assert sorted(i.familiar for i in own.images()) == ["both:1", "both:1", "site:1"]

    def test_are_used_without_being_written(self, tmp_path: Path, site: Store) -> None:
        own = Store.open(str(tmp_path / "s"), [site.path])
        for path in Path(site.path).rglob("*"):
            if path.is_dir():
                path.chmod(0o555)
        os.chmod(site.path, 0o555)
        try:
            image = own.find(Reference.parse("site:1"))
            assert image is not None
            with own.use(image) as lease:
                assert lease.path == ""
            with pytest.raises(StoreError, match="read-only"):
                own.remove_ref(image)
        finally:
            for path in (Path(site.path), *Path(site.path).rglob("*")):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o755)


@needs("skopeo")
def test_other_tools_read_it_by_name(store: Store) -> None:
    image = add_image(store, "localhost:5000/team/app:1")
    add_image(store, "debian:12", {"d": "12"})
    by_digest = f"localhost:5000/team/app@{image.digest}"
    store.set_ref(Reference.parse(by_digest), image)
    for name in ("localhost:5000/team/app:1", "debian:12", "docker.io/library/debian:12"):
        out = subprocess.run(
            ["skopeo", "inspect", f"oci:{store.path}/oci:{name}"], check=True, capture_output=True
        ).stdout
        assert json.loads(out)["Os"] == "linux"
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{store.path}/oci:{by_digest}"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    assert raw == Path(store.blob_path(image.digest)).read_bytes()


def test_index_lists_other_platforms_under_names_of_their_own(store: Store) -> None:
    from udk.store.refs import host_platform

    add_image(store, "app:1", {"a": "1"}, platform=host_platform())
    add_image(store, "app:1", {"a": "2"}, platform="linux/s390x")
    index = json.loads(Path(store.path, "oci", "index.json").read_text())
    names = {m["annotations"]["org.opencontainers.image.ref.name"]: m["digest"] for m in index["manifests"]}
    assert set(names) == {
        "docker.io/library/app:1", "app:1", "docker.io/library/app:1+linux-s390x", "app:1+linux-s390x",
    }  # fmt: skip
    assert names["app:1"] != names["app:1+linux-s390x"]


RUN_PATH = """
import sys
from udk.oci.reference import Reference
from udk.config import Config
from udk.store.store import Store
config = Config.load()
store = Store.open(sys.argv[1], config.store_others)
image = store.find(Reference.parse("app:1"))
lease = store.use(image)
store.config(image), store.tree(image)
print("\\n".join(sys.modules))
"""


def test_run_path_imports_little(store: Store) -> None:
    add_image(store, "app:1")
    env = {"PYTHONPATH": str(ROOT), "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-S", "-c", RUN_PATH, store.path]
    loaded = set(subprocess.run(argv, check=True, capture_output=True, text=True, env=env).stdout.split())
    bare = [sys.executable, "-S", "-c", "import os, sys; print('\\n'.join(sys.modules))"]
    plain = subprocess.run(bare, check=True, capture_output=True, text=True, env=env).stdout
    added = loaded - set(plain.split())
    ours = {m for m in added if m.split(".")[0] == "udk"}
    assert {m for m in ours if m.startswith(("udk.store", "udk.base"))} == {
        "udk.base", "udk.base.files", "udk.base.jsonlite", "udk.base.process", "udk.store",
        "udk.store.leases", "udk.store.location", "udk.store.refs", "udk.store.settle", "udk.store.store",
    }  # fmt: skip
    assert added - ours <= {"_json", "errno", "__future__", "pwd"}


@needs("strace")
def test_run_path_costs_few_system_calls(store: Store, tmp_path: Path) -> None:
    add_image(store, "app:1")
    Path(store.path, "trees").joinpath(os.listdir(f"{store.path}/trees")[0], "unsettled").unlink()
    trace = tmp_path / "trace"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}
    subprocess.run(
        ["strace", "-f", "-o", str(trace), "-e", "trace=%file,fsync,fdatasync,write",
         sys.executable, "-S", "-c", RUN_PATH, store.path],
        check=True, capture_output=True, env=env,
    )  # fmt: skip
    lines = trace.read_text().splitlines()
    calls = [line for line in lines if store.path in line and "execve(" not in line]
    assert len(calls) <= 8, calls  # version, reference, settled?, tree, lease, mark, tree, config
    assert not any("sync(" in line for line in lines)


def test_another_process_makes_the_store_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look for its version and the look at what is there."""
    path = str(tmp_path / "s")
    look = os.listdir

    def late(where: str) -> list[str]:
        monkeypatch.setattr(os, "listdir", look)
        Store.open(path)
        return look(where)

    monkeypatch.setattr(os, "listdir", late)
    Store.open(path)
