"""Docker's credential helpers: programs ``docker-credential-NAME`` that answer on stdin and stdout."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from udk.errors import AuthError
from udk.oci.text import clean, quoted

if TYPE_CHECKING:
    from udk.registry.options import RegistryOptions

MAX_OUTPUT = 1 << 20
_NOT_FOUND = "credentials not found in native keychain"
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def get(name: str, server: str, options: RegistryOptions) -> tuple[str, str] | None:
    """User name and secret for ``server``; None if the helper has none. Raises AuthError."""
    status, output = _run(name, "get", server.encode(), options)
    if status:
        if clean(output.strip()) == _NOT_FOUND:
            return None
        raise AuthError(
            f"the credential helper {quoted(name)} failed: {clean(output.strip() or f'status {status}')}"
        )
    try:
        value = json.loads(output)
        username, secret = value["Username"], value["Secret"]
        if not isinstance(username, str) or not isinstance(secret, str):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AuthError(f"the credential helper {quoted(name)} gave no usable answer") from None
    return (username, secret) if username or secret else None


def store(name: str, server: str, username: str, secret: str, options: RegistryOptions) -> None:
    """Hands credentials to a helper. Raises AuthError."""
    entry = json.dumps({"ServerURL": server, "Username": username, "Secret": secret}).encode()
    status, output = _run(name, "store", entry, options)
    if status:
        raise AuthError(
            f"the credential helper {quoted(name)} failed: {clean(output.strip() or f'status {status}')}"
        )


def erase(name: str, server: str, options: RegistryOptions) -> bool:
    """Removes credentials from a helper; whether there were any. Raises AuthError."""
    if get(name, server, options) is None:
        return False
    status, output = _run(name, "erase", server.encode(), options)
    if status:
        raise AuthError(
            f"the credential helper {quoted(name)} failed: {clean(output.strip() or f'status {status}')}"
        )
    return True


def _run(name: str, action: str, given: bytes, options: RegistryOptions) -> tuple[int, str]:
    if not name or not _NAME.issuperset(name):
        raise AuthError(f"{quoted(name)} is not the name of a credential helper")
    program = shutil.which(f"docker-credential-{name}", path=options.environ.get("PATH"))
    if program is None:
        raise AuthError(f"the credential helper docker-credential-{name} is not installed")
    # A session of its own: what a helper leaves behind when it hangs is killed with it.
    process = subprocess.Popen(
        [program, action], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=dict(options.environ), start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(given, timeout=options.helper_timeout)
    except subprocess.TimeoutExpired:
        raise AuthError(
            f"the credential helper {quoted(name)} gave no answer in {options.helper_timeout:g} s"
        ) from None
    finally:
        if process.poll() is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except OSError:
                process.kill()
            process.communicate()
    return process.returncode, output[:MAX_OUTPUT].decode("utf-8", "replace")
