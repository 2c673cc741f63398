"""The image config (image-spec, config.md), checked and resolved the way docker does, and chain IDs."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from udk.errors import IntegrityError, InvalidDigestError, InvalidImageError
from udk.oci.digest import Digest, digest_of
from udk.oci.platform import Platform
from udk.oci.record import Record
from udk.oci.strictjson import load_object, member, string_map, strings
from udk.oci.text import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from udk.oci.manifest import Manifest

MAX_DIFF_IDS = 1000

# Linux's numbers, the same on all architectures that container images exist for (mips has others, and no
# images).
_SIGNALS = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN"
    " TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
SIGNALS = {name: number for number, name in enumerate(_SIGNALS.split(), 1)}
SIGNALS.update({"IOT": 6, "CLD": 17, "POLL": 29})
_RTMIN, _RTMAX = 34, 64  # as every libc presents them to programs


class ImageConfig(Record):
    """What an image says about how to run it.

    ``env`` is ordered name -> value, ``entrypoint`` and ``cmd`` are None when the image gives none,
    ``working_dir`` is absolute and clean, ``user`` as written (``""`` for root), ``stop_signal`` a number (0
    when not given), ``volumes`` sorted absolute paths. ``data`` is the whole document, ``raw`` its bytes.
    """

    __slots__ = (
        "cmd", "created", "data", "diff_ids", "entrypoint", "env", "exposed_ports", "labels", "platform",
        "raw", "shell", "stop_signal", "user", "volumes", "working_dir",
    )  # fmt: skip
    platform: Platform
    diff_ids: tuple[Digest, ...]
    env: Mapping[str, str]
    entrypoint: tuple[str, ...] | None
    cmd: tuple[str, ...] | None
    working_dir: str
    user: str
    stop_signal: int
    volumes: tuple[str, ...]
    labels: Mapping[str, str]
    exposed_ports: tuple[str, ...]
    shell: tuple[str, ...] | None
    created: str
    data: Mapping[str, Any]
    raw: bytes

    def __init__(self, **fields: Any) -> None:
        self._init(**fields)

    def __hash__(self) -> int:
        return hash(self.raw)

    @property
    def image_id(self) -> Digest:
        """The image ID: the digest of the config."""
        return digest_of(self.raw)

    @property
    def chain_id(self) -> Digest:
        """The chain ID of the topmost layer. Raises InvalidImageError for an image without layers."""
        if not self.diff_ids:
            raise InvalidImageError("the image has no layers")
        return chain_ids(self.diff_ids)[-1]


def parse_config(
    data: bytes, manifest: Manifest | None = None, what: str = "the image config"
) -> ImageConfig:
    """The image config in ``data``, checked against ``manifest`` when that is given.

    Raises InvalidImageError; IntegrityError when the bytes are not those that the manifest names."""
    if manifest is not None:
        if len(data) != manifest.config.size:
            raise IntegrityError(f"{what} has {len(data)} bytes, the manifest says {manifest.config.size}")
        if not manifest.config.digest.matches(data):
            raise IntegrityError(f"{what} does not have the digest {manifest.config.digest}")
    obj = load_object(data, what)
    diff_ids = _diff_ids(obj, what)
    if manifest is not None and len(diff_ids) != len(manifest.layers):
        raise InvalidImageError(
            f"{what} lists {len(diff_ids)} layers (diff_ids), the manifest {len(manifest.layers)}"
        )
    history = member(obj, "history", list, what, [])
    if not all(isinstance(h, dict) for h in history):
        raise InvalidImageError(f"{what}: 'history' must be a list of objects")
    run = member(obj, "config", dict, what, {})
    return ImageConfig(
        platform=Platform(
            member(obj, "os", str, what, "") or "linux",
            member(obj, "architecture", str, what, ""),
            member(obj, "variant", str, what, ""),
            member(obj, "os.version", str, what, ""),
            strings(obj, "os.features", what) or (),
        ),
        diff_ids=diff_ids,
        created=member(obj, "created", str, what, ""),
        data=obj,
        raw=data,
        **parse_run_config(run, what),
    )


def parse_run_config(run: dict[str, Any], what: str = "the image config") -> dict[str, Any]:
    """The ``config`` member of an image config, checked and resolved: the fields of ImageConfig by name."""
    return {
        "env": parse_env(strings(run, "Env", what) or (), what),
        "entrypoint": _command(run, "Entrypoint", what),
        "cmd": _command(run, "Cmd", what),
        "shell": _command(run, "Shell", what),
        "working_dir": _working_dir(member(run, "WorkingDir", str, what, ""), what),
        "user": check_user(member(run, "User", str, what, ""), what),
        "stop_signal": _stop_signal(member(run, "StopSignal", str, what, ""), what),
        "volumes": _volumes(member(run, "Volumes", dict, what, {}), what),
        "labels": string_map(run, "Labels", what),
        "exposed_ports": tuple(sorted(member(run, "ExposedPorts", dict, what, {}))),
    }


def parse_env(entries: Sequence[str], what: str) -> dict[str, str]:
    """``NAME=value`` entries as a mapping; the last of a name wins. Values may hold newlines, names may not.

    Entries without ``=`` are left out: docker hands them to the kernel, where they name nothing."""
    env: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if "\0" in entry or not name or not name.isprintable():
            raise InvalidImageError(f"{what}: {quoted(entry, 60)} is not an environment variable")
        if equals:
            env[name] = value
    return env


def _diff_ids(obj: dict[str, Any], what: str) -> tuple[Digest, ...]:
    rootfs = member(obj, "rootfs", dict, what)
    if rootfs is None:
        raise InvalidImageError(f"{what} has no rootfs: it is not the config of an image")
    kind = member(rootfs, "type", str, what, "")
    if kind != "layers":
        raise InvalidImageError(f"{what} has a rootfs of type {quoted(kind)}, not 'layers'")
    listed = strings(rootfs, "diff_ids", what) or []
    if len(listed) > MAX_DIFF_IDS:
        raise InvalidImageError(f"{what} lists {len(listed)} layers, more than {MAX_DIFF_IDS}")
    try:
        return tuple(Digest.parse(d) for d in listed)
    except InvalidDigestError as e:
        raise InvalidImageError(f"{what}: {e.message}", e.remedy) from None


def _command(run: dict[str, Any], key: str, what: str) -> tuple[str, ...] | None:
    words = strings(run, key, what)
    if words and any("\0" in w for w in words):
        raise InvalidImageError(f"{what}: {quoted(key)} holds a NUL character")
    return tuple(words) if words else None  # [] and null both mean: none


def _path(text: str, key: str, what: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise InvalidImageError(f"{what}: {quoted(key)} {quoted(text, 80)} is not an absolute path")
    # normpath stops ".." at the root, but keeps a leading "//"
    return "/" + posixpath.normpath(text).lstrip("/")


def _working_dir(text: str, what: str) -> str:
    return _path(text, "WorkingDir", what) if text else "/"


def _volumes(volumes: dict[str, Any], what: str) -> tuple[str, ...]:
    paths = sorted({_path(v, "Volumes", what) for v in volumes})
    if "/" in paths:
        raise InvalidImageError(f"{what}: 'Volumes' names the root directory itself")
    return tuple(paths)


def check_user(text: str, what: str) -> str:
    """``user``, ``uid``, ``user:group`` or ``uid:gid``. Raises InvalidImageError, naming ``what``."""
    user, _, group = text.partition(":")
    for part in (user, group):
        if any(c in "/:" or c.isspace() or not c.isprintable() for c in part) or len(part) > 256:
            raise InvalidImageError(f"{what}: {quoted(text, 80)} is not a user")
        if part.isdigit() and int(part) > 0xFFFFFFFE:
            raise InvalidImageError(f"{what}: {quoted(text, 80)} is beyond the largest user or group number")
    return text


def signal_number(text: str) -> int:
    """``TERM``, ``SIGTERM``, ``15``, ``SIGRTMIN+3`` as a number from 1 to 64. Raises ValueError."""
    name = text.strip().upper()
    if name.isascii() and name.isdigit() and len(name) < 3:
        number = int(name)
    else:
        name = name[3:] if name.startswith("SIG") else name
        number = SIGNALS.get(name, 0)
        for prefix, base, sign in (("RTMIN", _RTMIN, 1), ("RTMAX", _RTMAX, -1)):
            tail = name[5:]
            if name == prefix:
                number = base
            elif (
                name.startswith(prefix)
                and tail[:1] == "+-"[sign < 0]
                and tail[1:].isdigit()
                and len(tail) < 4
            ):
                number = base + sign * int(tail[1:])
                number = number if _RTMIN <= number <= _RTMAX else 0
    if not 1 <= number <= 64:
        raise ValueError(f"{text!r} is not a signal")
    return number


def _stop_signal(text: str, what: str) -> int:
    if not text:
        return 0
    try:
        return signal_number(text)
    except ValueError:
        raise InvalidImageError(f"{what}: {quoted(text, 40)} is not a signal") from None


def chain_ids(diff_ids: Sequence[Digest]) -> list[Digest]:
    """The chain ID of each layer, base first (image-spec, config.md, section Layer ChainID)."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain
