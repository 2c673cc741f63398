"""Where the store is: a directory of the caller's, also for a batch job without HOME. On the run path."""

from __future__ import annotations

import os
from errno import EEXIST

from udk.errors import ConfigError, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def scratch_dir(environ: Mapping[str, str] | None = None) -> str:
    """The job's scratch directory as the batch system tells it, or ``""``."""
    environ = os.environ if environ is None else environ
    for name in ("_CONDOR_SCRATCH_DIR", "SLURM_TMPDIR"):
        path = environ.get(name, "")
        if path.startswith("/") and os.access(path, os.W_OK | os.X_OK):
            return path
    return ""


def _home(environ: Mapping[str, str]) -> str:
    home = environ.get("HOME", "")
    if home.startswith("/"):
        return home
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def candidates(environ: Mapping[str, str] | None = None) -> Iterator[tuple[str, str]]:
    """(path, the rule that gives it) in order of preference; each is used only where it can be made."""
    environ = os.environ if environ is None else environ
    data = environ.get("XDG_DATA_HOME", "")
    if data.startswith("/"):  # the XDG specification has relative ones ignored
        yield f"{data}/udk", "XDG_DATA_HOME"
    home = _home(environ)
    if home.startswith("/"):
        yield f"{home.rstrip('/')}/.local/share/udk", "home directory"
    scratch = scratch_dir(environ)
    if scratch:
        yield f"{scratch}/udk", "job scratch directory"
    tmp = environ.get("TMPDIR", "")
    yield f"{tmp.rstrip('/') if tmp.startswith('/') else '/tmp'}/udk-{os.getuid()}", "temporary directory"


def locate(environ: Mapping[str, str] | None = None) -> str:
    """The absolute path of the store, which exists after this. Raises ConfigError, StoreError."""
    environ = os.environ if environ is None else environ
    given = environ.get("UDK_HOME", "")
    if given:
        path = os.path.abspath(given)
        try:
            make_private(path)
        except OSError as e:
            raise ConfigError(
                f"UDK_HOME={given} cannot be used: {e.strerror}", "name a directory that you can write"
            ) from e
        return path
    refused = ""
    for path, rule in candidates(environ):
        if os.path.isfile(f"{path}/version") and os.access(path, os.X_OK):
            if rule == "temporary directory":
                check_owner(path)
            return path
        try:
            make_private(path)
        except OSError as e:
            refused = f"{path}: {e.strerror}"
            continue
        if rule == "temporary directory":
            check_owner(path)
        if os.access(path, os.W_OK | os.X_OK):
            return path
        refused = f"{path}: not writable"
    raise StoreError(f"no place for the store ({refused})", "set UDK_HOME to a directory that you can write")


def make_private(path: str) -> None:
    """Makes ``path`` and what is missing above it, 0700. Raises OSError."""
    try:
        os.mkdir(path, 0o700)
        return
    except FileNotFoundError:
        pass
    except OSError as e:
        if e.errno == EEXIST and os.path.isdir(path):
            return
        raise
    make_private(os.path.dirname(path))
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass


def check_owner(path: str) -> None:
    """Refuses a directory in a place that everybody can write unless it is the caller's alone. Raises
    StoreError."""
    s = os.lstat(path)
    if (s.st_mode & 0o170000) != 0o040000 or s.st_uid != os.geteuid():
        raise StoreError(
            f"{path} belongs to someone else", "remove it, or set UDK_HOME to a directory of yours"
        )
    if s.st_mode & 0o077:
        raise StoreError(f"{path} can be used by others (mode {s.st_mode & 0o777:04o})", f"chmod 700 {path}")
