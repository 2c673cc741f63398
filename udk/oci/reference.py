"""Image names: the grammar of ``docker pull`` plus the transports of local files.

::

    [docker://][HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]     a registry
    oci:DIR[:NAME | :@N][@DIGEST]                          a directory in OCI image layout
    oci-archive:FILE[:NAME | :@N][@DIGEST]                 a tar of one, compressed or not
    docker-archive:FILE[:REPOSITORY:TAG | :@N]             what ``docker save`` writes
    /DIR  ./DIR  ../DIR                                    the same as oci:DIR

The first component of a registry name is a host if it has a dot or a colon, or an upper-case letter, or is
``localhost``; without one the host is ``docker.io``, whose one-component repositories are in ``library/``.
This module is on the run path: no regular expressions, no imports beyond the error tree.
"""

from __future__ import annotations

from udk.errors import InvalidDigestError, InvalidReferenceError
from udk.oci.digest import Digest
from udk.oci.record import Record
from udk.oci.text import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

DEFAULT_HOST = "docker.io"
MAX_NAME = 255  # host and repository together (distribution-spec, Pulling manifests)
MAX_TAG = 128
REGISTRY = "docker"  # the transport of registries
LOCAL_TRANSPORTS = ("oci", "oci-archive", "docker-archive")
# Transports of other tools, refused by name instead of being looked up as a repository on docker.io.
_FOREIGN = (
    "containers-storage", "dir", "docker-daemon", "docker-image", "docker-tar", "library", "oras", "ostree",
    "shub", "sif",
)  # fmt: skip

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ALNUM = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TAG = _ALNUM | frozenset("_.-")
_HOST = _ALNUM | frozenset("-")
_DIGITS = frozenset("0123456789")


class Reference(Record):
    """A parsed image name.

    ``transport`` is ``docker`` for registries, with ``host``, ``repository``, ``tag`` (``""`` when only a
    digest was given) and ``digest`` (None or Digest; with both, the digest decides and the tag is for
    display). For ``oci``, ``oci-archive`` and ``docker-archive``, ``path`` is the absolute path, ``tag`` the
    name inside the source (or ``@N`` for its N-th image, or ``""``), and ``host`` and ``repository`` are
    empty.
    """

    __slots__ = ("digest", "host", "path", "repository", "tag", "transport")
    host: str
    repository: str
    tag: str
    digest: Digest | None
    transport: str
    path: str

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        repository: str = "",
        tag: str = "",
        digest: Digest | None = None,
        transport: str = REGISTRY,
        path: str = "",
    ) -> None:
        self._init(host=host, repository=repository, tag=tag, digest=digest, transport=transport, path=path)

    @classmethod
    def parse(cls, text: str, cwd: str = "") -> Reference:
        """The reference written in ``text``; relative paths are taken from ``cwd`` (default: the current
        one).

        Raises InvalidReferenceError, with a remedy, or InvalidDigestError."""
        if not text:
            raise InvalidReferenceError("the image name is empty", "give one such as debian:12")
        prefix, colon, rest = text.partition(":")
        if colon and prefix in LOCAL_TRANSPORTS:
            return _parse_local(prefix, rest, text, cwd)
        if text[0] in "/~" or text in (".", "..") or text.startswith(("./", "../")):
            return _parse_local("oci", text, text, cwd)
        if text.startswith("docker://"):
            text = text[9:]
        elif (colon and rest.startswith("//")) or (
            colon and prefix in _FOREIGN and rest.startswith(("/", "."))
        ):
            _bad_scheme(prefix, rest, text)
        return _parse_registry(text)

    def __str__(self) -> str:
        """The canonical form: parses to an equal reference."""
        tail = f"@{self.digest}" if self.digest else ""
        if self.transport != REGISTRY:
            return f"{self.transport}:{self.path}{':' + self.tag if self.tag else ''}{tail}"
        return f"{self.name}{':' + self.tag if self.tag else ''}{tail}"

    @property
    def name(self) -> str:
        """``host/repository`` of a registry reference; the path of a local one."""
        return f"{self.host}/{self.repository}" if self.transport == REGISTRY else self.path

    @property
    def familiar(self) -> str:
        """The form people write: without ``docker.io/`` and ``library/``."""
        text = str(self)
        if self.transport == REGISTRY and self.host == DEFAULT_HOST:
            short = text[len(DEFAULT_HOST) + 1 :]
            for candidate in (short[8:], short) if short.startswith("library/") else (short,):
                try:  # docker.io/a.b/c and docker.io/library/a/b would mean something else when shortened
                    if Reference.parse(candidate) == self:
                        return candidate
                except InvalidReferenceError:
                    continue
        return text

    @property
    def api_host(self) -> str:
        """The host, with port, that answers the registry API."""
        return "registry-1.docker.io" if self.host == DEFAULT_HOST else self.host

    @property
    def is_local(self) -> bool:
        """Whether the image comes from a file or directory, not from a registry."""
        return self.transport != REGISTRY

    @property
    def selector(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else self.tag

    def with_digest(self, digest: Digest) -> Reference:
        """The same image pinned to ``digest``."""
        return Reference(self.host, self.repository, self.tag, digest, self.transport, self.path)

    def with_tag(self, tag: str) -> Reference:
        """The same repository with another tag and no digest. Raises InvalidReferenceError."""
        if self.transport == REGISTRY:
            check_tag(tag, tag)
        return Reference(self.host, self.repository, tag, None, self.transport, self.path)


def _bad_scheme(prefix: str, rest: str, text: str) -> NoReturn:
    if prefix in ("http", "https"):
        raise InvalidReferenceError(
            f"{quoted(text)} is a URL, not an image name", f"leave {prefix}:// out: {quoted(rest[2:])}"
        )
    raise InvalidReferenceError(
        f"transport {quoted(prefix)} is not supported",
        "use a registry name, oci:DIR, oci-archive:FILE or docker-archive:FILE",
    )


def _parse_local(transport: str, rest: str, text: str, cwd: str) -> Reference:
    digest = None
    head, at, tail = rest.rpartition("@")
    if at and tail.startswith(("sha256:", "sha512:")):
        try:
            digest, rest = Digest.parse(tail), head
        except InvalidDigestError as e:
            raise InvalidReferenceError(f"{quoted(text)}: {e.message}", e.remedy) from None
        if transport == "docker-archive":
            raise InvalidReferenceError(f"{quoted(text)}: images in a docker-archive have no digest")
    # As everywhere in the field the path ends at the first colon: names hold colons, paths rarely do.
    path, colon, name = rest.partition(":")
    if not path:
        raise InvalidReferenceError(f"{quoted(text)} names no path", f"write {transport}:PATH[:NAME]")
    if "\0" in text or any(ord(c) < 32 for c in name) or (colon and not name):
        raise InvalidReferenceError(f"{quoted(text)} is not a valid image name")
    if name.startswith("@") and not _DIGITS.issuperset(name[1:] or "x"):
        raise InvalidReferenceError(
            f"{quoted(text)}: {quoted(name)} is not an image number", "write :@0, :@1 ..."
        )
    if transport == "docker-archive" and name and name[0] != "@":
        tagged = _parse_registry(name)
        if tagged.digest:
            raise InvalidReferenceError(f"{quoted(text)}: images in a docker-archive have no digest")
        name = str(tagged)
    import os.path  # already loaded by the interpreter itself

    if path.startswith("~/"):
        path = os.path.expanduser(path)
    return Reference(
        "", "", name, digest, transport, os.path.normpath(os.path.join(cwd or os.getcwd(), path))
    )


def _parse_registry(text: str) -> Reference:
    name, at, tail = text.partition("@")
    digest = None
    if at:
        try:
            digest = Digest.parse(tail)
        except InvalidDigestError as e:
            raise InvalidReferenceError(f"{quoted(text)}: {e.message}", e.remedy) from None
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        host, path = check_host(first, text), rest
    else:
        host, path = DEFAULT_HOST, name
    path, colon, tag = path.partition(":")
    if colon:
        check_tag(tag, text)
    elif not digest:
        tag = "latest"
    if host in ("index.docker.io", DEFAULT_HOST):
        host = DEFAULT_HOST
        if path and "/" not in path:
            path = "library/" + path
    check_repository(path, text)
    if len(host) + 1 + len(path) > MAX_NAME:
        raise InvalidReferenceError(f"{quoted(text, 60)}: the name is longer than {MAX_NAME} characters")
    if not digest and not slash and len(name) == 64 and frozenset("0123456789abcdef").issuperset(name):
        raise InvalidReferenceError(
            f"{quoted(text)} is an image ID, not a name", "write NAME@sha256:<digest>"
        )
    return Reference(host, path, tag, digest)


def check_host(host: str, text: str = "") -> str:
    """``host[:port]``, checked, in lower case. Raises InvalidReferenceError naming ``text``."""
    text = text or host
    name, port = host, ""
    if host.startswith("["):
        address, bracket, port = host[1:].partition("]")
        valid = bool(bracket) and _is_ipv6(address) and (not port or port[0] == ":")
        name, port = f"[{address}]", port[1:] if port else ""
        valid = valid and (bool(port) or not host.endswith(":"))
    else:
        name, colon, port = host.partition(":")
        labels = name.split(".")
        valid = (not colon or bool(port)) and all(
            0 < len(label) <= 63 and _HOST.issuperset(label) and label[0] != "-" and label[-1] != "-"
            for label in labels
        )
    if port and not (_DIGITS.issuperset(port) and len(port) <= 5 and 0 < int(port) < 65536):
        raise InvalidReferenceError(f"{quoted(text)}: {quoted(port)} is not a port number")
    if not valid:
        raise InvalidReferenceError(f"{quoted(text)}: {quoted(host)} is not a host name")
    # one label in capitals is a host only by its capitals
    return host.lower() if "." in host or ":" in host or host.lower() == "localhost" else host


def _is_ipv6(text: str) -> bool:
    if not text or not frozenset("0123456789abcdefABCDEF:.").issuperset(text):
        return False
    import socket  # only for such an address, which nobody has on a hot path

    try:
        socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return False
    return True


def check_tag(tag: str, text: str) -> None:
    """Raises InvalidReferenceError, naming ``text``, unless ``tag`` is a valid tag."""
    if not tag or len(tag) > MAX_TAG or not _TAG.issuperset(tag) or tag[0] in ".-":
        raise InvalidReferenceError(
            f"{quoted(text)}: {quoted(tag)} is not a tag",
            "a tag has at most 128 of A-Z a-z 0-9 _ . - and does not begin with . or -",
        )


def check_repository(path: str, text: str) -> None:
    """Raises InvalidReferenceError, naming ``text``, unless ``path`` is a valid repository name."""
    for component in path.split("/"):
        if not _is_component(component):
            remedy = "repository names are lower-case letters and digits, separated by . _ __ - and /"
            if path != path.lower() and _LOWER.issuperset(path.lower().replace("/", "a")):
                remedy = f"repository names are lower-case: try {quoted(text.lower())}"
            what = (
                f"{quoted(component)} is not allowed in a name"
                if component
                else "a part of the name is empty"
            )
            raise InvalidReferenceError(f"{quoted(text)} is not a valid image name: {what}", remedy)


def _is_component(text: str) -> bool:
    """``[a-z0-9]+((\\.|_|__|-+)[a-z0-9]+)*``"""
    if not text or text[0] not in _LOWER or text[-1] not in _LOWER:
        return False
    separator = ""
    for c in text:
        if c in _LOWER:
            if separator and separator not in (".", "_", "__") and separator.strip("-"):
                return False
            separator = ""
        elif c in "._-":
            separator += c
        else:
            return False
    return True
