"""The entry point: splits global options from the verb, parses by the table, dispatches, and prints errors.

Everything that `udk run` of a cached image does not need is imported where it is used.
"""

from __future__ import annotations

import os
import sys

from udk.cli import table
from udk.cli.parse import parse
from udk.errors import EXIT_UDK, UdkError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from udk.config import Config
    from udk.store.store import Store

EXIT_SIGPIPE = 141

# verb -> module of this package with a function of the verb's name; the rest is in `system`
MODULES = {
    "run": "run", "create": "run", "start": "run", "exec": "run",
    "images": "image", "tags": "image", "tag": "image", "rmi": "image", "pull": "image",
    "ps": "container", "setup": "container", "rm": "container", "inspect": "container",
    "login": "login", "logout": "login", "help": "help", "completion": "help",
}  # fmt: skip


class Context:
    """What every verb gets: the global options and its own, and the words that are none."""

    __slots__ = ("global_args", "globals", "options", "verb", "words")

    def __init__(
        self,
        verb: str,
        global_options: dict[str, Any],
        options: dict[str, Any],
        words: list[str],
        global_args: list[str] | None = None,
    ) -> None:
        self.global_args = global_args or []  # the global options as given
        self.verb = verb
        self.globals = global_options
        self.options = options
        self.words = words

    @property
    def quiet(self) -> bool:
        return bool(self.globals.get("quiet") or self.options.get("quiet"))

    def config(self) -> Config:
        """The configuration, with what the command line says of it."""
        from udk.config import Config, config_files

        extra = self.globals.get("config")
        if extra and not os.path.isfile(extra):
            raise UsageError(f"--config {extra} is not a file")
        store = self.globals.get("store")
        return Config.load(
            files=(*config_files(os.environ), extra) if extra else None,
            flags={
                "store.path": os.path.abspath(store) if store else None,
                "run.engine": self.options.get("engine"),
                "pull.policy": self.options.get("pull"),
                "pull.insecure": ("*",) if self.globals.get("insecure") else None,
            },
        )

    def store(self, config: Config | None = None) -> Store:
        """The caller's store."""
        from udk.store.store import Store

        config = config or self.config()
        return Store.open(config.store_path or None, config.store_others)

    def exactly(self, least: int, most: int | None = None) -> list[str]:
        """The words, of which there must be ``least`` to ``most`` (None: any number more). Raises
        UsageError."""
        if len(self.words) < least or (most is not None and len(self.words) > most):
            usage = table.VERBS[self.verb][0]
            what = "too few" if len(self.words) < least else "too many"
            raise UsageError(f"{what} arguments", f"usage: udk {self.verb} [OPTIONS] {usage}".rstrip())
        return self.words


def split(argv: list[str]) -> Context | str:
    """The parsed command line, or the text that ``--version`` and the like print. Raises UsageError."""
    global_options, words = parse(table.GLOBAL, argv, interspersed=False)
    if global_options.get("version"):
        return version()
    verb = words[0] if words else "help"
    if global_options.get("help"):
        return Context("help", global_options, {}, words[:1]) if words else Context("help", {}, {}, [])
    row = table.VERBS.get(verb)
    if row is None:
        raise _no_such_verb(verb)
    if verb == "cvmfs":
        return Context(verb, global_options, {}, words[1:])
    options, rest = parse((*row[2], *help_row(row[2])), words[1:], row[3], f"udk {verb}")
    if options.get("help"):
        return Context("help", global_options, {}, [verb])
    return Context(verb, global_options, options, rest, argv[: len(argv) - len(words)])


def help_row(rows: tuple[tuple[str, str, str, str], ...]) -> tuple[tuple[str, str, str, str], ...]:
    """The row for ``--help``; ``-h`` only where it does not mean docker's ``--hostname``."""
    taken = any(row[0] == "--hostname -h" for row in rows)
    return (("--help" if taken else "-h --help", "flag", "", ""),)


def version() -> str:
    from udk import __version__

    return f"udk version {__version__}"


def _no_such_verb(verb: str) -> UsageError:
    from difflib import get_close_matches

    near = get_close_matches(verb, list(table.VERBS), 2)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `udk help`"
    return UsageError(f"no such command: {verb}", hint)


def dispatch(context: Context) -> int:
    """Runs the verb; its exit status."""
    verb = context.verb
    module = __import__("udk.cli." + MODULES.get(verb, "system"), fromlist=[verb])
    status = getattr(module, verb)(context)
    return status if isinstance(status, int) else 0


def open_closed_streams() -> None:
    """Puts /dev/null where the caller closed stdin, stdout or stderr: else the next file opened would be
    taken for one of them, by us and by the payload."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) == fd:
                os.set_inheritable(fd, True)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")


def main(argv: list[str] | None = None) -> int:
    """``udk``: parses ``argv`` (default: the process's), runs the verb, prints errors; the exit status."""
    open_closed_streams()
    args = sys.argv[1:] if argv is None else argv
    if "_UDK_COMPLETE" in os.environ:
        from udk.cli.help import complete

        return complete()
    debug = bool(os.environ.get("UDK_DEBUG"))
    try:
        context = split(args)
        if isinstance(context, str):
            print(context)
            return _flush()
        if context.globals.get("debug"):
            os.environ["UDK_DEBUG"] = "1"
            debug = True
        status = dispatch(context)
        return _flush() or status
    except KeyboardInterrupt:
        return _die_of(2)
    except BrokenPipeError:
        return _broken_pipe()
    except UdkError as e:
        if debug:
            _traceback()
        return fail(str(e), e.status)
    except Exception as e:
        # A failing import or a bug of ours: users get one line all the same.
        if debug:
            _traceback()
            return EXIT_UDK
        return fail(
            f"internal error: {type(e).__name__}: {e}",
            EXIT_UDK,
            "set UDK_DEBUG=1 to see where, and report it",
        )


def fail(message: str, status: int, remedy: str = "") -> int:
    """Prints the one line of an error; ``status``."""
    line = " ".join(f"{message}; {remedy}".split() if remedy else message.split())
    text = f"udk: error: {line}\n".encode("utf-8", "backslashreplace")
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        pass
    try:
        os.write(2, text)
    except OSError:
        pass
    return status


def _flush() -> int:
    """Writes out what was printed, so that a full disk or a closed pipe is noticed while there is a way to
    say so."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except BrokenPipeError:
        return _broken_pipe()
    except OSError as e:
        return fail(f"stdout: {e.strerror}", EXIT_UDK)


def _broken_pipe() -> int:
    """The reader of our output went away: not an error worth a line. What is buffered goes nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError:
        pass
    return EXIT_SIGPIPE


def _die_of(number: int) -> int:
    """Ends this process by the signal itself, so that a shell loop around it stops too."""
    import signal

    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        pass
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def console() -> NoReturn:
    """The console script: :func:`main`, without the interpreter's own clean-up, which costs as much as it
    saves."""
    status = main()
    try:
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass
    os._exit(status)
