"""``registries.conf`` version 2 (containers-registries.conf(5)): mirrors, blocked and insecure registries.

``$CONTAINERS_REGISTRIES_CONF``, else ``~/.config/containers/registries.conf``, else
``/etc/containers/registries.conf``; then the drop-ins of ``registries.conf.d`` of the system and of the user
by name. A drop-in's registry replaces an earlier one of the same prefix. Version 1 is refused with a text.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from udk.errors import ConfigError, InvalidReferenceError, RegistryError
from udk.oci.record import Record
from udk.oci.reference import DEFAULT_HOST, Reference, check_host
from udk.oci.text import clean, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from udk.registry.options import RegistryOptions

SYSTEM_FILE = "/etc/containers/registries.conf"
MAX_FILE = 1 << 20
_MIRROR_USES = ("all", "digest-only", "tag-only")


class Endpoint(Record):
    """One place to ask: the reference as that place names it, and whether TLS may be done without there."""

    __slots__ = ("insecure", "is_mirror", "reference")
    reference: Reference
    insecure: bool
    is_mirror: bool

    def __init__(self, reference: Reference, insecure: bool = False, is_mirror: bool = False) -> None:
        self._init(reference=reference, insecure=insecure, is_mirror=is_mirror)


class Rule:
    """One ``[[registry]]``: ``mirrors`` are (location, insecure, use)."""

    def __init__(
        self, prefix: str, location: str, insecure: bool, blocked: bool, mirrors: list[tuple[str, bool, str]],
        source: str,
    ) -> None:  # fmt: skip
        self.prefix, self.location, self.insecure, self.blocked = prefix, location, insecure, blocked
        self.mirrors, self.source = mirrors, source

    def matches(self, name: str) -> bool:
        """Whether this rule is for ``name``, ``host[:port]/repository``."""
        if self.prefix.startswith("*."):
            host = name.partition("/")[0].partition(":")[0]
            return host.endswith(self.prefix[1:]) and len(host) >= len(self.prefix)
        return name == self.prefix or name.startswith((self.prefix + "/", self.prefix + ":"))

    def rewrite(self, location: str, name: str) -> str:
        """``name`` with the prefix replaced by ``location``."""
        if not location:
            return name
        if self.prefix.startswith("*."):
            return location + name[len(name.partition("/")[0]) :]
        return location + name[len(self.prefix) :]


class RegistriesConf:
    """What all files together say. ``aliases``: short name -> full name; ``search``: for other short
    names."""

    def __init__(self) -> None:
        self.rules: dict[str, Rule] = {}
        self.aliases: dict[str, str] = {}
        self.search: list[str] = []
        self.helpers: tuple[str, ...] = ()

    def endpoints(self, ref: Reference) -> list[Endpoint]:
        """Where to look for ``ref``, in order. Raises RegistryError when the registry is blocked."""
        name = ref.name
        matching = [r for r in self.rules.values() if r.matches(name)]
        if not matching:
            return [Endpoint(ref)]
        rule = max(matching, key=lambda r: len(r.prefix))
        if rule.blocked:
            raise RegistryError(
                f"registry {clean(rule.prefix)} is blocked by {clean(rule.source)}", "ask who wrote that file"
            )
        wanted = "digest-only" if ref.digest else "tag-only"
        found = [
            Endpoint(_renamed(ref, rule.rewrite(location, name), rule), insecure, True)
            for location, insecure, use in rule.mirrors
            if use in ("all", wanted)
        ]
        return [*found, Endpoint(_renamed(ref, rule.rewrite(rule.location, name), rule), rule.insecure)]

    def short_names(self, text: str) -> list[Reference]:
        """The references that a name without a host may mean: its alias, else one per search registry, else
        Docker Hub. A name with a host means itself. Raises InvalidReferenceError."""
        ref = Reference.parse(text)
        head = text.partition("@")[0].partition("/")
        has_host = bool(head[1]) and ("." in head[0] or ":" in head[0] or head[0] == "localhost")
        if ref.is_local or has_host or text.startswith("docker://"):
            return [ref]
        name = text.partition("@")[0].partition(":")[0]
        tail = text[len(name) :]
        if name in self.aliases:
            return [Reference.parse(self.aliases[name] + tail)]
        return [Reference.parse(f"{host}/{text}") for host in self.search] or [ref]

    def merge(self, data: Mapping[str, Any], source: str) -> None:
        """Adds what a file's decoded TOML says. Raises ConfigError, naming ``source``."""
        reader = _Reader(data, source)
        if isinstance(data.get("registries"), dict):
            raise ConfigError(
                f"{clean(source)} is of version 1, which is not read", "write it as [[registry]] tables"
            )
        search = reader.strings("unqualified-search-registries")
        if search is not None:
            self.search = [check_host(s, f"{source}: {s}") for s in search]
        helpers = reader.strings("credential-helpers")
        if helpers is not None:
            self.helpers = tuple(h for h in helpers if h != "containers-auth.json")
        for name, full in reader.table("aliases").items():
            if not isinstance(full, str):
                raise ConfigError(f"{clean(source)}: alias {quoted(name)} must be a string")
            if full:
                self.aliases[name] = full
            else:
                self.aliases.pop(name, None)
        for entry in reader.tables("registry"):
            rule = _rule(entry)
            self.rules[rule.prefix] = rule


def _rule(entry: _Reader) -> Rule:
    source = entry.source
    location = entry.text("location").rstrip("/")
    prefix = entry.text("prefix").rstrip("/") or location
    if not prefix:
        raise ConfigError(f"{clean(source)}: a [[registry]] has neither prefix nor location")
    for value in (prefix, location):
        if "://" in value or value.startswith("/") or "*" in value.removeprefix("*."):
            raise ConfigError(f"{clean(source)}: {quoted(value)} is not host[:port][/path]")
    if location.startswith("*"):
        raise ConfigError(f"{clean(source)}: a wildcard is a prefix, never a location: {quoted(location)}")
    mirrors = []
    by_digest = entry.flag("mirror-by-digest-only")
    for mirror in entry.tables("mirror"):
        where = mirror.text("location").rstrip("/")
        use = mirror.text("pull-from-mirror") or ("digest-only" if by_digest else "all")
        if not where or "://" in where:
            raise ConfigError(f"{clean(source)}: a mirror of {quoted(prefix)} has no usable location")
        if use not in _MIRROR_USES:
            raise ConfigError(
                f"{clean(source)}: pull-from-mirror {quoted(use)} is not one of {', '.join(_MIRROR_USES)}"
            )
        mirrors.append((where, mirror.flag("insecure"), use))
    return Rule(prefix, location, entry.flag("insecure"), entry.flag("blocked"), mirrors, source)


def _renamed(ref: Reference, name: str, rule: Rule) -> Reference:
    if name == ref.name:
        return ref
    try:
        host, slash, repository = name.partition("/")
        check_host(host, name)
        made = Reference.parse(f"{host}/{repository}{':' + ref.tag if ref.tag else ''}" if slash else "")
        if made.host == DEFAULT_HOST and made.repository != repository:
            raise InvalidReferenceError("")
    except InvalidReferenceError:
        raise ConfigError(
            f"{clean(rule.source)} rewrites {clean(ref.name)} to {quoted(name)}, which is no name"
        ) from None
    return Reference(made.host, made.repository, ref.tag, ref.digest)


class _Reader:
    """Typed access to a table of a file."""

    def __init__(self, data: Mapping[str, Any], source: str) -> None:
        self.data, self.source = data, source

    def _get(self, key: str, kind: type, name: str) -> Any:
        value = self.data.get(key)
        if value is not None and not isinstance(value, kind):
            raise ConfigError(f"{clean(self.source)}: {quoted(key)} must be {name}")
        return value

    def text(self, key: str) -> str:
        return self._get(key, str, "a string") or ""

    def flag(self, key: str) -> bool:
        return self._get(key, bool, "true or false") or False

    def strings(self, key: str) -> list[str] | None:
        value: list[Any] | None = self._get(key, list, "a list")
        if value is not None and not all(isinstance(v, str) for v in value):
            raise ConfigError(f"{clean(self.source)}: {quoted(key)} must be a list of strings")
        return value

    def table(self, key: str) -> dict[str, Any]:
        return self._get(key, dict, "a table") or {}

    def tables(self, key: str) -> list[_Reader]:
        value = self._get(key, list, f"tables, written [[{key}]]") or []
        if not all(isinstance(v, dict) for v in value):
            raise ConfigError(f"{clean(self.source)}: {quoted(key)} must be tables, written [[{key}]]")
        return [_Reader(v, self.source) for v in value]


def parse_toml(data: bytes, source: str) -> dict[str, Any]:
    """The tables of a TOML file. Raises ConfigError."""
    import importlib

    # tomllib came with Python 3.11
    tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    if len(data) > MAX_FILE:
        raise ConfigError(f"{clean(source)} is too large")
    try:
        value: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{clean(source)} is not TOML: {clean(e, 100)}") from None
    return value


def load(options: RegistryOptions) -> RegistriesConf:
    """The configuration of this user on this machine. Raises ConfigError."""
    conf = RegistriesConf()
    user = os.path.join(options.config_home, "containers") if options.config_home else ""
    main = options.registries_conf or options.environ.get("CONTAINERS_REGISTRIES_CONF", "")
    dropins: list[str] = []
    if not main:
        own = os.path.join(user, "registries.conf") if user else ""
        main = own if own and os.path.exists(own) else SYSTEM_FILE
        dropins = _dropins(SYSTEM_FILE + ".d", os.path.join(user, "registries.conf.d") if user else "")
    elif not os.path.exists(main):
        raise ConfigError(f"{quoted(main)} does not exist", "correct CONTAINERS_REGISTRIES_CONF")
    for path in (main, *dropins):
        try:
            with open(path, "rb") as f:
                data = f.read(MAX_FILE + 1)
        except FileNotFoundError:
            continue
        except OSError as e:
            raise ConfigError(f"{quoted(path)} cannot be read: {(e.strerror or '').lower()}") from None
        conf.merge(parse_toml(data, path), path)
    return conf


def _dropins(*directories: str) -> list[str]:
    """Paths of the drop-ins by name; of two with one name the later directory's counts."""
    found: dict[str, str] = {}
    for directory in directories:
        try:
            names = os.listdir(directory) if directory else []
        except OSError:
            continue
        found.update({n: os.path.join(directory, n) for n in names if n.endswith(".conf")})
    return [found[name] for name in sorted(found)]
