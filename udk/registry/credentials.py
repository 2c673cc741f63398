"""Where credentials come from: docker's and containers' auth files, credential helpers, and udk's own login.

Looked up in this order, each file's most specific key first; the first that has something decides:

1. the user name and password given explicitly
2. ``--authfile`` or ``$REGISTRY_AUTH_FILE`` (then none of the files below)
3. ``~/.config/udk/auth.json``, what ``udk login`` writes
4. ``$DOCKER_AUTH_CONFIG`` (the JSON itself)
5. ``$XDG_RUNTIME_DIR/containers/auth.json``, ``~/.config/containers/auth.json``
6. ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``, ``~/.dockercfg``

Within a file ``credHelpers`` of the host come before ``credsStore`` and that before ``auths``.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from typing import TYPE_CHECKING

from udk.errors import AuthError, ConfigError
from udk.oci.record import Record
from udk.oci.text import clean, quoted
from udk.registry import helpers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from udk.registry.options import RegistryOptions

MAX_FILE = 4 << 20
HUB_KEY = "https://index.docker.io/v1/"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")


class Credential(Record):
    """Who we are to a registry: a password, an identity token (exchanged for access) or a bearer token as is.

    ``source`` says where it was found. Secrets do not print."""

    __slots__ = ("identity_token", "password", "registry_token", "source", "username")
    username: str
    password: str
    identity_token: str
    registry_token: str
    source: str

    def __init__(
        self, username: str = "", password: str = "", identity_token: str = "", registry_token: str = "",
        source: str = "",
    ) -> None:  # fmt: skip
        self._init(
            username=username, password=password, identity_token=identity_token,
            registry_token=registry_token, source=source,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Credential({self.username!r}, source={self.source!r})"

    @property
    def basic(self) -> str:
        """The value of a Basic ``Authorization`` header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


class CredentialStore:
    """Looks credentials up. ``notes`` tells why a source that was there could not be used."""

    def __init__(self, options: RegistryOptions, helper_names: tuple[str, ...] = ()) -> None:
        self.options = options
        self.helper_names = helper_names
        self.notes: list[str] = []
        self._files: dict[str, dict[str, Any]] = {}

    def find(self, host: str, repository: str = "") -> Credential | None:
        """The credential for ``repository`` on ``host[:port]``, None to be anonymous. Raises ConfigError."""
        options = self.options
        if options.username:
            return Credential(options.username, options.password, source="the command line")
        self.notes.clear()
        for source, config in self._sources():
            found = self._in_config(config, source, host, repository)
            if found is not None:
                return found
        for name in self.helper_names:
            found = self._ask(name, host, "registries.conf")
            if found is not None:
                return found
        return None

    def _sources(self) -> Iterator[tuple[str, dict[str, Any]]]:
        options, environ = self.options, self.options.environ
        only = options.authfile or environ.get("REGISTRY_AUTH_FILE", "")
        if only:
            yield only, self._read(only)
            return
        paths = [own_file(options)]
        text = environ.get("DOCKER_AUTH_CONFIG", "")
        runtime = environ.get("XDG_RUNTIME_DIR", "")
        docker = environ.get("DOCKER_CONFIG", "") or (
            os.path.join(options.home, ".docker") if options.home else ""
        )
        for path in paths:
            if path:
                yield path, self._read(path)
        if text:
            yield "DOCKER_AUTH_CONFIG", parse_auth_file(text.encode(), "DOCKER_AUTH_CONFIG")
        for root, name in ((runtime, "containers/auth.json"), (options.config_home, "containers/auth.json"),
                           (docker, "config.json")):  # fmt: skip
            if root:
                path = os.path.join(root, name)
                yield path, self._read(path)
        if options.home:
            path = os.path.join(options.home, ".dockercfg")
            legacy = self._read(path)
            yield path, legacy if "auths" in legacy else {"auths": legacy}

    def _read(self, path: str) -> dict[str, Any]:
        if path not in self._files:
            self._files[path] = read_auth_file(path)
        return self._files[path]

    def _in_config(
        self, config: Mapping[str, Any], source: str, host: str, repository: str
    ) -> Credential | None:
        keys = lookup_keys(host, repository)
        by_host = _normalized(_mapping(config, "credHelpers", source))
        for key in keys:
            name = by_host.get(key)
            if isinstance(name, str) and name:
                return self._ask(name, host, source)
        store = config.get("credsStore")
        if isinstance(store, str) and store:
            found = self._ask(store, host, source)
            if found is not None:
                return found
        auths = _normalized(_mapping(config, "auths", source))
        for key in keys:
            entry = auths.get(key)
            if isinstance(entry, dict):
                found = _entry(entry, key, source)
                if found is not None:
                    return found
        return None

    def _ask(self, name: str, host: str, source: str) -> Credential | None:
        """What a credential helper says. One that does not work must not stand in the way of public images:
        it is noted, and the registry's refusal, if one follows, repeats the note."""
        try:
            answer = helpers.get(name, server_url(host), self.options)
        except AuthError as e:
            self.notes.append(e.message)
            return None
        if answer is None:
            return None
        username, secret = answer
        where = f"the credential helper {name} of {source}"
        if username == "<token>":
            return Credential(identity_token=secret, source=where)
        return Credential(username, secret, source=where)


def own_file(options: RegistryOptions) -> str:
    """The file that ``udk login`` writes; ``""`` when there is no home to have one in."""
    return os.path.join(options.config_home, "udk", "auth.json") if options.config_home else ""


def server_url(host: str) -> str:
    """How docker names ``host`` to credential helpers."""
    return HUB_KEY if host in _HUB_NAMES else host


def lookup_keys(host: str, repository: str) -> list[str]:
    """Keys of auth files that apply, most specific first: ``host/ns/image``, ``host/ns``, ``host``."""
    host = "docker.io" if host in _HUB_NAMES else host
    parts = repository.split("/") if repository else []
    return ["/".join([host, *parts[:n]]) for n in range(len(parts), -1, -1)]


def normalize_key(key: str) -> str:
    """A key of an auth file without scheme, ``/v1/`` or ``/v2/`` and trailing slashes; Docker Hub's as
    docker.io."""
    text = key.strip()
    had_scheme = False
    for scheme in ("https://", "http://"):
        if text.lower().startswith(scheme):
            text, had_scheme = text[len(scheme) :], True
    text = text.rstrip("/")
    for suffix in ("/v1", "/v2"):
        if text.endswith(suffix):
            text = text[: -len(suffix)]
    host, slash, path = text.partition("/")
    host = host.lower()
    if host in _HUB_NAMES:
        host = "docker.io"
    return host if had_scheme else host + slash + path  # a URL names a server, whatever its path


def _normalized(entries: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in entries.items():
        name = normalize_key(key)
        if name not in made or key == name:  # the exact spelling wins over old ones of the same host
            made[name] = value
    return made


def _mapping(config: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{clean(source)}: {quoted(key)} must be an object")
    return value


def _entry(entry: Mapping[str, Any], key: str, source: str) -> Credential | None:
    def text(name: str) -> str:
        value = entry.get(name)
        return value if isinstance(value, str) else ""

    where = clean(source)
    if text("registrytoken"):
        return Credential(registry_token=text("registrytoken"), source=where)
    username, password = text("username"), text("password")
    if text("auth"):
        try:
            decoded = base64.b64decode(text("auth").encode("ascii"), validate=True).decode("utf-8")
        except (ValueError, binascii.Error):
            raise ConfigError(
                f"{where}: the 'auth' of {quoted(key)} is not base64 of user:password"
            ) from None
        name, colon, rest = decoded.partition(":")
        if not colon:
            raise ConfigError(f"{where}: the 'auth' of {quoted(key)} is not base64 of user:password")
        username, password = name, rest.rstrip("\0")
    if text("identitytoken"):
        return Credential(username, identity_token=text("identitytoken"), source=where)
    if not username:
        return None
    return Credential(username, password, source=where)


def read_auth_file(path: str) -> dict[str, Any]:
    """An auth file's object; empty if there is no such file. Raises ConfigError."""
    try:
        with open(path, "rb") as f:
            data = f.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as e:
        raise ConfigError(
            f"credentials cannot be read from {quoted(path)}: {(e.strerror or '').lower()}"
        ) from None
    return parse_auth_file(data, path)


def parse_auth_file(data: bytes, source: str) -> dict[str, Any]:
    """The object in an auth file's bytes. Raises ConfigError, which never shows the content."""
    if len(data) > MAX_FILE:
        raise ConfigError(f"{clean(source)} is too large for credentials")
    try:
        value = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError):
        raise ConfigError(
            f"{clean(source)} is not valid JSON", "mend it, or remove it and log in again"
        ) from None
    if not isinstance(value, dict):
        raise ConfigError(f"{clean(source)} is not a JSON object", "mend it, or remove it and log in again")
    return value
