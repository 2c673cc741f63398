"""Configuration as sites have it: the official client's files in their order, then the user's, environment,
arguments.

Later wins::

    /etc/cvmfs/default.conf, default.d/*.conf        (CVMFS_CONFIG_REPOSITORY is settled here)
    <config repository>/default.conf                 default.local
    <config repository>/domain.d/D.conf              domain.d/D.conf, domain.d/D.local
    <config repository>/config.d/F.conf              config.d/F.conf, config.d/F.local
    the same files below ~/.config/cvmfs             environment variables      arguments

F is the repository's name, D what follows its first dot.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .errors import ConfigError, UsageError
from .parameters import HONOURED, is_known
from .shell import Shell
from .shell_conditions import Files, LocalFiles

SITE_DIRECTORY = "/etc/cvmfs"
_TRUE = {"yes", "on", "1", "true"}
_FALSE = {"no", "off", "0", "false"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")


class Setting(NamedTuple):
    """A value and where it was set: a file's path, "environment", "argument" or "default"."""

    value: str
    source: str


def check_fqrn(name: str) -> str:
    """``name`` if it can be the name of a repository. Raises UsageError."""
    if not _NAME.fullmatch(name) or len(name) > 255:
        raise UsageError(f"{name[:80]!r} is not the name of a repository", "it looks like name.example.org")
    return name


def user_directory(environ: Mapping[str, str]) -> str:
    """Where a user's own files are, or ""."""
    base = environ.get("XDG_CONFIG_HOME") or (
        os.path.join(environ["HOME"], ".config") if environ.get("HOME") else ""
    )
    return os.path.join(base, "cvmfs") if os.path.isabs(base) else ""


class Configuration:
    """The parameters of one repository. Immutable once made."""

    def __init__(self, fqrn: str, settings: Mapping[str, Setting], files: Files | None = None) -> None:
        self.fqrn = fqrn
        self.settings = dict(settings)
        self.files: Files = files or LocalFiles()
        self.warnings: list[str] = []

    # --- reading
    def get(self, name: str, default: str = "") -> str:
        """The value as text, `@fqrn@` and `@org@` put in; ``default`` where it is unset or empty."""
        setting = self.settings.get(name)
        value = setting.value if setting is not None else ""
        if not value:
            return default or HONOURED.get(name, "")
        return value.replace("@fqrn@", self.fqrn).replace("@org@", self.fqrn.split(".")[0])

    def is_set(self, name: str) -> bool:
        """Whether anything assigned it, be it empty."""
        return name in self.settings

    def boolean(self, name: str, default: bool = False) -> bool:
        """yes, on, 1, true or no, off, 0, false. Raises ConfigError."""
        value = self.get(name).strip().lower()
        if not value:
            return default
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise self._bad(name, "is neither yes nor no")

    def integer(self, name: str, default: int) -> int:
        """Raises ConfigError."""
        value = self.get(name).strip()
        if not value:
            return default
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            raise self._bad(name, "is not a number")
        return int(value)

    def items(self, name: str, separator: str) -> list[str]:
        """The parts of a list, stripped of white space, without empty ones."""
        return [part.strip() for part in self.get(name).split(separator) if part.strip()]

    def _bad(self, name: str, reason: str) -> ConfigError:
        source = self.settings[name].source if name in self.settings else "default"
        return ConfigError(f"{name}={self.get(name)} ({source}) {reason}")

    def environment(self, environ: Mapping[str, str]) -> dict[bytes, bytes]:
        """What variant symbolic links are expanded with: the environment and all parameters."""
        found = {os.fsencode(k): os.fsencode(v) for k, v in environ.items()}
        found.update((os.fsencode(k), os.fsencode(self.get(k))) for k in self.settings)
        found[b"CVMFS_FQRN"] = found[b"CVMFS_REPOSITORY_NAME"] = os.fsencode(self.fqrn)
        return found

    def show(self, *, empty: bool = True) -> list[tuple[str, str, str]]:
        """(name, value, source) sorted by name, for `showconfig`."""
        rows: list[tuple[str, str, str]] = []
        for name in sorted(set(HONOURED) | set(self.settings)):
            setting = self.settings.get(name)
            value = self.get(name)
            if value or empty:
                rows.append(
                    (name, value, setting.source if setting is not None else ("default" if value else ""))
                )
        return rows

    def with_values(self, values: Mapping[str, str], source: str = "argument") -> Configuration:
        """A copy with some parameters replaced."""
        merged = {**self.settings, **{k: Setting(v, source) for k, v in values.items()}}
        copy = Configuration(self.fqrn, merged, self.files)
        copy.warnings = self.warnings
        return copy

    # --- making
    @classmethod
    def load(
        cls,
        fqrn: str,
        *,
        paths: Sequence[str] = (),
        values: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        directory: str | None = None,
        files: Files | None = None,
    ) -> Configuration:
        """The configuration of a repository; an unqualified name gets CVMFS_DEFAULT_DOMAIN.

        ``paths``: read only these files (a private mount's `config=`); ``values``: arguments, which win;
        ``directory``: in place of /etc/cvmfs. Raises ConfigError, UsageError."""
        environ = os.environ if environ is None else environ
        loader = _Loader(files or LocalFiles(), environ)
        if paths:
            loader.begin(fqrn)
            for path in paths:
                if not loader.read(path):
                    raise ConfigError(f"there is no configuration file {path}")
        else:
            places = [directory or environ.get("CVMFS_CONFIG_DIR") or SITE_DIRECTORY]
            if directory is None:
                places += [d for d in (user_directory(environ),) if d]
            fqrn = loader.read_site(fqrn, places)
        check_fqrn(fqrn)
        for name, value in environ.items():
            if is_known(name) and name not in _NOT_FROM_ENVIRONMENT and not name.startswith("X509_"):
                loader.settings[name] = Setting(value, "environment")
        for name, value in (values or {}).items():
            loader.settings[name] = Setting(value, "argument")
        for name in ("X509_CERT_DIR", "X509_CERT_BUNDLE"):
            if environ.get(name):
                loader.settings.setdefault(name, Setting(environ[name], "environment"))
        configuration = cls(fqrn, loader.settings, loader.files)
        configuration.warnings = loader.warnings
        return configuration


# exported by a surrounding client or by sites for other ends
_NOT_FROM_ENVIRONMENT = {"CVMFS_MOUNT_DIR", "CVMFS_BASE_ENV", "CVMFS_REPOSITORIES"}


class _Loader:
    """Reads files one after the other; each sees what those before it set."""

    def __init__(self, files: Files, environ: Mapping[str, str]) -> None:
        self.files = files
        self.settings: dict[str, Setting] = {}
        self.warnings: list[str] = []
        self._environ = environ
        self._fqrn = ""

    def begin(self, fqrn: str) -> None:
        self._fqrn = fqrn

    def _value(self, name: str) -> str:
        setting = self.settings.get(name)
        return setting.value if setting is not None else ""

    def read(self, path: str) -> bool:
        variables = {k: s.value for k, s in self.settings.items()}
        variables.setdefault("CVMFS_MOUNT_DIR", "/cvmfs")
        variables["CVMFS_FQRN"] = self._fqrn
        shell = Shell({**self._environ, **variables}, self.files)
        names = shell.run_file(path)
        if names is None:
            return False
        for name in names:
            value = shell.variables.get(name)
            if value is not None and value != variables.get(name):
                self.settings[name] = Setting(value, path)
            elif value is not None:
                self.settings.setdefault(name, Setting(value, path))
        return True

    def read_site(self, fqrn: str, places: Sequence[str]) -> str:
        """Reads everything in its order; returns the qualified name."""
        self._fqrn = fqrn
        for place in places:
            self._read_defaults(place)
        config_repository = self._value("CVMFS_CONFIG_REPOSITORY")
        if "." not in fqrn and not self._value("CVMFS_DEFAULT_DOMAIN"):
            for place in places:
                self.read(os.path.join(place, "default.local"))
        if "." not in fqrn and self._value("CVMFS_DEFAULT_DOMAIN"):
            fqrn = f"{fqrn}.{self._value('CVMFS_DEFAULT_DOMAIN')}"
        self._fqrn = check_fqrn(fqrn)
        shared = self._shared_directory(config_repository, fqrn)
        domain = fqrn.partition(".")[2]
        self.read(os.path.join(shared, "default.conf")) if shared else None
        for place in places:
            self.read(os.path.join(place, "default.local"))
        if shared:
            self.read(os.path.join(shared, "domain.d", domain + ".conf"))
        for place in places:
            self._read_pair(os.path.join(place, "domain.d", domain))
        if shared:
            self.read(os.path.join(shared, "config.d", fqrn + ".conf"))
        for place in places:
            self._read_pair(os.path.join(place, "config.d", fqrn))
        return fqrn

    def _read_defaults(self, place: str) -> None:
        self.read(os.path.join(place, "default.conf"))
        folder = os.path.join(place, "default.d")
        for name in self.files.names(folder):
            if name.endswith(".conf"):
                self.read(os.path.join(folder, name))

    def _read_pair(self, stem: str) -> None:
        self.read(stem + ".conf")
        self.read(stem + ".local")

    def _shared_directory(self, repository: str, fqrn: str) -> str:
        """etc/cvmfs of the configuration repository, "" if there is none or this is the one."""
        if not repository or repository == fqrn:
            return ""
        place = os.path.join(self._value("CVMFS_MOUNT_DIR") or "/cvmfs", repository, "etc", "cvmfs")
        if self.files.kind(place) == "d":
            return place
        reason = f"the configuration repository {repository} is not there ({place})"
        if self._value("CVMFS_CONFIG_REPO_REQUIRED").lower() in _TRUE:
            raise ConfigError(reason, "CVMFS_CONFIG_REPO_REQUIRED is set: make it available")
        self.warnings.append(reason)
        return ""


def configured_repositories(
    environ: Mapping[str, str] | None = None, directory: str | None = None
) -> list[str]:
    """The names in CVMFS_REPOSITORIES, qualified."""
    environ = os.environ if environ is None else environ
    loader = _Loader(LocalFiles(), environ)
    places: Iterable[str] = [directory or environ.get("CVMFS_CONFIG_DIR") or SITE_DIRECTORY]
    if directory is None and user_directory(environ):
        places = [*places, user_directory(environ)]
    for place in places:
        loader._read_defaults(place)
        loader.read(os.path.join(place, "default.local"))
    domain = loader._value("CVMFS_DEFAULT_DOMAIN")
    names = re.split(r"[,\s]+", loader._value("CVMFS_REPOSITORIES"))
    return [n if "." in n or not domain else f"{n}.{domain}" for n in names if n]
