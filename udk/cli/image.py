"""``udk pull``, ``images``, ``tags``, ``tag`` and ``rmi``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from udk.cli import output
from udk.errors import InUseError, NotFoundError, StoreError, UdkError, UsageError
from udk.oci.reference import Reference

if TYPE_CHECKING:
    from typing import Any

    from udk.cli.main import Context
    from udk.config import Config
    from udk.oci.platform import Platform
    from udk.store.refs import StoredImage
    from udk.store.store import Store


def pull_one(
    context: Context, store: Store, reference: Reference, platform: Platform | None, config: Config
) -> StoredImage:
    """Pulls one image by the policy of ``config``, with a progress display where stderr is a terminal.
    SIGTERM and SIGINT end it cleanly."""
    import sys

    from udk.base.progress import progress_for
    from udk.cli.signals import ending_cleanly
    from udk.runtime.pull import pull

    progress = progress_for(sys.stderr, context.quiet)
    with ending_cleanly():
        try:
            return pull(
                store,
                reference,
                platform=platform,
                config=config,
                policy=config.pull_policy,
                progress=progress,
            )
        finally:
            progress.close()


def pull(context: Context) -> int:
    """``udk pull IMAGE...``: prints the digest of each."""
    platform = _platform(context)
    references = [Reference.parse(word) for word in context.exactly(1)]
    context.options["pull"] = "always"
    config = context.config()
    store = context.store(config)
    sweep(store)
    for reference in references:
        image = pull_one(context, store, reference, platform, config)
        if context.quiet:
            output.write(str(reference.familiar))
        else:
            output.write(f"{image.digest}  {image.familiar}")
    return 0


def images(context: Context) -> None:
    """``udk images [NAME]``."""
    words = context.exactly(0, 1)
    store = context.store()
    found = store.images()
    if words:
        wanted = Reference.parse(words[0])
        exact = bool(wanted.digest) or (":" in words[0].rpartition("/")[2])
        found = [i for i in found if _matches(i, wanted, exact)]
    found.sort(key=lambda i: -i.pulled)
    options = context.options
    if options.get("json"):
        output.write_json([_describe(i) for i in found])
        return
    if options.get("quiet"):
        ids = [i.image_id if options.get("no_trunc") else output.short_id(i.image_id) for i in found]
        for ident in dict.fromkeys(ids):
            output.write(ident)
        return
    heads = ["REPOSITORY:TAG", "IMAGE ID", "PULLED", "SIZE", "PLATFORM"]
    if options.get("digests"):
        heads.insert(1, "DIGEST")
    rows = []
    for i in found:
        ident = i.image_id if options.get("no_trunc") else output.short_id(i.image_id)
        row = [i.familiar, ident, output.age(i.pulled), output.size(i.size), i.platform]
        if options.get("digests"):
            row.insert(1, i.digest)
        rows.append(row)
    output.table(heads, rows)


def tags(context: Context) -> None:
    """``udk tags NAME``."""
    (name,) = context.exactly(1, 1)
    reference = Reference.parse(name)
    if reference.is_local:
        raise UsageError(
            f"{name} is not in a registry", "tags are listed by `skopeo list-tags` or tar for archives"
        )
    from udk.cli.login import registry_options
    from udk.cli.signals import ending_cleanly
    from udk.registry.client import RegistryClient

    with ending_cleanly(), RegistryClient(registry_options(context)) as client:
        found = client.tags(reference)
    if context.options.get("json"):
        output.write_json({"name": reference.name, "tags": found})
    else:
        for tag_name in found:
            output.write(output.clean(tag_name))


def tag(context: Context) -> None:
    """``udk tag IMAGE NAME``."""
    source, target = context.exactly(2, 2)
    store = context.store()
    reference = Reference.parse(target)
    if reference.is_local or reference.digest:
        raise UsageError(f"{target} cannot be a tag", "write NAME:TAG")
    for image in find(store, source):
        store.set_ref(reference, image)


def rmi(context: Context) -> int:
    """``udk rmi IMAGE...``: forgets names; content that nothing names any more goes too."""
    store = context.store()
    sweep(store)
    status = 0
    removed = False
    for name in context.exactly(1):
        try:
            for image in find(store, name):
                _check_unused(store, image, bool(context.options.get("force")))
                if store.remove_ref(image):
                    removed = True
                    output.write(f"Untagged: {image.familiar}")
        except UdkError as e:
            if len(context.words) == 1:
                raise
            from udk.cli.main import fail

            status = fail(str(e), e.status)
    if removed and not context.options.get("no_prune"):
        store.gc()
    return status


def _check_unused(store: Store, image: StoredImage, force: bool) -> None:
    from udk.runtime.container import Containers

    same = [
        i for i in store.images() if i.tree == image.tree and i.root == image.root and i.path != image.path
    ]
    users = [c for c in Containers(store).all() if c.record["tree"] == image.tree]
    for container in users:
        if same:
            return
        label = container.name or container.id[:12]
        if container.running:
            raise InUseError(f"{image.familiar} is used by running container {label}", f"udk rm -f {label}")
        if not force:
            raise InUseError(
                f"{image.familiar} is used by container {label}", f"`udk rm {label}`, or `udk rmi -f`"
            )


def find(store: Store, name: str) -> list[StoredImage]:
    """The images that ``name`` means: a reference (all its platforms), an image id or digest, or the
    beginning of an id (all its names). Raises NotFoundError."""
    found = store.images()
    try:
        wanted = Reference.parse(name)
    except UdkError:
        wanted = None
    if wanted is not None:
        matching = [i for i in found if i.reference == str(wanted)]
        if not matching and wanted.digest:
            matching = [i for i in found if str(wanted.digest) in (i.digest, i.top_digest)]
        if matching:
            return matching
    ident = name.partition(":")[2] if name.startswith("sha256:") else name
    if len(ident) >= 4 and all(c in "0123456789abcdef" for c in ident):
        matching = [
            i
            for i in found
            if i.image_id.partition(":")[2].startswith(ident) or i.digest.partition(":")[2] == ident
        ]
        if len({i.image_id for i in matching}) > 1:
            raise UsageError(f"{name} is the beginning of several image ids", "give more digits")
        if matching:
            return matching
    raise NotFoundError(f"no image {name!r} in the store", "see `udk images`")


def _matches(image: StoredImage, wanted: Reference, exact: bool) -> bool:
    if exact:
        return image.reference == str(wanted)
    return Reference.parse(image.reference).name == wanted.name


def _platform(context: Context) -> Platform | None:
    text = context.options.get("platform")
    if not text:
        return None
    from udk.oci.platform import Platform

    return Platform.parse(text)


def _describe(image: StoredImage) -> dict[str, Any]:
    reference = Reference.parse(image.reference)
    return {
        "reference": image.reference, "familiar": image.familiar, "repository": reference.name,
        "tag": reference.tag, "digest": image.digest, "id": image.image_id, "size": image.size,
        "platform": image.platform, "pulled": output.iso(image.pulled), "store": image.root,
    }  # fmt: skip


def sweep(store: Store) -> None:
    """Removes what killed processes left behind."""
    from udk.runtime.container import Containers

    try:
        Containers(store).sweep()
        store.sweep()
    except StoreError:
        pass  # a store that cannot be written is one where nothing runs
