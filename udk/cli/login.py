"""``udk login`` and ``udk logout``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from udk.cli import output
from udk.errors import UsageError

if TYPE_CHECKING:
    from udk.cli.main import Context
    from udk.registry.options import RegistryOptions

_MAX_PASSWORD = 1 << 16


def registry_options(context: Context) -> RegistryOptions:
    """What the command line says about talking to registries."""
    from udk.registry.options import RegistryOptions

    return RegistryOptions.from_config(
        context.config(),
        authfile=os.path.abspath(context.options["authfile"]) if context.options.get("authfile") else "",
    )


def login(context: Context) -> None:
    """``udk login [REGISTRY]``: keeps credentials only once the registry has accepted them."""
    from udk.cli.signals import ending_cleanly
    from udk.registry.login import login as log_in
    from udk.registry.login import registry_host

    words = context.exactly(0, 1)
    options = context.options
    host = registry_host(words[0] if words else "")
    from_stdin = bool(options.get("password_stdin"))
    if from_stdin and options.get("password") is not None:
        raise UsageError("--password and --password-stdin exclude each other")
    username = options.get("username")
    if username is None:
        if from_stdin:
            raise UsageError("--password-stdin needs --username")
        username = _ask(f"Username for {host}: ")
    if from_stdin:
        password = _read_stdin()
    elif options.get("password") is not None:
        password = options["password"]
    else:
        password = _ask_secret(f"Password of {username} for {host}: ")
    with ending_cleanly():
        where = log_in(host, username, password, registry_options(context))
    if not context.quiet:
        output.write(f"logged in to {host}; credentials are in {output.clean(where)}")


def logout(context: Context) -> None:
    """``udk logout [REGISTRY]``."""
    from udk.registry.login import logout as log_out
    from udk.registry.login import logout_all, registry_host

    words = context.exactly(0, 1)
    if context.options.get("all"):
        if words:
            raise UsageError("--all and a registry exclude each other")
        for host in logout_all(registry_options(context)):
            output.write(f"logged out of {output.clean(host)}")
        return
    host = registry_host(words[0] if words else "")
    if log_out(host, registry_options(context)):
        if not context.quiet:
            output.write(f"logged out of {host}")
    elif not context.quiet:
        output.write(f"not logged in to {host}")


def _ask(prompt: str) -> str:
    if not sys.stdin or not sys.stdin.isatty():
        raise UsageError("no user name given, and stdin is not a terminal", "use --username")
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return sys.stdin.readline().strip()


def _ask_secret(prompt: str) -> str:
    import getpass

    if not sys.stdin or not sys.stdin.isatty():
        raise UsageError("no password given, and stdin is not a terminal", "use --password-stdin")
    return getpass.getpass(prompt, stream=sys.stderr)


def _read_stdin() -> str:
    """The whole of stdin but one line end, as docker takes it."""
    if sys.stdin is None:
        raise UsageError("--password-stdin, but stdin is closed")
    raw = sys.stdin.buffer.read(_MAX_PASSWORD)
    text = raw.decode("utf-8", "surrogateescape")
    for end in ("\r\n", "\n"):
        if text.endswith(end):
            return text[: -len(end)]
    return text
