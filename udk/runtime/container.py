"""Containers on disk: one directory each, found by id or name, with the state told by leases.

::

    containers/<id>/container.json   the record (see :class:`Container`); rewritten by rename at each start
    containers/<id>/layer/           upper/ work/ changes volumes/ of a container that stays
    containers/<id>/stats.json       what the guard reported about the last run
    containers/.names/<name>         symbolic link whose target is the id

An unnamed run is *ephemeral*: its layer is in the job's scratch directory and everything goes when it ends. A
container runs as long as the lease named in its record is alive; a lease of kind ``container`` says which
layer to remove should its owner be killed, and whoever comes next does it (:meth:`Containers.sweep`).
"""

from __future__ import annotations

import os
import time

from udk.base import jsonlite
from udk.base.files import atomic_write, read_file, store_error
from udk.errors import ContainerError, CorruptStoreError, InUseError, UsageError
from udk.runtime.spec import RunSpec
from udk.store import leases

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from udk.store.leases import Lease
    from udk.store.store import Store

VERSION = 1
GRACE = 60.0  # seconds
SWEEP_AT_START = 8  # leases of other processes that one `udk run` judges at most
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class Container:
    """One container. ``record`` is what container.json holds:

    ``version``, ``id``, ``name`` ("" for none), ``created`` (Unix time), ``image`` (reference, digest,
    config digest), ``tree`` and ``store`` (the key of the lower tree and the store it is in),
    ``ephemeral``, ``layer`` (directory of the upper), ``labels``, ``options`` and ``words`` (as given),
    ``config`` (the image's), ``spec`` (the RunSpec as it was made), ``run`` (None before the first start:
    ``lease`` path, ``pid``, ``started``, ``engine``, ``stats`` path, ``spec`` where it differed).
    """

    __slots__ = ("path", "record")

    def __init__(self, path: str, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def name(self) -> str:
        return str(self.record["name"])

    @property
    def spec(self) -> RunSpec:
        """The RunSpec of a start as the container was made. Raises CorruptStoreError."""
        return self._spec(self.record["spec"])

    @property
    def run_spec(self) -> RunSpec:
        """The RunSpec of the last start, if there was one; else :attr:`spec`."""
        run = self.record["run"] or {}
        return self._spec(run.get("spec") or self.record["spec"])

    def _spec(self, data: Any) -> RunSpec:
        try:
            return RunSpec.from_dict(data)
        except (ValueError, KeyError) as e:
            raise CorruptStoreError(f"{self.path}/container.json: {e}", f"udk rm -f {self.id[:12]}") from None

    @property
    def running(self) -> bool:
        """Whether the process of the last start lives."""
        run = self.record.get("run")
        if not run:
            return False
        try:
            data = jsonlite.loads(read_file(run["lease"], 1 << 20))
            age = max(0.0, time.time() - os.stat(run["lease"]).st_mtime)
        except (OSError, ValueError):
            return False
        return leases.lease_alive(data, age)

    def holder(self) -> tuple[str, int] | None:
        """(host, process) of the last start if that was on another node than this one, which cannot look at
        its processes."""
        from udk.base.process import own_identity

        try:
            data = jsonlite.loads(read_file(self.record["run"]["lease"], 1 << 20))
            here = own_identity()
            if all(data[key] == here[key] for key in ("host", "boot", "pidns")):
                return None
            return str(data["host"]).partition("/")[0], int(data["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def stats(self) -> dict[str, Any]:
        """What the guard reported about the last run; {} when there is no report."""
        run = self.record.get("run")
        if not run:
            return {}
        try:
            path = run["stats"] or f"{self.path}/stats.json"
            data = jsonlite.loads(read_file(path, 1 << 20))
            return {"finished": os.stat(path).st_mtime, **data}
        except (OSError, ValueError, TypeError):
            return {}

    def state(self) -> dict[str, Any]:
        """``status`` (created, running, exited, dead), ``pid``, ``exit_code`` (None where unknown),
        ``started`` and ``finished`` (Unix times or None)."""
        run = self.record.get("run") or {}
        state: dict[str, Any] = {
            "status": "created", "pid": 0, "exit_code": None, "started": run.get("started"), "finished": None,
        }  # fmt: skip
        if not run:
            return state
        if self.running:
            return {**state, "status": "running", "pid": run["pid"]}
        report = self.stats()
        code = report.get("exit")
        if isinstance(code, int):
            return {**state, "status": "exited", "exit_code": code, "finished": report.get("finished")}
        return {**state, "status": "dead"}

    def choose_engine(self, name: str) -> None:
        """Has the next starts done by this engine (a name, a mode of udocker's or ``auto``), unless they name
        another. Raises InUseError, StoreError."""
        if self.running:
            raise InUseError(
                f"container {self.name or self.id[:12]} is running", "its engine can be changed when it ended"
            )
        self.record["options"] = {**self.record["options"], "engine": name}
        self.record["spec"] = {**self.record["spec"], "engine": name}
        self.save()

    def age(self) -> float:
        """Seconds since the record was written."""
        try:
            return time.time() - os.stat(f"{self.path}/container.json").st_mtime
        except OSError:
            return 0.0

    def save(self, durable: bool = True) -> None:
        """Writes the record. Raises StoreError."""
        path = f"{self.path}/container.json"
        try:
            atomic_write(path, jsonlite.dumps(self.record).encode(), mode=0o600, durable=durable)
        except OSError as e:
            raise store_error(e, path) from e


class Containers:
    """The containers of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.root = f"{store.path}/containers"

    # Making

    def new_id(self) -> str:
        """An id that no other container has: 64 hexadecimal digits, as docker's."""
        return os.urandom(32).hex()

    def make(self, ident: str, name: str) -> str:
        """Makes the directory of a container, its name reserved; returns the path.

        Raises UsageError for a bad name, ContainerError for one that is taken, StoreError."""
        path = f"{self.root}/{ident}"
        try:
            try:
                os.mkdir(path, 0o700)
            except FileNotFoundError:
                os.makedirs(path, 0o700)
            if name:
                self._reserve(name, ident)
        except OSError as e:
            raise store_error(e, path) from e
        except ContainerError:
            os.rmdir(path)
            raise
        return path

    def _reserve(self, name: str, ident: str) -> None:
        link = f"{self.root}/.names/{name}"
        os.makedirs(f"{self.root}/.names", exist_ok=True)
        for _ in range(10):
            try:
                os.symlink(ident, link)
                return
            except FileExistsError:
                other = self._by_name(name)
                if other and os.path.isdir(f"{self.root}/{other}") and not self._abandoned(other):
                    raise ContainerError(
                        f"the name {name} is taken by container {other[:12]}",
                        f"choose another, or `udk rm {name}`",
                    ) from None
                self._forget(name, other)
        raise ContainerError(f"the name {name} is taken", "choose another")

    def _unfinished(self, ident: str) -> bool:
        return is_id(ident) and not os.path.exists(f"{self.root}/{ident}/container.json")

    def _abandoned(self, ident: str) -> bool:
        """Whether a container was never finished, and nobody is at it any more."""
        if not self._unfinished(ident):
            return False
        found = leases.all_leases(self.store.path, f"container-{ident}-")
        return not any(leases.lease_alive(data, age) for _, data, age in found)

    def _forget(self, name: str, ident: str) -> None:
        """Gives a name up, if it still is that of ``ident``."""
        if name and self._by_name(name) == ident:
            try:
                os.unlink(f"{self.root}/.names/{name}")
            except OSError:
                pass

    def traces(self, ident: str, name: str, layer: str) -> tuple[str, ...]:
        """The paths that a container has, in the order in which the guard may remove them: the name goes
        while it is still its own."""
        return (*((f"{self.root}/.names/{name}",) if name else ()), layer, f"{self.root}/{ident}")

    # Finding

    def find(self, text: str) -> Container:
        """The container with this name, id, or unambiguous beginning of an id. Raises ContainerError."""
        found = self.lookup(text)
        if found is None:
            raise ContainerError(f"no container {text!r}", "see `udk ps -a`")
        return found

    def lookup(self, text: str, prefix: bool = True) -> Container | None:
        """The same, None where there is none; ``prefix`` False: only names, whole ids and those `ps`
        shows."""
        ident = self._by_name(text) if is_name(text) else ""
        if not ident and all(c in "0123456789abcdef" for c in text) and (prefix or len(text) >= 12):
            matching = [i for i in self._ids() if i.startswith(text)] if text else []
            if len(matching) > 1:
                raise ContainerError(f"{text} is the beginning of {len(matching)} ids", "give more digits")
            ident = matching[0] if matching else ""
        return self.read(ident) if ident else None

    def read(self, ident: str) -> Container | None:
        """The container with this whole id; None when it is not there or not finished."""
        path = f"{self.root}/{ident}"
        try:
            record = jsonlite.loads(read_file(f"{path}/container.json", 16 << 20))
            if record["version"] != VERSION or record["id"] != ident:
                raise ValueError(f"version {record['version']}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise CorruptStoreError(
                f"the record of container {ident[:12]} cannot be read ({e})", f"udk rm -f {ident[:12]}"
            ) from None
        return Container(path, record)

    def all(self) -> list[Container]:
        """All containers with a readable record, the newest first."""
        found = []
        for ident in self._ids():
            try:
                container = self.read(ident)
            except CorruptStoreError:
                continue
            if container:
                found.append(container)
        return sorted(found, key=lambda c: -float(c.record["created"]))

    def _ids(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.root) if len(name) == 64]
        except OSError:
            return []

    def _by_name(self, name: str) -> str:
        try:
            return os.readlink(f"{self.root}/.names/{name}")
        except OSError:
            return ""

    # Removing

    def remove(self, container: Container, force: bool = False) -> None:
        """Removes a container; one that runs is ended first with ``force``. Raises InUseError, StoreError."""
        if container.running:
            if not force:
                raise InUseError(
                    f"container {container.name or container.id[:12]} is running",
                    "end it first, or use `udk rm -f`",
                )
            self.kill(container)
        _engine_cleanup(container)
        _take_back(container)
        discard(container.record.get("layer", ""), self.store)
        self._forget(container.name, container.id)
        self.store.discard(container.path)

    def remove_broken(self, text: str) -> bool:
        """Removes the directories of a container whose record cannot be read."""
        matching = [i for i in self._ids() if text and i.startswith(text)]
        if len(matching) != 1:
            return False
        self.store.discard(f"{self.root}/{matching[0]}")
        return True

    def kill(self, container: Container, patience: float = 10.0) -> None:
        """Ends a running container: its stop signal, then SIGKILL to the guard. Raises ContainerError."""
        run = container.record["run"]
        for number, seconds in ((container.run_spec.stop_signal, patience), (9, 5.0)):
            try:
                os.kill(run["pid"], number)
            except ProcessLookupError:
                return
            except PermissionError:
                raise ContainerError(f"process {run['pid']} belongs to someone else") from None
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if not container.running:
                    return
                time.sleep(0.02)
        raise ContainerError(f"container {container.id[:12]} does not end", f"kill process {run['pid']}")

    # Sweeping

    def sweep(self, at_most: int = 0) -> int:
        """Removes what containers of killed processes left: their layers, and the records of ephemeral ones.

        ``at_most``: how many leases are looked into (0: all of them, and all containers too); a lease whose
        pid lives here is passed over unread then. Returns how many containers were removed."""
        done = 0
        looked = 0
        for name in self._container_leases():
            if at_most:
                if looked >= at_most:
                    break
                if _pid_lives(name):
                    continue
            looked += 1
            done += self._sweep_lease(f"{self.store.path}/leases/{name}")
        if not at_most:
            from udk.engines import homes

            done += self._sweep_records()
            homes.sweep((homes.MEMORY, homes.temporary()))
        return done

    def _sweep_records(self) -> int:
        done = 0
        for container in self.all():
            # A moment without a lease is between two engines' attempts.
            if container.record["ephemeral"] and not container.running and container.age() > GRACE:
                done += self._gone(container.id, container.record.get("layer", ""), container.name)
        for ident in self._ids():
            if self._abandoned(ident):
                done += self._gone(ident, "", "")
        try:
            names = os.listdir(f"{self.root}/.names")
        except OSError:
            names = []
        for name in names:
            ident = self._by_name(name)
            if not os.path.isdir(f"{self.root}/{ident}") and self._abandoned(ident):
                self._forget(name, ident)
        return done

    def _container_leases(self) -> Iterator[str]:
        try:
            names = os.listdir(f"{self.store.path}/leases")
        except OSError:
            return
        for name in names:
            if name.startswith("container-"):
                yield name

    def _sweep_lease(self, path: str) -> int:
        try:
            data = jsonlite.loads(read_file(path, 1 << 20))
            age = max(0.0, time.time() - os.stat(path).st_mtime)
        except OSError:
            return 0
        except ValueError:
            data, age = {}, 0.0
        if not isinstance(data, dict) or leases.lease_alive(data, age):
            return 0
        done = 0
        ident = data.get("target")
        if isinstance(ident, str) and (data.get("ephemeral") or self._unfinished(ident)):
            done = self._gone(ident, str(data.get("layer", "")), str(data.get("name", "")))
        elif isinstance(ident, str):
            self._tidy(ident, str(data.get("layer", "")))
        try:
            os.unlink(path)
        except OSError:
            pass
        return done

    def _gone(self, ident: str, layer: str, name: str) -> int:
        from udk.errors import EngineError, StoreError

        if not is_id(ident):
            return 0
        try:
            container = self.read(ident)
            if container:
                _engine_cleanup(container)
                _take_back(container)
            discard(layer, self.store)
            self._forget(name, ident)
            self.store.discard(f"{self.root}/{ident}")
        except (EngineError, StoreError):
            return 0
        return 1

    def _tidy(self, ident: str, layer: str) -> None:
        """Removes the state of a run that was killed from the layer of a container that stays."""
        from udk.engines import homes

        if is_id(ident) and (layer.startswith(f"{self.root}/{ident}/") or is_layer(layer)):
            homes.tidy(layer)


def _engine_cleanup(container: Container) -> None:
    """What the engine of the last run made beside the layer, and the guard did not come to remove."""
    run = container.record.get("run")
    if not run or not run.get("engine"):
        return
    from udk.engines.select import by_name
    from udk.errors import UdkError

    try:
        by_name(run["engine"]).cleanup(container.run_spec)
    except (UdkError, OSError):
        pass  # an engine that is not here any more; its layer goes all the same


def _take_back(container: Container) -> None:
    """What a payload with subordinate ids left belongs to others than the caller: it is removed under the
    same map. Raises EngineError."""
    layer = str(container.record.get("layer", ""))
    ours = layer.startswith(container.path + "/") or is_layer(layer)
    spec = container.record.get("spec")
    identity = spec.get("identity") if isinstance(spec, dict) else None
    if ours and isinstance(identity, dict) and identity.get("subids"):
        from udk.engines.guard import remove

        remove([layer], subids=True)


def discard(layer: str, store: Store) -> None:
    """Removes a layer directory outside the store; the name is checked, for it comes from a file."""
    if not layer.startswith(store.path + "/") and is_layer(layer):
        from udk.base.remove import remove_tree

        try:
            if os.lstat(layer).st_uid == os.geteuid():
                remove_tree(layer)
        except FileNotFoundError:
            return
        except OSError as e:
            raise store_error(e, layer) from e


def _pid_lives(lease_name: str) -> bool:
    """Whether the pid in a lease's name (``<kind>-<target>-<pid>-<unique>``) is that of a process here."""
    try:
        os.kill(int(lease_name.rsplit("-", 2)[1], 16), 0)
    except ProcessLookupError:
        return False
    except (ValueError, IndexError, OSError, OverflowError):
        return True
    return True


def is_layer(path: str) -> bool:
    """Whether a path can be that of a layer outside of the store."""
    return os.path.basename(path).startswith("udk-")


def is_id(text: str) -> bool:
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)


def is_name(text: str) -> bool:
    return bool(text) and len(text) <= 200 and text[0] not in "-." and all(c in _NAME for c in text)


def check_name(name: str) -> None:
    """Raises UsageError unless ``name`` can be a container's."""
    if not is_name(name):
        raise UsageError(
            f"{name!r} cannot be a container's name",
            "use letters, digits, `_`, `.` and `-`, not first `-` or `.`",
        )


def hold(store: Store, ident: str, layer: str, ephemeral: bool, name: str) -> Lease:
    """The lease that says that this process runs the container."""
    return store.lease("container", ident, {"layer": layer, "ephemeral": ephemeral, "name": name})
