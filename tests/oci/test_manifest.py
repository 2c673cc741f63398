"""Manifests and indexes: one fixture for each confusion of the field, and what must be accepted."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udk.errors import InvalidImageError, UdkError, UnsupportedImageError
from udk.oci import mediatypes as mt
from udk.oci.digest import digest_of
from udk.oci.manifest import MAX_ENTRIES, MAX_LAYERS, Index, Manifest, check_runnable, parse_manifest


def d(n: int) -> str:
    return f"sha256:{n:064x}"


MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": mt.OCI_MANIFEST,
    "config": {"mediaType": mt.OCI_CONFIG, "digest": d(1), "size": 10},
    "layers": [
        {"mediaType": mt.OCI_LAYER + "+gzip", "digest": d(2), "size": 20},
        {"mediaType": mt.OCI_LAYER + "+zstd", "digest": d(3), "size": 30},
    ],
}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": mt.OCI_INDEX,
    "manifests": [
        {
            "mediaType": mt.OCI_MANIFEST,
            "digest": d(4),
            "size": 40,
            "platform": {"os": "linux", "architecture": "amd64"},
        }
    ],
}


def changed(document: dict[str, Any], *changes: tuple[str, Any]) -> bytes:
    """``document`` with members set by path (``layers.0.size``); None removes one."""
    made = copy.deepcopy(document)
    for path, value in changes:
        *way, last = path.split(".")
        at: Any = made
        for step in way:
            at = at[int(step)] if isinstance(at, list) else at[step]
        if isinstance(at, list):
            at[int(last)] = value
        elif value is None:
            at.pop(last, None)
        else:
            at[last] = value
    return json.dumps(made).encode()


def test_a_manifest() -> None:
    raw = json.dumps(MANIFEST, indent=3).encode()
    manifest = parse_manifest(raw, mt.OCI_MANIFEST + "; charset=utf-8")
    assert isinstance(manifest, Manifest)
    assert (manifest.raw, manifest.digest, manifest.media_type) == (raw, digest_of(raw), mt.OCI_MANIFEST)
    assert (str(manifest.config.digest), manifest.config.size) == (d(1), 10)
    assert [(str(x.digest), x.size) for x in manifest.layers] == [(d(2), 20), (d(3), 30)]
    check_runnable(manifest)


def test_an_index() -> None:
    index = parse_manifest(json.dumps(INDEX).encode(), mt.OCI_INDEX)
    assert isinstance(index, Index)
    assert str(index.manifests[0].platform) == "linux/amd64"
    assert index.manifests[0].as_dict() == INDEX["manifests"][0]


def docker(document: dict[str, Any]) -> bytes:
    text = json.dumps(document)
    names = [
        (mt.OCI_MANIFEST, mt.DOCKER_MANIFEST), (mt.OCI_INDEX, mt.DOCKER_LIST),
        (mt.OCI_CONFIG, mt.DOCKER_CONFIG),
        (mt.OCI_LAYER + "+", mt.DOCKER_LAYER + "."),
    ]  # fmt: skip
    for oci, other in names:
        text = text.replace(oci, other)
    return text.encode()


@pytest.mark.parametrize(
    ("data", "announced", "kind"),
    [
        (json.dumps(MANIFEST).encode(), "", mt.OCI_MANIFEST),
        (changed(MANIFEST, ("mediaType", None)), "", mt.OCI_MANIFEST),
        (changed(MANIFEST, ("mediaType", None)), mt.OCI_MANIFEST, mt.OCI_MANIFEST),
        (changed(MANIFEST, ("mediaType", None)), mt.DOCKER_MANIFEST, mt.DOCKER_MANIFEST),
        (json.dumps(MANIFEST).encode(), "application/json", mt.OCI_MANIFEST),
        (json.dumps(MANIFEST).encode(), "text/plain; charset=utf-8", mt.OCI_MANIFEST),
        (json.dumps(MANIFEST).encode(), "Application/VND.oci.image.manifest.v1+JSON", mt.OCI_MANIFEST),
        (docker(MANIFEST), "", mt.DOCKER_MANIFEST),
        (docker(MANIFEST), mt.DOCKER_MANIFEST, mt.DOCKER_MANIFEST),
        (docker(INDEX), mt.DOCKER_LIST, mt.DOCKER_LIST),
        (changed(INDEX, ("mediaType", None)), "", mt.OCI_INDEX),
        (changed(INDEX, ("manifests", [])), "", mt.OCI_INDEX),
        (changed(MANIFEST, ("annotations", {"a": "b"}), ("unheard-of", {"x": [1]})), "", mt.OCI_MANIFEST),
        (changed(MANIFEST, ("subject", INDEX["manifests"][0])), "", mt.OCI_MANIFEST),
        (changed(MANIFEST, ("layers", [])), "", mt.OCI_MANIFEST),
        (changed(MANIFEST, ("layers", MANIFEST["layers"][:1] * 3)), "", mt.OCI_MANIFEST),
        (changed(MANIFEST, ("layers.0.digest", "sha512:" + "a" * 128)), "", mt.OCI_MANIFEST),
    ],
)  # fmt: skip
def test_accepted(data: bytes, announced: str, kind: str) -> None:
    assert parse_manifest(data, announced).media_type == kind


LAYERS = MANIFEST["layers"]
IMAGES = INDEX["manifests"]
INVALID: list[tuple[str, bytes, str, str]] = [
    # name, document, announced type, what the error says
    ("both manifests and layers", changed(MANIFEST, ("manifests", [])), "", "both 'manifests' and 'config'"),
    ("an index with layers", changed(INDEX, ("layers", [])), "", "both 'manifests' and 'layers'"),
    ("an index with a config", changed(INDEX, ("config", {})), "", "both 'manifests' and 'config'"),
    ("an index with fsLayers", changed(INDEX, ("fsLayers", [])), "", "both 'manifests' and 'fsLayers'"),
    ("schema 1 members", changed(MANIFEST, ("fsLayers", [])), "", "mixes schema 1 members"),
    ("type and content disagree", changed(MANIFEST, ("mediaType", mt.OCI_INDEX)), "", "has no 'manifests'"),
    ("index type for layers", changed(MANIFEST, ("mediaType", None)), mt.OCI_INDEX, "has no 'manifests'"),
    ("manifest type for an index", changed(INDEX, ("mediaType", mt.OCI_MANIFEST)), "", "has no 'layers'"),
    ("announced as an index", changed(MANIFEST), mt.OCI_INDEX, "was announced as"),
    ("announced as Docker's", changed(MANIFEST), mt.DOCKER_MANIFEST, "was announced as"),
    ("mediaType not a string", changed(MANIFEST, ("mediaType", 7)), "", "'mediaType' must be a string"),
    ("mediaType an escape", changed(MANIFEST, ("mediaType", "a/\x1b[31m")), "", "is not a media type"),
    ("no schemaVersion", changed(MANIFEST, ("schemaVersion", None)), "", "schemaVersion 'None'"),
    ("schemaVersion as text", changed(MANIFEST, ("schemaVersion", "2")), "", "schemaVersion '2'"),
    ("schemaVersion as a float", changed(MANIFEST, ("schemaVersion", 2.0)), "", "schemaVersion '2.0'"),
    ("schemaVersion true", changed(MANIFEST, ("schemaVersion", True)), "", "schemaVersion 'True'"),
    ("schemaVersion 3", changed(MANIFEST, ("schemaVersion", 3)), "", "schemaVersion '3'"),
    ("no config", changed(MANIFEST, ("config", None)), "", "has no config"),
    ("config is a list", changed(MANIFEST, ("config", [])), "", "a descriptor must be an object"),
    ("no layers", changed(MANIFEST, ("layers", None)), "", "has no layers"),
    ("layers is an object", changed(MANIFEST, ("layers", {})), "", "'layers' must be a list"),
    ("a layer is a string", changed(MANIFEST, ("layers.0", "x")), "", "layer 1 .* must be an object"),
    ("too many layers", changed(MANIFEST, ("layers", LAYERS * 501)), "", f"more than {MAX_LAYERS}"),
    ("too many images", changed(INDEX, ("manifests", IMAGES * 1001)), "", f"more than {MAX_ENTRIES}"),
    ("huge config", changed(MANIFEST, ("config.size", 5 << 20)), "", "more than 4194304"),
    ("huge child", changed(INDEX, ("manifests.0.size", 5 << 20)), "", "more than 4194304"),
    ("size missing", changed(MANIFEST, ("layers.0.size", None)), "", "has the size 'None'"),
    ("size -1", changed(MANIFEST, ("layers.0.size", -1)), "", "has the size '-1'"),
    ("size 2^63", changed(MANIFEST, ("layers.0.size", 1 << 63)), "", "has the size '9223372036854775808'"),
    ("size as text", changed(MANIFEST, ("layers.0.size", "20")), "", "has the size '20'"),
    ("size as a float", changed(MANIFEST, ("layers.0.size", 20.0)), "", "has the size '20.0'"),
    ("size true", changed(MANIFEST, ("layers.0.size", True)), "", "has the size 'True'"),
    ("two sizes of one digest", changed(MANIFEST, ("layers.1.digest", d(2))), "", "another size than before"),
    ("digest missing", changed(MANIFEST, ("layers.0.digest", None)), "", "is not a digest"),
    ("digest md5", changed(MANIFEST, ("layers.0.digest", "md5:" + "a" * 32)), "", "md5"),
    ("digest in capitals", changed(MANIFEST, ("layers.0.digest", "sha256:" + "A" * 64)), "", "lower-case"),
    ("digest a path", changed(MANIFEST, ("config.digest", "sha256:../../x")), "", "lower-case hex digits"),
    ("digest a number", changed(MANIFEST, ("config.digest", 5)), "", "'digest' must be a string"),
    ("no mediaType in a descriptor", changed(MANIFEST, ("layers.0.mediaType", None)), "", "has no mediaType"),
    ("annotations a list", changed(MANIFEST, ("annotations", [])), "", "'annotations' must be an object"),
    ("an annotation a number", changed(MANIFEST, ("layers.0.annotations", {"a": 1})), "", "annotations"),
    ("urls a string", changed(MANIFEST, ("layers.0.urls", "x")), "", "'urls' must be a list"),
    ("platform a string", changed(INDEX, ("manifests.0.platform", "linux/amd64")), "", "must be an object"),
    ("os a number", changed(INDEX, ("manifests.0.platform.os", 1)), "", "'os' must be a string"),
    ("subject broken", changed(MANIFEST, ("subject", {"digest": d(1)})), "", "the subject of"),
    ("data not base64", changed(MANIFEST, ("config.data", "***")), "", "is not base64"),
    ("data of another digest", changed(MANIFEST, ("config.data", "MDEy")), "", "not what the digest says"),
    ("duplicate key", json.dumps(MANIFEST).encode()[:-1] + b', "layers": []}', "", "'layers' appears twice"),
    ("byte-order mark", b"\xef\xbb\xbf" + json.dumps(MANIFEST).encode(), "", "byte-order mark"),
    ("deep", b'{"schemaVersion":2,"x":' + b"[" * 90 + b"]" * 90 + b"}", "", "levels deep"),
    ("too large", json.dumps(MANIFEST).encode() + b" " * (4 << 20), "", "too large"),
    ("not an object", b"[]", "", "is not a JSON object"),
    ("a web page", b"<html>\x1b[31m</html>", "application/json", "is not JSON"),
    ("nothing", b"", "", "is not JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "announced", "says"), INVALID, ids=[i[0] for i in INVALID])
def test_invalid(name: str, data: bytes, announced: str, says: str) -> None:
    with pytest.raises(InvalidImageError, match=says) as caught:
        parse_manifest(data, announced)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("data", "announced", "says"),
    [
        (
            b'{"schemaVersion": 1, "name": "x", "fsLayers": [], "history": []}',
            "",
            "schema 1 manifest; .*push it again",
        ),
        (b"whatever", mt.DOCKER_SCHEMA1_SIGNED + "; charset=utf-8", "schema 1 manifest"),
        (changed(MANIFEST, ("schemaVersion", 1)), mt.OCI_MANIFEST, "schema 1 manifest"),
        (
            changed(MANIFEST, ("mediaType", None)),
            "application/vnd.example+json",
            "of type 'application/vnd",
        ),
        (
            changed(MANIFEST, ("mediaType", "application/vnd.oci.artifact.manifest.v1+json")),
            "",
            "not an image",
        ),
    ],
)
def test_unsupported(data: bytes, announced: str, says: str) -> None:
    with pytest.raises(UnsupportedImageError, match=says):
        parse_manifest(data, announced)


def test_embedded_data() -> None:
    data = b'{"a": 1}'
    descriptor = {
        "mediaType": mt.OCI_CONFIG, "digest": str(digest_of(data)), "size": len(data),
        "data": base64.b64encode(data).decode(),
    }  # fmt: skip
    manifest = parse_manifest(changed(MANIFEST, ("config", descriptor)))
    assert isinstance(manifest, Manifest)
    assert manifest.config.data == data
    for size in (len(data) + 1, len(data) - 1):
        with pytest.raises(InvalidImageError, match="not what the digest says"):
            parse_manifest(changed(MANIFEST, ("config", {**descriptor, "size": size})))


HELM, SIF = "application/vnd.cncf.helm.config.v1+json", "application/vnd.sylabs.sif.layer.v1.sif"
UNSUPPORTED, BROKEN = UnsupportedImageError, InvalidImageError


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ([("config.mediaType", mt.OCI_EMPTY), ("artifactType", "application/x.y")], UNSUPPORTED,
         "artifact of type 'application/x.y'"),
        ([("config.mediaType", mt.OCI_EMPTY)], UNSUPPORTED, "artifact of type"),
        ([("config.mediaType", HELM)], UNSUPPORTED, "config of type 'application/vnd.cncf.helm.config.v1"),
        ([("layers.0.mediaType", SIF)], UNSUPPORTED, "layer 1 .* is of type 'application/vnd.sylabs.sif"),
        ([("layers.1.mediaType", mt.OCI_LAYER + "+gzip+encrypted")], UNSUPPORTED, "layer 2 .* is encrypted"),
        ([("layers.1.mediaType", mt.OCI_LAYER + "+brotli")], UNSUPPORTED, "layer 2"),
        ([("layers.0.digest", d(1)), ("layers.0.size", 10)], BROKEN, "both as its config and as layer 1"),
        ([("layers.0.size", 0)], BROKEN, "layer 1 .* has the size 0"),
    ],
)  # fmt: skip
def test_not_runnable(changes: list[tuple[str, Any]], error: type[UdkError], says: str) -> None:
    manifest = parse_manifest(changed(MANIFEST, *changes))
    assert isinstance(manifest, Manifest)
    with pytest.raises(error, match=says) as caught:
        check_runnable(manifest)
    assert type(caught.value) is error


@pytest.mark.parametrize("media_type", sorted(mt.LAYERS))
def test_every_layer_type_can_be_run(media_type: str) -> None:
    manifest = parse_manifest(changed(MANIFEST, ("layers.0.mediaType", media_type)))
    assert isinstance(manifest, Manifest)
    check_runnable(manifest)
    how = mt.layer_compression(media_type)
    assert how == ("gzip" if "gzip" in media_type else "zstd" if "zstd" in media_type else "")


@given(st.data(), st.sampled_from([MANIFEST, INDEX]))
def test_no_change_of_a_document_is_more_than_an_error(data: st.DataObject, document: dict[str, Any]) -> None:
    paths = [
        "schemaVersion", "mediaType", "config", "layers", "layers.0", "layers.0.size", "layers.0.digest",
        "config.mediaType", "annotations", "manifests", "manifests.0", "manifests.0.platform", "subject",
    ]  # fmt: skip
    values: st.SearchStrategy[Any] = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["size", "digest", "x"]), inner)
        ),
        max_leaves=5,
    )
    try:
        raw = changed(document, (data.draw(st.sampled_from(paths)), data.draw(values)))
    except (KeyError, UnicodeEncodeError):
        return
    attempt(lambda: parse_manifest(raw))


def attempt(call: Callable[[], object]) -> None:
    try:
        call()
    except UdkError as e:
        assert str(e).isprintable()
