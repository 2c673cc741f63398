"""OCI image model: names, digests, platforms, descriptors, manifests and configs. Pure data, no I/O.

Import from the modules themselves; nothing is imported here, so that the run path pays for what it uses only.
"""
