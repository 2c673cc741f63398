"""``udk run``, ``create``, ``start`` and ``exec``."""

from __future__ import annotations

from udk.errors import NotFoundError, UsageError
from udk.oci.reference import Reference
from udk.runtime import launch
from udk.runtime.container import Containers
from udk.runtime.resolve import check_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udk.cli.main import Context
    from udk.store.refs import StoredImage
    from udk.store.store import Store


def run(context: Context) -> None:
    """``udk run IMAGE [COMMAND...]``, also ``udk run CONTAINER``."""
    words = context.exactly(1)
    options = context.options
    check_options(options)
    store = context.store()
    name, command = words[0], words[1:]
    container = None if options.get("name") else Containers(store).lookup(name, prefix=False)
    if container is not None:
        launch.start(store, container, _no_defaults(options), command)
    image = find_image(context, store, name)
    if options.get("dry_run"):
        import json
        import sys

        spec = launch.make(store, image, options, command, ephemeral=not options.get("name"), dry=True).spec
        sys.stdout.write(json.dumps(spec.as_dict(), indent=2) + "\n")
        return
    launch.run(store, image, options, command)


def create(context: Context) -> None:
    """``udk create IMAGE [COMMAND...]``: prints the id."""
    words = context.exactly(1)
    check_options(context.options)
    store = context.store()
    image = find_image(context, store, words[0])
    print(launch.create(store, image, context.options, words[1:]).id)


def start(context: Context) -> None:
    """``udk start CONTAINER``."""
    (name,) = context.exactly(1, 1)
    store = context.store()
    launch.start(store, Containers(store).find(name))


def exec(context: Context) -> None:
    """``udk exec CONTAINER COMMAND...``."""
    words = context.exactly(2)
    store = context.store()
    launch.join(Containers(store).find(words[0]), context.options, words[1:])


def _no_defaults(options: dict[str, object]) -> dict[str, object]:
    """The options that change a container that exists."""
    return {k: v for k, v in options.items() if k not in ("pull", "platform", "quiet", "dry_run", "cidfile")}


def find_image(context: Context, store: Store, name: str) -> StoredImage:
    """The image in the store, pulled first where ``--pull`` says so."""
    reference = Reference.parse(name)
    platform = None
    if context.options.get("platform"):
        from udk.oci.platform import Platform

        platform = Platform.parse(context.options["platform"])
    policy = context.options.get("pull", "missing")
    if policy != "always":
        image = store.find(reference, platform)
        if image is not None:
            return image
        if policy == "never":
            raise NotFoundError(
                f"{reference.familiar} is not in the store", "leave out --pull never to fetch it"
            )
    elif reference.is_local and not context.options.get("pull"):
        raise UsageError("nothing to pull")
    from udk.cli.image import pull_one

    return pull_one(context, store, reference, platform)
