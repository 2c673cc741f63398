"""From arguments and configuration to the parts of an open repository: trust, fetcher, store."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Union

from .config import Configuration
from .errors import ConfigError, CvmfsError, FormatError, UsageError
from .hash import SUFFIX_CATALOG, Hash
from .interfaces import Prefetcher, Store
from .opening import load_keys
from .rsa import RsaKey, keys_from_pem
from .shell_conditions import LocalFiles
from .trust import Trust
from .whitelist import Authorities, Blacklist, parse_blacklist
from .x509 import Certificate, Revocations, certificates_from_pem, revocations_from_pem

if TYPE_CHECKING:
    from .repository import Repository

DEFAULT_KEYS = "/etc/cvmfs/keys"
DEFAULT_BLACKLIST = "/etc/cvmfs/blacklist"
DEFAULT_CA = "/etc/grid-security/certificates"

ConfigArgument = Union[Configuration, Mapping[str, str], str, Sequence[str], None]
KeysArgument = Union[str, bytes, Sequence[Union[str, bytes]], None]


class Parts(NamedTuple):
    """What a repository is made of. ``tag``, ``date``: "" for none."""

    config: Configuration
    trust: Trust
    store: Store
    root_hash: Hash | None
    tag: str
    date: str
    make_prefetcher: Callable[[Repository], Prefetcher] | None

    @property
    def fixed(self) -> bool:
        """Whether the revision is given and never changes."""
        return self.root_hash is not None or bool(self.tag or self.date)

    def close(self) -> None:
        self.store.close()
        if self.store.fetcher is not None:
            self.store.fetcher.close()
        if isinstance(self.config.files, BootstrapFiles):
            self.config.files.close()


class BootstrapFiles(LocalFiles):
    """Local files, and those of a configuration repository that is not mounted, read by this client
    itself."""

    def __init__(self, environ: Mapping[str, str], cache: str | None) -> None:
        self._environ = environ
        self._cache = cache
        self._repositories: dict[str, Repository | None] = {}

    def _split(self, path: str) -> tuple[Repository, str] | None:
        parts = os.path.abspath(path).split("/")
        if len(parts) < 5 or parts[1] != "cvmfs" or os.path.isdir("/".join(parts[:3])):
            return None
        name = parts[2]
        if name not in self._repositories:
            self._repositories[name] = self._open(name)
        repository = self._repositories[name]
        return (repository, "/" + "/".join(parts[3:])) if repository is not None else None

    def _open(self, name: str) -> Repository | None:
        from .repository import Repository

        try:
            config = Configuration.load(name, environ=self._environ)
            if not config.get("CVMFS_SERVER_URL"):
                return None
            return Repository(name, config=config, cache=self._cache, environ=self._environ)
        except CvmfsError:
            return None

    def read(self, path: str) -> str | None:
        place = self._split(path)
        if place is None:
            return super().read(path)
        try:
            return place[0].read(place[1]).decode("utf-8", "surrogateescape")
        except OSError:
            return None

    def kind(self, path: str) -> str:
        place = self._split(path)
        if place is None:
            return super().kind(path)
        try:
            mode = place[0].stat(place[1]).st_mode
        except OSError:
            return ""
        return "d" if mode & 0o170000 == 0o040000 else "f"

    def names(self, path: str) -> list[str]:
        place = self._split(path)
        if place is None:
            return super().names(path)
        try:
            return sorted(place[0].listdir(place[1]))
        except OSError:
            return []

    def close(self) -> None:
        for repository in self._repositories.values():
            if repository is not None:
                repository.close()
        self._repositories.clear()


def make_configuration(
    fqrn: str,
    config: ConfigArgument,
    values: Mapping[str, str],
    environ: Mapping[str, str],
    cache: str | None,
) -> Configuration:
    """The configuration that arguments describe."""
    if isinstance(config, Configuration):
        return config.with_values(values)
    if isinstance(config, Mapping):
        values = {**config, **values}
        config = None
    paths = [] if config is None else [config] if isinstance(config, str) else list(config)
    files = BootstrapFiles(environ, cache)
    try:
        return Configuration.load(fqrn, paths=paths, values=values, environ=environ, files=files)
    except FormatError as e:
        raise ConfigError(e.message, e.remedy) from e


def build(
    fqrn: str,
    *,
    server: str | Sequence[str] | None,
    keys: KeysArgument,
    proxy: str | None,
    cache: str | None,
    tag: str | int | None,
    root_hash: str | Hash | None,
    config: ConfigArgument,
    offline: bool,
    environ: Mapping[str, str],
) -> Parts:
    """Raises ConfigError, UsageError, ProxyError, CacheError."""
    values: dict[str, str] = {}
    if server is not None:
        values["CVMFS_SERVER_URL"] = server if isinstance(server, str) else ";".join(server)
    if proxy is not None:
        values["CVMFS_HTTP_PROXY"] = proxy
    configuration = make_configuration(fqrn, config, values, environ, cache)
    identity, tag_name, date = _fixed(configuration, tag, root_hash)
    trust = make_trust(configuration, keys)
    store = make_store(configuration, offline=offline, explicit_server=server is not None, cache=cache)
    return Parts(
        configuration, trust, store, identity, tag_name, date, _prefetcher_maker(configuration, store)
    )


def _fixed(
    config: Configuration, tag: str | int | None, root_hash: str | Hash | None
) -> tuple[Hash | None, str, str]:
    if tag is not None and root_hash is not None:
        raise UsageError("a tag and a root hash are given", "give one of them")
    text, name, date = str(root_hash or ""), str(tag if tag is not None else ""), ""
    if not text and not name:
        text = config.get("CVMFS_ROOT_HASH")
        name = "" if text else config.get("CVMFS_REPOSITORY_TAG")
        date = "" if text or name else config.get("CVMFS_REPOSITORY_DATE")
    if not text:
        return None, name, date
    try:
        identity = Hash.parse(text.strip(), SUFFIX_CATALOG)
    except FormatError as e:
        raise UsageError(f"{text[:60]!r} is not a root hash", "it is 40 hex digits") from e
    return identity, "", ""


def make_store(config: Configuration, *, offline: bool, explicit_server: bool, cache: str | None) -> Store:
    """The cache with its fetcher.

    Nothing is ever fetched directly unless that is configured; only who names a server himself, and no proxy
    is configured anywhere, is connected to that server directly. Raises ConfigError, CacheError."""
    from .cache import open_store
    from .download import HttpFetcher

    if offline:
        return open_store(config, None, directory=cache)
    servers = config.items("CVMFS_SERVER_URL", ";")
    if not servers:
        raise ConfigError(
            f"no server is configured for {config.fqrn}",
            "give --server URL, or CVMFS_SERVER_URL in /etc/cvmfs/config.d or ~/.config/cvmfs/config.d",
        )
    proxy = config.get("CVMFS_HTTP_PROXY")
    if not proxy and explicit_server and not config.is_set("CVMFS_HTTP_PROXY"):
        proxy = "DIRECT"
    fetcher = HttpFetcher(config, servers=servers, proxy=proxy)
    store = open_store(config, fetcher, directory=cache)
    if store.load_state(config.fqrn, "choices"):
        from . import choices

        choices.apply(config, store, fetcher)
    return store


def _prefetcher_maker(config: Configuration, store: Store) -> Callable[[Repository], Prefetcher] | None:
    """CVMFS_PREFETCH=no turns fetching ahead off; with `always` it is on even where answers come at once."""
    always = config.get("CVMFS_PREFETCH").strip().lower() == "always"
    if store.fetcher is None or not (always or config.boolean("CVMFS_PREFETCH", True)):
        return None

    def make(repository: Repository) -> Prefetcher:
        from .prefetch import make_prefetcher

        source: Any = repository
        return make_prefetcher(config, source, store)

    return make


# --- trust
def make_trust(config: Configuration, keys: KeysArgument) -> Trust:
    """Trust by the keys given, else those configured. Raises ConfigError."""
    return Trust(
        config.fqrn,
        _keys(config, keys),
        blacklist=_blacklist(config),
        authorities=lambda: _authorities(config),
    )


def _keys(config: Configuration, keys: KeysArgument) -> list[RsaKey]:
    if keys is not None:
        given: list[Any] = [keys] if isinstance(keys, (str, bytes, os.PathLike)) else list(keys)
        paths: list[str | bytes] = []
        for key in given:
            key = os.fspath(key)
            if isinstance(key, str) and ":" in key and not os.path.exists(key):
                paths += [part for part in key.split(":") if part]
            else:
                paths.append(key)
        texts = load_keys(paths)
    else:
        texts = _configured_keys(config)
    found: list[RsaKey] = []
    for text in texts:
        try:
            found += keys_from_pem(text)
        except FormatError as e:
            raise ConfigError(f"a public key of {config.fqrn} cannot be read: {e.message}") from e
    return found


def _configured_keys(config: Configuration) -> list[bytes]:
    files = config.files
    folder = config.get("CVMFS_KEYS_DIR")
    names: list[str] = []
    if folder:
        names = [os.path.join(folder, n) for n in files.names(folder) if n.endswith(".pub")]
    if not names:
        names = config.items("CVMFS_PUBLIC_KEY", ":")
    if not names and not folder:
        names = [os.path.join(DEFAULT_KEYS, n) for n in files.names(DEFAULT_KEYS) if n.endswith(".pub")]
    texts: list[bytes] = []
    for name in names:
        text = files.read(name)
        if text is None:
            raise ConfigError(
                f"the public key {name} does not exist", "see CVMFS_PUBLIC_KEY and CVMFS_KEYS_DIR"
            )
        texts.append(text.encode("utf-8", "surrogateescape"))
    return texts


def _blacklist(config: Configuration) -> Blacklist:
    names = [config.get("CVMFS_BLACKLIST") or DEFAULT_BLACKLIST]
    repository = config.get("CVMFS_CONFIG_REPOSITORY")
    if repository and repository != config.fqrn:
        names.append(os.path.join(config.get("CVMFS_MOUNT_DIR"), repository, "etc/cvmfs/blacklist"))
    return parse_blacklist(text for text in map(config.files.read, names) if text is not None)


def _authorities(config: Configuration) -> Authorities:
    """Read only where a whitelist wants a chain: there may be hundreds."""
    folders = config.items("CVMFS_TRUSTED_CERTS", ":") or [config.get("X509_CERT_DIR") or DEFAULT_CA]
    anchors: list[Certificate] = []
    lists: list[Revocations] = []
    for folder in folders:
        for name in LocalFiles().names(folder):
            try:
                with open(os.path.join(folder, name), "rb") as f:
                    text = f.read(1 << 22)
                if b"-----BEGIN X509 CRL" in text:
                    lists += revocations_from_pem(text)
                elif b"CERTIFICATE-----" in text:
                    anchors += certificates_from_pem(text)
            except (OSError, FormatError):
                continue
    return Authorities(anchors, lists)
