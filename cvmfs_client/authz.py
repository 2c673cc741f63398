"""Repositories for members only: the helper protocol, and credentials for downloads (formats reference 16).

The requirement `helper%membership` is in the root catalog. The helper decides whether the caller is a member
and may return a credential, which goes with https downloads. Without a helper the caller's own token or proxy
certificate is used and the server decides.
"""

from __future__ import annotations

import base64
import json
import os
import re
import struct
import subprocess
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

from .config import Configuration
from .errors import AuthorizationError
from .interfaces import Store

PROTOCOL = 1
MAX_MESSAGE = 1 << 20
_HANDSHAKE, _READY, _VERIFY, _PERMIT, _QUIT = range(5)
_REASONS = {
    1: "there is no token or certificate",
    2: "the token or certificate is invalid",
    3: "not a member",
}


class Credential(NamedTuple):
    """What goes with https downloads: a bearer token, or a PEM with certificate and key; either may be
    empty."""

    bearer_token: bytes = b""
    x509_proxy: bytes = b""


def pack(message: Mapping[str, Any]) -> bytes:
    """A frame of the helper protocol."""
    body = json.dumps({"cvmfs_authz_v1": {**message, "revision": 0}}).encode()
    return struct.pack("=II", PROTOCOL, len(body)) + body


class Helper:
    """A running helper program. Raises AuthorizationError for whatever it does wrong."""

    def __init__(self, path: str, fqrn: str, environ: Mapping[str, str]) -> None:
        self._path = path
        try:
            self._process = subprocess.Popen(
                [path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**environ, "CVMFS_AUTHZ_HELPER": "yes"},
            )
        except OSError as e:
            raise AuthorizationError(f"the authorization helper {path} cannot be run: {e.strerror}") from e
        answer = self._ask({"msgid": _HANDSHAKE, "fqrn": fqrn, "syslog_facility": 0, "syslog_level": 0})
        if answer.get("msgid") != _READY:
            raise self._broken("it does not report that it is ready")

    def _broken(self, reason: str) -> AuthorizationError:
        self.close()
        return AuthorizationError(f"the authorization helper {self._path} failed: {reason}")

    def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(pack(message))
            stdin.flush()
            header = stdout.read(8)
        except OSError as e:
            raise self._broken(f"it does not listen ({e.strerror})") from e
        if len(header) != 8:
            raise self._broken("it ended")
        version, length = struct.unpack("=II", header)
        if version != PROTOCOL or length > MAX_MESSAGE:
            raise self._broken("it speaks another protocol")
        try:
            answer = json.loads(stdout.read(length))["cvmfs_authz_v1"]
        except (ValueError, KeyError, TypeError) as e:
            raise self._broken("it gave a malformed answer") from e
        if not isinstance(answer, dict):
            raise self._broken("it gave a malformed answer")
        return answer

    def verify(self, membership: str) -> Credential:
        """Asks whether this process may read. Raises AuthorizationError if not."""
        answer = self._ask(
            {
                "msgid": _VERIFY,
                "uid": os.getuid(),
                "gid": os.getgid(),
                "pid": os.getpid(),
                "membership": base64.b64encode(membership.encode("latin-1")).decode(),
            }
        )
        status = answer.get("status")
        if answer.get("msgid") != _PERMIT or not isinstance(status, int):
            raise self._broken("it gave a malformed answer")
        if status != 0:
            raise AuthorizationError(
                f"{membership} is required: {_REASONS.get(status, f'status {status}')}",
                "obtain a token first",
            )
        try:
            token, proxy = (base64.b64decode(answer.get(k) or "") for k in ("bearer_token", "x509_proxy"))
        except (ValueError, TypeError) as e:
            raise self._broken("it gave a malformed credential") from e
        return Credential(token, proxy)

    def close(self) -> None:
        process = self._process
        for stream in (process.stdin, process.stdout):
            try:
                if stream is process.stdin and stream is not None and process.poll() is None:
                    stream.write(pack({"msgid": _QUIT}))
                if stream is not None:
                    stream.close()
            except OSError:
                pass
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def find_helper(kind: str, config: Configuration) -> str:
    """The program to ask, or ""."""
    fixed = config.get("CVMFS_AUTHZ_HELPER")
    if fixed:
        return fixed
    for folder in config.items("CVMFS_AUTHZ_SEARCH_PATH", ":"):
        path = os.path.join(folder, f"cvmfs_{kind}_helper")
        if os.access(path, os.X_OK):
            return path
    return ""


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as f:
            return f.read(MAX_MESSAGE)
    except OSError:
        return b""


def own_credential(config: Configuration, environ: Mapping[str, str]) -> Credential:
    """The caller's token (WLCG discovery: BEARER_TOKEN, BEARER_TOKEN_FILE, bt_u<uid>) and proxy
    certificate."""
    variable = config.get("CVMFS_AUTHZ_CVMFS_TOKEN_VARNAME") or "BEARER_TOKEN_FILE"
    token = environ.get("BEARER_TOKEN", "").encode()
    places = [environ.get(variable, "")]
    name = f"bt_u{os.geteuid()}"
    places += [os.path.join(d, name) for d in (environ.get("XDG_RUNTIME_DIR", ""), "/tmp") if d]
    for place in places:
        token = token or (_read(place) if place else b"")
    proxy = _read(environ.get("X509_USER_PROXY") or f"/tmp/x509up_u{os.geteuid()}")
    return Credential(token.strip(), proxy)


def authorize(requirement: str, config: Configuration, store: Store, environ: Mapping[str, str]) -> None:
    """Lets go on who may read a repository with that requirement ("" for none); root always may.

    Raises AuthorizationError."""
    if not requirement:
        return
    kind, separator, membership = requirement.partition("%")
    if not separator:
        kind, membership = "x509", requirement
    if not re.fullmatch(r"[A-Za-z0-9_-]+", kind):
        raise AuthorizationError(f"{config.fqrn} asks for authorization of an unknown kind {kind[:40]!r}")
    helper = find_helper(kind, config)
    if helper and os.getuid() != 0:
        process = Helper(helper, config.fqrn, environ)
        try:
            credential = process.verify(membership)
        finally:
            process.close()
    else:
        credential = own_credential(config, environ)
        if credential == Credential() and os.getuid() != 0:
            raise AuthorizationError(
                f"{config.fqrn} is for members only ({requirement})",
                f"provide a token (BEARER_TOKEN_FILE) or install cvmfs_{kind}_helper, see CVMFS_AUTHZ_HELPER",
            )
    fetcher: Any = store.fetcher
    if fetcher is not None and hasattr(fetcher, "credentials"):
        _attach(fetcher, credential)


def _attach(fetcher: Any, credential: Credential) -> None:
    """Has a fetcher send the credential to https hosts."""
    if credential.bearer_token:
        token = credential.bearer_token.decode("latin-1")
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise AuthorizationError("the bearer token is malformed")
        fetcher.credentials = lambda: {"Authorization": f"Bearer {token}"}
    elif credential.x509_proxy:
        # OpenSSL reads the certificate from a path: a memory file has one and leaves nothing on disk
        fd = os.memfd_create("x509-proxy", os.MFD_CLOEXEC)
        os.write(fd, credential.x509_proxy)
        fetcher.client_certificate = f"/proc/self/fd/{fd}"
        weakref.finalize(fetcher, os.close, fd)
