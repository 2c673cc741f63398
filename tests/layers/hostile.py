"""What every hostile layer is judged by: nothing beside the staging directory changes."""

from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.layers.support import build
from udk.errors import LayerError
from udk.layers.caps import Caps

if TYPE_CHECKING:
    from pathlib import Path

OUT = b"outside"


def snapshot(where: Path, leave: Path) -> dict[str, tuple[object, ...]]:
    out: dict[str, tuple[object, ...]] = {}
    for top, dirs, files in os.walk(where):
        if leave.name in dirs:
            dirs.remove(leave.name)
        for name in [*dirs, *files]:
            path = os.path.join(top, name)
            st = os.lstat(path)
            data = open(path, "rb").read() if stat.S_ISREG(st.st_mode) else b""
            out[path] = (st.st_mode, st.st_ino, st.st_nlink, st.st_size, st.st_mtime_ns, data)
    return out


def remove(tree: Path) -> None:
    subprocess.run(["rm", "-rf", "--", str(tree)], check=True)


def outside(staging: Path) -> bytes:
    return os.fsencode(staging.parent / "outside")


def refused(staging: Path, *layers: bytes, match: str, caps: Caps | None = None, wrap: Any = None) -> str:
    with pytest.raises(LayerError, match=match) as e:
        build(staging, *layers, caps=caps, wrap=wrap)
    text = str(e.value)
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 600
    assert not (staging / "tree.json").exists()
    return text
