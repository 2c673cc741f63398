"""Media types of the image-spec and of Docker's image format, and what each layer type means."""

from __future__ import annotations

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

INDEXES = (OCI_INDEX, DOCKER_LIST)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
SCHEMA1 = (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED)
CONFIGS = (OCI_CONFIG, DOCKER_CONFIG)
ACCEPTED = (*INDEXES[:1], *MANIFESTS[:1], *INDEXES[1:], *MANIFESTS[1:])

OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"

# layer media type -> compression it announces ("" for none)
LAYERS: dict[str, str] = {}
for _base in (OCI_LAYER, OCI_LAYER_FOREIGN):
    LAYERS.update({_base: "", _base + "+gzip": "gzip", _base + "+zstd": "zstd"})
for _base in (DOCKER_LAYER, DOCKER_LAYER_FOREIGN):
    LAYERS.update({_base: "", _base + ".gzip": "gzip", _base + ".zstd": "zstd"})
FOREIGN_LAYERS = frozenset(t for t in LAYERS if t.startswith((OCI_LAYER_FOREIGN, DOCKER_LAYER_FOREIGN)))
del _base


def layer_compression(media_type: str) -> str | None:
    """``gzip``, ``zstd`` or ``""`` as the layer type announces; None if it is no tar layer. Readers sniff."""
    return LAYERS.get(media_type)
