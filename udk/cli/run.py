"""``udk run``, ``create``, ``start`` and ``exec``."""

from __future__ import annotations

from udk.oci.reference import Reference
from udk.runtime import launch
from udk.runtime.container import Containers
from udk.runtime.resolve import check_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udk.cli.main import Context
    from udk.config import Config
    from udk.runtime.spec import RunSpec
    from udk.store.refs import StoredImage
    from udk.store.store import Store


def run(context: Context) -> None:
    """``udk run IMAGE [COMMAND...]``, also ``udk run CONTAINER``."""
    words = context.exactly(1)
    check_options(context.options)
    config = context.config()
    store = context.store(config)
    options = _with_defaults(context.options, config)
    name, command = words[0], words[1:]
    container = None if options.get("name") else Containers(store).lookup(name, prefix=False)
    if container is not None:
        if options.get("dry_run"):
            _print_spec(launch.respec(container, _of_a_start(context.options), command))
            return
        launch.start(store, container, _of_a_start(context.options), command, _again(context), joins=True)
    image = find_image(context, store, name, config)
    if options.get("dry_run"):
        _print_spec(
            launch.make(store, image, options, command, ephemeral=not options.get("name"), dry=True).spec
        )
        return
    launch.run(store, image, options, command, _again(context))


def _print_spec(spec: RunSpec) -> None:
    import sys

    text = spec.to_json(indent=2)
    sized = any(o.startswith("size=") for m in spec.mounts for o in m.options)
    if spec.confine or sized:  # what it comes to here, with the engine that would be taken
        import json

        from udk.engines.confine import kernel_abi, level
        from udk.engines.select import choose

        engine = choose(spec, spec.engine)
        said = spec.as_dict()
        if spec.confine:
            said["confinement"] = {"engine": engine.name, **level(spec, engine.boundary, kernel_abi())}
        if engine.remarks(spec):
            said["remarks"] = engine.remarks(spec)
        text = json.dumps(said, indent=2)
    sys.stdout.write(text + "\n")


def _with_defaults(options: dict[str, Any], config: Config) -> dict[str, Any]:
    """The options, with what the configuration says where the command line is silent."""
    return {
        "engine": config.run_engine,
        **({"scratch": config.run_scratch} if config.run_scratch else {}),
        **options,
    }


def create(context: Context) -> None:
    """``udk create IMAGE [COMMAND...]``: prints the id."""
    words = context.exactly(1)
    check_options(context.options)
    config = context.config()
    store = context.store(config)
    image = find_image(context, store, words[0], config)
    print(launch.create(store, image, {"engine": config.run_engine, **context.options}, words[1:]).id)


def start(context: Context) -> None:
    """``udk start CONTAINER``."""
    (name,) = context.exactly(1, 1)
    store = context.store()
    launch.start(store, Containers(store).find(name), again=_again(context))


def exec(context: Context) -> None:
    """``udk exec CONTAINER COMMAND...``."""
    words = context.exactly(2)
    store = context.store()
    launch.join(Containers(store).find(words[0]), context.options, words[1:])


def _again(context: Context) -> tuple[str, ...]:
    """udk itself with the global options of this command; () where there is no script to name."""
    import sys

    script = sys.argv[0]
    if not sys.executable or script in ("", "-c"):
        return ()
    how = (sys.executable, "-m", "udk") if script.endswith("__main__.py") else (sys.executable, script)
    return (*how, *context.global_args)


def _of_a_start(options: dict[str, Any]) -> dict[str, Any]:
    """The options that change a container that exists."""
    return {k: v for k, v in options.items() if k not in ("pull", "platform", "quiet", "dry_run", "cidfile")}


def find_image(context: Context, store: Store, name: str, config: Config) -> StoredImage:
    """The image in the store, pulled first where ``--pull`` says so."""
    reference = Reference.parse(name)
    platform = None
    if context.options.get("platform"):
        from udk.oci.platform import Platform

        platform = Platform.parse(context.options["platform"])
    if config.pull_policy != "always":
        image = store.find(reference, platform)
        if image is not None:
            return image
    from udk.cli.image import pull_one

    return pull_one(context, store, reference, platform, config)
