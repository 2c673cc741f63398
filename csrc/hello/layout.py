"""The OCI image layout of ``udk/hello``: one program and the files that make it a small system.

Standard library only, and the same bytes from the same program: times are zero, the layer's gzip frame holds
stored blocks (so that no zlib's version shows), JSON is sorted.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
import zlib
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/hello\nnobody:x:65534:65534:nobody:/:/hello\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/os-release": 'NAME="udk hello"\nID=udk-hello\nPRETTY_NAME="udk hello"\n',
}


def _tar(program: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, mode in (("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, mode
            tar.addfile(info)
        files = {"hello": (program, 0o755), **{n: (t.encode(), 0o644) for n, t in TEXTS.items()}}
        for name, (data, mode) in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _gzip(data: bytes) -> bytes:
    """RFC 1952 with RFC 1951's stored blocks."""
    out = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff"]
    for at in range(0, len(data), 65535):
        block = data[at : at + 65535]
        last = at + 65535 >= len(data)
        out.append(struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block)
    out.append(struct.pack("<II", zlib.crc32(data), len(data)))
    return b"".join(out)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def write(directory: Path, program: Path, machine: str) -> None:
    """Writes the layout of an image that holds ``program`` into ``directory``, replacing what is there."""
    layer = _tar(program.read_bytes())
    architecture = ARCHITECTURES.get(machine, machine)
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Cmd": ["/hello"],
            "Env": ["PATH=/"],
            "WorkingDir": "/",
            "Labels": {"org.opencontainers.image.title": "udk/hello"},
        },
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "udk"}],
    }
    blobs = [_json(config), _gzip(layer)]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _descriptor("application/vnd.oci.image.config.v1+json", blobs[0]),
        "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blobs[1])],
    }
    blobs.append(_json(manifest))
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                **_descriptor("application/vnd.oci.image.manifest.v1+json", blobs[2]),
                "platform": {"architecture": architecture, "os": "linux"},
                "annotations": {"org.opencontainers.image.ref.name": "latest"},
            }
        ],
    }
    store = directory / "blobs" / "sha256"
    store.mkdir(parents=True, exist_ok=True)
    wanted = {_digest(blob)[7:]: blob for blob in blobs}
    for name, blob in wanted.items():
        _publish(store / name, blob)
    _publish(directory / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    _publish(directory / "index.json", _json(index))
    for path in store.iterdir():
        if path.name not in wanted:
            path.unlink()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _publish(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(data)
    part.chmod(0o644)
    part.replace(path)
