"""Patience: what is tried again, how often, how long registries may make us wait."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import pytest

from tests.registry.conftest import Served
from udk.errors import NetworkError, NotFoundError, RateLimitError, RegistryError
from udk.registry.answers import error_detail, next_link, retry_after, warning_text
from udk.registry.client import RegistryClient
from udk.registry.retry import Retry, Throttled, Unreachable


@pytest.mark.parametrize("code", [500, 502, 503, 504, 408])
def test_passing_trouble(served: Served, client: RegistryClient, code: int) -> None:
    served.registry.fault("/v2/", "status", code=code, count=2)
    assert client.manifest(served.ref)[0] == served.image.manifest
    assert [r.status for r in served.registry.requests()] == [code, code, 200]


def test_lasting_trouble(served: Served, client: RegistryClient) -> None:
    served.registry.fault("/v2/", "status", code=503)
    with pytest.raises(NetworkError, match=r"answered 503 .*; try again later"):
        client.manifest(served.ref)
    assert len(served.registry.requests()) == 5


@pytest.mark.parametrize("code", [400, 403, 404, 405, 410, 416])
def test_answers_that_stay(served: Served, client: RegistryClient, code: int) -> None:
    served.registry.fault("/v2/", "status", code=code)
    with pytest.raises(RegistryError):
        client.manifest(served.ref)
    assert len(served.registry.requests()) == 1


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_wait_asked_for(served: Served, client: RegistryClient, code: int, form: str) -> None:
    value = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    served.registry.fault("/v2/", "status", code=code, count=1, headers={"Retry-After": value})
    started = time.monotonic()
    client.manifest(served.ref)
    assert time.monotonic() - started >= 0.9  # an order of the registry, not a measurement
    assert [r.status for r in served.registry.requests()] == [code, 200]


def test_a_longer_wait_than_patience(served: Served, options: Any) -> None:
    body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}'
    served.registry.fault("/v2/", "status", code=429, headers={"Retry-After": "3600"}, body=body)
    started = time.monotonic()
    with RegistryClient(options(patience=5.0)) as client:
        with pytest.raises(RateLimitError, match=r"\(pull rate limit\), and asks to wait 3600 s"):
            client.manifest(served.ref)
    assert time.monotonic() - started < 5
    assert len(served.registry.requests()) == 1


def test_429_without_a_time_ends_too(served: Served, options: Any) -> None:
    served.registry.fault("/blobs/", "status", code=429)
    with RegistryClient(options(patience=0.5, backoff=0.05)) as client:
        with pytest.raises(RateLimitError):
            b"".join(client.blob(served.ref, served.manifest.layers[0]))
    assert 2 <= len(served.registry.requests()) <= 8


def test_rate_limits_within_a_blob(served: Served, client: RegistryClient) -> None:
    served.registry.fault("/blobs/", "status", code=429, headers={"Retry-After": "0"}, count=1)
    served.registry.fault("/blobs/", "truncate", after=1_000_000, count=1)
    assert b"".join(client.blob(served.ref, served.manifest.layers[0])) == served.image.layers[0]
    assert served.registry.bytes_of() == served.manifest.layers[0].size


def test_token_servers_are_retried(served: Served, client: RegistryClient) -> None:
    served.registry.require_bearer()
    served.registry.fault("/token", "status", code=502, count=1)
    client.manifest(served.ref)
    assert [r.status for r in served.registry.requests("/token")] == [502, 200]


def test_pauses_grow_and_are_bounded(options: Any) -> None:
    pauses: list[float] = []
    retry = Retry(options(backoff=1.0, attempts=50), pauses.append)
    for _ in range(40):
        retry.failed(NetworkError("x"))
    for n, pause in enumerate(pauses):
        assert 0.5 * min(30.0, 2.0**n) <= pause <= min(30.0, 2.0**n)
    retry.progress()
    retry.failed(NetworkError("x"))
    assert pauses[-1] <= 1.0
    with pytest.raises(NotFoundError):
        retry.failed(NotFoundError("x"))


def test_waits_add_up(options: Any) -> None:
    pauses: list[float] = []
    retry = Retry(options(patience=25.0), pauses.append)
    error = Throttled("x")
    error.wait = 10.0
    retry.failed(error)
    retry.failed(error)
    with pytest.raises(RateLimitError, match="asks to wait 10 s"):
        retry.failed(error)
    assert pauses == [10.0, 10.0]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0), ("120", 120.0), (" 7 ", 7.0), ("", None), ("-1", None), ("soon", None), ("1.5", None),
        ("9" * 30, float("inf")), ("Thu, 01 Jan 1970 00:01:40 GMT", 50.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("Thu, 99 Jan 1970 00:00:01 GMT", None), ("\x1b[31m", None), ("٣", None),
    ],
)  # fmt: skip
def test_retry_after(value: str, seconds: Any) -> None:
    assert retry_after(value, 50.0) == seconds


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ('</v2/a/tags/list?n=1&last=b>; rel="next"', "/v2/a/tags/list?n=1&last=b"), ("<x>; rel=next", "x"),
        ('<x>; rel="prev", <y>; rel="next"', "y"), ('<a,b>; title="x"; REL="Next"', "a,b"), ("<x>", ""),
        ("", ""),
        ('<x>; rel="first next"', "x"), ("x; rel=next", ""), ("<x; rel=next", ""), ("," * 9000, ""),
    ],
)  # fmt: skip
def test_next_link(value: str, target: str) -> None:
    assert next_link(value) == target


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('299 - "old name"', "old name"), ('299 registry "a \\"b\\" \\\\"', 'a "b" \\'),
        ('199 - "x"', ""), ("", ""),
        ("299 - x", ""), ('299 - "\x1b[31m\nred"', r"\x1b[31m red"),
        ('299 - "' + "x" * 5000, "x" * 300 + "..."),
    ],
)  # fmt: skip
def test_warning_text(value: str, text: str) -> None:
    assert warning_text(value) == text


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b'{"errors":[{"code":"A","message":"m"},{"code":"B"}]}', "", ("A", "m")), (b"", "", ("", "")),
        (b'{"message":"m"}', "", ("", "m")), (b'{"details":"m"}', "", ("", "m")),
        (b'{"error":"e"}', "", ("", "e")),
        (b'{"errors":{"code":1}}', "", ("", "")), (b'{"errors":[{"code":7,"message":["x"]}]}', "", ("", "")),
        (b"<html>x</html>", "", ("", "")), (b"words", "text/html", ("", "")),
        (b"two\nlines", "", ("", "two lines")),
        (b'"x"', "", ("", "")),
    ],
)  # fmt: skip
def test_error_detail(body: bytes, kind: str, expected: tuple[str, str]) -> None:
    assert error_detail(body, kind) == expected


@pytest.mark.parametrize("kind", ["truncate", "reset", "drop"])
@pytest.mark.parametrize("what", ["/manifests/", "/tags/", "/token"])
def test_documents_that_break_off_are_asked_for_again(
    served: Served, client: RegistryClient, kind: str, what: str
) -> None:
    served.registry.require_bearer()
    served.registry.fault(what, kind, after=10, count=1, skip=1 if what == "/manifests/" else 0)
    assert client.manifest(served.ref)[0] == served.image.manifest
    assert client.tags(served.ref) == ["1"]


def test_a_registry_that_is_not_there_is_given_up_sooner(options: Any) -> None:
    for more, attempts in (({}, 3), ({"mirror": True}, 2), ({"begun": True}, 5)):
        pauses: list[float] = []
        retry = Retry(options(), pauses.append, **more)
        with pytest.raises(Unreachable):
            while True:
                retry.failed(Unreachable("x"))
        assert len(pauses) + 1 == attempts
