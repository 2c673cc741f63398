"""``udk ps``, ``rm`` and ``inspect``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from udk.cli import output
from udk.cli.image import find as find_images
from udk.cli.image import sweep
from udk.errors import ContainerError, CorruptStoreError, NotFoundError, UdkError, UsageError
from udk.runtime.container import Container, Containers

if TYPE_CHECKING:
    from typing import Any

    from udk.cli.main import Context
    from udk.store.refs import StoredImage
    from udk.store.store import Store


def ps(context: Context) -> None:
    """``udk ps``."""
    context.exactly(0, 0)
    store = context.store()
    sweep(store)
    options = context.options
    found = [(c, c.state()) for c in Containers(store).all()]
    if not options.get("all"):
        found = [(c, s) for c, s in found if s["status"] == "running"]
    if options.get("json"):
        output.write_json([_describe(c, s) for c, s in found])
        return
    whole = bool(options.get("no_trunc"))
    if options.get("quiet"):
        for c, _ in found:
            output.write(c.id if whole else c.id[:12])
        return
    rows = []
    for c, s in found:
        command = " ".join(_spec(c)["argv"])
        rows.append(
            [
                c.id if whole else c.id[:12],
                c.record["image"]["familiar"],
                command if whole or len(command) <= 30 else command[:29] + "…",
                output.age(c.record["created"]),
                status_text(s),
                c.name,
            ]
        )
    output.table(["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAME"], rows)


def setup(context: Context) -> None:
    """``udk setup [--execmode MODE] CONTAINER``."""
    from udk.engines.select import by_name

    (name,) = context.exactly(1, 1)
    container = Containers(context.store()).find(name)
    wanted = context.options.get("execmode")
    if wanted:
        engine = wanted if wanted == "auto" else by_name(wanted).name
        container.choose_engine(wanted)
    else:
        wanted = container.spec.engine
        engine = wanted if wanted == "auto" else by_name(wanted).name
    if context.options.get("json"):
        output.write_json({"container": container.id, "execmode": wanted, "engine": engine})
    elif not context.options.get("execmode"):
        output.write(f"execmode: {wanted}" + (f" (engine {engine})" if engine != wanted else ""))


def status_text(state: dict[str, Any]) -> str:
    """One phrase for a container's state."""
    if state["status"] == "running":
        return f"running (pid {state['pid']})"
    if state["status"] == "exited":
        return f"exited ({state['exit_code']})"
    return str(state["status"])


def rm(context: Context) -> int:
    """``udk rm CONTAINER...``: prints what was removed."""
    store = context.store()
    containers = Containers(store)
    force = bool(context.options.get("force"))
    status = 0
    for name in context.exactly(1):
        try:
            container = _find_to_remove(containers, name, force)
            if container is not None:
                containers.remove(container, force)
                output.write(name)
        except UdkError as e:
            if len(context.words) == 1:
                raise
            from udk.cli.main import fail

            status = fail(str(e), e.status)
    sweep(store)
    return status


def _find_to_remove(containers: Containers, name: str, force: bool) -> Container | None:
    try:
        container = containers.lookup(name)
    except CorruptStoreError:
        if force and containers.remove_broken(name):
            output.write(name)
            return None
        raise
    if container is None and not force:
        raise ContainerError(f"no container {name!r}", "see `udk ps -a`")
    return container


def inspect(context: Context) -> None:
    """``udk inspect NAME...``: containers first, then images, as docker looks them up."""
    store = context.store()
    options = context.options
    kind = options.get("type", "")
    if kind not in ("", "image", "container"):
        raise UsageError(f"--type {kind} is unknown", "write image or container")
    described: list[dict[str, Any]] = []
    for name in context.exactly(1):
        container = None if kind == "image" else Containers(store).lookup(name)
        images = []
        if container is None:
            if kind == "container":
                raise ContainerError(f"no container {name!r}", "see `udk ps -a`")
            try:
                images = find_images(store, name)[:1]
            except NotFoundError:
                raise NotFoundError(
                    f"no container and no image {name!r}", "see `udk ps -a` and `udk images`"
                ) from None
        if options.get("lower"):
            output.write(_lower(store, container, images))
        elif options.get("path"):
            output.write(_private_path(container, name))
        elif options.get("raw"):
            _raw(store, images, name)
        else:
            described.append(_inspect_container(container) if container else _inspect_image(store, images[0]))
    if not (options.get("lower") or options.get("path") or options.get("raw")):
        output.write_json(described)


def _lower(store: Store, container: Container | None, images: list[StoredImage]) -> str:
    if container is not None:
        return f"{container.record['store']}/trees/{container.record['tree']}/rootfs"
    return store.tree(images[0])[0]


def _private_path(container: Container | None, name: str) -> str:
    if container is None:
        raise UsageError(
            f"{name} is an image: its tree is shared and read-only", "use --lower, or create a container"
        )
    from udk.runtime.plain import make_plain

    return make_plain(container)


def _raw(store: Store, images: list[StoredImage], name: str) -> None:
    import sys

    if not images:
        raise UsageError(f"{name} is a container", "--raw is for images")
    sys.stdout.flush()
    with open(
        store.blob_path(images[0].digest) if images[0].root == store.path else _blob(images[0]), "rb"
    ) as f:
        sys.stdout.buffer.write(f.read())


def _blob(image: StoredImage) -> str:
    algorithm, _, encoded = image.digest.partition(":")
    return f"{image.root}/oci/blobs/{algorithm}/{encoded}"


def _spec(container: Container) -> dict[str, Any]:
    """The spec of the last start, or of the first to come, as it is stored."""
    spec: dict[str, Any] = (container.record["run"] or {}).get("spec") or container.record["spec"]
    return spec


def _describe(container: Container, state: dict[str, Any]) -> dict[str, Any]:
    record = container.record
    return {
        "id": container.id, "name": container.name, "image": record["image"]["reference"],
        "command": _spec(container)["argv"], "created": output.iso(record["created"]),
        "state": state["status"],
        "pid": state["pid"], "exit_code": state["exit_code"], "started": output.iso(state["started"]),
        "engine": (record["run"] or {}).get("engine", ""), "ephemeral": record["ephemeral"],
        "labels": record["labels"],
    }  # fmt: skip


def _inspect_container(container: Container) -> dict[str, Any]:
    record, state = container.record, container.state()
    spec = _spec(container)
    running = state["status"] == "running"
    return {
        "Id": container.id,
        "Name": "/" + container.name if container.name else "",
        "Created": output.iso(record["created"]),
        "Path": spec["argv"][0],
        "Args": spec["argv"][1:],
        "State": {
            "Status": state["status"], "Running": running, "Paused": False, "Restarting": False,
            "OOMKilled": False, "Dead": state["status"] == "dead", "Pid": state["pid"] if running else 0,
            "ExitCode": state["exit_code"] or 0, "Error": "",
            "StartedAt": output.iso(state["started"]) or "0001-01-01T00:00:00Z",
            "FinishedAt": output.iso(state["finished"]) or "0001-01-01T00:00:00Z",
        },
        "Image": record["image"]["config"],
        "ImageName": record["image"]["reference"],
        "Config": {
            "Hostname": spec["hostname"] or os.uname().nodename,
            "User": record["options"].get("user", record["config"].get("User", "")),
            "Tty": spec["tty"],
            "Env": [f"{k}={v}" for k, v in spec["env"].items()],
            "Cmd": record["words"] or record["config"].get("Cmd"),
            "Entrypoint": record["config"].get("Entrypoint"),
            "Image": record["image"]["familiar"],
            "WorkingDir": spec["cwd"],
            "Labels": {**(record["config"].get("Labels") or {}), **record["labels"]},
        },
        "HostConfig": {
            "NetworkMode": spec["network"], "PidMode": spec["pid"],
            "ReadonlyRootfs": spec["root"]["readonly"], "AutoRemove": record["ephemeral"],
        },
        "Mounts": [
            {
                "Type": m["kind"], "Source": m["source"], "Destination": m["target"], "Mode": "",
                "RW": not m["readonly"], "Propagation": "rprivate",
            }
            for m in spec["mounts"]
            if m["kind"] in ("bind", "tmpfs")
        ],
        "Udk": {"Run": record["run"], "Layer": record["layer"], "Spec": spec},
    }  # fmt: skip


def _inspect_image(store: Store, image: StoredImage) -> dict[str, Any]:
    config = store.config(image)
    same = [i for i in store.images() if i.image_id == image.image_id]
    names = [i.familiar for i in same if "@" not in i.reference]
    rootfs, _ = store.tree(image)
    return {
        "Id": image.image_id,
        "RepoTags": sorted(set(names)),
        "RepoDigests": sorted({f"{_repository(i)}@{i.top_digest}" for i in same}),
        "Created": config.get("created"),
        "Author": config.get("author", ""),
        "Architecture": config.get("architecture", ""),
        "Variant": config.get("variant", ""),
        "Os": config.get("os", ""),
        "Size": image.size,
        "Config": config.get("config") or {},
        "RootFS": {"Type": "layers", "Layers": (config.get("rootfs") or {}).get("diff_ids", [])},
        "Udk": {
            "Digest": image.digest, "Reference": image.reference, "Platform": image.platform,
            "Pulled": output.iso(image.pulled), "Tree": rootfs, "Store": image.root,
        },
    }  # fmt: skip


def _repository(image: StoredImage) -> str:
    name = image.familiar.partition("@")[0]
    head, colon, tail = name.rpartition(":")
    return head if colon and "/" not in tail else name
