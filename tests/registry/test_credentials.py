"""Where credentials are found, in which order, and what a broken source does."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from pathlib import Path
from typing import Any, Optional

import pytest

from udk.errors import AuthError, ConfigError
from udk.registry import helpers
from udk.registry.credentials import Credential, CredentialStore, lookup_keys, normalize_key
from udk.registry.options import RegistryOptions


class Home:
    """A home directory with auth files and credential helpers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environ = {"HOME": str(path), "PATH": f"{path}/bin:/usr/bin:/bin"}
        (path / "bin").mkdir()

    def write(self, name: str, value: Any) -> Path:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(value if isinstance(value, str) else json.dumps(value))
        return target

    def helper(self, name: str, script: str) -> None:
        """A credential helper: a real program, as everywhere else."""
        target = self.write(f"bin/docker-credential-{name}", f"#!/bin/sh\n{script}\n")
        target.chmod(0o755)

    def options(self, **changes: Any) -> RegistryOptions:
        return RegistryOptions(environ={**self.environ, **changes.pop("environ", {})}, **changes)

    def find(self, host: str, repository: str = "", **changes: Any) -> Optional[Credential]:
        return CredentialStore(self.options(**changes)).find(host, repository)

    def user(self, host: str, repository: str = "", **changes: Any) -> str:
        found = self.find(host, repository, **changes)
        return f"{found.username}:{found.password}" if found else ""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def auths(**users: str) -> dict[str, Any]:
    return {"auths": {h: {"auth": base64.b64encode(u.encode()).decode()} for h, u in users.items()}}


def entry(user: str, host: str = "reg.io") -> dict[str, Any]:
    return auths(**{host: user})


def test_nothing(home: Home) -> None:
    assert home.find("reg.io") is None


FILES = [
    (".config/udk/auth.json", {}),
    ("DOCKER_AUTH_CONFIG", {}),
    ("run/containers/auth.json", {"XDG_RUNTIME_DIR": "run"}),
    (".config/containers/auth.json", {}),
    (".docker/config.json", {}),
    (".dockercfg", {}),
]


def test_the_order_of_files(home: Home) -> None:
    environ = {"XDG_RUNTIME_DIR": str(home.path / "run")}
    for n, (name, _) in reversed(list(enumerate(FILES))):
        if name == "DOCKER_AUTH_CONFIG":
            environ[name] = json.dumps(entry(f"u{n}:p"))
        elif name == ".dockercfg":
            home.write(name, entry(f"u{n}:p")["auths"])  # of old: the entries alone
        else:
            home.write(name, entry(f"u{n}:p"))
        assert home.user("reg.io", environ=environ) == f"u{n}:p"
    only = home.write("only.json", entry("only:p", "other.io"))
    for given in ({"authfile": str(only)}, {"environ": {**environ, "REGISTRY_AUTH_FILE": str(only)}}):
        assert home.user("other.io", **given) == "only:p"
        assert home.user("reg.io", **{"environ": environ, **given}) == ""
    assert home.user("reg.io", username="me", password="x", environ=environ) == "me:x"


def test_other_places(home: Home) -> None:
    home.write("dc/config.json", entry("d:p"))
    assert home.user("reg.io", environ={"DOCKER_CONFIG": str(home.path / "dc")}) == "d:p"
    home.write("xdg/containers/auth.json", entry("x:p"))
    assert home.user("reg.io", environ={"XDG_CONFIG_HOME": str(home.path / "xdg")}) == "x:p"


def test_no_home_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def unknown(uid: int) -> Any:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    options = RegistryOptions(environ={})
    assert (options.home, options.config_home) == ("", "")
    assert CredentialStore(options).find("reg.io") is None


def test_the_most_specific_key(home: Home) -> None:
    home.write(
        ".config/containers/auth.json",
        auths(
            **{
                "reg.io": "host:p",
                "reg.io/team": "team:p",
                "reg.io/team/app": "app:p",
                "reg.io:5000": "port:p",
            }
        ),
    )
    assert home.user("reg.io") == "host:p"
    assert home.user("reg.io", "other/app") == "host:p"
    assert home.user("reg.io", "team/x") == "team:p"
    assert home.user("reg.io", "team/app") == "app:p"
    assert home.user("reg.io", "team/app/sub") == "app:p"
    assert home.user("reg.io", "teamx/app") == "host:p"
    assert home.user("reg.io:5000", "team/app") == "port:p"
    assert home.user("reg.io.evil", "team/app") == ""


@pytest.mark.parametrize(
    "key",
    ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "https://registry-1.docker.io/v2/",
     "https://docker.io", "index.docker.io/v1/"],
)  # fmt: skip
def test_docker_hub(home: Home, key: str) -> None:
    home.write(".docker/config.json", entry("hub:p", key))
    assert home.user("docker.io", "library/debian") == "hub:p"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("https://reg.io", "reg.io"), ("https://REG.io/v1/", "reg.io"), ("reg.io/", "reg.io"),
        ("http://reg.io:5000/v2/", "reg.io:5000"), ("reg.io/ns", "reg.io/ns"), (" reg.io ", "reg.io"),
        ("https://reg.io/some/path", "reg.io"),
    ],
)  # fmt: skip
def test_keys(key: str, name: str) -> None:
    assert normalize_key(key) == name


def test_lookup_keys() -> None:
    assert lookup_keys("h:1", "a/b") == ["h:1/a/b", "h:1/a", "h:1"]
    assert lookup_keys("registry-1.docker.io", "") == ["docker.io"]


def test_kinds_of_entries(home: Home) -> None:
    home.write(
        ".docker/config.json",
        {
            "auths": {
                "a.io": {"username": "u", "password": "p"},
                "b.io": {"auth": base64.b64encode(b"u:p:with:colons").decode()},
                "c.io": {"auth": base64.b64encode(b"u:").decode(), "identitytoken": "idt"},
                "d.io": {"registrytoken": "rt"},
                "e.io": {},
                "f.io": {"auth": base64.b64encode("ü:ß".encode()).decode()},
            },
            "HttpHeaders": {"X": "y"},
        },
    )  # fmt: skip
    assert home.user("a.io") == "u:p"
    assert home.user("b.io") == "u:p:with:colons"
    found = home.find("c.io")
    assert found
    assert (found.identity_token, found.password) == ("idt", "")
    found = home.find("d.io")
    assert found
    assert found.registry_token == "rt"
    assert home.find("e.io") is None
    assert home.user("f.io") == "ü:ß"
    assert "p:with" not in repr(home.find("b.io"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not valid JSON; mend it"),
        ("[]", "is not a JSON object"),
        ('{"auths": []}', "'auths' must be an object"),
        ('{"credHelpers": "x"}', "'credHelpers' must be an object"),
        ('{"auths": {"reg.io": {"auth": "***"}}}', "the 'auth' of 'reg.io' is not base64"),
        ('{"auths": {"reg.io": {"auth": "bm9jb2xvbg=="}}}', "is not base64 of user:password"),
        ("[" * 100_000, "is not valid JSON"),
    ],
)
def test_broken_files(home: Home, content: str, says: str) -> None:
    path = home.write(".docker/config.json", content)
    with pytest.raises(ConfigError, match=says) as caught:
        home.find("reg.io")
    assert str(path) in str(caught.value)
    assert "bm9jb" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_file_that_cannot_be_read(home: Home) -> None:
    path = home.write(".docker/config.json", entry("u:p"))
    path.chmod(0)
    with pytest.raises(ConfigError, match=r"cannot be read .*permission denied"):
        home.find("reg.io")
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="is a directory"):
        home.find("reg.io")


def test_empty_files_count_as_none(home: Home) -> None:
    home.write(".docker/config.json", "")
    assert home.find("reg.io") is None


# --- credential helpers: real programs

ANSWER = """test "$1" = get || exit 9
server=$(cat)
printf '{"ServerURL":"%s","Username":"%s","Secret":"s3cret"}' "$server" "$server-user" """


def test_a_helper_for_one_host(home: Home) -> None:
    home.helper("mine", ANSWER)
    home.write(".docker/config.json", {"credHelpers": {"reg.io": "mine"}, **entry("other:p", "b.io")})
    assert home.user("reg.io", "a/b") == "reg.io-user:s3cret"
    assert home.user("b.io") == "other:p"


def test_a_helper_for_all(home: Home) -> None:
    home.helper("all", ANSWER)
    home.write(".docker/config.json", {"credsStore": "all"})
    assert home.user("reg.io:5000") == "reg.io:5000-user:s3cret"
    assert home.user("docker.io", "library/x") == "https://index.docker.io/v1/-user:s3cret"


def test_the_order_within_a_file(home: Home) -> None:
    home.helper("one", 'echo \'{"ServerURL":"","Username":"one","Secret":"p"}\'')
    home.helper("all", 'echo \'{"ServerURL":"","Username":"all","Secret":"p"}\'')
    config = {
        "credHelpers": {"reg.io": "one"},
        "credsStore": "all",
        **auths(**{"reg.io": "a:p", "b.io": "b:p"}),
    }
    home.write(".docker/config.json", config)
    assert home.user("reg.io") == "one:p"
    assert home.user("b.io") == "all:p"
    home.helper("all", "echo 'credentials not found in native keychain'; exit 1")
    assert home.user("b.io") == "b:p"


def test_an_identity_token_from_a_helper(home: Home) -> None:
    home.helper("id", 'echo \'{"ServerURL":"x","Username":"<token>","Secret":"idt"}\'')
    home.write(".docker/config.json", {"credsStore": "id"})
    found = home.find("reg.io")
    assert found
    assert (found.identity_token, found.username) == ("idt", "")


@pytest.mark.parametrize(
    ("name", "script", "says"),
    [
        ("gone", None, "docker-credential-gone is not installed"),
        ("bad", "echo oops; echo secret-on-stderr >&2; exit 3", "'bad' failed: oops"),
        ("mute", "exit 4", "'mute' failed: status 4"),
        ("odd", "echo '{}'", "'odd' gave no usable answer"),
        ("text", "echo hello", "'text' gave no usable answer"),
        ("ansi", "printf '\\033[31mred'; exit 1", r"failed: \\x1b\[31mred"),
        ("slow", "sleep 60 & sleep 60", "'slow' gave no answer in 0.5 s"),
        ("../../bin/sh", None, "is not the name of a credential helper"),
        ("a b", None, "is not the name of a credential helper"),
    ],
)
def test_helpers_that_fail(home: Home, name: str, script: Optional[str], says: str) -> None:
    if script is not None:
        home.helper(name, script)
    options = home.options(helper_timeout=0.5)
    started = time.monotonic()
    with pytest.raises(AuthError, match=says) as caught:
        helpers.get(name, "reg.io", options)
    assert time.monotonic() - started < 30
    assert str(caught.value).isprintable()
    assert "secret-on-stderr" not in str(caught.value)
    # and it does not stand in the way of what needs no credentials
    home.write(".docker/config.json", {"credsStore": name})
    store = CredentialStore(options)
    assert store.find("reg.io") is None
    assert len(store.notes) == 1


def test_a_helper_that_leaves_children_is_ended_with_them(home: Home) -> None:
    marker = home.path / "pid"
    home.helper("slow", f"sleep 77 & echo $! > {marker}; wait")
    with pytest.raises(AuthError):
        helpers.get("slow", "reg.io", home.options(helper_timeout=0.7))
    pid = int(marker.read_text())
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the helper's child is alive")


def test_notes_reach_the_user(served: Any, options: Any) -> None:
    from udk.registry.client import RegistryClient

    served.registry.require_basic("u", "p")
    given = options()
    config = Path(given.home) / ".docker" / "config.json"
    config.parent.mkdir()
    config.write_text('{"credsStore": "gone"}')
    with (
        RegistryClient(given) as client,
        pytest.raises(AuthError, match="docker-credential-gone is not installed"),
    ):
        client.manifest(served.ref)


def test_modes_are_not_changed_by_reading(home: Home) -> None:
    path = home.write(".docker/config.json", entry("u:p"))
    os.chmod(path, 0o640)
    home.find("reg.io")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
