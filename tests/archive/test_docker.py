"""Archives of ``docker save``: of old with linked layers, of today with a layout beside, several images."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.archive.test_layout import AMD64, packed, pulled
from tests.support.images import Layout, compress, sha256, tar_of
from udk.archive.source import list_images, open_source, resolve_image
from udk.errors import IntegrityError, InvalidImageError, InvalidReferenceError, NotFoundError
from udk.oci.reference import Reference


def archive(
    path: Path, members: Mapping[str, bytes], links: Optional[Mapping[str, str]] = None, how: str = ""
) -> Path:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path.write_bytes(compress(out.getvalue(), how))
    return path


def config_of(tars: list[bytes]) -> bytes:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [sha256(t) for t in tars]},
    }
    return json.dumps(document).encode()


def saved(path: Path) -> tuple[Path, list[bytes], bytes]:
    """An archive as Docker up to 24 writes it: one image twice tagged, and a second that links to its
    layer."""
    tars = [tar_of({"a": "1"}), tar_of({"b": "2"})]
    config, second = config_of(tars), config_of(tars[:1])
    names = [hashlib.sha256(c).hexdigest() + ".json" for c in (config, second)]
    manifest = [
        {
            "Config": names[0],
            "RepoTags": ["app:1", "quay.io/x/app:1"],
            "Layers": ["11/layer.tar", "22/layer.tar"],
        },
        {"Config": names[1], "RepoTags": None, "Layers": ["33/layer.tar"]},
    ]
    members = {
        "11/layer.tar": tars[0],
        "22/layer.tar": tars[1],
        names[0]: config,
        names[1]: second,
        "manifest.json": json.dumps(manifest).encode(),
    }
    return archive(path, members, {"33/layer.tar": "../11/layer.tar"}), tars, config


@pytest.mark.parametrize("name", ["app:1", "docker.io/library/app:1", "quay.io/x/app:1", "@0"])
def test_an_image_of_several(tmp_path: Path, name: str) -> None:
    path, tars, config = saved(tmp_path / "a.tar")
    for transport in ("docker-archive", "oci-archive"):  # what it is, is seen from the content
        with open_source(Reference.parse(f"{transport}:{path}:{name}")) as source:
            assert pulled(source)[1:] == (config, tars)


def test_a_linked_layer(tmp_path: Path) -> None:
    path, tars, _ = saved(tmp_path / "a.tar")
    with open_source(Reference.parse(f"docker-archive:{path}:@1")) as source:
        assert pulled(source)[2] == tars[:1]


def test_the_manifest_is_the_same_each_time(tmp_path: Path) -> None:
    digests = set()
    for n in range(2):
        path, _, _ = saved(tmp_path / f"{n}.tar")
        with open_source(Reference.parse(f"docker-archive:{path}:app:1")) as source:
            digests.add(source.manifest()[2])
    assert len(digests) == 1


def test_listing(tmp_path: Path) -> None:
    path, _, _ = saved(tmp_path / "a.tar")
    with open_source(Reference.parse(f"docker-archive:{path}")) as source:
        assert [names for _, names in list_images(source)] == [["app:1", "quay.io/x/app:1"], []]


@pytest.mark.parametrize(
    ("tail", "error", "text"),
    [
        ("", InvalidReferenceError, "has 2 images; choose one with PATH:NAME: app:1, quay.io/x/app:1"),
        (":app:2", NotFoundError, "has no image 'docker.io/library/app:2'"),
        (":@2", NotFoundError, "no number 2"),
    ],
)
def test_what_cannot_be_chosen(tmp_path: Path, tail: str, error: type[Exception], text: str) -> None:
    path, _, _ = saved(tmp_path / "a.tar")
    with open_source(Reference.parse(f"docker-archive:{path}{tail}")) as source:
        with pytest.raises(error, match=text):
            source.manifest()


@pytest.mark.parametrize("how", ["gzip", "zstd"])
@pytest.mark.parametrize("named", [False, True])
def test_compressed_layers(tmp_path: Path, how: str, named: bool) -> None:
    tar = tar_of({"a": "1" * 1000})
    blob, config = compress(tar, how), config_of([tar])
    name = f"blobs/sha256/{sha256(blob)[7:]}" if named else "1/layer.tar"
    manifest = json.dumps([{"Config": "c.json", "RepoTags": [], "Layers": [name]}]).encode()
    path = archive(tmp_path / "a.tar", {name: blob, "c.json": config, "manifest.json": manifest}, how="gzip")
    with open_source(Reference.parse(f"docker-archive:{path}")) as source:
        found = resolve_image(source, AMD64).manifest
        assert found.layers[0].media_type.endswith("+" + how)
        assert pulled(source)[2] == [blob]


@pytest.mark.parametrize("nested", [False, True])
def test_docker_of_today_keeps_its_manifest(tmp_path: Path, nested: bool) -> None:
    layout = Layout(tmp_path / "layout")
    image = layout.add_image([{"a": "1"}, {"b": "2"}], "1", compression="", listed=not nested)
    if nested:
        layout.add_index([(image, {"os": "linux", "architecture": "amd64"})], "1")
    manifest = json.loads(image.manifest)
    entry = {
        "Config": "blobs/sha256/" + manifest["config"]["digest"][7:],
        "RepoTags": ["app:1"],
        "Layers": ["blobs/sha256/" + layer["digest"][7:] for layer in manifest["layers"]],
    }
    (layout.path / "manifest.json").write_text(json.dumps([entry]))
    path = packed(layout.path, tmp_path / "a.tar")
    for text in (f"docker-archive:{path}:app:1", f"docker-archive:{path}", f"oci-archive:{path}:1"):
        with open_source(Reference.parse(text)) as source:
            assert pulled(source) == (image.manifest, image.config, image.layers)


MANIFEST = json.dumps([{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["1/layer.tar"]}]).encode()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"manifest.json": b"[]"}, "not a list of images"),
        ({"manifest.json": b"{}"}, "not a list of images"),
        ({"manifest.json": b"\xef\xbb\xbf[]"}, "byte-order mark"),
        ({"manifest.json": b'[{"Config":"c.json","Config":"d.json","Layers":[]}]'}, "appears twice"),
        ({"manifest.json": b'[{"Layers":["1/layer.tar"]}]'}, "names no config"),
        ({"manifest.json": b'[{"Config":["c.json"],"Layers":["1/layer.tar"]}]'}, "'Config' must be a string"),
        ({"manifest.json": b'[{"Config":"c.json","Layers":"1/layer.tar"}]'}, "'Layers' must be a list"),
        ({"manifest.json": b'[{"Config":"../../etc/passwd","Layers":[]}]'}, "lacks the config"),
        ({"manifest.json": b'[{"Config":"/etc/passwd","Layers":[]}]'}, "lacks the config"),
        ({"manifest.json": b'[{"Config":"c.json","Layers":["1/layer.tar","1/layer.tar"]}]'}, "has 2 layers"),
        ({"manifest.json": b'[{"Config":"c.json","Layers":["loop"]}]'}, "lead nowhere"),
        ({"manifest.json": b'[{"Config":"c.json","Layers":["dangling"]}]'}, "lacks the layer"),
        ({"manifest.json": b'[{"Config":"c.json","Layers":["outside"]}]'}, "lacks the layer"),
        ({"manifest.json": None, "repositories": b"{}"}, "of the first version"),
        ({"manifest.json": None}, "neither an OCI image layout nor a docker archive"),
        ({"c.json": b"not json"}, "not JSON"),
        ({"c.json": None}, "lacks the config"),
        ({"1/layer.tar": None}, "lacks the layer"),
        ({"1/layer.tar": b"BZh91AY"}, "compressed with bzip2"),
    ],
)
def test_broken_archives(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    tar = tar_of({"a": "1"})
    members = {"1/layer.tar": tar, "c.json": config_of([tar]), "manifest.json": MANIFEST, **changes}
    shown = {k: v for k, v in members.items() if v is not None}
    links = {"loop": "loop", "dangling": "../x", "outside": "/etc/passwd"}
    path = archive(tmp_path / "a.tar", shown, links)
    with pytest.raises((InvalidImageError, NotFoundError), match=text):
        with open_source(Reference.parse(f"docker-archive:{path}")) as source:
            pulled(source)


def test_a_layer_that_is_not_what_the_config_says(tmp_path: Path) -> None:
    tar, other = tar_of({"a": "1"}), tar_of({"a": "2"})
    members = {"1/layer.tar": other, "c.json": config_of([tar]), "manifest.json": MANIFEST}
    path = archive(tmp_path / "a.tar", members)
    with pytest.raises(IntegrityError, match="wrong content"):
        with open_source(Reference.parse(f"docker-archive:{path}")) as source:
            pulled(source)
