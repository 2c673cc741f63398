"""From an image's config and the caller's options to a RunSpec, as docker resolves them.

Options are the parser's: a dict from the names of :mod:`udk.cli.table` to bool, str or list[str]; a library
caller may pass the same. Nothing is written here but host directories of ``-v`` that do not exist.
"""

from __future__ import annotations

import os

from udk.errors import ImageError, UsageError
from udk.runtime import environ, mounts
from udk.runtime.rootfs import Rootfs
from udk.runtime.spec import Identity, Limits, Mount, Root, RunSpec
from udk.runtime.users import resolve_user
from udk.runtime.values import cpu_list, duration, rlimit, signal_number, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

Options = "Mapping[str, Any]"


def _foreign(platform: str) -> str:
    from udk.store.refs import host_platform

    if platform in ("", host_platform()):
        return ""
    from udk.engines.emulate import foreign

    return foreign(platform)


def make_spec(
    *,
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    words: list[str],
    root: Root,
    container: str,
    name: str = "",
    image: str = "",
    private: str = "",
    cleanup: tuple[str, ...] = (),
    host_env: Mapping[str, str] | None = None,
    dry: bool = False,
    platform: str = "",
) -> RunSpec:
    """The run that ``options`` and ``words`` (the command, [] for the image's own) ask for.

    ``config`` is the ``config`` object of the image's configuration, ``platform`` the image's
    (``linux/arm64``), ``root`` the layers to run on, ``private`` a directory of this container for what image
    volumes need (made by the caller when it is used). Raises UsageError for options that make no sense,
    ContainerError for users and sources that do not exist, ImageError where there is no command."""
    host = os.environ if host_env is None else host_env
    rootfs = Rootfs((root.upper, *root.lower))
    readonly = bool(options.get("read_only"))
    root = root.replace(readonly=readonly)
    user = options.get("user")
    identity = resolve_user(
        rootfs,
        _text(config, "User") if user is None else user,
        options.get("group_add", []),
        bool(options.get("subids")),
    )
    network = _network(options)
    hostname = options.get("hostname", "")
    if len(hostname) > 64 or any(not (c.isascii() and c.isalnum()) and c not in "._-" for c in hostname):
        raise UsageError(
            f"--hostname {hostname!r} is not a host name", "use letters, digits, `.`, `-` and `_`"
        )
    if not hostname and network == "none":
        hostname = container[:12]
    pid = _choice(options, "pid", {"": "private", "private": "private", "host": "host"})
    tty = bool(options.get("tty"))
    return RunSpec(
        engine=options.get("engine", "auto"),
        container=container,
        name=name,
        image=image,
        argv=command(config, options, words),
        env=_environment(config, options, identity, hostname, tty, container, host),
        cwd=_cwd(config, options),
        identity=identity,
        root=root,
        mounts=_mounts(config, options, rootfs, readonly, network, hostname, private, dry),
        hostname=hostname,
        network=network,
        pid=pid,
        emulate=_foreign(platform),
        confine=_confine(options),
        limits=_limits(options),
        tty=tty,
        stop_signal=_stop_signal(config, options),
        cookie=container,
        stats=os.path.abspath(options["stats"]) if options.get("stats") else "",
        cleanup=cleanup,
    )


def command(config: Mapping[str, Any], options: Mapping[str, Any], words: list[str]) -> tuple[str, ...]:
    """docker's rule: entry point + (words or the image's Cmd); ``--entrypoint`` drops the image's Cmd too."""
    entry = options.get("entrypoint")
    if entry is None:
        argv = _strings(config, "Entrypoint") + (words or _strings(config, "Cmd"))
    else:
        argv = ([entry] if entry else []) + words
    if not argv:
        raise ImageError("no command given and the image has none", "write one after the image's name")
    if not argv[0]:
        raise UsageError("the command is an empty string")
    for arg in argv:
        if "\0" in arg:
            raise ImageError("an argument of the command contains a NUL byte")
    return tuple(argv)


def join_spec(spec: RunSpec, options: Mapping[str, Any], words: list[str]) -> RunSpec:
    """The spec of a further command in the container of ``spec`` (``udk exec``)."""
    if not words:
        raise UsageError("no command given", "write one after the container's name")
    identity = spec.identity
    rootfs = Rootfs((spec.root.upper, *spec.root.lower))
    if options.get("user") is not None:
        identity = resolve_user(rootfs, options["user"], [], spec.identity.subids)
    settings = _settings(options, os.environ)
    env = dict(spec.env)
    if options.get("tty"):
        env.setdefault("TERM", "xterm")
    if options.get("user") is not None:
        env["HOME"] = identity.home
    for name, value in settings:
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    cwd = _absolute(options["workdir"]) if options.get("workdir") else spec.cwd
    changes = {
        "argv": tuple(words), "env": env, "cwd": cwd, "identity": identity, "tty": bool(options.get("tty")),
        "cleanup": (), "stats": "", "limits": Limits(rlimits=spec.limits.rlimits),
    }  # fmt: skip
    joined: RunSpec = spec.replace(**changes)
    return joined


def check_options(options: Mapping[str, Any]) -> None:
    """Refuses what can be refused without an image, so that nothing is pulled for a command line that is
    wrong."""
    _network(options)
    _confine(options)
    _limits(options)
    for word in options.get("volume", []) + options.get("tmpfs", []):
        if not word:
            raise UsageError("an empty --volume or --tmpfs")
    if options.get("restart", "no") != "no":
        raise UsageError(f"--restart {options['restart']} is not supported", "nobody restarts a container")
    for text in options.get("publish", []):
        _publish(text)
    if options.get("pull", "missing") not in ("missing", "always", "never"):
        raise UsageError(f"--pull {options['pull']} is unknown", "write missing, always or never")
    if options.get("cpuset_cpus"):
        cpu_list(options["cpuset_cpus"], "--cpuset-cpus")


def _strings(config: Mapping[str, Any], key: str) -> list[str]:
    value = config.get(key) or []
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ImageError(f"the image's {key} is not a list of strings")
    return value


def _text(config: Mapping[str, Any], key: str) -> str:
    value = config.get(key) or ""
    if not isinstance(value, str) or "\0" in value:
        raise ImageError(f"the image's {key} is not a string")
    return value


def _stop_signal(config: Mapping[str, Any], options: Mapping[str, Any]) -> int:
    if options.get("stop_signal"):
        return signal_number(options["stop_signal"], "--stop-signal")
    try:
        return signal_number(_text(config, "StopSignal") or "TERM", "StopSignal")
    except UsageError as e:
        raise ImageError(f"the image's {e.message}", "use --stop-signal") from None


def _volumes(config: Mapping[str, Any]) -> list[str]:
    """The image's volumes as clean absolute paths; the root itself cannot be one."""
    value = config.get("Volumes") or {}
    if not isinstance(value, dict):
        raise ImageError("the image's Volumes is not an object")
    paths = ("/" + "/".join(p for p in volume.split("/") if p not in ("", ".", "..")) for volume in value)
    return [path for path in paths if path != "/"]


def _choice(options: Mapping[str, Any], key: str, known: Mapping[str, str]) -> str:
    given = options.get(key, "")
    if given not in known:
        words = ", ".join(k for k in known if k)
        raise UsageError(f"--{key} {given} is not supported", f"known: {words}")
    return known[given]


def _network(options: Mapping[str, Any]) -> str:
    known = {"": "host", "host": "host", "none": "none"}
    if options.get("network") in ("bridge", "default", "slirp4netns", "pasta"):
        raise UsageError(
            f"--network {options['network']} needs privileges", "write host (the caller's network) or none"
        )
    return _choice(options, "network", known)


def _confine(options: Mapping[str, Any]) -> str:
    if not options.get("confine"):
        return ""
    from udk.engines.confine import parse

    return parse(options["confine"])


def _publish(text: str) -> None:
    ports, _, protocol = text.partition("/")
    parts = ports.split(":")
    if protocol not in ("", "tcp", "udp", "sctp") or not parts[-1].replace("-", "").isdigit():
        raise UsageError(f"--publish {text!r} is not [ADDRESS:]PORT[:PORT]")
    if len(parts) > 1 and parts[-2] != parts[-1]:
        raise UsageError(
            f"--publish {text} is not supported",
            "the network is the caller's: let the payload listen on the port that you want",
        )


def _settings(options: Mapping[str, Any], host: Mapping[str, str]) -> list[tuple[str, str | None]]:
    settings: list[tuple[str, str | None]] = []
    for path in options.get("env_file", []):
        settings += environ.env_file(_read_text(path, "--env-file"), path, host)
    settings += [environ.env_flag(text, host) for text in options.get("env", [])]
    return settings


def _read_text(path: str, option: str) -> str:
    try:
        with open(path, "rb") as f:
            return f.read(16 << 20).decode("utf-8", "surrogateescape")
    except OSError as e:
        raise UsageError(f"{option} {path}: {e.strerror}") from None


def labels(options: Mapping[str, Any]) -> dict[str, str]:
    """The labels of ``--label-file`` and ``--label``."""
    result: dict[str, str] = {}
    for path in options.get("label_file", []):
        for name, value in environ.env_file(_read_text(path, "--label-file"), path, {}):
            result[name] = value or ""
    for text in options.get("label", []):
        name, value = environ.label(text, "--label")
        result[name] = value
    return result


def _environment(
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    identity: Identity,
    hostname: str,
    tty: bool,
    cookie: str,
    host: Mapping[str, str],
) -> dict[str, str]:
    defaults = {"HOSTNAME": hostname or os.uname().nodename}
    if tty:
        defaults["TERM"] = "xterm"
    env = environ.build(_strings(config, "Env"), _settings(options, host), defaults)
    env.setdefault("HOME", identity.home)
    env["UDK_COOKIE"] = cookie
    for name, value in env.items():
        if "\0" in name or "\0" in value:
            raise ImageError(f"variable {name!r} of the image contains a NUL byte")
    return env


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise UsageError(f"--workdir {path!r} is not absolute", "begin it with /")
    return path


def _cwd(config: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    if options.get("workdir"):
        return _absolute(options["workdir"])
    inherited = _text(config, "WorkingDir") or "/"
    return inherited if inherited.startswith("/") else "/" + inherited


def _mounts(
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    rootfs: Rootfs,
    readonly: bool,
    network: str,
    hostname: str,
    private: str,
    dry: bool,
) -> tuple[Mount, ...]:
    own: list[Mount] = []
    volumes = _volumes(config)
    for text in options.get("volume", []):
        own.append(mounts.volume(text, dry))
    for text in options.get("mount", []):
        made = mounts.mount(text)
        if made is None:
            volumes.append(mounts.volume_target(text))
        else:
            own.append(made)
    own += [mounts.tmpfs(text) for text in options.get("tmpfs", [])]
    own += [mounts.device(text) for text in options.get("device", [])]
    taken = {m.target for m in own}
    for target in volumes:
        if target not in taken and (readonly or not rootfs.kind(target)):
            taken.add(target)
            own.append(Mount(source=f"{private}/volumes/{len(taken)}", target=target, options=("rprivate",)))
    shm_host = _choice(options, "ipc", {"": "", "private": "", "shareable": "", "none": "", "host": "host"})
    shm_size = size(options["shm_size"], "--shm-size") if options.get("shm_size") else 0
    defaults = mounts.default_mounts(shm_size, bool(shm_host))
    files = [
        mounts.host_file("/etc/resolv.conf", _resolv_conf(options)),
        mounts.host_file("/etc/hosts", _hosts(options, network, hostname)),
        mounts.host_file("/etc/hostname", hostname + "\n" if hostname else None),
    ]
    return mounts.ordered([*defaults, *(f for f in files if f)], own)


def fill_volumes(spec: RunSpec, private: str) -> None:
    """Makes the directories of the image's volumes that the root cannot hold (it is read-only, or lacks
    them), with what the image has there. Raises OSError."""
    for m in spec.mounts:
        if not m.source.startswith(f"{private}/volumes/"):
            continue
        rootfs = Rootfs((spec.root.upper, *spec.root.lower))
        layers = rootfs.host_paths(m.target)
        if layers and not rootfs.is_empty_dir(m.target):
            import shutil

            for layer in reversed(layers):
                shutil.copytree(layer, m.source, symlinks=True, dirs_exist_ok=True)
        else:
            os.makedirs(m.source, exist_ok=True)


def _resolv_conf(options: Mapping[str, Any]) -> str | None:
    given = [options.get("dns", []), options.get("dns_search", []), options.get("dns_option", [])]
    if not any(given):
        return None
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="surrogateescape") as f:
            lines = f.read().splitlines()
    except OSError:
        lines = []
    out: list[str] = []
    for word, values in zip(("nameserver", "search", "options"), given):
        if not values:
            out += [line for line in lines if line.split(maxsplit=1)[:1] == [word]]
        elif word == "nameserver":
            out += [f"nameserver {v}" for v in values]
        elif values != ["."]:
            out.append(f"{word} {' '.join(values)}")
    return "\n".join(out) + "\n"


def _hosts(options: Mapping[str, Any], network: str, hostname: str) -> str | None:
    extra = options.get("add_host", [])
    if not extra and not hostname and network == "host":
        return None
    text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    if network == "host":
        try:
            with open("/etc/hosts", encoding="utf-8", errors="surrogateescape") as f:
                text = f.read()
        except OSError:
            pass
        text = text if text.endswith("\n") or not text else text + "\n"
    if hostname:
        text += f"127.0.0.1\t{hostname}\n"
    for entry in extra:
        cut = min((entry.find(c) for c in ":=" if c in entry), default=-1)
        name, address = entry[:cut], entry[cut + 1 :].strip("[]")
        if cut < 1 or not address or any(c.isspace() for c in entry):
            raise UsageError(f"--add-host {entry!r} is not NAME:ADDRESS")
        text += f"{'127.0.0.1' if address == 'host-gateway' else address}\t{name}\n"
    return text


def _limits(options: Mapping[str, Any]) -> Limits:
    rlimits = {r[0]: r for r in (rlimit(text) for text in options.get("ulimit", []))}
    timeout = duration(options["timeout"], "--timeout") if options.get("timeout") else 0.0
    kill_after = duration(options["stop_timeout"], "--stop-timeout") if options.get("stop_timeout") else 10.0
    return Limits(timeout=timeout, kill_after=kill_after, rlimits=tuple(rlimits.values()))
