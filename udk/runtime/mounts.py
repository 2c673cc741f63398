"""Mounts: docker's ``-v``, ``--mount``, ``--tmpfs``, ``--device`` and the ones every container gets."""

from __future__ import annotations

import os
import stat

from udk.errors import ContainerError, UsageError
from udk.runtime.spec import Mount
from udk.runtime.values import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# options of -v that change nothing here: labels, caching, propagation (always private), copying
_INERT = frozenset((
    "rw", "z", "Z", "cached", "delegated", "consistent", "nocopy", "copy", "private", "rprivate", "bind",
    "rbind", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "U", "default",
))  # fmt: skip
_SHARED = frozenset(("shared", "rshared", "slave", "rslave"))
_TMPFS = frozenset(("rw", "ro", "nosuid", "suid", "nodev", "dev", "noexec", "exec"))
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def target_path(path: str, option: str) -> str:
    """An absolute, clean path inside, not the root itself."""
    if not path.startswith("/"):
        raise UsageError(f"{option}: the path inside, {path!r}, is not absolute", "begin it with /")
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    if not parts:
        raise UsageError(f"{option}: the path inside cannot be / itself")
    return "/" + "/".join(parts)


def _source(path: str, option: str, create: bool, dry: bool = False) -> tuple[str, bool]:
    """(absolute host path, whether it is a directory); made where it is missing and ``create`` is set."""
    path = os.path.abspath(path) if not path.startswith("/") else os.path.normpath(path)
    try:
        return path, stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        if not create:
            raise ContainerError(f"{option}: {path} does not exist on this host") from None
    except OSError as e:
        raise ContainerError(f"{option}: {path}: {e.strerror}") from None
    try:
        if not dry:
            os.makedirs(path, exist_ok=True)
    except OSError as e:
        raise ContainerError(
            f"{option}: {path} does not exist on this host and cannot be made ({e.strerror})"
        ) from None
    return path, True


def volume(text: str, dry: bool = False) -> Mount:
    """``HOST[:CONTAINER[:OPTIONS]]``; a missing host directory is made (not if ``dry``), as docker does;
    HOST alone is shown at the same path, as udocker does, and must exist."""
    option = f"-v {text}"
    host, *more = text.split(":")
    if len(more) > 2:
        raise UsageError(f"{option}: more than two colons", "use --mount for paths with colons")
    if not host:
        raise UsageError(f"{option}: no path of the host", "write HOST:CONTAINER")
    if not host.startswith("/") and host not in (".", "..") and not host.startswith(("./", "../")):
        if all(c in _WORD for c in host):
            raise UsageError(
                f"{option}: named volumes do not exist here", f"use a directory: -v ./{host}:... for one"
            )
        raise UsageError(f"{option}: {host!r} is not an absolute path", "begin it with / or ./")
    readonly, options = False, ["rprivate"]
    for word in more[1].split(",") if len(more) == 2 and more[1] else ():
        if word == "ro":
            readonly = True
        elif word in _SHARED:
            raise UsageError(f"{option}: mount propagation `{word}` needs privileges", "leave it out")
        elif word not in _INERT:
            raise UsageError(f"{option}: unknown option {word!r}", "known: ro, rw")
    if not more:
        path, is_dir = _source(host, option, create=False)
        return Mount(source=path, target=target_path(path, option), is_dir=is_dir, options=tuple(options))
    path, is_dir = _source(host, option, create=True, dry=dry)
    target = target_path(more[0], option)
    return Mount(source=path, target=target, readonly=readonly, is_dir=is_dir, options=tuple(options))


def csv_fields(text: str) -> list[str]:
    """The fields of one line of CSV (RFC 4180 quoting). Raises ValueError."""
    fields, i, n = [], 0, len(text)
    while True:
        if i < n and text[i] == '"':
            field, i = "", i + 1
            while True:
                end = text.find('"', i)
                if end < 0:
                    raise ValueError("a quote is not closed")
                field += text[i:end]
                i = end + 1
                if text[i : i + 1] != '"':
                    break
                field += '"'
                i += 1
            if i < n and text[i] != ",":
                raise ValueError("text after a closing quote")
        else:
            end = text.find(",", i)
            end = n if end < 0 else end
            field = text[i:end]
            if '"' in field:
                raise ValueError("a quote inside an unquoted field")
            i = end
        fields.append(field)
        if i >= n:
            return fields
        i += 1


def mount(text: str) -> Mount | None:
    """docker's ``--mount``; None for an anonymous volume that needs nothing (see :func:`volume_target`)."""
    option = f"--mount {text}"
    try:
        fields = csv_fields(text)
    except ValueError as e:
        raise UsageError(f"{option}: {e}", "quote as in CSV") from None
    kind, source, target, readonly, tmpfs = "volume", "", "", False, []
    for field in fields:
        name, equals, value = field.partition("=")
        name = name.strip().lower()
        if name in ("readonly", "ro", "rw") and (not equals or value.lower() in ("true", "1", "false", "0")):
            readonly = (not equals or value.lower() in ("true", "1")) != (name == "rw")
        elif name == "bind-nonrecursive" and (not equals or value.lower() in ("true", "1", "false", "0")):
            pass
        elif not equals:
            raise UsageError(f"{option}: {field!r} is not KEY=VALUE")
        elif name == "type":
            kind = value.lower()
        elif name in ("source", "src"):
            source = value
        elif name in ("target", "dst", "destination"):
            target = target_path(value, option)
        elif (name == "bind-propagation" and value not in _SHARED) or name in (
            "consistency",
            "volume-nocopy",
            "volume-label",
            "bind-recursive",
            "bind-create-src",
        ):
            pass
        elif name == "tmpfs-size":
            tmpfs.append(f"size={size(value, option)}")
        elif name == "tmpfs-mode" and value.isdigit() and not value.strip("01234567"):
            tmpfs.append(f"mode={value}")
        else:
            raise UsageError(f"{option}: {field!r} is not supported")
    if kind not in ("bind", "tmpfs", "volume"):
        raise UsageError(f"{option}: mounts of type {kind!r} are not supported", "types: bind, tmpfs")
    if not target:
        raise UsageError(f"{option}: no target", "add target=DIR")
    if kind == "tmpfs":
        if source:
            raise UsageError(f"{option}: a tmpfs has no source")
        return Mount(kind="tmpfs", target=target, options=tuple(tmpfs), readonly=readonly)
    if kind == "volume":
        if source:
            raise UsageError(f"{option}: named volumes do not exist here", "use type=bind,source=DIR")
        return None
    if not source:
        raise UsageError(f"{option}: no source", "add source=DIR")
    if not source.startswith("/") and source not in (".", "..") and not source.startswith(("./", "../")):
        raise UsageError(f"{option}: {source!r} is not an absolute path")
    path, is_dir = _source(source, option, create=False)
    return Mount(source=path, target=target, readonly=readonly, is_dir=is_dir, options=("rprivate",))


def volume_target(text: str) -> str:
    """The target of a ``--mount`` for which :func:`mount` gave None."""
    for field in csv_fields(text):
        name, _, value = field.partition("=")
        if name.strip().lower() in ("target", "dst", "destination"):
            return target_path(value, "--mount")
    return ""


def tmpfs(text: str) -> Mount:
    """docker's ``--tmpfs DIR[:OPTIONS]``."""
    path, _, words = text.partition(":")
    options, readonly = [], False
    for word in words.split(",") if words else ():
        name, equals, value = word.partition("=")
        if name == "size" and equals:
            options.append(word if value.endswith("%") else f"size={size(value, '--tmpfs')}")
        elif (name == "mode" and value and not value.strip("01234567")) or (
            name in ("uid", "gid", "nr_inodes", "nr_blocks") and value.isdigit()
        ):
            options.append(word)
        elif word in _TMPFS:
            readonly = readonly or word == "ro"
            if word == "noexec":
                options.append(word)
        else:
            raise UsageError(
                f"--tmpfs {text}: unknown option {word!r}", "known: size=, mode=, uid=, gid=, ro, noexec"
            )
    target = target_path(path, f"--tmpfs {text}")
    return Mount(kind="tmpfs", target=target, options=tuple(options), readonly=readonly)


def device(text: str) -> Mount:
    """docker's ``--device HOST[:CONTAINER][:rwm]`` for device nodes and directories of them."""
    host, *more = text.split(":")
    if len(more) > 2 or not host.startswith("/"):
        raise UsageError(f"--device {text}: not HOST[:CONTAINER[:rwm]]", "begin the host's path with /")
    mode = more.pop() if more and more[-1] and not more[-1].strip("rwm") else "rwm"
    path, is_dir = _source(host, f"--device {text}", create=False)
    target = target_path(more[0] if more else host, f"--device {text}")
    return Mount(source=path, target=target, is_dir=is_dir, readonly="w" not in mode, options=("rprivate",))


def default_mounts(shm_size: int, shm_host: bool) -> list[Mount]:
    """The pseudo file systems that every container has."""
    mounts = [
        Mount(kind="proc", target="/proc"),
        Mount(kind="sys", target="/sys", readonly=True),
        Mount(kind="dev", target="/dev"),
        Mount(kind="devpts", target="/dev/pts"),
    ]
    if shm_host and os.path.isdir("/dev/shm"):
        mounts.append(Mount(source="/dev/shm", target="/dev/shm", options=("rprivate",)))
    else:
        options = (f"size={shm_size}", "mode=1777") if shm_size else ("mode=1777",)
        mounts.append(Mount(kind="shm", target="/dev/shm", options=options))
    return mounts


def host_file(path: str, content: str | None = None) -> Mount | None:
    """One of the host's files in /etc as the container sees it: ``content`` if given, else the host's own
    shown read-only; None where the host has none."""
    if content is not None:
        return Mount(kind="file", target=path, content=content, is_dir=False)
    if os.path.isfile(path):
        return Mount(source=path, target=path, readonly=True, is_dir=False, options=("rprivate", "optional"))
    return None


def ordered(defaults: Iterable[Mount], own: Iterable[Mount]) -> tuple[Mount, ...]:
    """All mounts in the order in which they are made: parents before what lies within them, the caller's
    own instead of a default with the same target. Two of the caller's for one target are an error, as
    docker's."""
    seen: dict[str, Mount] = {}
    for m in own:
        if seen.get(m.target, m) != m:
            raise UsageError(f"two mounts for {m.target}", "leave one out")
        seen[m.target] = m
    merged = [*(d for d in defaults if not _covered(d.target, seen)), *seen.values()]
    return tuple(sorted(merged, key=lambda m: m.target.count("/")))


def _covered(target: str, own: dict[str, Mount]) -> bool:
    """Whether the caller's own mounts leave no place for a default one: the same target, or a directory
    above it that has nothing there to mount on (and that is the caller's: nothing may be created in it)."""
    if target in own:
        return True
    parent = target.rpartition("/")[0]
    while parent:
        if parent in own:
            source = own[parent].source
            return not source or not os.path.exists(source + target[len(parent) :])
        parent = parent.rpartition("/")[0]
    return False
