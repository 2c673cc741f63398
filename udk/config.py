"""The configuration: defaults < /etc/udk/config.toml < the user's config.toml < UDK_* variables < flags.

One table, :data:`SETTINGS`, says what there is; everything else follows from it. A file is TOML::

    [store]
    others = ["/cvmfs/unpacked.example.org/udk"]
    [pull]
    parallel = 6

Values are strictly typed, and what is unknown is an error that names file and key: a misspelt setting that
does nothing is found by nobody. On the run path: without a file it costs two failed opens, and no parser is
imported."""

from __future__ import annotations

import os

from udk.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SITE_FILE = "/etc/udk/config.toml"
_MAX_BYTES = 1 << 20
_YES = ("1", "true", "yes", "on")
_NO = ("0", "false", "no", "off")


class Setting:
    """One setting. ``name`` is ``section.key``; ``kind`` one of bool, int, float, str, choice, path, paths,
    strs; ``bounds`` the smallest and largest number; ``env`` its variable (lists: paths by ``:``, others by
    ``,``)."""

    __slots__ = ("bounds", "choices", "default", "doc", "env", "kind", "name")

    def __init__(
        self,
        name: str,
        kind: str,
        default: Any,
        env: str,
        doc: str,
        *,
        bounds: tuple[float, float] = (0, float("inf")),
        choices: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.env = env
        self.doc = doc
        self.bounds = bounds
        self.choices = choices

    @property
    def field(self) -> str:
        """The attribute of :class:`Config`."""
        return self.name.replace(".", "_")


SETTINGS = (
    Setting("store.path", "path", "", "UDK_HOME", "directory of the store; empty: found by rule"),
    Setting("store.others", "paths", (), "UDK_STORES", "read-only stores looked into after the own one"),
    Setting(
        "store.lease_days", "float", 30.0, "UDK_LEASE_DAYS",
        "for how long a job on another host that cannot be asked counts as running",
    ),
    Setting(
        "store.partial_days", "float", 7.0, "UDK_PARTIAL_DAYS",
        "for how long an interrupted download is kept for resumption",
    ),
    Setting(
        "pull.parallel", "int", 3, "UDK_PULL_PARALLEL", "blobs fetched at once", bounds=(1, 64)
    ),
    Setting(
        "pull.insecure", "strs", (), "UDK_INSECURE",
        "registries that may be plain HTTP or have a certificate that cannot be verified (host or host:port)",
    ),
    Setting(
        "pull.trusted_realms", "strs", (), "UDK_TRUSTED_REALMS",
        "hosts of other sites that may issue tokens for a registry's password",
    ),
    Setting(
        "pull.patience", "float", 300.0, "UDK_PATIENCE", "seconds that a registry may make a pull wait in all"
    ),
    Setting(
        "pull.policy", "choice", "missing", "UDK_PULL", "when `udk run` asks the registry",
        choices=("always", "missing", "never"),
    ),
    Setting(
        "unpack.entries", "int", 1_900_000, "UDK_UNPACK_ENTRIES", "entries that an image's layers may have",
        bounds=(1, 1 << 40),
    ),
    Setting(
        "unpack.bytes", "int", 256 << 30, "UDK_UNPACK_BYTES", "bytes that an image's layers may unpack to",
        bounds=(1, 1 << 60),
    ),
    Setting(
        "unpack.ratio", "int", 200, "UDK_UNPACK_RATIO",
        "how many times its size a layer may expand once it is beyond 1 GiB", bounds=(1, 1 << 40),
    ),
    Setting(
        "unpack.window", "int", 128 << 20, "UDK_UNPACK_WINDOW",
        "bytes of memory for the window of a zstd or xz layer", bounds=(1 << 20, 1 << 31),
    ),
    Setting("run.engine", "str", "auto", "UDK_ENGINE", "how containers are run; auto: the best that works"),
    Setting("run.scratch", "path", "", "UDK_SCRATCH", "where containers write; empty: the job's scratch"),
)  # fmt: skip


class Config:
    """Every setting as an attribute: ``store.path`` is ``store_path``. Immutable by convention."""

    store_path: str
    store_others: tuple[str, ...]
    store_lease_days: float
    store_partial_days: float
    pull_parallel: int
    pull_insecure: tuple[str, ...]
    pull_trusted_realms: tuple[str, ...]
    pull_patience: float
    pull_policy: str
    unpack_entries: int
    unpack_bytes: int
    unpack_ratio: int
    unpack_window: int
    run_engine: str
    run_scratch: str

    def __init__(self, **given: Any) -> None:
        self._origins: dict[str, str] = {}
        for setting in SETTINGS:
            setattr(self, setting.field, given.pop(setting.field, setting.default))
        if given:
            raise TypeError(f"no such setting: {', '.join(given)}")

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        flags: Mapping[str, Any] | None = None,
        files: tuple[str, ...] | None = None,
    ) -> Config:
        """The configuration of this process. ``flags``: setting name -> value from the command line (None:
        not given). ``files``: instead of the site's and the user's. Raises ConfigError."""
        environ = os.environ if environ is None else environ
        config = cls()
        for path in config_files(environ) if files is None else files:
            config._read(path)
        for setting in SETTINGS:
            text = environ.get(setting.env, "")
            if text:
                config._set(setting, _from_text(setting, text), setting.env)
        by_name = {s.name: s for s in SETTINGS}
        for name, value in (flags or {}).items():
            if value is not None:
                config._set(by_name[name], _check(by_name[name], value, "command line"), "command line")
        return config

    def origin(self, name: str) -> str:
        """Where the value of the setting ``name`` comes from: a file, a variable, ``command line``,
        ``default``."""
        return self._origins.get(name, "default")

    def _set(self, setting: Setting, value: Any, origin: str) -> None:
        setattr(self, setting.field, value)
        self._origins[setting.name] = origin

    def _read(self, path: str) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as e:
            raise ConfigError(f"{path} cannot be read: {e.strerror}") from None
        with open(fd, "rb") as f:
            data = f.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"{path} is larger than {_MAX_BYTES} bytes")
        by_name = {s.name: s for s in SETTINGS}
        for section, content in _parse(path, data).items():
            if not isinstance(content, dict):
                raise ConfigError(f"{path}: {_shown(section)} must be in a section", _sections())
            known = [s.name.partition(".")[2] for s in SETTINGS if s.name.startswith(f"{section}.")]
            if not known:
                raise ConfigError(f"{path}: there is no section [{_shown(section)}]", _sections())
            for key, value in content.items():
                setting = by_name.get(f"{section}.{key}")
                if setting is None:
                    raise ConfigError(
                        f"{path}: there is no setting {_shown(section)}.{_shown(key)}",
                        f"[{section}] has {', '.join(known)}",
                    )
                self._set(setting, _check(setting, value, path), path)


def config_files(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The files that are read if they exist, the strongest last."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):
        home = environ.get("HOME", "")
        if not home.startswith("/"):
            import pwd

            try:
                home = pwd.getpwuid(os.getuid()).pw_dir
            except KeyError:
                return (SITE_FILE,)
        base = f"{home.rstrip('/')}/.config"
    return (SITE_FILE, f"{base}/udk/config.toml")


def _parse(path: str, data: bytes) -> dict[str, Any]:
    from importlib import import_module
    from sys import version_info

    toml = import_module("tomllib" if version_info >= (3, 11) else "tomli")
    try:
        parsed: dict[str, Any] = toml.loads(data.decode("utf-8"))
    except (toml.TOMLDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ConfigError(f"{path} is not TOML: {e}") from None
    return parsed


def _sections() -> str:
    return "sections are " + ", ".join(dict.fromkeys(f"[{s.name.partition('.')[0]}]" for s in SETTINGS))


def _shown(text: object) -> str:
    from udk.base.text import one_line

    return one_line(text, 60)


def _wrong(setting: Setting, where: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"{where}: {setting.name} = {_shown(repr(value))} is wrong", f"it must be {wanted}")


def _from_text(setting: Setting, text: str) -> Any:
    kind, value = setting.kind, text
    if kind == "bool":
        if text.lower() not in _YES + _NO:
            raise _wrong(setting, setting.env, text, "1 or 0, yes or no, on or off")
        return text.lower() in _YES
    if kind in ("int", "float"):
        try:
            return _check(setting, int(text) if kind == "int" else float(text), setting.env)
        except ValueError:
            raise _wrong(setting, setting.env, text, "a number") from None
    if kind in ("paths", "strs"):
        parts = text.split(":" if kind == "paths" else ",")
        return _check(setting, [p.strip() for p in parts if p.strip()], setting.env)
    if kind == "path":
        return os.path.abspath(text)  # of a variable, relative to where the command was given
    return _check(setting, value, setting.env)


def _check(setting: Setting, value: Any, where: str) -> Any:
    """``value`` as the setting's type. Raises ConfigError."""
    kind = setting.kind
    if kind == "bool":
        if isinstance(value, bool):
            return value
        raise _wrong(setting, where, value, "true or false")
    if kind in ("int", "float"):
        low, high = setting.bounds
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and (kind == "float" or isinstance(value, int)) and low <= value <= high:
            return float(value) if kind == "float" else value
        whole = "a whole number" if kind == "int" else "a number"
        raise _wrong(
            setting, where, value, f"{whole} from {low:g}" + (f" to {high:g}" if high < 1e18 else " on")
        )
    if kind in ("paths", "strs"):
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) and v for v in value):
            raise _wrong(setting, where, value, "a list of strings")
        return tuple(_path(setting, v, where) if kind == "paths" else v for v in value)
    if not isinstance(value, str):
        raise _wrong(setting, where, value, "a string")
    if kind == "choice" and value not in setting.choices:
        raise _wrong(setting, where, value, "one of " + ", ".join(setting.choices))
    return _path(setting, value, where) if kind == "path" and value else value


def _path(setting: Setting, value: str, where: str) -> str:
    if value.startswith("~/"):
        value = os.path.expanduser(value)
    if not value.startswith("/") or "\0" in value:
        raise _wrong(setting, where, value, "an absolute path")
    return os.path.normpath(value)
