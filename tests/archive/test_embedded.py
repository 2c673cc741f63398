"""The image within the package: which names mean it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.archive.test_layout import pulled
from tests.support.images import Layout
from udk.archive import embedded
from udk.archive.source import RegistrySource, open_source
from udk.errors import NotFoundError
from udk.oci.reference import Reference


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path / "hello")
    image = layout.add_image([{"hello": "x"}], "latest")
    monkeypatch.setattr(embedded, "layout_path", lambda: str(layout.path))
    for name in ("udk/hello", "docker.io/udk/hello:latest", f"udk/hello@{image.digest}"):
        with open_source(Reference.parse(name)) as source:
            assert pulled(source)[0] == image.manifest
    for name in ("udk/hello:2", "quay.io/udk/hello", "hello"):
        assert not embedded.is_embedded(Reference.parse(name))
        with open_source(Reference.parse(name)) as source:
            assert isinstance(source, RegistrySource)


def test_a_build_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "layout_path", lambda: str(tmp_path))
    with pytest.raises(NotFoundError, match="lacks its embedded image"):
        open_source(Reference.parse("udk/hello"))
