"""Pulling from a registry that behaves: what is asked, how often, and what comes out."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.registry.conftest import Served
from tests.support.images import Layout
from tests.support.registry import FaultyRegistry
from udk.base.verified import VerifiedReader
from udk.errors import NetworkError, NotFoundError, ProtocolError
from udk.oci.digest import Digest
from udk.oci.manifest import Manifest, parse_config, parse_manifest
from udk.oci.reference import Reference
from udk.registry.client import RegistryClient
from udk.registry.server import RegistryServer


def verified(client: RegistryClient, ref: Reference, descriptor: Any) -> bytes:
    d = descriptor.digest
    return VerifiedReader(client.blob(ref, descriptor), d.algorithm, d.hex, descriptor.size).read()


def test_an_anonymous_pull_is_one_request_per_document(served: Served, client: RegistryClient) -> None:
    data, media_type, digest = client.manifest(served.ref)
    assert (data, media_type, str(digest)) == (
        served.image.manifest, served.image.media_type, served.image.digest,
    )  # fmt: skip
    manifest = parse_manifest(data, media_type)
    assert isinstance(manifest, Manifest)
    parse_config(verified(client, served.ref, manifest.config), manifest)
    for layer, expected in zip(manifest.layers, served.image.layers):
        assert verified(client, served.ref, layer) == expected
    log = served.registry.requests()
    assert [r.method for r in log] == ["GET"] * 5  # manifest, config, three layers
    assert sum(r.sent for r in log) == served.image.size + len(served.image.manifest)
    assert all("authorization" not in r.headers for r in log)
    assert all(r.headers["accept-encoding"] == "identity" for r in log)


def test_connections_are_reused(
    served: Served, client: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = []
    original = served.registry._server.get_request
    monkeypatch.setattr(served.registry._server, "get_request", lambda: (accepted.append(1), original())[1])
    client.manifest(served.ref)
    for layer in served.manifest.layers:
        verified(client, served.ref, layer)
    assert len(accepted) == 1


def test_by_digest(served: Served, client: RegistryClient) -> None:
    ref = served.ref.with_digest(Digest.parse(served.image.digest))
    assert client.manifest(ref)[0] == served.image.manifest
    assert served.registry.requests()[0].target.endswith("/manifests/" + served.image.digest)


def test_resolve_asks_by_head(served: Served, client: RegistryClient) -> None:
    assert str(client.resolve(served.ref)) == served.image.digest
    assert [(r.method, r.sent) for r in served.registry.requests()] == [("HEAD", 0)]


@pytest.mark.parametrize("fault", ["headers", "status"])
def test_resolve_falls_back_to_get(served: Served, client: RegistryClient, fault: str) -> None:
    details: dict[str, Any] = (
        {"headers": {"Docker-Content-Digest": None}} if fault == "headers" else {"code": 405}
    )
    served.registry.fault("/manifests/", fault, method="HEAD", **details)
    assert str(client.resolve(served.ref)) == served.image.digest
    assert [r.method for r in served.registry.requests()] == ["HEAD", "GET"]


def test_embedded_data_costs_no_request(served: Served, client: RegistryClient) -> None:
    layer = served.manifest.layers[2]
    data = served.image.layers[2]
    embedded = type(layer)(layer.media_type, layer.digest, layer.size, data=data)
    assert b"".join(client.blob(served.ref, embedded, 5)) == data[5:]
    assert served.registry.requests() == []


@pytest.mark.parametrize("offset", [0, 1, 1000, 2_999_999])
def test_a_blob_from_an_offset(served: Served, client: RegistryClient, offset: int) -> None:
    layer = served.manifest.layers[0]
    assert b"".join(client.blob(served.ref, layer, offset)) == served.image.layers[0][offset:]
    request = served.registry.requests()[0]
    assert request.sent == layer.size - offset
    assert request.headers.get("range") == (f"bytes={offset}-" if offset else None)


def test_a_whole_blob_is_not_asked_for_again(served: Served, client: RegistryClient) -> None:
    layer = served.manifest.layers[0]
    assert b"".join(client.blob(served.ref, layer, layer.size)) == b""
    assert served.registry.requests() == []


def test_content_encoding_of_blobs_is_not_undone(served: Served, client: RegistryClient) -> None:
    served.registry.fault("/blobs/", "headers", headers={"Content-Encoding": "gzip"})
    assert verified(client, served.ref, served.manifest.layers[1]) == served.image.layers[1]


@pytest.mark.parametrize("kind", ["chunked", "unframed"])
def test_bodies_without_a_length(served: Served, client: RegistryClient, kind: str) -> None:
    served.registry.fault("/v2/", kind)
    assert client.manifest(served.ref)[0] == served.image.manifest
    assert verified(client, served.ref, served.manifest.layers[0]) == served.image.layers[0]


def test_parallel_blobs(served: Served, client: RegistryClient) -> None:
    found: dict[int, bytes] = {}

    def fetch(n: int) -> None:
        found[n] = verified(client, served.ref, served.manifest.layers[n])

    threads = [threading.Thread(target=fetch, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [found[n] for n in range(3)] == served.image.layers


def test_tags_of_all_pages(tmp_path: Path, client: RegistryClient) -> None:
    layout = Layout(tmp_path / "many")
    tags = [f"v{n:04}" for n in range(2500)]
    image = layout.add_image([{"a": "b"}], tags[0])
    for tag in tags[1:]:
        layout.entries.append(
            {**layout.entries[0], "annotations": {"org.opencontainers.image.ref.name": tag}}
        )
    layout._write_index()
    assert image.digest
    with FaultyRegistry({"app": layout.path}) as registry:
        assert client.tags(Reference.parse(f"{registry.host}/app")) == tags
        assert len(registry.requests()) == 3


@pytest.mark.parametrize("tags", [None, [], ["a", "-bad", "\x1b[31mred", 7, "b", "a"]])
def test_odd_tags(served: Served, client: RegistryClient, tags: Any) -> None:
    served.registry.fault("/tags/", "replace", body=json.dumps({"name": "team/app", "tags": tags}).encode())
    assert client.tags(served.ref) == (["a", "b"] if tags else [])


@pytest.mark.parametrize(
    "link",
    [
        "<http://localhost:1/v2/team/app/tags/list?last=x>; rel=next",
        "<https://evil.example/v2/team/app/x>; rel=next",
        "</v2/team/other/tags/list?last=a>; rel=next", "</v2/team/app/tags/list?n=1000&last=z>; rel=next",
        "<file:///v2/team/app/tags>; rel=next",
    ],
)  # fmt: skip
def test_pages_elsewhere_or_for_ever(served: Served, client: RegistryClient, link: str) -> None:
    served.registry.fault("/tags/", "headers", headers={"Link": link})
    with pytest.raises(ProtocolError):
        client.tags(served.ref)
    assert len(served.registry.requests()) <= 2


def test_warnings_are_kept_once(served: Served, client: RegistryClient) -> None:
    text = 'Warning: the \\"old\\" name\x1b[31m goes away'.replace("\x1b", "")
    served.registry.fault("/v2/", "headers", headers={"Warning": f'299 - "{text}"'})
    client.manifest(served.ref)
    verified(client, served.ref, served.manifest.layers[1])
    assert client.warnings == ['Warning: the "old" name[31m goes away']


def test_referrers(served: Served, client: RegistryClient) -> None:
    subject = {
        "mediaType": served.image.media_type,
        "digest": served.image.digest,
        "size": len(served.image.manifest),
    }
    kinds = ["application/vnd.example.sbom", "application/vnd.example.signature"]
    for kind in kinds:
        served.layout.add_image([], f"r-{kind[-4:]}", manifest={"subject": subject, "artifactType": kind})
    digest = Digest.parse(served.image.digest)
    assert sorted(str(r["artifactType"]) for r in client.referrers(served.ref, digest)) == kinds
    assert len(client.referrers(served.ref, digest, kinds[0])) == 1
    # without the API: the tag scheme
    served.registry.fault("/referrers/", "status", code=404)
    assert client.referrers(served.ref, digest) == []
    image = served.layout.add_image([], "x", manifest={"artifactType": kinds[0]}, listed=False)
    served.layout.add_index([(image, {})], served.image.digest.replace(":", "-"))
    assert [r["digest"] for r in client.referrers(served.ref, digest)] == [image.digest]


def test_what_is_not_there(served: Served, client: RegistryClient) -> None:
    with pytest.raises(NotFoundError, match=r"does not have team/app manifests/2 \(tag 2 is not known\)"):
        client.manifest(served.ref.with_tag("2"))
    with pytest.raises(NotFoundError, match="repository other is not known"):
        client.manifest(served.reference("other:1"))
    assert len(served.registry.requests()) == 2  # not found is an answer, it is not asked again


def test_closing_ends_what_other_threads_wait_for(served: Served, options: Any) -> None:
    served.registry.fault("/blobs/", "stall", after=100_000)
    client = RegistryClient(options(stall_timeout=60.0))
    ended = threading.Event()

    def fetch() -> None:
        with pytest.raises(NetworkError):
            verified(client, served.ref, served.manifest.layers[0])
        ended.set()

    thread = threading.Thread(target=fetch)
    thread.start()
    while not (client.transport._open and served.registry._server.connections):
        thread.join(0.05)
    thread.join(0.3)
    client.close()
    assert ended.wait(10)
    thread.join(10)


def test_nobody_listens(options: Any) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with RegistryClient(options(attempts=3)) as client:
        with pytest.raises(NetworkError, match="connection refused"):
            client.manifest(Reference.parse(f"127.0.0.1:{port}/a"))


def test_more_tags_than_can_be(served: Served, client: RegistryClient) -> None:
    body = json.dumps({"tags": [""] * 600_000}).encode()
    link = {"Link": "</v2/team/app/tags/list?last=x>; rel=next"}
    served.registry.fault("/tags/", "replace", body=body, headers=link, count=1)
    served.registry.fault("last=x", "replace", body=body)
    with pytest.raises(ProtocolError, match="lists more than 1000000 tags"):
        client.tags(served.ref)


def test_over_ipv6(served: Served, options: Any) -> None:
    try:
        registry = RegistryServer({"team/app": served.layout.path}, address="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with registry, RegistryClient(options()) as client:
        ref = Reference.parse(f"{registry.host}/team/app:1")
        assert client.manifest(ref)[0] == served.image.manifest
        assert client.tags(ref) == ["1"]
