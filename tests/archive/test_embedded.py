"""The image within the package: which names mean it."""

from __future__ import annotations

import subprocess
import sys
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


def test_local_images_need_no_registry_client(tmp_path: Path) -> None:
    """Nor what it imports, which takes longer than reading the image."""
    layout = Layout(tmp_path / "l")
    layout.add_image([{"a": "b"}], "1")
    code = (
        "import sys; from udk.archive.source import *; from udk.oci.reference import Reference\n"
        "from udk.oci.platform import Platform\n"
        "resolve_image(open_source(Reference.parse(sys.argv[1])), Platform('linux', 'amd64'))\n"
        "print([m for m in ('requests', 'urllib3', 'zstandard', 'ssl') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, f"oci:{layout.path}:1"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
