"""Registries that lie, stall and mislead: one row per answer. None may do more than cause one line of
error."""

from __future__ import annotations

import json
import time
from typing import Any, Callable

import pytest

from tests.registry.conftest import Served
from tests.support.images import sha256
from udk.archive.source import RegistrySource, resolve_image
from udk.base.verified import VerifiedReader
from udk.errors import IntegrityError, InvalidImageError, NetworkError, ProtocolError, RegistryError, UdkError
from udk.oci.digest import Digest
from udk.oci.platform import Platform
from udk.registry.client import RegistryClient

BIG, SMALL = 0, 1  # layers


def fetch(client: RegistryClient, served: Served, layer: int = BIG) -> bytes:
    found = served.manifest.layers[layer]
    reader = VerifiedReader(client.blob(served.ref, found), "sha256", found.digest.hex, found.size)
    return reader.read()


def in_one_line(error: BaseException) -> None:
    assert str(error).isprintable(), str(error)
    assert len(str(error)) < 600


# --- transfers that break: resumed, nothing fetched twice


@pytest.mark.parametrize("kind", ["truncate", "reset"])
@pytest.mark.parametrize("after", [1, 70_000, 2_999_000])
def test_broken_transfers_are_resumed(served: Served, client: RegistryClient, kind: str, after: int) -> None:
    served.registry.fault("/blobs/", kind, after=after, count=1)
    assert fetch(client, served) == served.image.layers[BIG]
    digest = str(served.manifest.layers[BIG].digest)
    first, second = served.registry.requests("/blobs/")
    assert second.headers["range"] == f"bytes={first.sent}-" or kind == "reset"
    size = served.manifest.layers[BIG].size
    assert served.registry.bytes_of(digest) <= size + (1 << 18 if kind == "reset" else 0)


def test_many_breaks_with_progress(served: Served, client: RegistryClient) -> None:
    served.registry.fault(
        "/blobs/", "truncate", after=300_000, count=9
    )  # more than attempts, but it advances
    assert fetch(client, served) == served.image.layers[BIG]
    assert served.registry.bytes_of() == served.manifest.layers[BIG].size


def test_no_progress_ends(served: Served, client: RegistryClient) -> None:
    served.registry.fault("/blobs/", "truncate", after=1000)
    with pytest.raises(NetworkError, match=r"broke off after \d+ of \d+ bytes"):
        fetch(client, served)
    assert len(served.registry.requests("/blobs/")) == 5


@pytest.mark.parametrize("kind", ["norange", "wrongstart", "badrange"])
def test_ranges_not_honoured(served: Served, client: RegistryClient, kind: str) -> None:
    served.registry.fault("/blobs/", kind)
    served.registry.fault("/blobs/", "truncate", after=100_000, count=1)
    assert fetch(client, served) == served.image.layers[BIG]
    layer = served.manifest.layers[BIG]
    assert b"".join(client.blob(served.ref, layer, 50)) == served.image.layers[BIG][50:]


def test_a_range_that_starts_earlier(served: Served, client: RegistryClient) -> None:
    served.registry.fault("/blobs/", "wrongstart", shift=-10)
    layer = served.manifest.layers[BIG]
    assert b"".join(client.blob(served.ref, layer, 5000)) == served.image.layers[BIG][5000:]
    assert len(served.registry.requests("/blobs/")) == 1


def test_a_range_that_lies(served: Served, client: RegistryClient) -> None:
    served.registry.fault("/blobs/", "lyingstart")
    served.registry.fault("/blobs/", "truncate", after=100_000, count=1)
    with pytest.raises(IntegrityError, match="wrong content"):
        fetch(client, served)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "bytes",
        "bytes 5-",
        "bytes x-9/10",
        "bytes -5-9/10",
        "items 0-9/10",
        "bytes 0-9/5",
        "bytes 99999999999999999999-1/9",
    ],
)
def test_a_senseless_content_range(served: Served, client: RegistryClient, value: str) -> None:
    served.registry.fault("/blobs/", "headers", headers={"Content-Range": value})
    with pytest.raises((ProtocolError, IntegrityError)) as caught:
        b"".join(client.blob(served.ref, served.manifest.layers[BIG], 5))
    in_one_line(caught.value)


# --- content that is not what was announced


def flip(data: bytes) -> bytes:
    return data[:5] + bytes([data[5] ^ 1]) + data[6:]


BLOBS: list[tuple[str, dict[str, Any], type[UdkError], str]] = [
    ("another digest", {"kind": "edit", "call": flip}, IntegrityError, "wrong content: its digest is"),
    (
        "another blob",
        {"kind": "replace", "body": b"x" * 10},
        IntegrityError,
        "has 10 bytes, the manifest says",
    ),
    ("one byte less", {"kind": "edit", "call": lambda d: d[:-1]}, IntegrityError, "the manifest says"),
    ("one byte more", {"kind": "edit", "call": lambda d: d + b"x"}, IntegrityError, "the manifest says"),
    ("empty", {"kind": "replace", "body": b""}, IntegrityError, "has 0 bytes"),
    ("chunks without end", {"kind": "endless"}, IntegrityError, "is longer than the"),
    ("a length too large", {"kind": "length", "announce": 10}, IntegrityError, "the manifest says"),
    ("a length too small", {"kind": "length", "announce": -10}, IntegrityError, "the manifest says"),
    (
        "a length below 0",
        {"kind": "headers", "headers": {"Content-Length": "-5"}},
        ProtocolError,
        "Length '-5'",
    ),
    (
        "a length in words",
        {"kind": "headers", "headers": {"Content-Length": "x"}},
        ProtocolError,
        "Length 'x'",
    ),
    ("no HTTP", {"kind": "garbage"}, NetworkError, "does not speak HTTP|cannot be reached"),
    ("dropped", {"kind": "drop"}, NetworkError, "cannot be reached|does not speak HTTP"),
    (
        "a page",
        {"kind": "status", "code": 403, "body": b"<html>\x1b[31m"},
        RegistryError,
        "refuses team/app blobs",
    ),
    ("gone", {"kind": "status", "code": 404}, RegistryError, "does not have team/app blobs"),
    ("204", {"kind": "status", "code": 204}, RegistryError, "answered 204"),
    ("500", {"kind": "status", "code": 500}, NetworkError, "answered 500"),
]


@pytest.mark.parametrize(("name", "fault", "error", "says"), BLOBS, ids=[b[0] for b in BLOBS])
def test_blobs(
    served: Served, client: RegistryClient, name: str, fault: dict[str, Any], error: type[UdkError], says: str
) -> None:
    served.registry.fault("/blobs/", **fault)
    with pytest.raises(error, match=says) as caught:
        fetch(client, served, SMALL)
    in_one_line(caught.value)
    layer = served.manifest.layers[SMALL]
    sent = sum(r.sent for r in served.registry.requests("/blobs/"))
    assert sent <= layer.size + (4 << 20)  # what socket buffers swallow of a stream without end


def test_an_endless_blob_is_not_read_on(served: Served, client: RegistryClient) -> None:
    served.registry.fault("/blobs/", "endless")
    with pytest.raises(IntegrityError, match="longer"):
        fetch(client, served, SMALL)
    assert len(served.registry.requests("/blobs/")) == 1


def test_slowloris(served: Served, options: Any) -> None:
    served.registry.fault("/blobs/", "slow", rate=100)
    with RegistryClient(options(stall_timeout=0.4, min_rate=1000, attempts=2)) as client:
        started = time.monotonic()
        with pytest.raises(NetworkError, match="sends less than 1000 bytes a second"):
            fetch(client, served)
        assert time.monotonic() - started < 20


def test_slow_is_not_stalled(served: Served, options: Any) -> None:
    served.registry.fault("/blobs/", "slow", rate=2_000_000)
    with RegistryClient(options(stall_timeout=0.3)) as client:
        assert fetch(client, served) == served.image.layers[BIG]
    assert len(served.registry.requests("/blobs/")) == 1


def test_a_stall_is_resumed(served: Served, options: Any) -> None:
    served.registry.fault("/blobs/", "stall", after=500_000, count=1)
    with RegistryClient(options(stall_timeout=0.3)) as client:
        assert fetch(client, served) == served.image.layers[BIG]
    assert served.registry.bytes_of() == served.manifest.layers[BIG].size


def test_no_answer_at_all(served: Served, options: Any) -> None:
    served.registry.fault("/manifests/", "hang")
    with RegistryClient(options(stall_timeout=0.2, attempts=2)) as client:
        with pytest.raises(NetworkError, match="no answer in time"):
            client.manifest(served.ref)
    assert len(served.registry.requests("/manifests/")) == 2


def test_headers_that_trickle(options: Any) -> None:
    """A byte now and then within the header, each in time by itself."""
    import socket
    import threading

    from udk.oci.reference import Reference

    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            while not stop.is_set():
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=feed, args=(peer,), daemon=True).start()

        def feed(peer: socket.socket) -> None:
            try:
                peer.sendall(b"HTTP/1.1 200 OK\r\nX-A: ")
                while not stop.wait(0.05):
                    peer.sendall(b"a")
            except OSError:
                pass

        threading.Thread(target=trickle, daemon=True).start()
        started = time.monotonic()
        with RegistryClient(options(stall_timeout=0.3, attempts=2)) as client:
            with pytest.raises(NetworkError):
                client.manifest(Reference.parse(f"127.0.0.1:{listener.getsockname()[1]}/a"))
        stop.set()
        assert time.monotonic() - started < 20


# --- manifests


def resolve(client: RegistryClient, served: Served) -> object:
    return resolve_image(RegistrySource(served.ref, client), Platform("linux", "amd64"))


def document(served: Served, **changes: Any) -> bytes:
    return json.dumps({**json.loads(served.image.manifest), **changes}).encode()


OCI_INDEX = "application/vnd.oci.image.index.v1+json"
SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


def manifests(served: Served) -> dict[str, tuple[dict[str, Any], type[UdkError], str]]:
    raw = served.image.manifest

    def header(name: str, value: str) -> dict[str, Any]:
        return {"kind": "headers", "headers": {name: value}}

    def body(data: bytes, **headers: str) -> dict[str, Any]:
        return {"kind": "replace", "body": data, "headers": {"Docker-Content-Digest": None, **headers}}

    def replaced(**changes: Any) -> dict[str, Any]:
        return body(document(served, **changes))

    deep = b'{"schemaVersion":2,"x":' + b"[" * 9999
    return {
        "huge": (body(raw + b" " * (5 << 20)), ProtocolError, "more than 4194304"),
        "without end": ({"kind": "endless"}, ProtocolError, "more than 4194304"),
        "digest header lies": (header("Docker-Content-Digest", sha256(b"")), IntegrityError, "announced"),
        "gzipped": (header("Content-Encoding", "gzip"), ProtocolError, "came encoded"),
        "a web page": (body(b"<html>", **{"Content-Type": "text/html"}), ProtocolError, "with a web page"),
        "type lies": (header("Content-Type", OCI_INDEX), InvalidImageError, "was announced as"),
        "schema 1 type": (header("Content-Type", SCHEMA1), UdkError, "schema 1"),
        "manifests and layers": (replaced(manifests=[]), InvalidImageError, "both 'manifests' and"),
        "schema version 1": (replaced(schemaVersion=1), UdkError, "schema 1"),
        "deep": (body(deep), InvalidImageError, "levels deep"),
        "byte-order mark": (body(b"\xef\xbb\xbf" + raw), InvalidImageError, "byte-order mark"),
        "truncated": ({"kind": "truncate", "after": 20}, NetworkError, "broke off after 20"),
        "dropped": ({"kind": "drop"}, NetworkError, "cannot be reached|does not speak HTTP"),
    }


@pytest.mark.parametrize(
    "name",
    ["huge", "without end", "digest header lies", "gzipped", "a web page", "type lies", "schema 1 type",
     "manifests and layers", "schema version 1", "deep", "byte-order mark", "truncated", "dropped"],
)  # fmt: skip
def test_manifests(served: Served, client: RegistryClient, name: str) -> None:
    fault, error, says = manifests(served)[name]
    served.registry.fault("/manifests/", **fault)
    with pytest.raises(error, match=says) as caught:
        resolve(client, served)
    in_one_line(caught.value)


def test_another_manifest_than_the_digest_asked_for(served: Served, client: RegistryClient) -> None:
    other = served.layout.add_image([{"x": "y"}], "2")
    body = {"kind": "replace", "body": other.manifest, "headers": {"Docker-Content-Digest": other.digest}}
    served.registry.fault("/manifests/", **body)
    ref = served.ref.with_digest(Digest.parse(served.image.digest))
    with pytest.raises(IntegrityError, match=f"answered .* with {other.digest}"):
        client.manifest(ref)


def test_a_digest_header_of_an_unknown_algorithm_is_no_reason(served: Served, client: RegistryClient) -> None:
    served.registry.fault("/manifests/", "headers", headers={"Docker-Content-Digest": "blake3:" + "0" * 64})
    assert str(client.manifest(served.ref)[2]) == served.image.digest


def test_a_child_of_another_size(served: Served, client: RegistryClient) -> None:
    amd64 = {"os": "linux", "architecture": "amd64"}
    row = {
        "mediaType": served.image.media_type,
        "digest": served.image.digest,
        "size": len(served.image.manifest) + 1,
        "platform": amd64,
    }
    served.layout.add_index([], "multi", manifests=[row])
    with pytest.raises(IntegrityError, match="its index says"):
        resolve_image(RegistrySource(served.reference("team/app:multi"), client), Platform.parse("amd64"))


# --- errors are one clean line


BODIES: list[tuple[str, bytes, str, str]] = [
    (
        "JSON",
        b'{"errors":[{"code":"DENIED","message":"no\\nway \\u001b[31mhere","detail":{}}]}',
        "application/json",
        r"no way \\x1b\[31mhere",
    ),
    ("code only", b'{"errors":[{"code":"DENIED"}]}', "application/json", r"\(DENIED\)"),
    (
        "a page",
        b"<!DOCTYPE html><html>secret\x1b]0;title\x07</html>",
        "text/html",
        "refuses team/app manifests/1;",
    ),
    ("text", b"no\r\n\x1b[2Jentry", "text/plain", r"no \\x1b\[2Jentry"),
    ("bytes", bytes(range(256)), "application/octet-stream", "refuses"),
    ("long", b"x" * 100_000, "text/plain", r"x{160}\.\.\."),
    ("odd JSON", b'{"errors":[[]]}', "application/json", "refuses team/app manifests/1;"),
    ("deep JSON", b"[" * 100_000, "application/json", "refuses"),
    ("nothing", b"", "", "refuses team/app manifests/1;"),
]


@pytest.mark.parametrize(("name", "body", "kind", "says"), BODIES, ids=[b[0] for b in BODIES])
def test_error_bodies(
    served: Served, client: RegistryClient, name: str, body: bytes, kind: str, says: str
) -> None:
    served.registry.fault("/manifests/", "status", code=403, body=body, headers={"Content-Type": kind})
    with pytest.raises(RegistryError, match=says) as caught:
        client.manifest(served.ref)
    in_one_line(caught.value)


def test_an_error_whose_body_never_ends(served: Served, options: Any) -> None:
    def endless(fault: Any, handler: Any, counter: Any, request: Any, answer: Any) -> None:
        answer.status = 403
        served.registry._do_endless(fault, handler, counter, request, answer)

    served.registry._do_forbidden = endless  # type: ignore[attr-defined]
    served.registry.fault("/manifests/", "forbidden")
    with RegistryClient(options()) as client, pytest.raises(RegistryError, match="refuses"):
        client.manifest(served.ref)


# --- redirects


def redirects(served: Served) -> dict[str, tuple[str, str]]:
    here = served.registry.host
    return {
        "for ever": (f"{served.registry.url}/v2/team/app/blobs/loop", "redirects more than 10 times"),
        "to a file": ("file:///etc/passwd", "only http and https"),
        "to gopher": ("gopher://127.0.0.1/", "only http and https"),
        "to cloud metadata": ("http://169.254.169.254/latest/meta-data", "not TLS"),
        "to cloud metadata by TLS": ("https://169.254.169.254/latest/meta-data", "a link-local address"),
        "to it as IPv6": ("https://[fe80::1]/", "a link-local address"),
        "to it as mapped IPv6": ("https://[::ffff:169.254.169.254]/", "a link-local address"),
        "to nowhere": ("https://0.0.0.0/", "not an address of a host"),
        "to plain HTTP elsewhere": ("http://192.0.2.1/blob", "it is not TLS"),
        "with credentials": (f"http://user:secret@{here}/x", "carries credentials"),
        "to nothing": ("", "an invalid address"),
        "to control characters": ("http://127.0.0.1/\x01", "an invalid address"),
        "to a broken address": ("http://[::1/", "invalid address"),
        "too long": ("http://127.0.0.1/" + "a" * 20_000, "an invalid address"),
    }


@pytest.mark.parametrize(
    "name",
    ["for ever", "to a file", "to gopher", "to cloud metadata", "to cloud metadata by TLS", "to it as IPv6",
     "to it as mapped IPv6", "to nowhere", "to plain HTTP elsewhere", "with credentials", "to nothing",
     "to control characters", "to a broken address", "too long"],
)  # fmt: skip
def test_redirects_not_followed(served: Served, client: RegistryClient, name: str) -> None:
    target, says = redirects(served)[name]
    served.registry.fault("/blobs/", "redirect", target=target)
    with pytest.raises(ProtocolError, match=says) as caught:
        fetch(client, served)
    in_one_line(caught.value)
    assert "secret" not in str(caught.value)
    assert len(served.registry.requests("/blobs/")) == (11 if name == "for ever" else 1)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("form", ["absolute", "relative", "other"])
def test_redirects_followed(
    served: Served, client: RegistryClient, code: int, form: str, make_mirror: Callable[[], Any]
) -> None:
    path = f"/v2/team/app/blobs/{served.manifest.layers[BIG].digest}"
    other = make_mirror()
    base = {"absolute": served.registry.url, "relative": "", "other": f"http://localhost:{other.port}"}[form]
    served.registry.fault("/blobs/", "redirect", target=f"{base}{path}?signed=1", code=code, count=1)
    assert fetch(client, served) == served.image.layers[BIG]
    answered = other if form == "other" else served.registry
    assert answered.requests("signed=1")[0].status == 200


def test_a_resumed_redirect_asks_the_registry_again(
    served: Served, client: RegistryClient, make_mirror: Callable[[], Any]
) -> None:
    """Signed addresses expire: each attempt begins at the registry, with the range."""
    other = make_mirror()
    digest = served.manifest.layers[BIG].digest
    served.registry.fault("/blobs/", "redirect", target=f"{other.url}/v2/team/app/blobs/{digest}")
    other.fault("/blobs/", "truncate", after=1_000_000, count=1)
    assert fetch(client, served) == served.image.layers[BIG]
    assert len(served.registry.requests("/blobs/")) == 2
    assert other.bytes_of() == served.manifest.layers[BIG].size
