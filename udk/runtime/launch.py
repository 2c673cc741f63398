"""Making, starting and joining containers: the run path behind ``udk run``, ``create``, ``start`` and
``exec``.

The order of steps is what makes a kill at any instant harmless: the lease that names the layer is written
before the layer is made, the record after it, and the guard, which is this process by exec, removes all
three in the reverse order.
"""

from __future__ import annotations

import os
import time

from udk.base.files import store_error
from udk.errors import ContainerError, EngineError, ImageError, InUseError, StoreError, UsageError
from udk.runtime.container import SWEEP_AT_START, Container, Containers, check_name, discard, hold
from udk.runtime.resolve import fill_volumes, join_spec, labels, make_spec
from udk.runtime.spec import Root
from udk.runtime.values import cpu_list
from udk.store.location import scratch_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

    from udk.engines.base import Engine
    from udk.runtime.spec import RunSpec
    from udk.store.leases import Lease
    from udk.store.refs import StoredImage
    from udk.store.store import Store


JOIN_PATIENCE = 30.0  # seconds


class Prepared:
    """A container made and not yet started: ``leases`` keep it and its tree."""

    __slots__ = ("container", "leases", "spec")

    def __init__(self, container: Container, spec: RunSpec, leases: list[Lease]) -> None:
        self.container = container
        self.spec = spec
        self.leases = leases

    def release(self) -> None:
        for lease in self.leases:
            lease.release()


def scratch(options: Mapping[str, Any]) -> str:
    """Where the layers of ephemeral containers go: ``--scratch``, the job's scratch directory, $TMPDIR, /tmp.

    Raises UsageError for a ``--scratch`` that cannot be written, StoreError where there is no place at
    all."""
    given = str(options.get("scratch", ""))
    if given:
        path = os.path.abspath(given)
        if not os.path.isdir(path) or not os.access(path, os.W_OK | os.X_OK):
            raise UsageError(f"--scratch {given} is not a directory that you can write")
        return path
    for path in (scratch_dir(), os.environ.get("TMPDIR", ""), "/tmp", "/var/tmp"):
        if path.startswith("/") and os.access(path, os.W_OK | os.X_OK) and os.path.isdir(path):
            return path
    raise StoreError("there is no directory for what the payload writes", "name one with --scratch or TMPDIR")


def image_config(store: Store, image: StoredImage) -> dict[str, Any]:
    """The ``config`` object of the image's configuration, {} where it has none."""
    config = store.config(image).get("config") or {}
    if not isinstance(config, dict):
        raise ImageError(f"the config of {image.familiar} is not an object", f"udk pull {image.familiar}")
    return config


def make(
    store: Store,
    image: StoredImage,
    options: Mapping[str, Any],
    words: list[str],
    *,
    ephemeral: bool,
    dry: bool = False,
) -> Prepared:
    """Makes a container of ``image``. ``dry``: only its spec, nothing on disk.

    Raises what :func:`udk.runtime.resolve.make_spec` raises, ContainerError, StoreError."""
    name = options.get("name", "")
    if name:
        check_name(name)
    containers = Containers(store)
    ident = containers.new_id()
    home = f"{containers.root}/{ident}"
    outside = ephemeral or options.get("scratch")
    layer = f"{scratch(options)}/udk-{ident[:16]}" if outside else f"{home}/layer"
    rootfs, record = store.tree(image)
    root = Root(
        lower=(rootfs,),
        records=(record,),
        upper=f"{layer}/upper",
        work=f"{layer}/work",
        changes=f"{layer}/changes",
        volatile=ephemeral,
    )
    config = image_config(store, image)
    wanted: dict[str, Any] = {
        "config": config, "options": options, "words": words, "root": root, "container": ident, "name": name,
        "image": f"{image.reference.partition('@')[0]}@{image.digest}", "private": layer,
        "platform": image.platform,
        "cleanup": containers.traces(ident, name, layer) if ephemeral else (),
    }  # fmt: skip
    if not ephemeral and not options.get("stats"):
        wanted["options"] = {**options, "stats": f"{home}/stats.json"}
    if dry:
        return Prepared(Container(home, {}), make_spec(**wanted, dry=True), [])
    held = [store.use(image)]
    try:
        held.append(hold(store, ident, layer, ephemeral, name))
        containers.make(ident, name)
        _make_layer(layer)
        spec = make_spec(**wanted)
        _fill_volumes(spec, layer)
        container = Container(
            home,
            {
                "version": 1, "id": ident, "name": name, "created": time.time(),
                "image": {
                    "reference": image.reference, "familiar": image.familiar, "digest": image.digest,
                    "config": image.config_digest, "platform": image.platform,
                },
                "tree": image.tree, "store": image.root, "ephemeral": ephemeral, "layer": layer,
                "labels": labels(options), "options": dict(options), "words": words, "config": config,
                "spec": spec.as_dict(), "run": None,
            },
        )  # fmt: skip
    except BaseException:
        _unmake(store, containers, ident, name, layer)
        for lease in held:
            lease.release()
        raise
    return Prepared(container, spec, held)


def _fill_volumes(spec: RunSpec, layer: str) -> None:
    try:
        fill_volumes(spec, layer)
    except OSError as e:
        raise store_error(e, layer) from e


def _make_layer(layer: str) -> None:
    try:
        os.mkdir(layer, 0o700)
        os.mkdir(f"{layer}/upper", 0o755)
        os.mkdir(f"{layer}/work", 0o700)
    except OSError as e:
        raise store_error(e, layer) from e


def _unmake(store: Store, containers: Containers, ident: str, name: str, layer: str) -> None:
    try:
        discard(layer, store)
        containers._forget(name, ident)
        store.discard(f"{containers.root}/{ident}")
    except StoreError:
        pass  # swept later: the record is not there


def create(store: Store, image: StoredImage, options: Mapping[str, Any], words: list[str]) -> Container:
    """Makes a container for later starts. Raises as :func:`make`."""
    prepared = make(store, image, options, words, ephemeral=False)
    try:
        prepared.container.save()
        write_cidfile(options, prepared.container.id)
    except BaseException:
        containers = Containers(store)
        _unmake(
            store, containers, prepared.container.id, options.get("name", ""), prepared.spec.root.upper[:-6]
        )
        raise
    finally:
        prepared.release()
    return prepared.container


def run(
    store: Store,
    image: StoredImage,
    options: Mapping[str, Any],
    words: list[str],
    again: tuple[str, ...] = (),
) -> NoReturn:
    """Makes a container of ``image`` and becomes it. Raises as :func:`make`, and EngineError."""
    containers = Containers(store)
    containers.sweep(SWEEP_AT_START)
    ephemeral = not options.get("name") or bool(options.get("rm"))
    prepared = make(store, image, options, words, ephemeral=ephemeral)
    start_prepared(store, prepared, options, again)


def start_prepared(
    store: Store, prepared: Prepared, options: Mapping[str, Any], again: tuple[str, ...] = ()
) -> NoReturn:
    """Becomes the payload of a prepared container. ``again``: this command, see :func:`launch_spec`."""
    container, spec = prepared.container, prepared.spec
    try:
        write_cidfile(options, container.id)
        launch_spec(container, spec, prepared.leases, again)
    except BaseException:
        _unmake(store, Containers(store), container.id, container.name, str(container.record["layer"]))
        prepared.release()
        raise


def launch_spec(
    container: Container, spec: RunSpec, held: list[Lease], again: tuple[str, ...] = ()
) -> NoReturn:
    """Chooses the engine, records the start and execs the guard. ``again`` is udk itself with its global
    options, as a command: should the engine's set-up fail, the guard has it start this container once more,
    and says in ``UDK_ENGINE_FAILED`` which engine to pass over."""
    from udk.engines.guard import exec_guard
    from udk.engines.select import choose

    engine = choose(spec, spec.engine)
    engine.prepare(spec)
    record = container.record
    as_made, now = record["spec"], spec.as_dict()
    record["run"] = {
        "lease": held[-1].path, "pid": os.getpid(), "started": time.time(), "engine": engine.name,
        "stats": spec.stats, "spec": now if now != as_made else None,
    }  # fmt: skip
    if spec.stats and not record["ephemeral"]:
        try:
            os.unlink(spec.stats)  # the last run's: what is there later is this one's
        except OSError:
            pass
    container.save(durable=False)
    for lease in held[:-1]:  # from here on the record keeps the tree
        lease.release()
    cpus = record["options"].get("cpuset_cpus")
    if cpus:
        try:
            os.sched_setaffinity(0, cpu_list(cpus, "--cpuset-cpus"))
        except OSError as e:
            raise ContainerError(f"--cpuset-cpus {cpus}: {e.strerror}", "see `taskset -p $$`") from None
    exec_guard(
        spec,
        engine.launch(spec),
        leases=tuple(lease.path for lease in held if lease.path),
        fallback=(engine.name, *again, "start", container.id) if again and spec.engine == "auto" else (),
        last_out=_joined(container) if container.name else -1,
    )


def start(
    store: Store,
    container: Container,
    options: Mapping[str, Any] | None = None,
    words: list[str] | None = None,
    again: tuple[str, ...] = (),
    joins: bool = False,
) -> NoReturn:
    """Runs a container that exists, again or for the first time; with ``options`` or ``words`` (`udk run
    NAME CMD`) those of its making are changed for this run. ``joins``: should the container run on this node,
    the command runs in it, and it lasts until both have ended. Raises ContainerError, InUseError,
    EngineError."""
    import fcntl

    if joins:
        _join_if_running(store, container, options or {}, words or [])
    fd = os.open(container.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # of two that start it at once, one finds it running
    except OSError:
        pass
    fresh = Containers(store).read(container.id)
    if fresh is None:
        raise ContainerError(f"container {container.id[:12]} was removed a moment ago")
    container = fresh
    if container.running:
        if joins and container.holder() is None:
            os.close(fd)
            start(store, container, options, words, again, joins)
        raise in_use(container)
    record = container.record
    if not os.path.isdir(f"{record['store']}/trees/{record['tree']}/rootfs"):
        raise ContainerError(
            f"the tree of container {container.id[:12]} is not in the store any more",
            f"udk pull {record['image']['familiar']}",
        )
    spec = respec(container, options or {}, words or [])
    _fill_volumes(spec, record["layer"])
    rm = record["options"].get("rm") or (options or {}).get("rm")
    removed = bool(record["ephemeral"] or rm or spec.cleanup)
    held = hold(store, container.id, record["layer"], removed, container.name)
    try:
        if removed:
            spec = spec.replace(
                cleanup=Containers(store).traces(container.id, container.name, record["layer"])
            )
        inside = f"{container.path}/stats.json"
        if not spec.stats or (removed and spec.stats == inside):
            spec = spec.replace(stats="" if removed else inside)
        launch_spec(container, spec, [held], again)
    except BaseException:
        if removed and os.environ.get("UDK_ENGINE_FAILED"):  # the run that made it goes on here, and ends
            _unmake(store, Containers(store), container.id, container.name, record["layer"])
        held.release()
        raise


def in_use(container: Container) -> InUseError:
    """Why a container cannot be started, and who runs it."""
    name = container.name or container.id[:12]
    holder = container.holder()
    if holder is None:
        return InUseError(f"container {name} is running", "use `udk exec` for a further command in it")
    host, pid = holder
    return InUseError(
        f"container {name} is running on {host} (process {pid})",
        "wait for its end, or run the command there; if that host is gone for good, `udk rm -f` removes it",
    )


def _joined(container: Container) -> int:
    return os.open(f"{container.path}/joined", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _join_if_running(
    store: Store, container: Container, options: Mapping[str, Any], words: list[str]
) -> None:
    """Becomes a further command in the container if it runs on this node. Returns when it does not run.

    The lock says that we are there: the container's end waits for it, and while that end is under way it
    cannot be had."""
    import fcntl

    from udk.engines.guard import exec_guard
    from udk.engines.select import by_name

    deadline = time.monotonic() + JOIN_PATIENCE
    while True:
        home = os.open(container.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(home, fcntl.LOCK_SH)  # whoever is starting it has become the guard
            now = Containers(store).read(container.id)
        except OSError as e:
            raise store_error(e, container.path) from e
        finally:
            os.close(home)
        if now is None or not now.running:
            return
        if now.holder() is not None:
            raise in_use(now)
        _has_what_is_asked(now, options, by_name(now.record["run"]["engine"]))
        lock = _joined(now)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            run_record = now.record["run"]
            spec = join_spec(now.run_spec, options, words or list(now.spec.argv))
            engine = by_name(run_record["engine"])
            exec_guard(spec, engine.join(spec, run_record["pid"]), share=lock)
        except (BlockingIOError, EngineError) as e:  # it has just ended, or not quite begun
            os.close(lock)
            if time.monotonic() > deadline:
                raise in_use(now) from e
            time.sleep(0.02)


def _has_what_is_asked(now: Container, options: Mapping[str, Any], engine: Engine) -> None:
    """Whoever joins a container gets it as it is. Raises InUseError where that is not what this run asks for:
    its engine, confinement, network, mounts."""
    from udk.engines.select import by_name

    if not options:
        return
    running, plain, asked = now.run_spec, respec(now, {}, ["true"]), respec(now, options, ["true"])
    lacks = ""
    if options.get("engine", "auto") != "auto" and by_name(options["engine"]).name != engine.name:
        lacks = f"--engine {options['engine']} (it is {engine.name})"
    elif asked.confine and asked.confine != running.confine:
        lacks = "--confine" if not running.confine else f"--confine={asked.confine}"
    elif asked.network not in (plain.network, running.network):
        lacks = f"--network {asked.network}"
    else:
        for m in asked.mounts:
            if m not in running.mounts and m not in plain.mounts:
                lacks = f"the mount at {m.target}"
    if lacks:
        raise InUseError(
            f"container {now.name or now.id[:12]} is running without {lacks}",
            "wait for its end, or leave that out to join it as it is",
        )


def respec(container: Container, options: Mapping[str, Any], words: list[str]) -> RunSpec:
    """The spec of the next start of a container: as it was made, changed by ``options`` and ``words``."""
    spec = container.spec
    record = container.record
    if not options and not words:
        return container.run_spec if os.environ.get("UDK_ENGINE_FAILED") else spec
    return make_spec(
        config=record["config"], options=merge(record["options"], options), words=words or record["words"],
        root=spec.root, container=container.id, name=container.name, image=spec.image,
        private=record["layer"], platform=record["image"]["platform"],
    )  # fmt: skip


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a container's making, changed by those of one run: lists grow, the rest is replaced."""
    merged = dict(old)
    for key, value in new.items():
        merged[key] = [*merged.get(key, []), *value] if isinstance(value, list) else value
    return merged


def join(container: Container, options: Mapping[str, Any], words: list[str]) -> NoReturn:
    """Runs a further command in a running container. Raises ContainerError, EngineError."""
    from udk.engines.guard import exec_guard
    from udk.engines.select import by_name

    if not container.running:
        raise ContainerError(
            f"container {container.name or container.id[:12]} is not running", f"udk start {container.name}"
        )
    run_record = container.record["run"]
    spec = join_spec(container.run_spec, options, words)
    engine = by_name(run_record["engine"])
    exec_guard(spec, engine.join(spec, run_record["pid"]), leases=())


def write_cidfile(options: Mapping[str, Any], ident: str) -> None:
    """Writes ``--cidfile``, which must not exist. Raises UsageError."""
    path = options.get("cidfile")
    if not path:
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise UsageError(
            f"--cidfile {path} exists", "remove it: another container may be writing there"
        ) from None
    except OSError as e:
        raise UsageError(f"--cidfile {path}: {e.strerror}") from None
    try:
        os.write(fd, ident.encode())
    finally:
        os.close(fd)
