"""Making images for tests: OCI layouts with layers, configs and manifests that say whatever a test wants."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from udk.oci import mediatypes as mt

REF_NAME = "org.opencontainers.image.ref.name"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar_of(files: Mapping[str, Union[bytes, str]], mode: int = 0o755) -> bytes:
    """A tar of regular files, name -> content; a name ending in "/" is a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mode = mode
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def compress(data: bytes, how: str) -> bytes:
    """``data`` as gzip, zstd or ("") unchanged; always the same bytes for the same data."""
    if how == "gzip":
        return gzip.compress(data, 6, mtime=0)
    if how == "zstd":
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    return data


class Image:
    """What :meth:`Layout.add_image` made: raw documents and blobs by digest."""

    def __init__(self, manifest: bytes, media_type: str, config: bytes, layers: list[bytes]) -> None:
        self.manifest, self.media_type, self.config, self.layers = manifest, media_type, config, layers
        self.digest = sha256(manifest)

    @property
    def blobs(self) -> dict[str, bytes]:
        """Config and layers by digest."""
        return {sha256(b): b for b in (self.config, *self.layers)}

    @property
    def size(self) -> int:
        """Bytes of config and layers, each digest once."""
        return sum(map(len, self.blobs.values()))


class Layout:
    """An OCI image layout in directory ``path``, made if it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.entries: list[dict[str, Any]] = []
        self._write_index()

    def blob(self, data: bytes) -> str:
        """Adds a blob; returns its digest."""
        digest = sha256(data)
        target = self.path / "blobs" / "sha256" / digest[7:]
        if not target.exists():
            target.write_bytes(data)
        return digest

    def descriptor(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Adds a blob; returns its descriptor."""
        return {"mediaType": media_type, "digest": self.blob(data), "size": len(data), **more}

    def add_manifest(
        self, document: Union[bytes, dict[str, Any]], media_type: str, tag: str = "", **more: Any
    ) -> str:
        """Adds a manifest or index, listed in the layout's index (with ``tag`` as its name); returns its
        digest."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        entry = self.descriptor(data, media_type, **more)
        if tag:
            self.entries = [e for e in self.entries if e.get("annotations", {}).get(REF_NAME) != tag]
            entry["annotations"] = {**entry.get("annotations", {}), REF_NAME: tag}
        self.entries.append(entry)
        self._write_index()
        return str(entry["digest"])

    def add_image(
        self,
        layers: Sequence[Union[bytes, Mapping[str, Union[bytes, str]]]] = (),
        tag: str = "latest",
        *,
        run: Optional[Mapping[str, Any]] = None,
        config: Optional[Mapping[str, Any]] = None,
        docker: bool = False,
        compression: Union[str, Sequence[str]] = "gzip",
        manifest: Optional[Mapping[str, Any]] = None,
        listed: bool = True,
    ) -> Image:
        """Adds an image. ``layers``: tars or mappings for :func:`tar_of`; ``run``: the config's ``config``
        member; ``config`` and ``manifest`` replace members of those documents (None removes one)."""
        tars = [layer if isinstance(layer, bytes) else tar_of(layer) for layer in layers]
        hows = [compression] * len(tars) if isinstance(compression, str) else list(compression)
        blobs = [compress(tar, how) for tar, how in zip(tars, hows)]
        document: dict[str, Any] = {
            "created": "2024-01-01T00:00:00Z", "architecture": "amd64", "os": "linux", "history": [],
            "config": dict(run or {}), "rootfs": {"type": "layers", "diff_ids": [sha256(t) for t in tars]},
        }  # fmt: skip
        raw_config = json.dumps(_edited(document, config)).encode()
        base = mt.DOCKER_LAYER if docker else mt.OCI_LAYER
        joint = "." if docker else "+"
        made: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": mt.DOCKER_MANIFEST if docker else mt.OCI_MANIFEST,
            "config": self.descriptor(raw_config, mt.DOCKER_CONFIG if docker else mt.OCI_CONFIG),
            "layers": [
                self.descriptor(blob, base + (joint + how if how else "")) for blob, how in zip(blobs, hows)
            ],
        }
        raw = json.dumps(_edited(made, manifest)).encode()
        if listed:
            self.add_manifest(raw, made["mediaType"], tag)
        else:
            self.blob(raw)
        return Image(raw, made["mediaType"], raw_config, blobs)

    def add_index(
        self, images: Sequence[tuple[Image, Mapping[str, str]]], tag: str = "latest", docker: bool = False,
        **members: Any,
    ) -> str:  # fmt: skip
        """Adds an index of ``(image, platform)``; returns its digest."""
        kind = mt.DOCKER_LIST if docker else mt.OCI_INDEX
        rows = [
            {"mediaType": i.media_type, "digest": i.digest, "size": len(i.manifest), "platform": dict(p)}
            for i, p in images
        ]
        document = {"schemaVersion": 2, "mediaType": kind, "manifests": rows, **members}
        return self.add_manifest(document, kind, tag)

    def _write_index(self) -> None:
        part = self.path / ".index.json"
        part.write_text(
            json.dumps({"schemaVersion": 2, "mediaType": mt.OCI_INDEX, "manifests": self.entries})
        )
        os.replace(part, self.path / "index.json")


def _edited(document: dict[str, Any], changes: Optional[Mapping[str, Any]]) -> dict[str, Any]:
    merged = {**document, **(changes or {})}
    return {k: v for k, v in merged.items() if v is not None}
