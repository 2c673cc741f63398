"""Pulling one image: what is asked, what is kept, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.store.support import snapshot
from tests.support.images import Image, Layout, compress, sha256, tar_of
from tests.support.needs import needs
from tests.support.registry import FaultyRegistry
from udk.archive.source import open_source
from udk.base.progress import Progress, Task
from udk.errors import (
    DiskFullError,
    IntegrityError,
    InvalidImageError,
    LayerError,
    NotFoundError,
    PlatformError,
    RegistryError,
    UdkError,
    UnsupportedImageError,
)
from udk.oci.platform import Platform
from udk.oci.reference import Reference
from udk.registry.client import RegistryClient
from udk.registry.options import RegistryOptions
from udk.runtime.pull import pull
from udk.store import Store, StoredImage

LAYERS = [{"a": "1", "dir/b": "x" * 50_000}, {"c": "2"}, {"dir/.wh.b": "", "d": "3"}]


class World:
    """A registry with one repository, and a store."""

    def __init__(self, tmp: Path, registry: FaultyRegistry, layout: Layout) -> None:
        self.registry = registry
        self.layout = layout
        self.store = Store.open(str(tmp / "s"))
        self.host = registry.url.partition("//")[2]

    def reference(self, tail: str = ":1") -> Reference:
        return Reference.parse(f"{self.host}/team/app{tail}")

    def pull(self, tail: str = ":1", **more: Any) -> StoredImage:
        reference = self.reference(tail)
        options = RegistryOptions(attempts=2, backoff=0.01, environ={"HOME": "/nonexistent"})
        with RegistryClient(options) as client:
            return pull(self.store, reference, source=open_source(reference, client), **more)

    def files(self, image: StoredImage) -> set[str]:
        root = Path(self.store.tree(image)[0])
        return {str(p.relative_to(root)) for p in root.rglob("*")}

    def asked(self) -> list[str]:
        """What the registry was asked since the last time, without the repository."""
        got = [r.target.partition("/app/")[2] for r in self.registry.requests()]
        self.registry.log.clear()
        return got

    def problems(self) -> list[str]:
        return [str(p) for p in self.store.fsck() if p.serious]

    def is_empty(self) -> bool:
        """No image, no tree, nothing half made; partial downloads may stay."""
        return (
            self.store.images() == []
            and os.listdir(f"{self.store.path}/trees") == []
            and os.listdir(f"{self.store.path}/staging") == []
            and os.listdir(f"{self.store.path}/leases") == []
            and self.problems() == []
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    layout = Layout(tmp_path / "layout")
    with FaultyRegistry({"team/app": layout.path}) as registry:
        yield World(tmp_path, registry, layout)


def blobs_of(image: Image) -> list[str]:
    return [f"blobs/{d}" for d in image.blobs]


def test_everything_is_asked_once_and_verified(world: World) -> None:
    made = world.layout.add_image(LAYERS, "1")
    image = world.pull()
    assert sorted(world.asked()) == sorted(["manifests/1", *blobs_of(made)])
    assert image.digest == made.digest
    assert world.files(image) == {"a", "c", "d", "dir"}
    assert Path(world.store.blob_path(made.digest)).read_bytes() == made.manifest
    assert world.store.find(world.reference()) is not None
    assert world.problems() == []
    for directory in ("ingest", "staging", "leases", "trash"):
        assert os.listdir(f"{world.store.path}/{directory}") == []


def test_directories_that_someone_removed_are_made_again(world: World) -> None:
    world.layout.add_image(LAYERS, "1")
    for name in ("locks", "staging", "ingest", "leases", "trash", "trees", "refs"):
        os.rmdir(f"{world.store.path}/{name}")
    image = world.pull()
    assert world.files(image) == {"a", "c", "d", "dir"}
    with world.store.use(image):
        world.store.remove_ref(image)
    world.store.gc()


def test_known_digest_asks_for_no_blob(world: World) -> None:
    made = world.layout.add_image(LAYERS, "1")
    world.pull()
    world.asked()
    world.pull()
    assert world.asked() == ["manifests/1"]
    world.pull(policy="missing")
    world.pull(policy="never")
    assert world.asked() == []
    world.pull(f"@{made.digest}")
    assert world.asked() == [f"manifests/{made.digest}"]


def test_tag_that_moved_is_followed_and_only_new_blobs_are_fetched(world: World) -> None:
    first = world.layout.add_image(LAYERS, "1")
    world.pull()
    second = world.layout.add_image([*LAYERS, {"new": "file"}], "1")
    world.asked()
    assert world.pull(policy="missing").digest == first.digest
    image = world.pull()
    assert image.digest == second.digest
    new = set(second.blobs) - set(first.blobs)
    assert sorted(world.asked()) == sorted(["manifests/1", *(f"blobs/{d}" for d in new)])
    assert "new" in world.files(image)
    found = world.store.find(world.reference())
    assert found is not None
    assert found.digest == second.digest


def test_never_and_not_there(world: World) -> None:
    with pytest.raises(NotFoundError, match="not in the store"):
        world.pull(policy="never")
    assert world.asked() == []
    with pytest.raises(NotFoundError):
        world.pull(policy="missing")
    assert world.is_empty()


def test_index_gives_the_platform_and_keeps_its_bytes(world: World) -> None:
    images = {a: world.layout.add_image([{a: a}], config={"architecture": a}) for a in ("amd64", "arm64")}
    digest = world.layout.add_index([(i, {"os": "linux", "architecture": a}) for a, i in images.items()], "1")
    image = world.pull(f"@{digest}", platform=Platform.parse("linux/arm64"))
    assert image.digest == images["arm64"].digest
    assert image.top_digest == digest
    assert sha256(Path(world.store.blob_path(digest)).read_bytes()) == digest
    assert world.files(image) == {"arm64"}
    world.asked()
    world.pull(f"@{digest}", platform=Platform.parse("linux/amd64"))
    assert len(world.asked()) == 1 + 1 + 2
    world.pull(":1", platform=Platform.parse("linux/arm64"))
    assert world.asked() == ["manifests/1"]  # the image's manifest is there by its digest
    with pytest.raises(PlatformError, match=r"linux/s390x.*linux/amd64, linux/arm64"):
        world.pull(":1", platform=Platform.parse("linux/s390x"))


def test_lone_image_of_another_platform(world: World) -> None:
    world.layout.add_image(LAYERS, "1", config={"architecture": "s390x"})
    for platform in (Platform.parse("linux/amd64"), None):
        with pytest.raises(
            PlatformError, match=r"for linux/s390x, not for linux/\w+; .*--platform linux/s390x"
        ):
            world.pull(platform=platform)
        assert world.is_empty()
    assert world.files(world.pull(platform=Platform.parse("linux/s390x"))) == {"a", "c", "d", "dir"}


def test_docker_images_and_all_compressions(world: World) -> None:
    world.layout.add_image(LAYERS, "1", docker=True)
    world.layout.add_image(LAYERS, "2", compression=["gzip", "zstd", ""])
    one, two = world.pull(":1"), world.pull(":2")
    assert one.tree == two.tree  # the same layers, whatever they are wrapped in
    assert len(os.listdir(f"{world.store.path}/trees")) == 1
    assert world.problems() == []


def test_repeated_layer_is_fetched_once(world: World) -> None:
    made = world.layout.add_image([{"a": "1"}, {"b": "2"}, {"a": "1"}], "1")
    image = world.pull()
    assert sorted(world.asked()) == sorted(["manifests/1", *blobs_of(made)])
    assert world.files(image) == {"a", "b"}


def test_embedded_data_is_not_asked_for(world: World) -> None:
    import base64

    layer = compress(tar_of({"a": "1"}), "gzip")
    row = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": sha256(layer),
        "size": len(layer), "data": base64.b64encode(layer).decode(),
    }  # fmt: skip
    made = world.layout.add_image([{"a": "1"}], "1", manifest={"layers": [row]})
    world.pull()
    assert sorted(world.asked()) == sorted(["manifests/1", f"blobs/{sha256(made.config)}"])


def test_lost_tree_is_made_again_without_asking(world: World) -> None:
    world.layout.add_image(LAYERS, "1")
    image = world.pull()
    world.store.discard(f"{world.store.path}/trees/{image.tree}")
    world.asked()
    again = world.pull(policy="never")
    assert world.asked() == []
    assert world.files(again) == {"a", "c", "d", "dir"}


def test_lost_or_rotten_blob_is_fetched_again(world: World) -> None:
    made = world.layout.add_image(LAYERS, "1")
    image = world.pull()
    world.store.discard(f"{world.store.path}/trees/{image.tree}")
    lost = sha256(made.layers[1])
    os.unlink(world.store.blob_path(lost))
    world.asked()
    with pytest.raises(NotFoundError):
        world.pull(policy="never")
    world.pull(policy="missing")
    assert world.asked() == ["manifests/1", f"blobs/{lost}"]


def test_interrupted_pull_goes_on_where_it_was(world: World) -> None:
    made = world.layout.add_image([{"f": os.urandom(400_000)}], "1", compression="")
    layer = sha256(made.layers[0])
    for _ in range(20):  # the client may try again by itself; in the end it gives up
        world.registry.fault(f"/blobs/{layer}", "reset", after=20_000, count=1)
    world.registry.fault(f"/blobs/{layer}", "status", code=500, skip=3)
    with pytest.raises(UdkError):
        world.pull()
    assert world.is_empty()
    (partial,) = Path(world.store.path, "ingest").glob("*/data")
    assert partial.read_bytes() == made.layers[0][: partial.stat().st_size]
    assert partial.stat().st_size > 0
    world.registry._faults.clear()
    world.asked()
    world.registry.log.clear()
    have = partial.stat().st_size
    world.pull()
    ranges = [r.headers.get("range") for r in world.registry.requests(f"/blobs/{layer}")]
    assert ranges == [f"bytes={have}-"]
    assert world.registry.bytes_of(layer) == len(made.layers[0]) - have
    assert world.problems() == []


def test_rotten_partial_is_fetched_afresh_once(world: World) -> None:
    made = world.layout.add_image([{"f": os.urandom(100_000)}], "1", compression="")
    layer = sha256(made.layers[0])
    directory = Path(world.store.path, "ingest", layer.replace(":", "-"))
    directory.mkdir()
    (directory / "data").write_bytes(b"rot" * 10_000)
    image = world.pull()
    assert [r.headers.get("range") for r in world.registry.requests(f"/blobs/{layer}")] == [
        "bytes=30000-",
        None,
    ]
    assert world.files(image) == {"f"}
    assert world.problems() == []


def test_admission_comes_before_any_blob(world: World) -> None:
    made = world.layout.add_image(LAYERS, "1")
    seen: list[tuple[str, bytes, str]] = []

    def refuse(reference: Reference, manifest: bytes, digest: str) -> None:
        seen.append((str(reference), manifest, digest))
        raise UdkError("not signed")

    with pytest.raises(UdkError, match="not signed"):
        world.pull(admit=refuse)
    assert seen == [(str(world.reference()), made.manifest, made.digest)]
    assert world.asked() == ["manifests/1"]
    assert world.is_empty()
    assert os.listdir(f"{world.store.path}/oci/blobs/sha256") == []


def flipped(data: bytes) -> bytes:
    return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]


@pytest.mark.parametrize("kind", ["flip", "truncate", "endless", "empty"])
@pytest.mark.parametrize("which", ["config", "layer"])
def test_wrong_bytes_end_in_one_line_and_an_empty_store(world: World, kind: str, which: str) -> None:
    made = world.layout.add_image([{"f": "x" * 10_000}, {"g": "y"}], "1")
    digest = sha256(made.config if which == "config" else made.layers[1])
    details: dict[str, Any] = {"flip": {"at": 30}, "truncate": {"after": 10}}.get(kind, {})
    world.registry.fault(f"/blobs/{digest}", "replace" if kind == "empty" else kind, **details)
    with pytest.raises((IntegrityError, RegistryError)) as caught:
        world.pull()
    assert "\n" not in str(caught.value)
    assert caught.value.status == 125
    assert world.is_empty()
    world.registry.clear()
    assert world.files(world.pull()) == {"f", "g"}


def test_layer_that_is_not_what_the_config_says(world: World) -> None:
    world.layout.add_image(
        LAYERS, "1", config={"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64] * 3}}
    )
    with pytest.raises(IntegrityError, match="digest"):
        world.pull()
    assert world.is_empty()


def test_hostile_layer(world: World) -> None:
    outside = Path(world.store.path, "..", "evil")
    world.layout.add_image([{"ok": "1"}, {"../../../evil": "x"}], "1")
    with pytest.raises(LayerError) as caught:
        world.pull()
    assert "\n" not in str(caught.value)
    assert not outside.exists()
    assert world.is_empty()


def test_what_is_not_an_image(world: World) -> None:
    world.layout.add_manifest(b"{", "application/vnd.oci.image.manifest.v1+json", "1")
    with pytest.raises(InvalidImageError):
        world.pull(":1")
    world.layout.add_image(LAYERS, "2", manifest={"artifactType": "application/x", "config": {
        "mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2,
    }})  # fmt: skip
    with pytest.raises(UnsupportedImageError):
        world.pull(":2")
    assert not any("blobs" in a for a in world.asked())
    assert world.is_empty()


def test_index_that_contains_itself(world: World) -> None:
    inner = world.layout.add_image(LAYERS, "x")
    digest = world.layout.add_index([(inner, {"os": "linux", "architecture": "amd64"})], "1")
    for _ in range(6):
        row = {
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": digest,
            "size": os.stat(world.layout.path / "blobs/sha256" / digest[7:]).st_size,
        }
        digest = world.layout.add_manifest(
            {"schemaVersion": 2, "mediaType": row["mediaType"], "manifests": [row]},
            str(row["mediaType"]),
            "1",
        )
    with pytest.raises(InvalidImageError, match="nests more than"):
        world.pull()
    assert world.is_empty()


def test_flushes_are_one_a_blob_and_a_few_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.layout.add_image([{f"f{n}": "x"} for n in range(10)], "1")
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(os.readlink(f"/proc/self/fd/{fd}")))
    world.pull()
    below = [p[len(world.store.path) + 1 :].split("/") for p in flushed]
    assert sum(p[0] == "ingest" for p in below) == 11  # config and layers
    rest = sorted("/".join(p[:3]) if p[0] != "refs" else "refs" for p in below if p[0] != "ingest")
    assert [p.split(".")[0] for p in rest] == [
        "oci/blobs/sha256", "oci/blobs/sha256",  # the manifest's name, and once for all the others
        "refs", "staging/", "staging/", "staging/tree-" + rest[-2].split("-")[1].split(".")[0],
        "staging/tree-" + rest[-2].split("-")[1].split(".")[0], "trees",
    ]  # fmt: skip


class Recorder(Progress):
    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def task(self, label: str, total: int) -> Task:
        self.tasks.append(super().task(label, total))
        return self.tasks[-1]


def test_progress_tells_every_blob(world: World) -> None:
    made = world.layout.add_image(LAYERS, "1")
    progress = Recorder()
    world.pull(progress=progress)
    assert {t.label for t in progress.tasks} == {*(d[7:19] for d in made.blobs), "unpacking"}
    assert all(t.state == "done" and t.count == t.total for t in progress.tasks)


def test_layers_are_unpacked_while_later_ones_arrive(world: World) -> None:
    made = world.layout.add_image([{"first": "1"}, {"f": os.urandom(300_000)}], "1", compression="")
    world.registry.fault(f"/blobs/{sha256(made.layers[1])}", "slow", rate=200_000)
    done: list[Optional[StoredImage]] = []
    thread = threading.Thread(target=lambda: done.append(world.pull()))
    thread.start()
    seen = False
    while thread.is_alive() and not seen:
        seen = any(Path(world.store.path, "staging").glob("*/rootfs/first"))
        time.sleep(0.01)
    assert seen
    assert not world.store.has_blob(sha256(made.layers[1]))
    thread.join()
    assert done[0] is not None


def test_content_that_turns_out_wrong_was_never_published(world: World) -> None:
    """The first megabyte is right and is unpacked while the rest arrives, which is wrong."""
    made = world.layout.add_image(
        [{"a": os.urandom(1_500_000), "b": os.urandom(1_500_000)}], "1", compression=""
    )
    world.registry.fault(f"/blobs/{sha256(made.layers[0])}", "flip", at=2_900_000)
    with pytest.raises((IntegrityError, RegistryError)):
        world.pull()
    assert world.is_empty()


def test_partial_that_is_void_starts_the_tree_anew(world: World) -> None:
    """What was unpacked of a rotten partial is thrown away with it."""
    made = world.layout.add_image([{"a": os.urandom(3_000_000)}], "1", compression="")
    layer = sha256(made.layers[0])
    directory = Path(world.store.path, "ingest", layer.replace(":", "-"))
    directory.mkdir()
    good = made.layers[0]
    (directory / "data").write_bytes(good[:1_000_000] + b"rot" + good[1_000_003:2_000_000])
    world.registry.fault(f"/blobs/{layer}", "slow", rate=3_000_000, count=1)
    image = world.pull()
    assert Path(world.store.tree(image)[0], "a").stat().st_size == 3_000_000
    assert world.problems() == []
    assert os.listdir(f"{world.store.path}/staging") == []


def test_full_disk_while_unpacking(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.layout.add_image([{"a": "x" * 100_000}, {"b": "y"}], "1")
    from udk.layers.tree import TreeBuilder

    def full(self: TreeBuilder) -> None:
        raise DiskFullError("no space left")

    monkeypatch.setattr(TreeBuilder, "finish", full)
    with pytest.raises(DiskFullError):
        world.pull()
    assert world.is_empty()
    monkeypatch.undo()
    world.asked()
    world.pull()
    assert world.asked() == ["manifests/1"]


def test_collector_in_between_costs_nothing(world: World) -> None:
    made = world.layout.add_image([{"f": os.urandom(200_000)}, {"g": "x"}], "1", compression="")
    world.registry.fault(f"/blobs/{sha256(made.layers[0])}", "slow", rate=400_000)
    done: list[StoredImage] = []
    thread = threading.Thread(target=lambda: done.append(world.pull()))
    thread.start()
    while thread.is_alive():
        world.store.gc(partial_seconds=0)
        time.sleep(0.02)
    thread.join()
    assert world.files(done[0]) == {"f", "g"}
    assert world.problems() == []
    assert all(world.registry.served(d) == 1 for d in made.blobs)


def test_other_names_for_the_same_content_cost_one_tree(world: World) -> None:
    world.layout.add_image(LAYERS, "1")
    first = world.pull()
    before = snapshot(Path(world.store.path))
    world.layout.add_image(LAYERS, "2")
    second = world.pull(":2")
    assert second.tree == first.tree
    new = {p.split("/")[0] for p in snapshot(Path(world.store.path)) - before}
    assert new == {"refs"}


def test_reference_file_is_small_and_complete(world: World) -> None:
    world.layout.add_image(LAYERS, "1")
    image = world.pull()
    raw = Path(image.path).read_bytes()
    assert len(raw) < 1000
    assert json.loads(raw)["tree"] == image.tree


def test_from_a_directory(world: World) -> None:
    made = world.layout.add_image(LAYERS, "1")
    image = pull(world.store, Reference.parse(f"oci:{world.layout.path}:1"))
    assert image.digest == made.digest
    assert world.files(image) == {"a", "c", "d", "dir"}
    assert world.asked() == []


def test_what_a_killed_pull_left_goes_with_the_next(world: World) -> None:
    world.layout.add_image(LAYERS, "1")
    orphan = Path(world.store.path, "staging", "tree-x.dead")
    (orphan / "rootfs" / "a").mkdir(parents=True)
    world.pull()
    deadline = time.monotonic() + 10
    while os.listdir(f"{world.store.path}/trash") or orphan.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@needs("skopeo")
def test_docker_images_are_readable_by_other_tools_too(world: World) -> None:
    made = world.layout.add_image(LAYERS, "1", docker=True)
    image = world.pull()
    assert Path(world.store.blob_path(image.digest)).read_bytes() == made.manifest
    name = f"oci:{world.store.path}/oci:{image.reference}"
    copied = f"oci:{world.store.path}/../copy:x"
    for command in (["inspect", name], ["--insecure-policy", "copy", "-q", name, copied]):
        subprocess.run(["skopeo", *command], check=True, capture_output=True)
    world.store.gc()
    assert world.store.fsck() == []  # the converted manifest stays
    assert len(os.listdir(f"{world.store.path}/oci/blobs/sha256")) == 6
    world.store.remove_ref(image)
    world.store.gc()
    assert os.listdir(f"{world.store.path}/oci/blobs/sha256") == []
