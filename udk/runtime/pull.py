"""Pulling: from a reference to an image in the store, with one download per blob however many processes ask.

Processes that want the same image wait for one another on a lock named after the reference; those that want
images with layers in common wait on the ingest of each blob; trees are built under a lock each. Nothing
depends on the locks but the work saved (:mod:`udk.base.locks`). A waiter imports nothing of the registry
client."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from udk.base.locks import Lock
from udk.store.refs import StoredImage, platform_file, ref_dir

if TYPE_CHECKING:
    from typing import Any

    from udk.archive.source import ImageSource
    from udk.oci.platform import Platform
    from udk.oci.reference import Reference
    from udk.store import Store


def pull(
    store: Store,
    reference: Reference,
    *,
    platform: Platform | None = None,
    config: Any = None,
    progress: Any = None,
    missing: bool = False,
    source: ImageSource | None = None,
) -> StoredImage:
    """The image of ``reference``, fetched, verified, unpacked and filed in ``store``.

    ``platform`` None is this machine's. ``missing``: an image that is in the store by now is taken as it
    is, without asking the registry. ``source`` is where to get it from, by default what the reference says.
    Raises any UdkError; what was fetched until then is kept for the next attempt."""
    name = hashlib.sha256(f"{ref_dir(reference)} {platform_file(platform)}".encode()).hexdigest()[:40]
    with Lock(store.lock_path("pull", name)):
        if missing:
            image = store.find(reference, platform)
            if image:
                return image
        from udk.runtime.fetch import Fetch

        return Fetch(store, reference, platform, config, progress, source).run()
