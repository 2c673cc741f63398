"""What the registry tests share: an image of three layers behind a registry that can misbehave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.images import Image, Layout
from tests.support.registry import FaultyRegistry
from udk.oci.descriptor import Descriptor
from udk.oci.digest import Digest
from udk.oci.manifest import Manifest, parse_manifest
from udk.oci.reference import Reference
from udk.registry.client import RegistryClient
from udk.registry.options import RegistryOptions


class Served(NamedTuple):
    registry: FaultyRegistry
    layout: Layout
    image: Image
    ref: Reference

    @property
    def manifest(self) -> Manifest:
        parsed = parse_manifest(self.image.manifest)
        assert isinstance(parsed, Manifest)
        return parsed

    def reference(self, tail: str) -> Reference:
        return Reference.parse(f"{self.registry.host}/{tail}")


@pytest.fixture(scope="session")
def big() -> bytes:
    """A layer's worth of bytes that do not compress, the same in every run."""
    import random

    return random.Random(7).randbytes(3_000_000)


@pytest.fixture
def served(tmp_path: Path, big: bytes) -> Iterator[Served]:
    layout = Layout(tmp_path / "layout")
    layers = [{"big": big}, {"etc/os-release": "ID=test\n"}, {"hello": "world"}]
    image = layout.add_image(layers, "1", compression=["", "gzip", "zstd"])
    with FaultyRegistry({"team/app": layout.path}) as registry:
        yield Served(registry, layout, image, Reference.parse(f"{registry.host}/team/app:1"))


@pytest.fixture
def options(tmp_path: Path) -> Any:
    """Makes options: short pauses, an empty home, nothing of this machine's configuration."""

    def make(**changes: Any) -> RegistryOptions:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        conf = tmp_path / "registries.conf"
        if not conf.exists():
            conf.write_text("")
        environ = {"HOME": str(home), "PATH": os.environ.get("PATH", ""), **changes.pop("environ", {})}
        given = {"backoff": 0.01, "stall_timeout": 5.0, "registries_conf": str(conf), **changes}
        return RegistryOptions(environ=environ, **given)

    return make


@pytest.fixture
def client(options: Any) -> Iterator[RegistryClient]:
    with RegistryClient(options()) as made:
        yield made


def descriptor(data: bytes, digest: str, size: int = -1) -> Descriptor:
    return Descriptor("application/octet-stream", Digest.parse(digest), len(data) if size < 0 else size)


@pytest.fixture
def make_mirror(served: Served) -> Iterator[Any]:
    """Starts further registries with the same images."""
    started: list[FaultyRegistry] = []

    def make(**details: Any) -> FaultyRegistry:
        layouts = details.pop("layouts", {"team/app": served.layout.path})
        registry = FaultyRegistry(layouts, **details)
        started.append(registry)
        registry.start()
        return registry

    yield make
    for registry in started:
        registry.stop()
