"""``login`` keeps only what the registry accepts, for the user alone; ``logout`` forgets it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.registry.conftest import Served
from udk.errors import AuthError, ConfigError, InvalidReferenceError, NetworkError, UdkError
from udk.registry.client import RegistryClient
from udk.registry.login import login, logout, logout_all, registry_host


@pytest.mark.parametrize("scheme", ["basic", "bearer", "none"])
def test_login_and_use(served: Served, options: Any, scheme: str) -> None:
    if scheme == "basic":
        served.registry.require_basic("user", "pa:ss wörd")
    elif scheme == "bearer":
        served.registry.require_bearer({"user": "pa:ss wörd"})
    given = options()
    where = login(served.registry.host, "user", "pa:ss wörd", given)
    assert where == f"{given.home}/.config/udk/auth.json"
    assert stat.S_IMODE(os.stat(where).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(where)).st_mode) == 0o700
    assert set(json.loads(Path(where).read_text())["auths"]) == {served.registry.host}
    with RegistryClient(options()) as client:
        assert client.manifest(served.ref)[0] == served.image.manifest
    assert logout(served.registry.host, given)
    assert not logout(served.registry.host, given)
    if scheme != "none":
        with RegistryClient(options()) as client, pytest.raises(AuthError):
            client.manifest(served.ref)


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_a_wrong_password_is_not_kept(served: Served, options: Any, scheme: str) -> None:
    if scheme == "basic":
        served.registry.require_basic("user", "right")
    else:
        served.registry.require_bearer({"user": "right"})
    given = options()
    login(served.registry.host, "user", "right", given)
    with pytest.raises(AuthError, match="refuses user 'user'; check name and password") as caught:
        login(served.registry.host, "user", "wrong-one", given)
    assert "wrong-one" not in str(caught.value)
    with RegistryClient(options()) as client:  # the right one is still there
        client.manifest(served.ref)


def test_podman_and_skopeo_read_what_login_writes(served: Served, options: Any) -> None:
    given = options()
    where = login(served.registry.host, "user", "secret", given)
    entry = json.loads(Path(where).read_text())["auths"][served.registry.host]
    assert entry == {"auth": "dXNlcjpzZWNyZXQ="}


def test_other_entries_and_members_stay(served: Served, options: Any, tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    path.write_text(
        json.dumps({"auths": {"a.io": {"auth": "eDp5"}, f"https://{served.registry.host}/v1/": {}}, "x": 1})
    )
    given = options(authfile=str(path))
    assert login(served.registry.host, "u", "p", given) == str(path)
    config = json.loads(path.read_text())
    assert (set(config["auths"]), config["x"]) == ({"a.io", served.registry.host}, 1)
    assert logout_all(given) == sorted(["a.io", served.registry.host])
    assert json.loads(path.read_text()) == {"auths": {}, "x": 1}
    assert logout_all(given) == []


def test_a_helper_keeps_them(served: Served, options: Any, tmp_path: Path) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    helper = binaries / "docker-credential-box"
    helper.write_text(
        f"#!/bin/sh\nbox={tmp_path}/box\n"
        "case $1 in store) cat >$box;; erase) rm -f $box;; get) cat >/dev/null; test -f $box && cat $box || "
        "{ echo 'credentials not found in native keychain'; exit 1; };; esac\n"
    )
    helper.chmod(0o755)
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"credHelpers": {served.registry.host: "box"}}))
    served.registry.require_basic("user", "secret")
    environ = {"PATH": f"{binaries}:/usr/bin:/bin"}
    given = options(authfile=str(path), environ=environ)
    assert login(served.registry.host, "user", "secret", given) == "the credential helper box"
    assert "secret" not in path.read_text()
    assert json.loads((tmp_path / "box").read_text())["Secret"] == "secret"
    with RegistryClient(options(authfile=str(path), environ=environ)) as client:
        client.manifest(served.ref)
    assert logout(served.registry.host, given)
    assert not (tmp_path / "box").exists()
    assert not logout(served.registry.host, given)


@pytest.mark.parametrize(
    ("host", "user", "password", "error"),
    [
        ("reg io", "u", "p", InvalidReferenceError), ("reg.io:x", "u", "p", InvalidReferenceError),
        ("127.0.0.1:1", "", "p", AuthError), ("127.0.0.1:1", "a:b", "p", AuthError),
        ("127.0.0.1:1", "u", "", AuthError), ("127.0.0.1:1", "u", "a\nb", AuthError),
        ("127.0.0.1:1", "u\n", "p", AuthError), ("127.0.0.1:1", "u", "p", NetworkError),
    ],
)  # fmt: skip
def test_refused(options: Any, host: str, user: str, password: str, error: type[UdkError]) -> None:
    given = options(attempts=1)
    with pytest.raises(error) as caught:
        login(host, user, password, given)
    assert str(caught.value).isprintable()
    assert not os.path.exists(f"{given.home}/.config/udk/auth.json")


@pytest.mark.parametrize(
    ("text", "host"),
    [("", "docker.io"), ("docker.io", "docker.io"), ("https://index.docker.io/v1/", "docker.io"),
     ("reg.io", "reg.io"), ("https://reg.io:5000/", "reg.io:5000"), ("LOCALHOST:5000", "localhost:5000"),
     ("reg.io/team", "reg.io")],
)  # fmt: skip
def test_hosts(text: str, host: str) -> None:
    assert registry_host(text) == host


def test_no_place_to_keep_them(served: Served, options: Any) -> None:
    given = options()
    os.chmod(given.home, 0o500)
    with pytest.raises(ConfigError, match=r"credentials cannot be kept in .*permission denied"):
        login(served.registry.host, "u", "p", given)
    os.chmod(given.home, 0o700)
    assert os.listdir(given.home) == []


def test_logins_at_the_same_time_lose_nothing(served: Served, options: Any, tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    code = (
        "import sys; from udk.registry.login import _edit\n"
        "_edit(sys.argv[1], lambda auths: auths.update({sys.argv[2]: {'auth': 'x'}}) or True)"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), f"h{n}.io"]) for n in range(8)]
    assert [p.wait(60) for p in running] == [0] * 8
    assert len(json.loads(path.read_text())["auths"]) == 8
    assert sorted(p.name for p in tmp_path.glob("auth.json*")) == ["auth.json", "auth.json.lock"]
