"""The option table as click commands: help, completion, and an application for tools that read click's.

``app()`` is a complete click group: invoking a command runs the verb with the same options that the light
parser would have found, which a test checks for a corpus of command lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from udk import __version__
from udk.cli import table
from udk.cli.table import key

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CHOICES = {
    "pull": ("missing", "always", "never"),
    "network": ("host", "none"),
    "pid": ("private", "host"),
    "confine": ("allow-unix",),
    "type": ("image", "container"),
    "platform": (
        "linux/amd64",
        "linux/arm64",
        "linux/arm/v7",
        "linux/ppc64le",
        "linux/s390x",
        "linux/riscv64",
    ),
}
IMAGE_VERBS = ("run", "create", "images", "tag", "rmi")
CONTAINER_VERBS = ("start", "exec", "rm")
WORDS = {
    "store": ("gc", "fsck", "df", "path"),
    "completion": ("bash", "zsh", "fish"),
    "help": tuple(table.VERBS),
}
FILE_OPTIONS = ("env_file", "cidfile", "stats", "label_file", "config")
DIR_OPTIONS = ("scratch", "store", "volume")


class Command(click.Command):
    """A verb: its help lists options that change nothing in one paragraph of their own, and ends with
    examples."""

    examples: tuple[str, ...] = ()
    inert: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        for title, names in (("Accepted, without effect", self.inert), ("Refused", self.refused)):
            if names:
                with formatter.section(title):
                    formatter.write_text(", ".join(names))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Group(click.Group):
    """The commands in the table's order, not the alphabet's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for name in ("run", "pull", "doctor"):
                formatter.write(f"{'':>{formatter.current_indent}}{table.VERBS[name][4][0]}\n")


def app() -> click.Group:
    """The click group of all verbs."""
    group = Group(
        "udk",
        params=[_option(row) for row in table.GLOBAL if "--help" not in row[0]],
        help="Run container images as an ordinary user, without any privilege.",
        callback=_nothing,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        no_args_is_help=True,
    )
    for name in table.VERBS:
        group.add_command(command(name))
    return group


def _nothing(**_: Any) -> None:
    """The group itself does nothing; its options are read off the context."""


def command(name: str) -> click.Command:
    """One verb as a click command."""
    usage, summary, rows, interspersed, examples = table.VERBS[name]
    params: list[click.Parameter] = [_option(row) for row in rows]
    if name == "cvmfs":
        settings: dict[str, Any] = {"allow_interspersed_args": False, "ignore_unknown_options": True}
    else:
        settings = {"allow_interspersed_args": interspersed}
    params.append(
        click.Argument(
            ["words"],
            nargs=-1,
            type=click.UNPROCESSED,
            metavar=usage,
            required=False,
            shell_complete=_words(name),
        )
    )
    made = Command(
        name,
        params=params,
        help=summary + ".",
        short_help=summary,
        callback=_callback(name),
        context_settings={**settings, "help_option_names": _help_names(rows)},
    )
    made.examples = examples
    made.inert = tuple(_shown(row) for row in rows if row[1].startswith("ignored"))
    made.refused = tuple(_shown(row) for row in rows if row[1].startswith("refused"))
    return made


def _help_names(rows: Any) -> list[str]:
    return ["--help"] if any("-h" in row[0].split() for row in rows) else ["-h", "--help"]


def _shown(row: tuple[str, str, str, str]) -> str:
    return "/".join(row[0].split())


def _option(row: tuple[str, str, str, str]) -> click.Option:
    spellings, kind, metavar, text = row
    names = [key(spellings), *spellings.split()]
    hidden = kind.startswith(("ignored", "refused"))
    if kind.endswith("flag"):
        return click.Option(names, is_flag=True, default=None, help=text, hidden=hidden)
    if kind == "optional":
        return click.Option(names, metavar=f"[{metavar}]", is_flag=False, flag_value="true", help=text)
    return click.Option(
        names,
        metavar=metavar,
        multiple=kind in ("list", "ignored", "refused"),
        help=text,
        hidden=hidden,
        shell_complete=_values(key(spellings)),
        type=click.Path() if key(spellings) in (*FILE_OPTIONS, *DIR_OPTIONS) else None,
    )


def parsed(ctx: click.Context) -> tuple[dict[str, Any], list[str]]:
    """What click found, in the light parser's form."""
    given: dict[str, Any] = {}
    words: list[str] = []
    for param in ctx.command.params:
        value = ctx.params.get(param.name or "")
        if isinstance(param, click.Argument):
            words = list(value or ())
        elif value not in (None, ()) and not getattr(param, "hidden", False):
            given[str(param.name)] = list(value) if isinstance(value, tuple) else value
    return given, words


def _callback(name: str) -> Callable[..., Any]:
    def run(**_: Any) -> int:
        from udk.cli.main import Context, dispatch

        ctx = click.get_current_context()
        parent = {k: v for k, v in (ctx.parent.params if ctx.parent else {}).items() if v is not None}
        if parent.get("version"):
            click.echo(f"udk version {__version__}")
            return 0
        given, words = parsed(ctx)
        return dispatch(Context(name, parent, given, words))

    return run


def _words(name: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before = ctx.params.get("words") or ()
        if name in WORDS:
            return [] if before else _items(WORDS[name], incomplete)
        if name in ("run", "create", "exec") and before:
            return [CompletionItem(incomplete, type="file")]
        names: list[str] = []
        if name in (*IMAGE_VERBS, "inspect"):
            names += _images()
        if name in (*CONTAINER_VERBS, "inspect"):
            names += _containers()
        return _items([n for n in names if n not in before], incomplete)

    return complete


def _values(option: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]] | None:
    if option in FILE_OPTIONS or option in DIR_OPTIONS:
        kind = "dir" if option == "scratch" else "file"
        return lambda ctx, param, incomplete: [CompletionItem(incomplete, type=kind)]
    if option == "engine":
        return lambda ctx, param, incomplete: _items(_engines(), incomplete)
    if option in CHOICES:
        return lambda ctx, param, incomplete: _items(CHOICES[option], incomplete)
    return None


def _items(names: Any, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _images() -> list[str]:
    from udk.store.store import Store

    return [image.familiar for image in Store.open().images()]


def _containers() -> list[str]:
    from udk.runtime.container import Containers
    from udk.store.store import Store

    found = Containers(Store.open()).all()
    return [c.name for c in found if c.name] + [c.id[:12] for c in found if not c.name]


def _engines() -> list[str]:
    from udk.engines.select import all_engines

    return [name for engine in all_engines() for name in (engine.name, *engine.aliases)]
