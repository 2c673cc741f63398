"""Authentication: nothing is sent unasked, nothing is sent to the wrong place, tokens are renewed."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any, Callable
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.registry.conftest import Served
from udk.errors import AuthError, ProtocolError, RegistryError
from udk.registry.auth import same_site
from udk.registry.client import RegistryClient


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def auth_file(path: Path, host: str, **entry: str) -> str:
    path.write_text(json.dumps({"auths": {host: entry}}))
    return str(path)


def pull(client: RegistryClient, served: Served) -> None:
    assert client.manifest(served.ref)[0] == served.image.manifest
    for layer, expected in zip(served.manifest.layers, served.image.layers):
        assert b"".join(client.blob(served.ref, layer)) == expected


def test_basic(served: Served, options: Any) -> None:
    served.registry.require_basic("user", "pass:word")
    with RegistryClient(options(username="user", password="pass:word")) as client:
        pull(client, served)
    log = served.registry.requests()
    assert [r.status for r in log] == [401, 200, 200, 200, 200]  # asked once, then known
    assert "authorization" not in log[0].headers
    assert {r.headers["authorization"] for r in log[1:]} == {basic("user", "pass:word")}


def test_anonymous_token(served: Served, client: RegistryClient) -> None:
    served.registry.require_bearer()
    pull(client, served)
    log = served.registry.requests()
    assert [r.status for r in log] == [401, 200, 200, 200, 200, 200]
    assert urlsplit(log[1].target).path == "/token"
    query = parse_qs(urlsplit(log[1].target).query)
    assert query == {"service": ["test registry"], "scope": ["repository:team/app:pull"]}
    assert "authorization" not in log[1].headers


def test_token_for_credentials(served: Served, options: Any, tmp_path: Path) -> None:
    served.registry.require_bearer({"user": "secret"})
    entry = base64.b64encode(b"user:secret").decode()
    path = auth_file(tmp_path / "auth.json", served.registry.host, auth=entry)
    with RegistryClient(options(authfile=path)) as client:
        pull(client, served)
    token = served.registry.requests("/token")
    assert len(token) == 1
    assert token[0].headers["authorization"] == basic("user", "secret")
    assert parse_qs(urlsplit(token[0].target).query)["account"] == ["user"]
    for request in served.registry.requests("/v2/"):
        assert "Basic" not in request.headers.get("authorization", "")


def test_identity_token(served: Served, options: Any, tmp_path: Path) -> None:
    served.registry.require_bearer(identity_token="long-lived/+=")
    path = auth_file(tmp_path / "auth.json", served.registry.host, identitytoken="long-lived/+=")
    with RegistryClient(options(authfile=path)) as client:
        pull(client, served)
    (request,) = served.registry.requests("/token")
    form = parse_qs(request.body.decode())
    assert request.method == "POST"
    assert form["grant_type"] == ["refresh_token"]
    assert form["refresh_token"] == ["long-lived/+="]
    assert form["scope"] == ["repository:team/app:pull"]
    assert "long-lived" not in request.target


def test_registry_token(served: Served, options: Any, tmp_path: Path) -> None:
    served.registry.require_bearer({"nobody": "x"})
    served.registry.tokens.add("given-token")
    path = auth_file(tmp_path / "auth.json", served.registry.host, registrytoken="given-token")
    with RegistryClient(options(authfile=path)) as client:
        pull(client, served)
        served.registry.tokens.clear()
        with pytest.raises(AuthError):
            client.manifest(served.ref)
    assert served.registry.requests("/token") == []


def test_password_by_post_where_get_is_not_known(served: Served, options: Any) -> None:
    served.registry.require_bearer({"user": "secret"})
    served.registry.fault("/token", "status", code=405, method="GET")
    token = json.dumps({"access_token": "made"}).encode()
    served.registry.tokens.add("made")
    served.registry.fault("/token", "replace", body=token, method="POST")
    with RegistryClient(options(username="user", password="secret")) as client:
        pull(client, served)
    form = parse_qs(served.registry.requests("/token", "POST")[0].body.decode())
    assert (form["grant_type"], form["username"], form["password"]) == (["password"], ["user"], ["secret"])


def test_an_expired_token_is_renewed_once_for_all(served: Served, client: RegistryClient) -> None:
    served.registry.require_bearer()
    client.manifest(served.ref)
    served.registry.tokens.clear()
    pull(client, served)
    assert len(served.registry.requests("/token")) == 2


def test_threads_share_a_token(served: Served, client: RegistryClient) -> None:
    from concurrent.futures import ThreadPoolExecutor

    served.registry.require_bearer()
    served.registry.latency = 0.02
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.manifest(served.ref), range(8)))
    assert len(served.registry.requests("/token")) == 1


def test_a_late_refusal_is_of_no_token(
    served: Served, client: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two requests without a token the second is refused when the first has one: it asks for none."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    served.registry.require_bearer()
    challenge, both = served.registry._challenge, Barrier(2)

    def slow() -> Any:
        if both.wait(20) == 0:
            end = time.monotonic() + 20
            while time.monotonic() < end and not client.auth.header(served.registry.url, "team/app"):
                time.sleep(0.01)
        return challenge()

    monkeypatch.setattr(served.registry, "_challenge", slow)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: client.manifest(served.ref), range(2)))
    assert len(served.registry.requests("/token")) == 1


def test_access_token_and_odd_lifetimes(served: Served, options: Any) -> None:
    for life in (-5, "x", None, 1e300, True):
        served.registry.require_bearer(token=None, access_token="t1", expires_in=life)
        served.registry.tokens.add("t1")
        with RegistryClient(options()) as client:
            pull(client, served)


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_wrong_password(served: Served, options: Any, scheme: str) -> None:
    if scheme == "basic":
        served.registry.require_basic("user", "right")
    else:
        served.registry.require_bearer({"user": "right"})
    with RegistryClient(options(username="user", password="wr0ng-pass")) as client:
        with pytest.raises(AuthError, match=r"udk login|credentials of the command line") as caught:
            client.manifest(served.ref)
    assert "wr0ng-pass" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(served.registry.requests()) <= 3  # a lock-out after some wrong passwords is not provoked


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_no_credentials(served: Served, client: RegistryClient, scheme: str) -> None:
    if scheme == "basic":
        served.registry.require_basic("user", "right")
    else:
        served.registry.require_bearer({"user": "right"})
    with pytest.raises(AuthError, match=rf"refuses team/app .*; .*udk login {served.registry.host}"):
        client.manifest(served.ref)


def test_forbidden(served: Served, client: RegistryClient) -> None:
    served.registry.fault("/manifests/", "status", code=403)
    with pytest.raises(AuthError, match="refuses team/app manifests/1"):
        client.manifest(served.ref)
    assert len(served.registry.requests()) == 1


# --- credentials stay where they belong


@pytest.mark.parametrize("code", [302, 307])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_redirect_does_not_take_them_along(
    served: Served, options: Any, make_mirror: Callable[..., Any], code: int, host: str
) -> None:
    """Another port is another origin, as is another name."""
    other = make_mirror()
    served.registry.require_basic("user", "secret")
    digest = served.manifest.layers[1].digest
    target = f"http://{host}:{other.port}/v2/team/app/blobs/{digest}"
    served.registry.fault("/blobs/", "redirect", target=target, code=code, skip=0)
    with RegistryClient(options(username="user", password="secret")) as client:
        client.manifest(served.ref)
        assert b"".join(client.blob(served.ref, served.manifest.layers[1])) == served.image.layers[1]
    (request,) = other.requests()
    assert "authorization" not in request.headers
    assert "cookie" not in request.headers


def test_nor_a_redirect_back(served: Served, options: Any, make_mirror: Callable[..., Any]) -> None:
    other = make_mirror()
    served.registry.require_basic("user", "secret")
    path = f"/v2/team/app/blobs/{served.manifest.layers[1].digest}"
    other.fault("/blobs/", "redirect", target=f"{served.registry.url}/back")
    served.registry.fault("/blobs/", "redirect", target=f"{other.url}{path}")
    with RegistryClient(options(username="user", password="secret")) as client:
        client.manifest(served.ref)
        with pytest.raises(RegistryError):
            b"".join(client.blob(served.ref, served.manifest.layers[1]))
    (back,) = served.registry.requests("/back")
    assert "authorization" not in back.headers


def test_the_same_origin_keeps_them(served: Served, options: Any) -> None:
    served.registry.require_basic("user", "secret")
    digest = served.manifest.layers[1].digest
    with RegistryClient(options(username="user", password="secret")) as client:
        client.manifest(served.ref)
        served.registry.fault("/blobs/", "redirect", target=f"/v2/team/app/blobs/{digest}?x=1", count=1)
        assert b"".join(client.blob(served.ref, served.manifest.layers[1])) == served.image.layers[1]


def test_who_asks_after_a_redirect_gets_an_anonymous_token(
    served: Served, options: Any, make_mirror: Callable[..., Any]
) -> None:
    other = make_mirror()
    other.require_bearer()
    digest = served.manifest.layers[1].digest
    served.registry.fault("/blobs/", "redirect", target=f"{other.url}/v2/team/app/blobs/{digest}")
    with RegistryClient(options(username="user", password="secret")) as client:
        assert b"".join(client.blob(served.ref, served.manifest.layers[1])) == served.image.layers[1]
    assert [r.headers.get("authorization", "")[:6] for r in other.requests()] == ["", "", "Bearer"]
    for request in (*other.requests(), *served.registry.requests()):
        assert "Basic" not in request.headers.get("authorization", "")


def test_and_no_password_when_it_insists(
    served: Served, options: Any, make_mirror: Callable[..., Any]
) -> None:
    other = make_mirror()
    other.require_basic("user", "secret")
    digest = served.manifest.layers[1].digest
    served.registry.fault("/blobs/", "redirect", target=f"{other.url}/v2/team/app/blobs/{digest}")
    with RegistryClient(options(username="user", password="secret")) as client:
        with pytest.raises(AuthError):
            b"".join(client.blob(served.ref, served.manifest.layers[1]))
    assert all("authorization" not in r.headers for r in other.requests())


REALMS = [
    ("http://192.0.2.7/token", "which is not TLS: nothing was sent there"),
    ("http://169.254.169.254/token", "which is not TLS"),
    ("https://169.254.169.254/token", "a link-local address"),
    ("https://[fe80::1]/token", "a link-local address"),
    ("file:///etc/passwd", "which is not an address"),
    ("/token", "which is not an address"),
    ("https://", "which is not an address"),
    ("https://user:pw@auth.example/token", "which is not an address of tokens"),
    ("https://auth.example/token#x", "which is not an address of tokens"),
    ("https://[::1/", "which is not an address"),
]


@pytest.mark.parametrize(("realm", "says"), REALMS, ids=[r[0] for r in REALMS])
def test_realms_not_asked(served: Served, options: Any, realm: str, says: str) -> None:
    served.registry.require_bearer({"user": "secret"}, realm=realm)
    with RegistryClient(options(username="user", password="secret", attempts=1)) as client:
        with pytest.raises(ProtocolError, match=says) as caught:
            client.manifest(served.ref)
    assert str(caught.value).isprintable()
    assert len(served.registry.requests()) == 1


def test_a_password_is_not_sent_to_another_site(served: Served, options: Any) -> None:
    served.registry.require_bearer({"user": "secret"}, realm="https://tokens.attacker.example/x")
    with RegistryClient(
        options(username="user", password="secret", attempts=1, connect_timeout=1.0)
    ) as client:
        with pytest.raises(AuthError, match=r"'tokens.attacker.example', another site"):
            client.manifest(served.ref)


def test_a_trusted_realm_is_asked(served: Served, options: Any) -> None:
    served.registry.require_bearer({"user": "secret"}, realm="https://tokens.invalid/x")
    given = options(username="user", password="secret", attempts=1, trusted_realms=("tokens.invalid",))
    with RegistryClient(given) as client:
        with pytest.raises(RegistryError, match=r"tokens.invalid cannot be reached"):
            client.manifest(served.ref)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("auth.docker.io", "registry-1.docker.io", True), ("docker.io", "auth.docker.io", True),
        ("quay.io", "quay.io:443", True), ("gitlab.com", "registry.gitlab.com", True),
        ("evil.co.uk", "registry.co.uk", False), ("x.site.co.uk", "y.site.co.uk", True), ("h", "h", True),
        ("h", "g", False), ("10.0.0.1", "10.0.0.2", False), ("10.0.0.1:1", "10.0.0.1:2", True),
        ("docker.io.evil.com", "docker.io", False), ("xdocker.io", "docker.io", False),
        ("[::1]:5", "[::1]:6", True), ("a.io", "b.io", False),
        ("registry.", "registry", True), ("Quay.IO", "quay.io", True),
    ],
)  # fmt: skip
def test_same_site(a: str, b: str, same: bool) -> None:
    assert same_site(a, b) is same
    assert same_site(b, a) is same


TOKENS: list[tuple[str, bytes, str]] = [
    ("no JSON", b"<html>", "something that is no token"),
    ("a list", b"[]", "something that is no token"),
    ("nothing in it", b"{}", "sent no token"),
    ("null", b'{"token": null}', "sent no token"),
    ("a number", b'{"token": 7}', "sent no token"),
    ("a header injected", b'{"token": "a\\r\\nX-Evil: 1"}', "a token that cannot be used"),
    ("not ASCII", b'{"token": "\\u00e4"}', "a token that cannot be used"),
    ("with a space", b'{"token": "a b"}', "a token that cannot be used"),
    ("too long", b'{"token": "' + b"a" * 70_000 + b'"}', "a token that cannot be used"),
    ("too large", b'{"x": "' + b"a" * (2 << 20) + b'"}', "more than 1048576"),
    ("deep", b"[" * 100_000, "something that is no token"),
]


@pytest.mark.parametrize(("name", "body", "says"), TOKENS, ids=[t[0] for t in TOKENS])
def test_tokens_that_are_none(
    served: Served, client: RegistryClient, name: str, body: bytes, says: str
) -> None:
    served.registry.require_bearer()
    served.registry.fault("/token", "replace", body=body)
    with pytest.raises(ProtocolError, match=says) as caught:
        client.manifest(served.ref)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (None, "refuses"), ("", "refuses"), ("Negotiate", "by 'negotiate': not supported"),
        ('Bearer realm="x', "malformed"), ("Bearer", "by 'bearer': not supported"),
        ('Digest realm="\x01"', "by 'digest': not supported"),
    ],
)  # fmt: skip
def test_challenges_that_cannot_be_answered(
    served: Served, client: RegistryClient, header: Any, says: str
) -> None:
    served.registry.fault("/v2/", "status", code=401, headers={"WWW-Authenticate": header})
    with pytest.raises(RegistryError, match=says) as caught:
        client.manifest(served.ref)
    assert str(caught.value).isprintable()


def test_a_registry_never_content(served: Served, client: RegistryClient) -> None:
    served.registry.require_bearer()
    served.registry.fault(
        "/v2/",
        "status",
        code=401,
        headers={"WWW-Authenticate": f'Bearer realm="{served.registry.url}/token"'},
    )
    with pytest.raises(AuthError):
        client.manifest(served.ref)
    assert len(served.registry.requests()) <= 6


def test_another_loopback_name_is_another_site(
    served: Served, options: Any, make_mirror: Callable[..., Any]
) -> None:
    """The port may differ: a registry and its token server on one host. The name may not."""
    other = make_mirror()
    other.require_bearer({"user": "secret"})
    served.registry.require_bearer({"user": "secret"}, realm=f"http://localhost:{other.port}/token")
    with RegistryClient(options(username="user", password="secret")) as client:
        with pytest.raises(AuthError, match=r"another site.*UDK_TRUSTED_REALMS"):
            client.manifest(served.ref)
    assert other.requests() == []
    served.registry.realm = f"{other.url}/token"
    served.registry.tokens = other.tokens
    with RegistryClient(options(username="user", password="secret")) as client:
        client.manifest(served.ref)
    assert len(other.requests()) == 1
