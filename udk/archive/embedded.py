"""The image that the package carries: ``udk/hello``, which runs without any network."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from udk.errors import NotFoundError

if TYPE_CHECKING:
    from udk.archive.layout import LayoutSource
    from udk.oci.reference import Reference

REPOSITORY = "udk/hello"


def is_embedded(reference: Reference) -> bool:
    """Whether ``reference`` names the image in the package."""
    return (
        not reference.is_local
        and reference.host == "docker.io"
        and reference.repository == REPOSITORY
        and reference.tag in ("latest", "")
    )


def layout_path() -> str:
    """The OCI image layout in the package."""
    import udk

    return os.path.join(os.path.dirname(os.path.abspath(udk.__file__)), "_native", "hello")


def open_embedded(reference: Reference) -> LayoutSource:
    """The embedded image. Raises NotFoundError when the package was built without it."""
    from udk.archive.files import DirectoryFiles
    from udk.archive.layout import LayoutSource
    from udk.oci.reference import Reference

    path = layout_path()
    if not os.path.exists(os.path.join(path, "index.json")):
        raise NotFoundError(
            "this installation of udk lacks its embedded image", "install it with pip, or build it"
        )
    local = Reference("", "", "", reference.digest, "oci", path)
    return LayoutSource(local, DirectoryFiles(path))
