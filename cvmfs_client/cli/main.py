"""Entry point: arguments in, exit status out. The only place that prints errors."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence

from ..errors import CvmfsError, UsageError
from . import arguments


def program() -> str:
    """The name that messages begin with."""
    name = os.path.basename(sys.argv[0] or "cvmfs")
    return "udk cvmfs" if name in ("udk", "udocker") or name.startswith("__main__") else name


def _die_quietly(number: int) -> int:
    """What a program that ends by a signal leaves to its shell."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit status, see the table in cvmfs_client.errors."""
    name = program()
    try:
        try:
            options = arguments.parse(name, list(sys.argv[1:] if argv is None else argv))
            status = arguments.handler(options)(options)
            sys.stdout.flush()
            return status
        except UsageError as e:
            print(f"{name}: error: {_line(e)}", file=sys.stderr)
            return e.status
        except CvmfsError as e:
            print(f"{name}: error: {_line(e)}", file=sys.stderr)
            return e.status
        except argparse.ArgumentError as e:
            print(f"{name}: error: {e}", file=sys.stderr)
            return UsageError.status
    except SystemExit as e:  # --help
        return e.code if isinstance(e.code, int) else 0
    except BrokenPipeError:
        # the reader of our output has gone: as for cat and ls
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _die_quietly(signal.SIGPIPE)
    except KeyboardInterrupt:
        return _die_quietly(signal.SIGINT)
    except OSError as e:
        what = f"{e.filename}: " if e.filename else ""
        print(f"{name}: error: {what}{e.strerror or e}", file=sys.stderr)
        return 9 if e.errno in (errno.ENOSPC, errno.EDQUOT) else 1


def _line(e: CvmfsError) -> str:
    return " ".join(str(e).split())
