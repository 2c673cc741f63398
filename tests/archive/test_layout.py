"""Images from OCI layouts: directories and archives, compressed or not, from a file or a pipe."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.support.images import REF_NAME, Layout, compress
from tests.support.needs import needs
from udk.archive.source import ImageSource, list_images, open_source, open_stream, resolve_image
from udk.base.verified import VerifiedReader
from udk.errors import InvalidImageError, InvalidReferenceError, NotFoundError, PlatformError
from udk.oci.manifest import parse_config
from udk.oci.platform import Platform
from udk.oci.reference import Reference

AMD64 = Platform("linux", "amd64")


def pulled(source: ImageSource, platform: Platform = AMD64) -> tuple[bytes, bytes, list[bytes]]:
    """Manifest, config and layers of a source, everything verified."""
    found = resolve_image(source, platform)
    manifest = found.manifest

    def blob(d: Any) -> bytes:
        return VerifiedReader(source.blob(d), d.digest.algorithm, d.digest.hex, d.size).read()

    config = blob(manifest.config)
    parse_config(config, manifest)
    return manifest.raw, config, [blob(layer) for layer in manifest.layers]


def packed(directory: Path, target: Path, how: str = "") -> Path:
    """``directory`` as a tar archive, compressed ``how``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in sorted(directory.rglob("*")):
            tar.add(path, f"./{path.relative_to(directory)}", recursive=False)
    data = out.getvalue()
    if how == "bzip2":
        import bz2

        data = bz2.compress(data)
    elif how == "xz":
        import lzma

        data = lzma.compress(data)
    else:
        data = compress(data, how)
    target.write_bytes(data)
    return target


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "layout")
    made.add_image([{"a": b"x" * 300_000}, {"b": "2"}], "one")
    made.add_image([{"c": "3"}], "docker.io/library/two:12")
    return made


@pytest.mark.parametrize("how", ["dir", "", "gzip", "zstd", "bzip2", "xz"])
def test_every_form_gives_the_same_bytes(layout: Layout, tmp_path: Path, how: str) -> None:
    image = layout.add_image([{"x": "y"}, {"z": "w"}], "tag")
    path = layout.path if how == "dir" else packed(layout.path, tmp_path / "a.tar", how)
    for text in (f"oci-archive:{path}:tag", f"{path}") if how != "dir" else (f"oci:{path}:tag",):
        ref = Reference.parse(text)
        with open_source(ref if ref.tag else ref.with_tag("tag")) as source:
            assert pulled(source) == (image.manifest, image.config, image.layers)


def test_from_a_pipe(layout: Layout, tmp_path: Path) -> None:
    archive = packed(layout.path, tmp_path / "a.tar", "gzip")
    with subprocess.Popen(["cat", str(archive)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with open_stream(Reference.parse("oci-archive:/dev/stdin:one"), process.stdout) as source:
            assert len(pulled(source)[2]) == 2


def test_from_an_offset(layout: Layout, tmp_path: Path) -> None:
    for path in (layout.path, packed(layout.path, tmp_path / "a.tar")):
        with open_source(Reference.parse(f"oci:{path}:one")) as source:
            layer = resolve_image(source, AMD64).manifest.layers[0]
            whole = b"".join(source.blob(layer))
            assert len(whole) == layer.size
            assert b"".join(source.blob(layer, 100)) == whole[100:]
            assert b"".join(source.blob(layer, layer.size)) == b""


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("one", "one"), ("two:12", "docker.io/library/two:12"), ("@1", "docker.io/library/two:12"),
        ("@0", "one"),
        ("docker.io/library/two:12", "docker.io/library/two:12"),
    ],
)  # fmt: skip
def test_choosing(layout: Layout, name: str, tag: str) -> None:
    wanted = next(e["digest"] for e in layout.entries if e["annotations"][REF_NAME] == tag)
    with open_source(Reference.parse(f"oci:{layout.path}:{name}")) as source:
        assert str(source.manifest()[2]) == wanted
    with open_source(Reference.parse(f"oci:{layout.path}@{wanted}")) as source:
        assert str(source.manifest()[2]) == wanted


@pytest.mark.parametrize(
    ("tail", "error", "text"),
    [
        ("", InvalidReferenceError, "has 2 images; choose one with PATH:NAME: one, docker.io/library/two:12"),
        (":three", NotFoundError, "has no image 'three'"),
        (":@2", NotFoundError, "has 2 images, no number 2"),
        ("@sha256:" + "0" * 64, NotFoundError, "has no image sha256:0000"),
    ],
)
def test_what_cannot_be_chosen(layout: Layout, tail: str, error: type[Exception], text: str) -> None:
    with open_source(Reference.parse(f"oci:{layout.path}{tail}")) as source, pytest.raises(error, match=text):
        source.manifest()


def test_latest_is_the_one_meant(layout: Layout) -> None:
    image = layout.add_image([{"l": "l"}], "latest")
    with open_source(Reference.parse(str(layout.path))) as source:
        assert str(source.manifest()[2]) == image.digest


def test_listing(layout: Layout) -> None:
    with open_source(Reference.parse(str(layout.path))) as source:
        listed = list_images(source)
    assert [names for _, names in listed] == [["one"], ["docker.io/library/two:12"]]
    for ref, _ in listed:
        with open_source(ref) as source:
            pulled(source)


def test_platforms_through_nested_indexes(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "l")
    amd = layout.add_image([{"a": "amd"}], listed=False)
    arm = layout.add_image([{"a": "arm"}], listed=False, config={"architecture": "arm64"})
    old = layout.add_image([{"a": "s390"}], listed=False, config={"architecture": "s390x"})
    first = layout.add_index([(old, {"os": "linux", "architecture": "s390x"})], "x")
    second = layout.add_index(
        [
            (arm, {"os": "linux", "architecture": "arm64", "variant": "v8"}),
            (amd, {"os": "linux", "architecture": "amd64"}),
        ],
        "y",
    )
    rows = [dict(e) for e in layout.entries if e["digest"] in (first, second)]
    for row in rows:
        row.pop("annotations")
    kind = rows[0]["mediaType"]
    top = layout.add_manifest({"schemaVersion": 2, "mediaType": kind, "manifests": rows}, kind, "top")
    with open_source(Reference.parse(f"oci:{layout.path}:top")) as source:
        found = resolve_image(source, Platform.parse("arm64"))
        assert (str(found.top_digest), str(found.digest)) == (top, arm.digest)
        assert [str(d[0]) for d in found.documents] == [top, second, arm.digest]
        assert str(resolve_image(source, AMD64).digest) == amd.digest
        with pytest.raises(PlatformError, match=r"no variant for linux/riscv64; choose .* linux/s390x"):
            resolve_image(source, Platform.parse("riscv64"))


def test_indexes_too_deep(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "l")
    layout.add_image([{"a": "b"}], "0")
    kind = "application/vnd.oci.image.index.v1+json"
    for n in range(1, 7):
        child = {k: v for k, v in layout.entries[-1].items() if k != "annotations"}
        layout.add_manifest({"schemaVersion": 2, "mediaType": kind, "manifests": [child]}, kind, str(n))
    with open_source(Reference.parse(f"oci:{layout.path}:4")) as source:
        resolve_image(source, AMD64)
    with open_source(Reference.parse(f"oci:{layout.path}:6")) as source:
        with pytest.raises(InvalidImageError, match="nests more than 4 indexes"):
            resolve_image(source, AMD64)


# --- what is wrong with a layout


def broken_marker(layout: Layout) -> None:
    (layout.path / "oci-layout").write_text('{"imageLayoutVersion": "9.0.0"}')


def no_marker(layout: Layout) -> None:
    (layout.path / "oci-layout").unlink()


def no_index(layout: Layout) -> None:
    (layout.path / "index.json").unlink()


def index_not_json(layout: Layout) -> None:
    (layout.path / "index.json").write_bytes(b"\x1b[31m")


def index_duplicate_keys(layout: Layout) -> None:
    (layout.path / "index.json").write_text('{"schemaVersion":2,"manifests":[],"manifests":[]}')


def index_is_fifo(layout: Layout) -> None:
    (layout.path / "index.json").unlink()
    os.mkfifo(layout.path / "index.json")


def manifest_changed(layout: Layout) -> None:
    path = layout.path / "blobs" / "sha256" / layout.entries[0]["digest"][7:]
    path.write_bytes(path.read_bytes() + b" ")


def manifest_gone(layout: Layout) -> None:
    (layout.path / "blobs" / "sha256" / layout.entries[0]["digest"][7:]).unlink()


def manifest_is_fifo(layout: Layout) -> None:
    manifest_gone(layout)
    os.mkfifo(layout.path / "blobs" / "sha256" / layout.entries[0]["digest"][7:])


def blobs_short(layout: Layout) -> None:
    keep = {e["digest"][7:] for e in layout.entries}
    for path in (layout.path / "blobs" / "sha256").iterdir():
        if path.name not in keep:
            path.write_bytes(path.read_bytes()[:-1])


def digest_escapes(layout: Layout) -> None:
    layout.entries[0]["digest"] = "sha256:../../../../../../etc/passwd"
    layout._write_index()


@pytest.mark.parametrize(
    "damage",
    [
        broken_marker, no_marker, no_index, index_not_json, index_duplicate_keys, index_is_fifo,
        manifest_changed, manifest_gone, manifest_is_fifo, blobs_short, digest_escapes,
    ],
)  # fmt: skip
@pytest.mark.parametrize("archive", [False, True])
def test_broken_layouts(
    layout: Layout, tmp_path: Path, damage: Callable[[Layout], None], archive: bool
) -> None:
    damage(layout)
    path = packed(layout.path, tmp_path / "a.tar") if archive else layout.path
    with pytest.raises((InvalidImageError, NotFoundError)) as caught:
        with open_source(Reference.parse(f"oci:{path}:one")) as source:
            pulled(source)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "empty", "text", "dir"])
def test_what_is_no_source(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"hello" * 1000)
    (tmp_path / "dir").mkdir()
    with pytest.raises((InvalidImageError, NotFoundError), match=name):
        open_source(Reference.parse(str(tmp_path / name)))


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from udk.archive import files

    monkeypatch.setattr(files, "FREE_SIZE", 1 << 20)
    for how in ("gzip", "zstd"):
        (tmp_path / "bomb").write_bytes(compress(bytes(30 << 20), how))
        with pytest.raises(InvalidImageError, match="grows more than 200-fold"):
            open_source(Reference.parse(str(tmp_path / "bomb")))


@pytest.mark.parametrize("how", ["gzip", "zstd", "bzip2", "xz"])
def test_truncated_compressed_archives(layout: Layout, tmp_path: Path, how: str) -> None:
    archive = packed(layout.path, tmp_path / "a.tar", how)
    data = archive.read_bytes()
    for length in (10, len(data) // 2, len(data) - 1):
        archive.write_bytes(data[:length])
        with pytest.raises(InvalidImageError):
            with open_source(Reference.parse(f"{archive}")) as source:
                pulled(source)


@needs("skopeo")
@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive"])
def test_what_skopeo_writes(layout: Layout, tmp_path: Path, transport: str) -> None:
    target = f"{transport}:{tmp_path}/out:team/app:9"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", f"oci:{layout.path}:one", target],
        check=True,
        capture_output=True,
        timeout=60,
    )
    with open_source(Reference.parse(target)) as source:
        manifest, config, layers = pulled(source)
    inspected = subprocess.run(
        ["skopeo", "inspect", "--config", "--raw", target], check=True, capture_output=True, timeout=60
    )
    assert json.loads(inspected.stdout)["rootfs"] == json.loads(config)["rootfs"]
    assert len(layers) == 2
    if transport != "docker-archive":
        raw = subprocess.run(
            ["skopeo", "inspect", "--raw", target], check=True, capture_output=True, timeout=60
        )
        assert raw.stdout == manifest
