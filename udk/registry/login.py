"""``udk login`` and ``udk logout``: credentials are tried at the registry before they are kept.

They are kept where a credential helper is configured for the host, else in an auth file of containers' form
(0600): ``--authfile`` or ``$REGISTRY_AUTH_FILE`` if given, else ``~/.config/udk/auth.json``.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
from typing import TYPE_CHECKING

from udk.errors import AuthError, ConfigError
from udk.oci.reference import DEFAULT_HOST, Reference, check_host
from udk.oci.text import quoted
from udk.registry import helpers
from udk.registry.client import RegistryClient
from udk.registry.conf import Endpoint
from udk.registry.credentials import Credential, normalize_key, own_file, read_auth_file, server_url
from udk.registry.options import RegistryOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def login(host: str, username: str, password: str, options: RegistryOptions | None = None) -> str:
    """Tries ``username`` and ``password`` at registry ``host[:port]`` and keeps them; returns where they
    went.

    Raises AuthError when the registry refuses them, InvalidReferenceError, ConfigError, or what the network
    brings; nothing is kept then."""
    options = options or RegistryOptions()
    host = registry_host(host)
    if not username or ":" in username or not username.isprintable():
        raise AuthError(f"{quoted(username)} cannot be a user name")
    if not password or "\n" in password or "\r" in password:
        raise AuthError("the password is empty or has more than one line")
    path = target_file(options)  # found out first: a correct password that cannot be kept is no use
    check(host, username, password, options)
    helper = _helper(read_auth_file(path), host)
    if helper:
        helpers.store(helper, server_url(host), username, password, options)
        return f"the credential helper {helper}"
    auth = base64.b64encode(f"{username}:{password}".encode()).decode("ascii")

    def add(auths: dict[str, Any]) -> bool:
        _remove(auths, host)
        auths[host] = {"auth": auth}
        return True

    _edit(path, add)
    return path


def logout(host: str, options: RegistryOptions | None = None) -> bool:
    """Forgets the credentials for ``host[:port]``; whether there were any. Raises ConfigError, AuthError.

    Credentials of other programs (docker's, podman's files) stay where they are."""
    options = options or RegistryOptions()
    host = registry_host(host)
    path = target_file(options)
    config = read_auth_file(path)
    helper = _helper(config, host)
    erased = helpers.erase(helper, server_url(host), options) if helper else False
    if not os.path.exists(path):
        return erased
    return _edit(path, lambda auths: _remove(auths, host)) or erased


def logout_all(options: RegistryOptions | None = None) -> list[str]:
    """Forgets all credentials of the auth file; returns their hosts."""
    path = target_file(options or RegistryOptions())
    gone: list[str] = []

    def clear(auths: dict[str, Any]) -> bool:
        gone.extend(sorted(auths))
        auths.clear()
        return bool(gone)

    if os.path.exists(path):
        _edit(path, clear)
    return gone


def registry_host(text: str) -> str:
    """The host of a registry as given to ``login``: ``""`` is Docker Hub; URLs are accepted as docker
    does."""
    host = normalize_key(text.strip()) if text.strip() else DEFAULT_HOST
    return check_host(host.partition("/")[0], text)


def check(host: str, username: str, password: str, options: RegistryOptions) -> None:
    """Raises AuthError unless registry ``host`` accepts these credentials (or wants none at all)."""
    tried = RegistryOptions(**{**vars(options), "username": username, "password": password})
    with RegistryClient(tried) as client:
        try:
            client.check_credentials(Endpoint(Reference(host)), Credential(username, password))
        except AuthError as e:
            if "another site" in e.message:
                raise
            raise AuthError(
                f"registry {host} refuses user {quoted(username)}", "check name and password"
            ) from None


def target_file(options: RegistryOptions) -> str:
    """The auth file that login writes. Raises ConfigError when there is no place for one."""
    path = options.authfile or options.environ.get("REGISTRY_AUTH_FILE", "") or own_file(options)
    if not path:
        raise ConfigError(
            "there is no home directory to keep credentials in", "set HOME or REGISTRY_AUTH_FILE"
        )
    return os.path.abspath(path)


def _helper(config: dict[str, Any], host: str) -> str:
    by_host = config.get("credHelpers")
    if isinstance(by_host, dict):
        for key, name in by_host.items():
            if normalize_key(key) == host and isinstance(name, str):
                return name
    store = config.get("credsStore")
    return store if isinstance(store, str) else ""


def _remove(auths: dict[str, Any], host: str) -> bool:
    keys = [k for k in auths if normalize_key(k) == host]
    for key in keys:
        del auths[key]
    return bool(keys)


def _edit(path: str, change: Callable[[dict[str, Any]], bool]) -> bool:
    """Changes the ``auths`` of the file at ``path``; whether there was something to change.

    Jobs that log in at the same time take turns, and a reader sees the old file or the new one, wholly."""
    directory = os.path.dirname(path)
    part = f"{path}.{os.getpid()}.part"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:
                pass  # no locks on this file system: the rename below still keeps the file whole
            config = read_auth_file(path)
            auths = config.setdefault("auths", {})
            if not isinstance(auths, dict):
                raise ConfigError(f"{quoted(path)}: 'auths' must be an object")
            if not change(auths):
                return False
            fd = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as f:
                os.fchmod(fd, 0o600)
                json.dump(config, f, indent="\t")
                f.write("\n")
                f.flush()
                os.fsync(fd)
            os.replace(part, path)
        finally:
            os.close(lock)
    except OSError as e:
        try:
            os.unlink(part)
        except OSError:
            pass
        raise ConfigError(
            f"credentials cannot be kept in {quoted(path)}: {(e.strerror or str(e)).lower()}"
        ) from None
    return True
