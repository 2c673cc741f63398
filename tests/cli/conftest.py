"""A registry on loopback with a busybox image, and callers of the real udk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import Image, Layout
from tests.support.needs import require
from tests.support.registry import FaultyRegistry
from tests.support.udk import Udk, busybox_layer

SCRIPT = b'#!/bin/sh\necho script "$@"\n'


class Served:
    """The images of one registry: ``box`` (busybox), ``entry`` (with Entrypoint, User, WorkingDir,
    Volumes)."""

    def __init__(self, registry: FaultyRegistry, images: dict[str, Image]) -> None:
        self.registry = registry
        self.images = images
        self.box = f"{registry.host}/test/box:1"
        self.entry = f"{registry.host}/test/box:entry"
        self.multi = f"{registry.host}/test/box:multi"

    def registry_is_busy(self, store: Path) -> bool:
        """Whether bytes of a blob are arriving in ``store``."""
        return any(p.stat().st_size for p in store.glob("ingest/*/data"))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    require("busybox")
    layout = Layout(tmp_path_factory.mktemp("layout"))
    base = busybox_layer([("script", SCRIPT, 0o755), ("bad-interpreter", b"#!/no/such\n", 0o755)])
    images = {
        "1": layout.add_image([base], "1", run={"Cmd": ["sh"], "Env": ["PATH=/bin", "FROM=image"]}),
        "entry": layout.add_image(
            [base, {"opt/app/": b"", "opt/app/data": b"from image"}],
            "entry",
            run={
                "Entrypoint": ["/bin/echo", "entry"], "Cmd": ["cmd"], "User": "ann", "WorkingDir": "/opt/app",
                "Env": ["PATH=/bin"], "Volumes": {"/opt/app": {}, "/vol": {}}, "StopSignal": "SIGINT",
            },
        ),
    }  # fmt: skip
    for_arm = layout.add_image(
        [base, {"arch": "arm64"}], "arm", config={"architecture": "arm64"}, listed=False
    )
    amd, arm = ({"os": "linux", "architecture": a} for a in ("amd64", "arm64"))
    layout.add_index([(images["1"], amd), (for_arm, arm)], "multi")
    with FaultyRegistry({"test/box": layout.path}) as registry:
        yield Served(registry, images)


@pytest.fixture(scope="session")
def shared_udk(tmp_path_factory: pytest.TempPathFactory, served: Served) -> Udk:
    """A caller whose store has both images; for tests that leave it as it is."""
    udk = Udk(tmp_path_factory.mktemp("udk"))
    udk.ok("pull", "-q", served.box, served.entry)
    return udk


@pytest.fixture
def udk(shared_udk: Udk) -> Iterator[Udk]:
    """The shared caller; whatever a test leaves behind is a failure of that test."""
    yield shared_udk
    left = shared_udk.leftovers()
    if left:  # one failure, not one in every test that follows
        containers = shared_udk("ps", "-aq").text.split()
        shared_udk("rm", "-f", *containers)
    assert left == []


@pytest.fixture
def box(served: Served) -> str:
    return served.box


@pytest.fixture
def new_udk(tmp_path: Path) -> Udk:
    """A caller with an empty home."""
    return Udk(tmp_path)
