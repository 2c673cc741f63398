"""RunSpec: everything an engine needs to know about one run, as one immutable value that prints as JSON.

The command line, the image's config and the site's configuration are resolved into a RunSpec by
:mod:`udk.runtime.resolve`; engines read nothing else. ``udk run --dry-run`` prints it. The JSON is versioned:
a change of meaning raises :data:`VERSION`, and a stored spec of an older version is migrated or refused.

Strings that come from the system (paths, arguments, environment) use Python's ``surrogateescape``, so that
any byte sequence survives. Dataclasses are avoided on purpose: importing them costs a fifth of a container's
start.
"""

from __future__ import annotations

from _collections_abc import Mapping  # collections.abc would import the whole of collections

from udk.base import jsonlite

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

VERSION = 1


class Value:
    """An immutable record with named fields, built by keyword; fields without a default are required."""

    __slots__ = ()
    FIELDS: dict[str, Any] = {}  # name -> default, or REQUIRED

    def __init__(self, **given: Any) -> None:
        for name, default in self.FIELDS.items():
            value = given.pop(name, default)
            if value is REQUIRED:
                raise TypeError(f"{type(self).__name__} needs {name}")
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        if given:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(given)}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(jsonlite.dumps(self.as_dict(), sort_keys=True))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={getattr(self, k)!r}' for k in self.FIELDS)})"

    def replace(self, **changes: Any) -> Any:
        """A copy with some fields changed."""
        return type(self)(**{**{k: getattr(self, k) for k in self.FIELDS}, **changes})

    def as_dict(self) -> dict[str, Any]:
        return {k: _plain(getattr(self, k)) for k in self.FIELDS}


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Any = _Required()


def _plain(value: Any) -> Any:
    if isinstance(value, Value):
        return value.as_dict()
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return dict(value) if isinstance(value, Mapping) else value


class Identity(Value):
    """Who the payload is inside. ``uid``/``gid``/``groups`` are guest ids; ``home`` and ``name`` may be
    empty.

    ``fake_root``: operations that need privilege (chown, setgroups, mknod) are to succeed. ``subids``: map
    subordinate ids through newuidmap instead of the one id of the caller.
    """

    __slots__ = ("fake_root", "gid", "groups", "home", "name", "subids", "uid")
    FIELDS = {"uid": 0, "gid": 0, "groups": (), "name": "", "home": "", "fake_root": True, "subids": False}
    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str
    fake_root: bool
    subids: bool


class Root(Value):
    """The root file system: read-only ``lower`` trees, topmost first, and a private writable layer.

    ``upper`` and ``work`` are directories on one file system (``work`` empty and ours), ``""`` when there is
    none. ``records`` are the identity records of the lower trees in the same order (``""`` for none),
    ``changes`` that of the upper. ``volatile``: nothing in the upper outlives the run, so nothing needs to be
    flushed. Without ``lower``, ``upper`` is a plain tree, the whole root; ``records`` then tell the owners of
    what it was made from.
    """

    __slots__ = ("changes", "lower", "readonly", "records", "upper", "volatile", "work")
    FIELDS = {
        "lower": REQUIRED, "records": (), "upper": "", "work": "", "changes": "", "readonly": False,
        "volatile": False,
    }  # fmt: skip
    lower: tuple[str, ...]
    records: tuple[str, ...]
    upper: str
    work: str
    changes: str
    readonly: bool
    volatile: bool


class Mount(Value):
    """One mount, made in the order given. ``kind``: bind | tmpfs | proc | sys | dev | devpts | shm | file.

    ``bind`` needs ``source`` (a host path); ``file`` writes ``content`` to a private file and binds it.
    ``is_dir`` says what to create where the target does not exist in the image. ``options`` are kind-specific
    (``size=64m``, ``mode=1777`` for tmpfs; ``rprivate``, ``optional`` for bind).
    """

    __slots__ = ("content", "is_dir", "kind", "options", "readonly", "source", "target")
    FIELDS = {
        "kind": "bind", "source": "", "target": REQUIRED, "readonly": False, "is_dir": True, "options": (),
        "content": "",
    }  # fmt: skip
    kind: str
    source: str
    target: str
    readonly: bool
    is_dir: bool
    options: tuple[str, ...]
    content: str


class Limits(Value):
    """Bounds on the run: ``timeout`` and ``kill_after`` in seconds (0: none), ``rlimits`` as (name, soft,
    hard); -1 is unlimited."""

    __slots__ = ("kill_after", "rlimits", "timeout")
    FIELDS = {"timeout": 0.0, "kill_after": 10.0, "rlimits": ()}
    timeout: float
    kill_after: float
    rlimits: tuple[tuple[str, int, int], ...]


class RunSpec(Value):
    """One run. ``env`` is the payload's whole environment; ``cookie`` is put into it as ``UDK_COOKIE`` so
    that every process of the run can be found. ``cleanup`` are paths that the guard removes when the run has
    ended."""

    __slots__ = (
        "argv", "cleanup", "confine", "container", "cookie", "cvmfs", "cwd", "devices", "emulate", "engine",
        "env",
        "hostname", "identity", "image", "limits", "mounts", "name", "network", "pid", "root", "stats",
        "stdin", "stop_signal", "tty", "version",
    )  # fmt: skip
    FIELDS = {
        "version": VERSION,
        "engine": "auto",
        "container": "",  # id; also the cookie's origin
        "name": "",
        "image": "",  # canonical reference with digest, for records
        "argv": REQUIRED,
        "env": REQUIRED,  # mapping name -> value
        "cwd": "/",
        "identity": Identity(),
        "root": REQUIRED,
        "mounts": (),
        "hostname": "",
        "network": "host",  # host | none
        "pid": "private",  # private | host
        "limits": Limits(),
        "devices": (),
        "emulate": "",  # the image's architecture where it is not this machine's
        "cvmfs": (),
        "confine": "",
        "tty": False,
        "stdin": True,
        "stop_signal": 15,
        "cookie": "",
        "stats": "",  # path of the stats file, or ""
        "cleanup": (),
    }
    version: int
    engine: str
    container: str
    name: str
    image: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    identity: Identity
    root: Root
    mounts: tuple[Mount, ...]
    hostname: str
    network: str
    pid: str
    limits: Limits
    devices: tuple[str, ...]
    emulate: str
    cvmfs: tuple[str, ...]
    confine: str
    tty: bool
    stdin: bool
    stop_signal: int
    cookie: str
    stats: str
    cleanup: tuple[str, ...]

    def to_json(self, indent: int | None = None) -> str:
        """The spec as JSON (UTF-8 text; undecodable bytes as lone surrogates, escaped)."""
        if indent is None:
            return jsonlite.dumps(self.as_dict())
        import json

        return json.dumps(self.as_dict(), indent=indent)

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        """The spec that :meth:`to_json` wrote. Raises ValueError for another version or shape."""
        return cls.from_dict(jsonlite.loads(text))

    @classmethod
    def from_dict(cls, data: Any) -> RunSpec:
        """The spec that :meth:`as_dict` gave. Raises ValueError for another version or shape."""
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise ValueError("not a RunSpec of version 1")
        try:
            return cls(
                **{
                    **data,
                    "identity": Identity(**data["identity"]),
                    "root": Root(**data["root"]),
                    "limits": Limits(**{**data["limits"], "rlimits": _tuples(data["limits"]["rlimits"])}),
                    "mounts": tuple(Mount(**m) for m in data["mounts"]),
                }
            )
        except (KeyError, TypeError) as e:
            raise ValueError(f"not a RunSpec: {e}") from None


def _tuples(rows: Iterable[Iterable[Any]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(r) for r in rows)
