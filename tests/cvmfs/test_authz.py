"""Repositories for members only: the helper protocol and credentials."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from cvmfs_client.authz import Credential, authorize, find_helper, own_credential, pack
from cvmfs_client.config import Configuration, Setting
from cvmfs_client.errors import AuthorizationError
from tests.cvmfs.conftest import FQRN, Published

HELPER = """#!{python}
import base64, json, os, struct, sys
log = open({log!r}, "a")
def read():
    header = sys.stdin.buffer.read(8)
    if len(header) < 8: sys.exit(0)
    version, length = struct.unpack("=II", header)
    message = json.loads(sys.stdin.buffer.read(length))["cvmfs_authz_v1"]
    log.write(json.dumps(message) + "\\n"); log.flush()
    return message
def write(message):
    body = json.dumps({{"cvmfs_authz_v1": {{**message, "revision": 0}}}}).encode()
    sys.stdout.buffer.write(struct.pack("=II", 1, len(body)) + body); sys.stdout.buffer.flush()
while True:
    message = read()
    if message["msgid"] == 0: write({{"msgid": 1}})
    elif message["msgid"] == 2: {answer}
    elif message["msgid"] == 4: sys.exit(0)
"""
PERMIT = 'write({"msgid": 3, "status": 0, "ttl": 60, "bearer_token": base64.b64encode(b"secret").decode()})'


class FakeFetcher:
    def __init__(self) -> None:
        self.credentials: Any = dict
        self.client_certificate = ""


class FakeStore:
    def __init__(self) -> None:
        self.fetcher = FakeFetcher()


def helper(top: Path, answer: str) -> str:
    path = top / "cvmfs_scitokens_helper"
    path.write_text(HELPER.format(python=sys.executable, log=str(top / "log"), answer=answer))
    path.chmod(0o755)
    return str(path)


def config(**values: str) -> Configuration:
    return Configuration(FQRN, {k: Setting(v, "argument") for k, v in values.items()})


def run(
    top: Path, requirement: str = "scitokens%/atlas", environ: dict[str, str] | None = None, **values: str
) -> Any:
    store: Any = FakeStore()
    environment = {"PATH": "/usr/bin:/bin", **(environ or {})}
    authorize(requirement, config(CVMFS_AUTHZ_SEARCH_PATH=str(top), **values), store, environment)
    return store.fetcher


def test_no_requirement(tmp_path: Path) -> None:
    assert run(tmp_path, "").credentials is dict


def test_permitted_with_a_token(tmp_path: Path) -> None:
    helper(tmp_path, PERMIT)
    assert run(tmp_path).credentials() == {"Authorization": "Bearer secret"}
    import json

    handshake, verify, end = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert handshake["msgid"] == 0 and handshake["fqrn"] == FQRN
    assert verify["msgid"] == 2 and verify["uid"] == os.getuid() and verify["membership"] == "L2F0bGFz"
    assert end["msgid"] == 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('write({"msgid": 3, "status": 1, "ttl": 5})', "no token"),
        ('write({"msgid": 3, "status": 2, "ttl": 5})', "invalid"),
        ('write({"msgid": 3, "status": 3, "ttl": 5})', "not a member"),
        ('write({"msgid": 3, "status": "yes"})', "malformed"),
        ('write({"msgid": 1})', "malformed"),
        ("sys.exit(3)", "it ended"),
        ('sys.stdout.buffer.write(b"\\0" * 8); sys.stdout.flush()', "another protocol"),
        ('sys.stdout.buffer.write(struct.pack("=II", 1, 3) + b"{}x"); sys.stdout.flush()', "malformed"),
        ('write({"msgid": 3, "status": 0, "bearer_token": 7})', "malformed"),
        (
            'write({"msgid": 3, "status": 0, "bearer_token": base64.b64encode(b"a\\nb").decode()})',
            "token is malformed",
        ),
    ],
)
def test_refused(tmp_path: Path, answer: str, reason: str) -> None:
    helper(tmp_path, answer)
    with pytest.raises(AuthorizationError, match=reason) as caught:
        run(tmp_path)
    assert caught.value.status == 37 and caught.value.errno == 13


def test_a_helper_that_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(AuthorizationError, match="cannot be run"):
        run(tmp_path, CVMFS_AUTHZ_HELPER=str(tmp_path / "none"))
    assert find_helper("x509", config(CVMFS_AUTHZ_SEARCH_PATH=str(tmp_path))) == ""


def test_without_a_helper_the_own_token_goes_along(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(" from-a-file\n")
    fetcher = run(tmp_path, environ={"BEARER_TOKEN_FILE": str(token)})
    assert fetcher.credentials() == {"Authorization": "Bearer from-a-file"}
    assert run(tmp_path, environ={"BEARER_TOKEN": "direct"}).credentials() == {
        "Authorization": "Bearer direct"
    }
    named = run(tmp_path, environ={"MY_TOKEN": str(token)}, CVMFS_AUTHZ_CVMFS_TOKEN_VARNAME="MY_TOKEN")
    assert named.credentials()["Authorization"].endswith("from-a-file")


def test_without_any_credential(tmp_path: Path) -> None:
    if own_credential(config(), {}) != Credential():
        pytest.skip("this machine has a token of the user's lying about")
    with pytest.raises(AuthorizationError, match="for members only"):
        run(tmp_path)
    with pytest.raises(AuthorizationError, match="unknown kind"):
        run(tmp_path, "../../bin/sh%x")


def test_a_proxy_certificate(tmp_path: Path) -> None:
    proxy = tmp_path / "proxy.pem"
    proxy.write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    fetcher = run(tmp_path, environ={"X509_USER_PROXY": str(proxy)})
    with open(fetcher.client_certificate, "rb") as f:
        assert f.read() == proxy.read_bytes()


def test_a_repository_for_members(own_published: Published, tmp_path: Path) -> None:
    (own_published.tree / "README").write_text("secret\n")
    own_published.publish(membership="scitokens%/atlas")
    helper(tmp_path, PERMIT)
    allowed = {"CVMFS_AUTHZ_SEARCH_PATH": str(tmp_path)}
    with own_published.open(tmp_path / "c", config=allowed) as repo:
        assert repo.read("/README") == b"secret\n"
        assert repo.getxattr("/", "user.authz") == b"scitokens%/atlas"
    helper(tmp_path, 'write({"msgid": 3, "status": 3, "ttl": 5})')
    with pytest.raises(AuthorizationError, match="not a member"):
        own_published.open(tmp_path / "c", config=allowed)


def test_frames() -> None:
    assert pack({"msgid": 4})[:8] == b"\x01\0\0\0" + len(pack({"msgid": 4})[8:]).to_bytes(4, sys.byteorder)
