"""What the verbs share: locations, opening repositories, output."""

from __future__ import annotations

import argparse
import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..config import Configuration, configured_repositories
from ..errors import UsageError, show
from ..repository import Repository


class Location(NamedTuple):
    """A path in a repository; ``shown`` is how the user wrote the beginning, for output."""

    fqrn: str
    path: str
    shown: str


def parse_location(text: str) -> Location:
    """`FQRN:/path`, `/cvmfs/FQRN/path`, `cvmfs://FQRN/path`, `FQRN/path` or `FQRN`. Raises UsageError."""
    for prefix in ("/cvmfs/", "cvmfs://"):
        if text.startswith(prefix):
            fqrn, _, path = text[len(prefix) :].partition("/")
            break
    else:
        match = re.match(r"[^:/]+", text)
        if not match:
            raise UsageError(
                f"{show(text)!r} does not name a repository", "write FQRN:/path or /cvmfs/FQRN/path"
            )
        fqrn = match.group()
        path = text[match.end() + 1 :]
    if not fqrn:
        raise UsageError(f"{show(text)!r} does not name a repository", "write FQRN:/path or /cvmfs/FQRN/path")
    return Location(fqrn, "/" + path.lstrip("/"), text)


def locations(words: list[str]) -> list[Location]:
    """The locations of a command line; after a bare FQRN, words that begin with a slash are paths in it."""
    found: list[Location] = []
    bare: Location | None = None
    used = False
    for word in words:
        if bare is not None and word.startswith("/") and not word.startswith("/cvmfs/"):
            if not used and found and found[-1] is bare:
                found.pop()
            used = True
            found.append(Location(bare.fqrn, word, word))
            continue
        location = parse_location(word)
        found.append(location)
        if not re.search(r"[:/]", word):
            bare, used = location, False
    return found


def parameters(options: argparse.Namespace) -> dict[str, str]:
    """The values of -o. Raises UsageError."""
    found: dict[str, str] = {}
    for item in options.option:
        name, separator, value = item.partition("=")
        if not separator or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            raise UsageError(f"-o {item}: write -o NAME=VALUE")
        found[name] = value
    return found


def configuration(options: argparse.Namespace, fqrn: str) -> Configuration:
    """The configuration that a command line describes, without opening anything."""
    from ..parts import BootstrapFiles

    values = parameters(options)
    if getattr(options, "server", None):
        values["CVMFS_SERVER_URL"] = options.server
    if getattr(options, "proxy", None):
        values["CVMFS_HTTP_PROXY"] = options.proxy
    files = BootstrapFiles(os.environ, options.cache)
    return Configuration.load(fqrn, paths=options.config or (), values=values, files=files)


def open_repository(options: argparse.Namespace, fqrn: str, **more: Any) -> Repository:
    """Opens a repository as the command line says."""
    values = parameters(options)
    config = Configuration.load(fqrn, paths=options.config, values=values) if options.config else values
    arguments: dict[str, Any] = {"tag": options.tag, "root_hash": options.root_hash, **more}
    return Repository(
        fqrn,
        server=options.server,
        keys=options.key,
        proxy=options.proxy,
        cache=options.cache,
        config=config,
        offline=options.offline,
        **arguments,
    )


class Repositories:
    """Opens each repository of a command line once; a context manager."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._open: dict[str, Repository] = {}

    def __call__(self, fqrn: str) -> Repository:
        if fqrn not in self._open:
            self._open[fqrn] = open_repository(self._options, fqrn)
        return self._open[fqrn]

    def __enter__(self) -> Repositories:
        return self

    def __exit__(self, *_: object) -> None:
        for repository in self._open.values():
            repository.close()


def named(options: argparse.Namespace) -> list[str]:
    """The repositories given, else those configured. Raises UsageError."""
    names = [parse_location(word).fqrn for word in options.location]
    if not names:
        names = configured_repositories()
    if not names:
        raise UsageError("no repository is named", "name one, or set CVMFS_REPOSITORIES")
    return names


# --- output
def out(text: str = "", end: str = "\n") -> None:
    """Prints text; bytes of file names that are no UTF-8 come out as they are."""
    sys.stdout.buffer.write((text + end).encode("utf-8", "surrogateescape"))


def name_out(name: str) -> str:
    """A file name as a listing shows it: escapes on a terminal, as it is elsewhere."""
    return show(name) if sys.stdout.isatty() and not name.isprintable() else name


def json_out(value: Any) -> None:
    """One JSON document. Bytes that are not UTF-8 come as \\udcXX escapes, as Python's surrogateescape has
    them."""
    out(json.dumps(value, indent=2, ensure_ascii=True, default=str))


def json_lines(values: Iterable[Any]) -> None:
    """A JSON array, one element a line, written as it comes."""
    out("[", "")
    separator = "\n"
    for value in values:
        out(separator + json.dumps(value, ensure_ascii=True, default=str), "")
        separator = ",\n"
    out("\n]")


def warn(options: argparse.Namespace, text: str) -> None:
    """A line on standard error."""
    sys.stdout.flush()
    print(f"{options.prog}: {' '.join(text.split())}", file=sys.stderr)


def size_text(size: int, human: bool) -> str:
    """Bytes, or K, M, G of 1024."""
    if not human or size < 1024:
        return str(size)
    value = float(size)
    for unit in "KMGTPE":
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return str(size)


def parse_size(text: str) -> int:
    """Bytes from `500`, `10k`, `4M`, `2G`. Raises UsageError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtT]?)[iI]?[bB]?", text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a size", "write it like 500M")
    return int(float(match.group(1)) * 1024 ** " kmgt".index(match.group(2).lower() or " "))


def time_text(seconds: int) -> str:
    """A UTC time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def long_line(st: os.stat_result, name: str, target: str | None, *, human: bool, numeric: bool) -> str:
    """A line of `ls -l`."""
    kind = stat.S_IFMT(st.st_mode)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        size = f"{os.major(st.st_rdev)}, {os.minor(st.st_rdev)}"
    else:
        size = size_text(st.st_size, human)
    arrow = f" -> {name_out(target)}" if target is not None else ""
    user, group = (str(st.st_uid), str(st.st_gid)) if numeric else (_user(st.st_uid), _group(st.st_gid))
    mode = stat.filemode(st.st_mode)
    return (
        f"{mode} {st.st_nlink:>3} {user:<8} {group:<8} {size:>10} {time_text(int(st.st_mtime))} "
        f"{name_out(name)}{arrow}"
    )


_users: dict[int, str] = {}
_groups: dict[int, str] = {}


def _user(uid: int) -> str:
    if uid not in _users:
        import pwd

        try:
            _users[uid] = pwd.getpwuid(uid).pw_name
        except KeyError:
            _users[uid] = str(uid)
    return _users[uid]


def _group(gid: int) -> str:
    if gid not in _groups:
        import grp

        try:
            _groups[gid] = grp.getgrgid(gid).gr_name
        except KeyError:
            _groups[gid] = str(gid)
    return _groups[gid]


def stat_json(path: str, st: os.stat_result, target: str | None = None) -> dict[str, Any]:
    """The attributes of an entry for --json."""
    found: dict[str, Any] = {
        "path": path,
        "type": KINDS.get(stat.S_IFMT(st.st_mode), "?"),
        "mode": oct(stat.S_IMODE(st.st_mode)),
        "uid": st.st_uid,
        "gid": st.st_gid,
        "size": st.st_size,
        "mtime_ns": st.st_mtime_ns,
        "nlink": st.st_nlink,
        "inode": st.st_ino,
    }
    if target is not None:
        found["target"] = target
    if st.st_rdev:
        found["rdev"] = [os.major(st.st_rdev), os.minor(st.st_rdev)]
    return found


KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
}


class Counter:
    """Progress on terminals only. How much there will be is not known beforehand: the count itself is
    shown."""

    def __init__(self, options: argparse.Namespace, label: str) -> None:
        from udk.base.progress import progress_for
        from udk.base.text import human_size

        self._human = human_size
        self._bars = progress_for(sys.stderr, quiet=options.quiet or options.json)
        self._label = label
        self._task = self._bars.task(label, 0)
        self._count = 0

    def __call__(self, more: int) -> None:
        self._count += more
        self._task.label = f"{self._label}: {self._human(self._count)}"
        self._task.set(self._count)

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._task.finish("failed" if kind is not None else "done")
        self._bars.close()


def words_of_file(path: str) -> Iterator[str]:
    """Lines of a file of paths, `-` for standard input; empty lines and comments left out. Raises
    UsageError."""
    try:
        stream = sys.stdin.buffer if path == "-" else open(path, "rb")
    except OSError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}") from e
    with stream:
        for line in stream:
            text = os.fsdecode(line).rstrip("\r\n")
            if text and not text.startswith("#"):
                yield text
