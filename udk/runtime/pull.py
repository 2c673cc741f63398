"""Pulling: from a reference to an image in the store, with one download per blob however many processes ask.

Processes that want the same image wait for one another on a lock named after the reference; those that want
images with layers in common wait on the ingest of each blob; trees are built under a lock each. Nothing
depends on the locks but the work saved (:mod:`udk.base.locks`). A waiter imports nothing of the registry
client."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from udk.base.files import store_error
from udk.base.locks import Lock
from udk.errors import NotFoundError
from udk.store.refs import platform_file, ref_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from udk.archive.source import ImageSource
    from udk.base.progress import Progress
    from udk.config import Config
    from udk.oci.platform import Platform
    from udk.oci.reference import Reference
    from udk.store import Store, StoredImage


def pull(
    store: Store,
    reference: Reference,
    *,
    platform: Platform | None = None,
    config: Config | None = None,
    progress: Progress | None = None,
    policy: str = "always",
    source: ImageSource | None = None,
    admit: Callable[[Reference, bytes, str], None] | None = None,
) -> StoredImage:
    """The image of ``reference``, fetched, verified, unpacked and filed in ``store``.

    ``platform`` None is this machine's. ``policy``: ``always`` asks the source what the name stands for
    now; ``missing`` takes the image that is in the store by now, if there is one; ``never`` asks nobody. An
    image whose tree has gone is made whole from its blobs without asking. ``source`` is where to get it
    from, by default what the reference says. ``admit`` is called with the bytes and the digest of what the
    name stands for before anything else of it is fetched, and raises if it is not to be trusted. Raises any
    UdkError; what was fetched until then is kept for the next attempt."""
    name = hashlib.sha256(f"{ref_dir(reference)} {platform_file(platform)}".encode()).hexdigest()[:40]
    lock = Lock(store.lock_path("pull", name))
    lazy = policy != "always"
    try:
        lock.acquire((lambda: store.find(reference, platform) is not None) if lazy else None)
    except OSError as e:
        raise store_error(e, store.path) from e
    try:
        if lazy:
            image = store.find(reference, platform)
            if image:
                return image
        from udk.runtime.fetch import Fetch

        fetch = Fetch(store, reference, platform, config, progress, admit)
        if lazy:
            image = fetch.from_store()
            if image:
                return image
        if policy == "never":
            raise NotFoundError(f"{reference.familiar} is not in the store", f"udk pull {reference.familiar}")
        return fetch.from_source(source)
    finally:
        lock.release()
