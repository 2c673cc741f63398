"""Which cache directories the configuration asks for, and how much they may hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Optional

from .cache_layout import Directory
from .cache_quota import Quota
from .errors import CacheError, ConfigError
from .interfaces import Config

_MEGABYTE = 1 << 20
_DEFAULT_LIMIT = 4000  # MB
_FREE_SHARE = 0.8  # of the free disk that the cache may take when that is less than its limit


def plan(config: Config, directory: Optional[str] = None) -> tuple[list[Directory], int, str]:
    """(tiers, limit in bytes or 0 for none, kind: "own", "alien" or "memory"). Raises CacheError,
    ConfigError.
    """
    limit = config.integer("CVMFS_QUOTA_LIMIT", _DEFAULT_LIMIT) * _MEGABYTE
    if directory is not None:
        return _own(directory, limit)
    primary = config.get("CVMFS_CACHE_PRIMARY")
    if primary and primary != "default":
        return _instance(config, primary, limit)
    alien = config.get("CVMFS_ALIEN_CACHE")
    if alien:
        return _alien(alien)
    wanted = config.get("CVMFS_CACHE_DIR")
    base = config.get("CVMFS_CACHE_BASE")
    if not wanted and base:
        wanted = os.path.join(base, "shared" if config.boolean("CVMFS_SHARED_CACHE", True) else config.fqrn)
    if wanted:
        try:
            return _own(wanted, limit)
        except CacheError:
            # a system-wide configuration names a place of the administrator's: read it if we may
            if os.access(wanted, os.W_OK) or not _is_system_place(wanted):
                raise
            tiers, limit, kind = _default(limit)
            return [*tiers, *_readable(wanted)], limit, kind
    return _default(limit)


def _is_system_place(path: str) -> bool:
    return os.path.abspath(path).startswith("/var/")


def _own(path: str, limit: int) -> tuple[list[Directory], int, str]:
    if os.path.isdir(path) and not os.access(path, os.W_OK):
        tiers = _readable(path)
        if tiers:
            return tiers, 0, "own"
    upper = Directory(path, writable=True)
    upper.prepare()
    return [upper], _bounded(upper, limit), "own"


def _bounded(upper: Directory, limit: int) -> int:
    """A limit beyond what the disk has is none: leave room for others."""
    if limit <= 0:
        return 0
    try:
        free = upper.free_bytes()
    except OSError:
        return limit
    if free > limit:
        return limit
    used = Quota(upper, 0).used()
    return max(min(limit, int(used + free * _FREE_SHARE)), _MEGABYTE)


def _alien(path: str) -> tuple[list[Directory], int, str]:
    if not os.path.isdir(path) or os.access(path, os.W_OK):
        upper = Directory(path, writable=True, shared=True)
        upper.prepare()
        return [upper], 0, "alien"
    tiers = _readable(path)
    if not tiers:
        raise CacheError(f"the alien cache {path} cannot be read")
    return tiers, 0, "alien"


def _readable(path: str) -> list[Directory]:
    lower = Directory(path, writable=False)
    try:
        lower.check_trust()
    except OSError:
        return []
    return [lower] if os.access(f"{path}/00", os.R_OK | os.X_OK) else []


def _default(limit: int) -> tuple[list[Directory], int, str]:
    for place in _places():
        upper = Directory(place, writable=True)
        try:
            upper.prepare()
        except CacheError:
            continue
        return [upper], _bounded(upper, limit), "own"
    return [], 0, "memory"


def _places() -> Iterator[str]:
    """Where udk keeps its store, for this part of it."""
    environ = os.environ
    if environ.get("UDK_HOME"):
        yield os.path.join(os.path.abspath(environ["UDK_HOME"]), "cvmfs")
        return
    if environ.get("XDG_DATA_HOME", "").startswith("/"):
        yield os.path.join(environ["XDG_DATA_HOME"], "udk", "cvmfs")
    home = environ.get("HOME", "")
    if not home.startswith("/"):
        import pwd

        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            home = ""
    if home.startswith("/") and os.path.isdir(home):
        yield os.path.join(home, ".local", "share", "udk", "cvmfs")
    for name in ("_CONDOR_SCRATCH_DIR", "SLURM_TMPDIR"):
        if environ.get(name, "").startswith("/"):
            yield os.path.join(environ[name], "udk", "cvmfs")
    temporary = environ.get("TMPDIR", "")
    place = f"{temporary if temporary.startswith('/') else '/tmp'}/udk-{os.getuid()}"
    try:
        os.mkdir(place, 0o700)
    except OSError:
        pass
    try:
        status = os.lstat(place)
    except OSError:
        return
    if status.st_uid == os.getuid() and not status.st_mode & 0o077:
        yield os.path.join(place, "cvmfs")


def _instance(config: Config, name: str, limit: int) -> tuple[list[Directory], int, str]:
    """A named instance: CVMFS_CACHE_<name>_TYPE and the rest."""

    def get(key: str) -> str:
        return config.get(f"CVMFS_CACHE_{name}_{key}")

    kind = get("TYPE")
    if kind == "tiered":
        if not get("UPPER") or not get("LOWER"):
            raise ConfigError(f"CVMFS_CACHE_{name}_UPPER and _LOWER must name the tiers")
        upper, bound, what = _instance(config, get("UPPER"), limit)
        lower, _, _ = _instance(config, get("LOWER"), limit)
        # what is new goes to the upper tier only: a lower one is somebody else's to fill
        return [*upper, *(Directory(d.path, writable=False) for d in lower)], bound, what
    if kind == "posix":
        if get("QUOTA_LIMIT"):
            limit = config.integer(f"CVMFS_CACHE_{name}_QUOTA_LIMIT", _DEFAULT_LIMIT) * _MEGABYTE
        if get("ALIEN"):
            return _alien(get("ALIEN"))
        place = get("DIR") or (os.path.join(get("BASE"), "shared") if get("BASE") else "")
        return _own(place, limit) if place else _default(limit)
    if kind == "ram":
        return _in_memory(get("SIZE"))
    raise ConfigError(
        f"CVMFS_CACHE_{name}_TYPE={kind or '(unset)'} is not supported", "use posix, tiered or ram"
    )


def _in_memory(size: str) -> tuple[list[Directory], int, str]:
    """A cache on the node's memory file system, for nodes without disk; all processes of the user share
    it.
    """
    home = f"/dev/shm/udk-{os.getuid()}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = size.strip() or "3%"
    try:
        limit = int(memory * float(text[:-1]) / 100) if text.endswith("%") else int(float(text) * _MEGABYTE)
    except ValueError:
        raise ConfigError(f"{size!r} is not the size of a cache", "give megabytes, or a percentage") from None
    try:
        os.mkdir(home, 0o700)
    except OSError:
        pass
    status = os.lstat(home) if os.path.lexists(home) else None
    if status is None or status.st_uid != os.getuid() or status.st_mode & 0o077:
        return [], 0, "memory"
    upper = Directory(f"{home}/cvmfs", writable=True)
    upper.prepare()
    return [upper], max(limit, _MEGABYTE), "memory"
