"""The command line's grammar: one table of verbs; each verb's module is loaded only when it runs."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import Any, Callable

from ..errors import UsageError

Handler = Callable[[argparse.Namespace], int]

LOCATION = "FQRN:/path, /cvmfs/FQRN/path, or FQRN followed by paths"

# verb -> (module, function, help)
VERBS: dict[str, tuple[str, str, str]] = {
    "ls": ("listing", "ls", "list directories"),
    "tree": ("listing", "tree", "show directories as a tree"),
    "find": ("listing", "find", "list everything below directories, with conditions"),
    "du": ("listing", "du", "sum up sizes"),
    "stat": ("listing", "stat", "show the attributes of files, or the state of a repository"),
    "cat": ("contents", "cat", "write files to standard output"),
    "cp": ("contents", "cp", "copy files out of a repository"),
    "export": ("contents", "export", "copy parts of a repository to a directory, hard-linked by content"),
    "prefetch": ("contents", "prefetch", "bring files into the cache"),
    "stat-cache": ("contents", "stat_cache", "show how much of a repository is in the cache"),
    "tags": ("revisions", "tags", "list the named revisions"),
    "diff": ("revisions", "diff", "compare two revisions"),
    "info": ("revisions", "info", "describe a repository"),
    "probe": ("admin", "probe", "check that repositories can be opened"),
    "showconfig": ("admin", "showconfig", "show the parameters and where they were set"),
    "chksetup": ("admin", "chksetup", "look for mistakes in the configuration"),
    "reload": ("admin", "reload", "look for a new revision"),
    "host": ("admin", "host", "show, probe or choose the servers"),
    "proxy": ("admin", "proxy", "show or choose the proxies"),
    "cache": ("caches", "cache", "look after the cache"),
    "talk": ("talk", "talk", "the words of cvmfs_talk"),
    "publish": ("publishing", "publish", "publish a directory as a repository"),
    "collect": ("publishing", "collect", "remove what no kept revision of a published repository needs"),
    "resign": ("publishing", "resign", "renew the whitelist of a published repository"),
}


class _Parser(argparse.ArgumentParser):
    """Errors become UsageError: main prints them on one line."""

    def error(self, message: str) -> Any:
        raise UsageError(message, f"see `{self.prog} --help`")


def _common(parser: argparse.ArgumentParser, *, repository: bool = True) -> None:
    group = parser.add_argument_group("repository")
    if repository:
        group.add_argument("--server", metavar="URL", help="base URL of the repository; several with `;`")
        group.add_argument(
            "--key", "-k", action="append", metavar="FILE", help="master public key, or a directory"
        )
        group.add_argument("--proxy", metavar="LIST", help="as CVMFS_HTTP_PROXY; DIRECT: without a proxy")
        group.add_argument("--tag", metavar="NAME", help="a tag, a date (UTC) or a revision number")
        group.add_argument("--root-hash", metavar="HASH", help="open the revision with this root catalog")
        group.add_argument("--offline", action="store_true", help="use only what is in the cache")
    group.add_argument("--cache", metavar="DIR", help="directory of the cache")
    group.add_argument("--config", action="append", metavar="FILE", help="read only this configuration file")
    group.add_argument(
        "-o", dest="option", action="append", default=[], metavar="NAME=VALUE", help="set a CVMFS_ parameter"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="machine-readable output")
    output.add_argument("--quiet", "-q", action="store_true", help="no progress bars")


def _paths(parser: argparse.ArgumentParser, count: str = "+") -> None:
    parser.add_argument("location", nargs=count, metavar="LOCATION", help=LOCATION)


def _verb_parser(prog: str, name: str) -> argparse.ArgumentParser:
    text = VERBS[name][2]
    about = text[0].upper() + text[1:] + "."
    parser = _Parser(prog=f"{prog} {name}", description=about, add_help=False, allow_abbrev=False)
    parser.add_argument("--help", action="help", help="show this text and end")
    _OPTIONS[name](parser)
    return parser


def _overview(prog: str) -> str:
    width = max(map(len, VERBS))
    lines = [
        f"usage: {prog} COMMAND [OPTION...] [ARGUMENT...]",
        "",
        "Reads CernVM-FS repositories without privileges.",
    ]
    lines += ["", "commands:"]
    lines += [f"  {name:<{width}}  {text}" for name, (_, _, text) in VERBS.items()]
    return "\n".join([*lines, "", f"`{prog} COMMAND --help` shows the options of a command."])


def _ls(p: argparse.ArgumentParser) -> None:
    p.add_argument("-l", dest="long", action="store_true", help="with mode, owner, size and time")
    p.add_argument("-a", dest="all", action="store_true", help="names that begin with a dot, too")
    p.add_argument(
        "-d", dest="directory", action="store_true", help="directories themselves, not their contents"
    )
    p.add_argument("-R", dest="recursive", action="store_true", help="also everything below")
    p.add_argument("-h", dest="human", action="store_true", help="sizes for people")
    p.add_argument("-1", dest="one", action="store_true", help="one a line (always so)")
    p.add_argument("-n", dest="numeric", action="store_true", help="as -l, with numeric owners")
    p.add_argument("-i", dest="inode", action="store_true", help="with inode numbers")
    _common(p)
    _paths(p)


def _tree(p: argparse.ArgumentParser) -> None:
    p.add_argument("-L", dest="depth", type=int, default=0, metavar="N", help="no deeper than N levels")
    p.add_argument("-d", dest="directories", action="store_true", help="directories only")
    _common(p)
    _paths(p)


def _find(p: argparse.ArgumentParser) -> None:
    p.add_argument("--name", "-name", metavar="PATTERN", help="last component matches the shell pattern")
    p.add_argument(
        "--type",
        "-type",
        choices=list("fdlpscb"),
        help="f file, d directory, l link, p fifo, s socket, c b device",
    )
    p.add_argument("--size", "-size", metavar="[+-]N[kMG]", help="larger (+) or smaller (-) than")
    p.add_argument("--newer", "-newer", metavar="DATE", help="changed since (UTC)")
    p.add_argument("--maxdepth", "-maxdepth", type=int, metavar="N", help="no deeper than N levels")
    p.add_argument("--long", "-l", action="store_true", help="with mode, owner, size and time")
    p.add_argument("-0", "-print0", "--null", action="store_true", help="end names with a null byte")
    _common(p)
    _paths(p)


def _du(p: argparse.ArgumentParser) -> None:
    p.add_argument("-s", "--summarize", action="store_true", help="only a total for each argument")
    p.add_argument("-h", dest="human", action="store_true", help="sizes for people")
    p.add_argument("-d", "--max-depth", type=int, metavar="N", help="directories down to N levels")
    _common(p)
    _paths(p)


def _stat(p: argparse.ArgumentParser) -> None:
    p.add_argument("-L", dest="follow", action="store_true", help="follow links")
    p.add_argument("-v", dest="verbose", action="store_true", help="the state of a repository, line by line")
    _common(p)
    _paths(p)


def _cat(p: argparse.ArgumentParser) -> None:
    p.add_argument("--offset", type=int, default=0, metavar="N", help="begin at this byte")
    p.add_argument("--length", type=int, default=-1, metavar="N", help="no more than this many bytes")
    _common(p)
    _paths(p)


def _cp(p: argparse.ArgumentParser) -> None:
    p.add_argument("-r", "-R", "--recursive", action="store_true", help="directories with all below")
    p.add_argument(
        "-p", "--preserve", action="store_true", help="keep times, links between files, attributes"
    )
    p.add_argument("-a", "--archive", action="store_true", help="-r -p, and links as links")
    p.add_argument("-L", "--dereference", action="store_true", help="copy what links lead to")
    p.add_argument("-f", "--force", action="store_true", help="replace files that are there")
    p.add_argument("-j", "--jobs", type=int, default=8, metavar="N", help="files at a time (default 8)")
    _common(p)
    p.add_argument("location", nargs="+", metavar="LOCATION", help=LOCATION)
    p.add_argument("destination", metavar="DESTINATION", help="local file or directory")


def _export(p: argparse.ArgumentParser) -> None:
    p.add_argument("--to", required=True, metavar="DIR", help="where the tree DIR/FQRN is made")
    p.add_argument(
        "--spec", "-t", action="append", default=[], metavar="FILE", help="list of paths, see the guide"
    )
    p.add_argument(
        "--trace", action="append", default=[], metavar="FILE", help="paths that a program was seen to use"
    )
    p.add_argument("--jobs", "-j", type=int, default=8, metavar="N", help="files at a time (default 8)")
    p.add_argument("--verify", action="store_true", help="read again what an earlier run left")
    p.add_argument("--gc", "-g", action="store_true", help="remove contents that no tree needs any more")
    _common(p)
    p.add_argument("location", nargs="+", metavar="LOCATION", help=LOCATION)


def _prefetch(p: argparse.ArgumentParser) -> None:
    p.add_argument("--no-recursive", action="store_true", help="not what is below directories")
    p.add_argument("--from", dest="list", metavar="FILE", help="read paths from a file, - for standard input")
    p.add_argument("--catalogs", action="store_true", help="only the catalogs")
    _common(p)
    _paths(p)


def _locations_only(p: argparse.ArgumentParser) -> None:
    _common(p)
    _paths(p)


def _repository(p: argparse.ArgumentParser) -> None:
    _common(p)
    p.add_argument("location", metavar="FQRN")


def _diff(p: argparse.ArgumentParser) -> None:
    _common(p)
    p.add_argument("location", metavar="FQRN")
    p.add_argument("old", metavar="REV1", help="tag, date, revision number, root hash, or HEAD")
    p.add_argument("new", metavar="REV2", nargs="?", default="HEAD")
    p.add_argument("--stat", action="store_true", help="only how many entries differ")


def _repositories(p: argparse.ArgumentParser) -> None:
    _common(p)
    p.add_argument("location", metavar="FQRN", nargs="*", help="default: those of CVMFS_REPOSITORIES")


def _showconfig(p: argparse.ArgumentParser) -> None:
    p.add_argument("-s", "--short", action="store_true", help="without parameters that are empty")
    _common(p)
    p.add_argument("location", metavar="FQRN", nargs="*", help="default: those of CVMFS_REPOSITORIES")


def _network(p: argparse.ArgumentParser) -> None:
    _common(p)
    p.add_argument(
        "words", nargs="+", metavar="WORD... FQRN",
        help="info, probe, switch, reset, set LIST; host: probe geo; proxy: rebalance",
    )  # fmt: skip


def _talk(p: argparse.ArgumentParser) -> None:
    p.add_argument("-i", dest="instance", metavar="FQRN", help="the repository")
    _common(p)
    p.add_argument("words", nargs="+", metavar="WORD", help="as for cvmfs_talk, like `cache list pinned`")


def _cache(p: argparse.ArgumentParser) -> None:
    p.add_argument("action", choices=("status", "size", "list", "evict", "pin", "unpin", "fsck", "gc"))
    p.add_argument("--limit", metavar="SIZE", help="gc: keep no more than this, like 500M")
    p.add_argument("--no-repair", action="store_true", help="fsck: only report")
    p.add_argument("--pinned", action="store_true", help="list: only what is pinned")
    p.add_argument("--catalogs", action="store_true", help="list: only catalogs")
    _common(p)
    p.add_argument(
        "location", nargs="*", metavar="LOCATION", help=LOCATION + "; for evict also object hashes"
    )


def _publish(p: argparse.ArgumentParser) -> None:
    p.add_argument("source", metavar="DIR", help="what is published")
    p.add_argument(
        "repository", metavar="REPOSITORY", help="directory that a web server gives as URL/cvmfs/FQRN"
    )
    p.add_argument("--fqrn", help="name of the repository; default: the last component of REPOSITORY")
    p.add_argument(
        "--keys", metavar="DIR", required=True, help="where the keys are; made for a new repository"
    )
    p.add_argument("--tag", default="", metavar="NAME", help="name the new revision")
    p.add_argument("--description", default="", metavar="TEXT", help="of the tag")
    p.add_argument(
        "--hash", default="sha1", choices=("sha1", "rmd160", "shake128"), help="algorithm of new objects"
    )
    p.add_argument("--no-compress", action="store_true", help="store files as they are")
    p.add_argument("--level", type=int, default=6, metavar="N", help="of compression, 1 to 9")
    p.add_argument(
        "--chunk-size", default="8M", metavar="SIZE", help="larger files are stored in pieces; 0: never"
    )
    p.add_argument(
        "--catalog-entries", type=int, default=10_000, metavar="N", help="split catalogs that are larger"
    )
    p.add_argument("--ttl", type=int, default=240, metavar="SECONDS", help="how often clients look for news")
    p.add_argument("--owner", metavar="UID:GID", help="owner of all entries; default: as on disk")
    p.add_argument("--no-xattrs", action="store_true", help="leave extended attributes out")
    p.add_argument(
        "--reread", action="store_true", help="read also files whose size and time have not changed"
    )
    p.add_argument("--volatile", action="store_true", help="clients evict these contents first")
    p.add_argument("--membership", default="", metavar="TEXT", help="who may read (voms_authz)")
    p.add_argument(
        "--whitelist-days", type=float, default=30, metavar="N", help="how long the whitelist is valid"
    )
    p.add_argument("--metainfo", metavar="FILE", help="JSON that describes the repository")
    p.add_argument("--json", action="store_true", help="machine-readable output")
    p.add_argument("--quiet", "-q", action="store_true", help="nothing but errors")


def _published(p: argparse.ArgumentParser) -> None:
    p.add_argument("repository", metavar="REPOSITORY", help="directory of a published repository")
    p.add_argument("--keys", metavar="DIR", required=True, help="where its keys are")
    p.add_argument("--json", action="store_true", help="machine-readable output")
    p.add_argument("--quiet", "-q", action="store_true", help="nothing but errors")


def _collect(p: argparse.ArgumentParser) -> None:
    _published(p)
    p.add_argument(
        "--days", type=float, default=3, metavar="N", help="keep untagged revisions that are not older"
    )
    p.add_argument(
        "--remove-tag", action="append", default=[], metavar="NAME", help="forget a tag first; repeatable"
    )
    p.add_argument("--dry-run", action="store_true", help="only count")


def _resign(p: argparse.ArgumentParser) -> None:
    _published(p)
    p.add_argument("--days", type=float, default=30, metavar="N", help="how long it is to be valid")


_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "ls": _ls,
    "tree": _tree,
    "find": _find,
    "du": _du,
    "stat": _stat,
    "cat": _cat,
    "cp": _cp,
    "export": _export,
    "prefetch": _prefetch,
    "stat-cache": _locations_only,
    "tags": _repository,
    "diff": _diff,
    "info": _repository,
    "probe": _repositories,
    "showconfig": _showconfig,
    "chksetup": _repositories,
    "reload": _repositories,
    "host": _network,
    "proxy": _network,
    "cache": _cache,
    "talk": _talk,
    "publish": _publish,
    "collect": _collect,
    "resign": _resign,
}


def parse(prog: str, argv: Sequence[str]) -> argparse.Namespace:
    """Raises UsageError; prints and ends for --help."""
    words = list(argv)
    first = words[0] if words else "--help"
    if first in ("--help", "-h", "help") and (len(words) < 2 or words[1] not in VERBS):
        print(_overview(prog))
        raise SystemExit(0)
    if first == "help":
        words = [words[1], "--help"]
    if first == "--version":
        return argparse.Namespace(verb="version", prog=prog)
    verb = words[0]
    if verb not in VERBS:
        raise UsageError(f"there is no command {verb!r}", f"see `{prog} --help`")
    options = _verb_parser(prog, verb).parse_intermixed_args(words[1:])
    options.verb, options.prog = verb, prog
    return options


def handler(options: argparse.Namespace) -> Handler:
    """The function that runs the verb."""
    if options.verb == "version":
        return _version
    module, function, _ = VERBS[options.verb]
    found: Handler = getattr(importlib.import_module(f".{module}", __package__), function)
    return found


def _version(options: argparse.Namespace) -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(f"{options.prog} {version('udk')}")
    except PackageNotFoundError:
        print(f"{options.prog}, not installed as a package")
    return 0
