"""Debian roots that ``ci/roots`` bootstrapped, as images in OCI layouts kept in $UDK_TEST_CACHE."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support.images import sha256


def cache() -> Path | None:
    """The directory that outlives a test session, or None where there is none."""
    where = os.environ.get("UDK_TEST_CACHE")
    return Path(where) if where else None


def root_tar(name: str) -> Path:
    """The bootstrapped root ``name`` as a plain tar; skips the running test where it is missing."""
    where = cache()
    tar = where / f"{name}.tar" if where else None
    if tar is None or not tar.exists():
        reason = f"needs the bootstrapped root {name} (ci/roots makes it)"
        if os.environ.get("UDK_CI") == "1":
            pytest.fail(reason + ", and with UDK_CI=1 nothing may be skipped", pytrace=False)
        pytest.skip(reason)
    return tar


def root_layout(name: str) -> Path:
    """An OCI layout whose one image, tag ``1``, is the root ``name`` in one gzip layer."""
    tar = root_tar(name)
    stamp = f"{tar.stat().st_size}-{tar.stat().st_mtime_ns}"
    layout = tar.parent / f"image-{name}-{stamp}"
    if layout.exists():
        return layout
    for old in tar.parent.glob(f"image-{name}-*"):
        shutil.rmtree(old, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=tar.parent))
    try:
        _write_layout(tar, made)
        made.chmod(0o755)
        made.rename(layout)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        if not layout.exists():  # else another session was faster
            raise
    return layout


def _write_layout(tar: Path, layout: Path) -> None:
    import json

    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    diff_id = hashlib.sha256()
    with tar.open("rb") as source, gzip.GzipFile(str(blobs / "layer"), "wb", 1, mtime=0) as packed:
        for chunk in iter(lambda: source.read(1 << 20), b""):
            diff_id.update(chunk)
            packed.write(chunk)
    digest = hashlib.sha256()
    with (blobs / "layer").open("rb") as f:
        for chunk in iter(lambda: f.read(1 << 20), b""):
            digest.update(chunk)
    size = (blobs / "layer").stat().st_size
    (blobs / "layer").rename(blobs / digest.hexdigest())

    def put(document: object, media_type: str) -> dict[str, object]:
        data = json.dumps(document).encode()
        (blobs / sha256(data)[7:]).write_bytes(data)
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}

    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = {
        "architecture": machine,
        "os": "linux",
        "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/bash"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + diff_id.hexdigest()]},
    }
    layer = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": "sha256:" + digest.hexdigest(),
        "size": size,
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [layer],
    }
    entry = put(manifest, "application/vnd.oci.image.manifest.v1+json")
    index = {
        "schemaVersion": 2,
        "manifests": [{**entry, "annotations": {"org.opencontainers.image.ref.name": "1"}}],
    }
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
