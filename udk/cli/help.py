"""``udk help``, ``--help`` and ``udk completion``: what click makes of the option table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from udk.cli import output
from udk.errors import UsageError

if TYPE_CHECKING:
    from udk.cli.main import Context

SHELLS = ("bash", "zsh", "fish")


def help(context: Context) -> None:
    """``udk help [COMMAND]``."""
    import click

    from udk.cli.clickapp import app

    words = context.words
    if len(words) > 1:
        raise UsageError("too many arguments", "usage: udk help [COMMAND]")
    group = app()
    with click.Context(group, info_name="udk") as parent:
        if not words:
            output.write(group.get_help(parent))
            return
        command = group.get_command(parent, words[0])
        if command is None:
            raise UsageError(f"no such command: {words[0]}", "see `udk help`")
        with click.Context(command, info_name=words[0], parent=parent) as ctx:
            output.write(command.get_help(ctx))


def completion(context: Context) -> None:
    """``udk completion SHELL``: prints the script for ``eval``."""
    words = context.exactly(0, 1)
    shell = words[0] if words else os.path.basename(os.environ.get("SHELL", "bash"))
    if shell not in SHELLS:
        raise UsageError(f"no completion for {shell!r}", f"shells: {', '.join(SHELLS)}")
    from click.shell_completion import get_completion_class

    from udk.cli.clickapp import app

    cls = get_completion_class(shell)
    assert cls is not None
    output.write(cls(app(), {}, "udk", "_UDK_COMPLETE").source())


def complete() -> int:
    """Answers the shell's completion function (``_UDK_COMPLETE`` is set)."""
    from click.shell_completion import shell_complete

    from udk.cli.clickapp import app

    try:
        return shell_complete(app(), {}, "udk", "_UDK_COMPLETE", os.environ["_UDK_COMPLETE"])
    except Exception:
        return 1  # a shell has nothing to show an error on
