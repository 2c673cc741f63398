"""Sources of images other than registries: OCI layouts, oci-archive and docker-archive files, the embedded
image."""
