"""`.cvmfsbundle-<file>`: the publisher's own list of what is read with a file."""

from __future__ import annotations

import json

BUNDLE_PREFIX = b".cvmfsbundle-"
_MAXIMUM = 10_000


def parse_bundle(data: bytes) -> list[bytes]:
    """Repository paths of the listed files; what is malformed is left out, an unknown version gives none."""
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return []
    if not isinstance(document, dict) or document.get("name") != "CVMFS_BUNDLE":
        return []
    if not str(document.get("version", "")).startswith("1."):
        return []
    listed = document.get("dependencies")
    if not isinstance(listed, list):
        return []
    found = []
    for item in listed[:_MAXIMUM]:
        if isinstance(item, str) and item.startswith("/") and "\0" not in item:
            parts = [p for p in item.encode("utf-8", "surrogateescape").split(b"/") if p]
            if b".." not in parts and b"." not in parts:
                found.append(b"".join(b"/" + p for p in parts))
    return found
