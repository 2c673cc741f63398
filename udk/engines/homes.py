"""The directories where engines keep a run's state, and how what killed runs left there is found again.

Each such directory, ``udk-TOKEN`` or ``trap.TOKEN``, holds a file ``lease``: the host and boot that it was
made on, and a lock that the guard holds until it ends. The kernel drops it with the last of them, whatever
they are killed by, so whoever comes later can tell, also in another pid namespace and for a store that is
gone. On the run path.
"""

from __future__ import annotations

import os
import stat

from udk.errors import EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_TOKEN = 12  # hexadecimal digits; layers of ephemeral containers are `udk-` and sixteen
_PREFIXES = ("trap.", "udk-")
MEMORY = "/dev/shm"


class Home:
    """A state directory just made. ``fd`` holds its lock (-1 where the file system has none): the guard is
    handed it by ``("hold", str(fd))`` in its plan."""

    __slots__ = ("fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    @property
    def fds(self) -> tuple[int, ...]:
        return () if self.fd < 0 else (self.fd,)

    @property
    def ops(self) -> tuple[tuple[str, ...], ...]:
        """What the guard's plan says of it."""
        return (*((("hold", str(self.fd)),) if self.fd >= 0 else ()), ("remove", self.path))


def make(upper: str, prefix: str, link: str, others: Sequence[str], *, noexec: bool = False) -> Home:
    """A new private directory beside ``upper``, found by the symbolic link ``link`` there, else in the first
    of ``others`` that can be written; ``noexec``: also where no program can be executed. What earlier runs
    left in the same place goes. Raises EngineError."""
    token = os.urandom(_TOKEN // 2).hex()
    error: OSError | None = None
    where = os.path.dirname(upper)
    beside = [os.path.realpath(where)] if upper else []
    for parent in (*beside, *others):
        path = f"{parent}/{prefix if parent in beside else 'udk-'}{token}"
        try:
            if not noexec and os.statvfs(parent).f_flag & os.ST_NOEXEC:
                continue
            os.mkdir(path, 0o700)
        except OSError as e:
            error = e
            continue
        if upper:
            _link(path, f"{where}/{link}")
        elif parent not in beside:
            sweep((parent,))
        return Home(path, _hold(path))
    raise EngineError(
        f"no directory for the container's state: {error or 'all are mounted noexec'}",
        "set TMPDIR to one you can write" + ("" if noexec else ", without noexec"),
    )


def _link(path: str, link: str) -> None:
    for _ in range(2):
        try:
            os.symlink(path, link)
            return
        except FileExistsError:  # of an earlier run
            sweep((os.path.dirname(path),))
            try:
                os.unlink(link)
            except OSError:
                return
        except OSError:
            return  # the guard removes the directory all the same


def _hold(path: str) -> int:
    """Takes the lock, and says then who may judge it."""
    import fcntl

    from udk.base import jsonlite
    from udk.base.process import own_identity

    try:
        fd = os.open(f"{path}/lease", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(fd, jsonlite.dumps(own_identity()).encode())
    except OSError:
        os.close(fd)
        return -1
    return fd


def temporary() -> str:
    return os.environ.get("TMPDIR", "") or "/tmp"


def sweep(parents: Sequence[str]) -> int:
    """Removes from ``parents`` the caller's own directories of runs that are dead; returns how many."""
    done = 0
    for parent in dict.fromkeys(parents):
        try:
            names = os.listdir(parent)
        except OSError:
            continue
        for name in names:
            if name.startswith(_PREFIXES) and _is_token(name[-_TOKEN - 1 :]):
                done += _sweep_one(f"{parent}/{name}")
    return done


def tidy(layer: str) -> None:
    """:func:`sweep` for a layer, and the links there that lead nowhere now."""
    sweep((layer,))
    try:
        for entry in os.scandir(layer):
            if entry.is_symlink() and not os.path.exists(entry.path):
                os.unlink(entry.path)
    except OSError:
        pass


def _is_token(text: str) -> bool:
    return text[:1] in ("-", ".") and all(c in "0123456789abcdef" for c in text[1:])


def _sweep_one(path: str) -> int:
    import fcntl

    from udk.base import jsonlite
    from udk.base.process import own_identity

    try:
        st = os.lstat(path)
        if not stat.S_ISDIR(st.st_mode) or st.st_uid != os.geteuid():
            return 0
        lease = os.open(f"{path}/lease", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        made = jsonlite.loads(os.read(lease, 1 << 16))
        here = own_identity()
        if not isinstance(made, dict) or made.get("host") != here["host"]:
            return 0
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        discard(path)
    except (OSError, ValueError, EngineError):
        return 0
    finally:
        os.close(lease)
    return 1


def sockets(home: str) -> str:
    """Where the sockets of a run have their files: below its state, or elsewhere if that path is long."""
    return f"{home}/s" if len(home) < 40 else f"/tmp/.udk-{home[-_TOKEN:]}"


def discard(home: str) -> None:
    """Removes a run's state, with its sockets. Raises OSError."""
    from udk.base.remove import remove_tree

    elsewhere = sockets(home)
    try:
        if os.lstat(elsewhere).st_uid == os.geteuid():
            remove_tree(elsewhere)
    except OSError:
        pass
    remove_tree(home)
