"""The store: one directory of blobs, references, trees, leases (docs/architecture.md, Store, version 1).

What `udk run` of a cached image needs is here and light; pulling, collecting, checking and measuring are in
modules of their own, imported when asked for.
"""

from __future__ import annotations

import os
import time
from errno import EACCES, EEXIST, ENOTEMPTY, EPERM, EROFS

from udk.base import jsonlite
from udk.base.files import atomic_write, fsync_dir, read_file, store_error, unique
from udk.base.process import FOREIGN_SECONDS
from udk.errors import CorruptStoreError, InUseError, StoreError, UsageError
from udk.store import leases
from udk.store.leases import Lease
from udk.store.location import locate, make_private
from udk.store.refs import (
    StoredImage,
    all_ref_files,
    platform_file,
    read_ref,
    ref_dir,
    remove_ref,
    write_ref,
)
from udk.store.settle import mark_unsettled, tree_is_sound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from udk.base.progress import Progress
    from udk.oci.descriptor import Descriptor
    from udk.oci.digest import Digest
    from udk.oci.reference import Reference
    from udk.store.fsck import Problem
    from udk.store.gc import Collected
    from udk.store.ingest import Ingest
    from udk.store.usage import Usage

VERSION_LINE = b"udk-store 1\n"
TREE_FORMAT = 1
DIRECTORIES = (
    "oci/blobs/sha256",
    "refs",
    "trees",
    "containers",
    "ingest",
    "leases",
    "locks",
    "staging",
    "trash",
)
_CONDEMNED_SECONDS = 10.0
_READ_ONLY = (EROFS, EACCES, EPERM)


class Store:
    """A store on disk; any number of processes, on any number of hosts, may use one at once.

    ``path`` is its absolute path; ``others`` are further stores, looked into after it and never written.
    """

    def __init__(self, path: str, others: Sequence[Store] = ()) -> None:
        self.path = path
        self.others = tuple(others)

    @classmethod
    def open(cls, path: str | None = None, others: Sequence[str] = ()) -> Store:
        """The caller's store (:func:`udk.store.location.locate`), or the one at ``path``; made if it is not
        there.

        ``others`` are the paths of read-only stores; one that is missing is left out. Raises StoreError,
        ConfigError."""
        if path is None:
            path = locate()
        else:
            path = os.path.abspath(path)
        store = cls(path, [cls(p) for p in others if os.path.isfile(f"{p}/version")])
        try:
            version = read_file(f"{path}/version", 4096)
        except FileNotFoundError:
            store._create()
            return store
        except OSError as e:
            raise store_error(e, path) from e
        for candidate in (store, *store.others):
            if candidate is not store:
                version = read_file(f"{candidate.path}/version", 4096)
            if version != VERSION_LINE:
                raise StoreError(
                    f"the store {candidate.path} has a format that this udk does not know",
                    "use the udk that made it, or set UDK_HOME to another directory",
                )
        return store

    def _create(self) -> None:
        try:
            make_private(self.path)
            names = [name for name in os.listdir(self.path) if name[0] != "."]
            if "version" in names:
                return  # another process made it since it was looked for
            if any(name not in (*DIRECTORIES, "oci", "cvmfs") for name in names):
                raise StoreError(
                    f"{self.path} is not empty and not a store", "set UDK_HOME to an empty or a new directory"
                )
            for name in DIRECTORIES:
                os.makedirs(f"{self.path}/{name}", mode=0o755, exist_ok=True)
            layout = f"{self.path}/oci/oci-layout"
            if not os.path.exists(layout):
                atomic_write(layout, b'{"imageLayoutVersion":"1.0.0"}\n', durable=False)
            index = f"{self.path}/oci/index.json"
            if not os.path.exists(index):
                from udk.store.layout import EMPTY_INDEX

                atomic_write(index, EMPTY_INDEX, durable=False)
            atomic_write(f"{self.path}/version", VERSION_LINE)
        except OSError as e:
            raise store_error(e, self.path) from e

    # Images

    def find(self, reference: Reference, platform: object | None = None) -> StoredImage | None:
        """The image stored under ``reference`` and ready to run, here or in another store; else None.

        ``platform`` None is this machine's. Raises CorruptStoreError, StoreError."""
        tail = f"{ref_dir(reference)}/{platform_file(platform)}"
        for store in (self, *self.others):
            try:
                image = read_ref(store.path, f"{store.path}/refs/{tail}")
            except OSError as e:
                raise store_error(e, store.path) from e
            if image is None or not tree_is_sound(store.path, image.tree):
                continue
            if platform is not None or not image.variant or _variant_runs(image):
                return image
        return None

    def images(self) -> list[StoredImage]:
        """All images of this store and the others, by reference; unreadable reference files are left out."""
        found = []
        for store in (self, *self.others):
            for path in all_ref_files(store.path):
                try:
                    image = read_ref(store.path, path)
                except (CorruptStoreError, OSError):
                    continue
                if image:
                    found.append(image)
        return found

    def config(self, image: StoredImage) -> dict[str, Any]:
        """The image's config as a dictionary. Raises CorruptStoreError."""
        return self._json(image, image.config_digest)

    def manifest(self, image: StoredImage) -> dict[str, Any]:
        """The image's manifest as a dictionary. Raises CorruptStoreError."""
        return self._json(image, image.digest)

    def _json(self, image: StoredImage, digest: str) -> dict[str, Any]:
        path = blob_path(image.root, digest)
        try:
            data = jsonlite.loads(read_file(path))
            if not isinstance(data, dict):
                raise ValueError("not an object")
            return data
        except (OSError, ValueError) as e:
            raise CorruptStoreError(
                f"{path} of {image.familiar} cannot be read ({e})", f"udk pull {image.familiar}"
            ) from None

    def tree(self, image: StoredImage) -> tuple[str, str]:
        """The paths of the image's read-only root file system and of its record.

        Hold a lease (:meth:`use`) while using them."""
        top = f"{image.root}/trees/{image.tree}"
        return f"{top}/rootfs", f"{top}/record"

    def set_ref(self, reference: Reference, image: StoredImage) -> StoredImage:
        """Files ``image`` under ``reference`` in this store (pull, tag); returns it as stored. The image's
        blobs and tree must be there. Raises StoreError."""
        name = os.path.basename(image.path)
        fields = {slot: getattr(image, slot) for slot in StoredImage.__slots__}
        fields.update(
            root=self.path,
            path=f"{self.path}/refs/{ref_dir(reference)}/{name}",
            reference=str(reference),
            familiar=reference.familiar,
        )
        made = StoredImage(**fields)
        try:
            write_ref(made)
            self._write_index()
        except OSError as e:
            raise store_error(e, made.path) from e
        return made

    def remove_ref(self, image: StoredImage) -> bool:
        """Forgets the name of ``image``; its content goes with the next :meth:`gc`. False when it was not
        there. Raises StoreError."""
        if image.root != self.path:
            raise StoreError(f"{image.familiar} is in the read-only store {image.root}")
        try:
            there = remove_ref(self.path, image.path)
            self._write_index()
        except OSError as e:
            raise store_error(e, image.path) from e
        return there

    def _write_index(self) -> None:
        from udk.store.layout import write_index

        write_index(self)

    # Uses

    def lease(self, kind: str, target: str, extra: dict[str, Any] | None = None) -> Lease:
        """A lease on ``target`` for this process; survives exec. Raises StoreError."""
        try:
            return leases.take(self.path, kind, target, extra)
        except FileNotFoundError:
            os.makedirs(f"{self.path}/leases", exist_ok=True)
            return leases.take(self.path, kind, target, extra)
        except OSError as e:
            raise store_error(e, self.path) from e

    def use(self, image: StoredImage) -> Lease:
        """A lease on the tree of ``image``: as long as it lasts, no collector removes the tree.

        Raises InUseError when the tree is not there any more (find or pull the image again), StoreError."""
        lease = self.use_tree(image.tree, image.root)
        if not os.path.exists(f"{image.root}/trees/{image.tree}/tree.json"):
            lease.release()
            raise InUseError(f"{image.familiar} was removed a moment ago", f"udk pull {image.familiar}")
        return lease

    def use_tree(self, key: str, root: str = "") -> Lease:
        """A lease on the tree ``key``, be it there or not: from now on no collector removes it.
        Raises StoreError."""
        root = root or self.path
        try:
            lease = leases.take(root, "tree", key)
        except OSError as e:
            if root != self.path and e.errno in _READ_ONLY:
                return Lease("tree", key, "")  # nothing is ever removed from a store that is read-only
            raise store_error(e, root) from e
        deadline = time.monotonic() + _CONDEMNED_SECONDS
        while leases.condemned(root, key) and time.monotonic() < deadline:
            time.sleep(0.005)
        return lease

    # Content

    def blob_path(self, digest: Digest | str) -> str:
        """Where the blob is or would be."""
        return blob_path(self.path, str(digest))

    def has_blob(self, digest: Digest | str, size: int = -1) -> bool:
        """Whether the blob is here (with ``size`` bytes, if given)."""
        try:
            return size in (-1, os.stat(self.blob_path(digest)).st_size)
        except OSError:
            return False

    def put_blob(self, digest: Digest | str, data: bytes) -> None:
        """Stores a small blob. Raises IntegrityError, StoreError."""
        from udk.store.ingest import put_blob

        put_blob(self, str(digest), data)

    def ingest(
        self, descriptor: Descriptor, reference: str = "", stop: Callable[[], bool] | None = None
    ) -> Ingest:
        """The way in for one blob: locked, resumable, verified (:class:`udk.store.ingest.Ingest`)."""
        from udk.store.ingest import Ingest

        return Ingest(self.path, str(descriptor.digest), descriptor.size, reference, stop)

    def tree_key(self, chain_id: Digest | str) -> str:
        """The key of the tree of a chain ID."""
        return f"{str(chain_id).partition(':')[2]}-{TREE_FORMAT}"

    def has_tree(self, key: str, root: str = "") -> bool:
        """Whether the tree is there, complete and not in doubt."""
        return tree_is_sound(root or self.path, key)

    def staging(self, purpose: str) -> tuple[str, Lease]:
        """A new empty directory on the store's file system, and the lease that keeps it. Raises
        StoreError."""
        name = f"{purpose}.{unique()}"
        lease = self.lease("staging", name)
        path = f"{self.path}/staging/{name}"
        try:
            os.makedirs(path, mode=0o700)
        except OSError as e:
            lease.release()
            raise store_error(e, path) from e
        return path, lease

    def publish_tree(self, key: str, staging: str) -> None:
        """Makes the finished directory ``staging`` (rootfs, record, tree.json) the tree ``key``. If another
        process was faster, its tree stays and ``staging`` is removed. Raises StoreError."""
        final = f"{self.path}/trees/{key}"
        try:
            if not os.path.exists(f"{staging}/tree.json"):
                raise StoreError(f"{staging} is not a finished tree")
            mark_unsettled(staging)
            os.chmod(staging, 0o755)
            os.makedirs(f"{self.path}/trees", exist_ok=True)
            for _ in range(3):
                try:
                    os.rename(staging, final)
                    break
                except OSError as e:
                    if e.errno not in (EEXIST, ENOTEMPTY):
                        raise
                if self.has_tree(key):
                    self.discard(staging)
                    return
                self.discard(final)  # half gone, or made before a crash
            fsync_dir(f"{self.path}/trees")
        except OSError as e:
            raise store_error(e, final) from e

    def lock_path(self, kind: str, name: str) -> str:
        """The file for a lock (:class:`udk.base.locks.Lock`) named ``kind`` and ``name``."""
        return f"{self.path}/locks/{kind}-{name}"

    # Housekeeping

    def gc(
        self,
        *,
        grace: float = 0.0,
        partial_seconds: float | None = None,
        lease_seconds: float = FOREIGN_SECONDS,
        dry_run: bool = False,
    ) -> Collected:
        """Removes what nobody needs (:class:`udk.store.gc.Collector`). Raises StoreError."""
        from udk.store.gc import PARTIAL_SECONDS, Collector

        keep = PARTIAL_SECONDS if partial_seconds is None else partial_seconds
        return Collector(self, grace, keep, lease_seconds, dry_run).run()

    def sweep(self, lease_seconds: float = FOREIGN_SECONDS) -> Collected:
        """Removes what dead processes left: leases, staging, trash. Raises StoreError."""
        from udk.store.gc import Collector

        try:
            return Collector(self, foreign_seconds=lease_seconds).sweep()
        except OSError as e:
            raise store_error(e, self.path) from e

    def fsck(
        self, *, repair: bool = False, hashes: bool = True, progress: Progress | None = None
    ) -> list[Problem]:
        """What is wrong with the store (:class:`udk.store.fsck.Checker`). Raises StoreError."""
        from udk.store.fsck import Checker

        return Checker(self, repair, hashes, progress).run()

    def df(self) -> list[Usage]:
        """Disk use by category. Raises StoreError."""
        from udk.store.usage import usage

        return usage(self)

    def discard(self, path: str) -> None:
        """Removes a file or directory of the store: out of the way by one rename, then piece by piece.

        Raises StoreError, after which the rest is left to the next :meth:`gc`."""
        from udk.store.trash import discard

        discard(self.path, path)


def blob_path(root: str, digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    return f"{root}/oci/blobs/{algorithm}/{encoded}"


def _variant_runs(image: StoredImage) -> bool:
    """Whether an image chosen for another machine of the same architecture runs on this one too."""
    if image.variant in ("v1", "v8"):  # the baselines of amd64 and arm64
        return True
    from udk.oci.platform import Platform, host_variant

    try:
        built_for = Platform.parse(f"{image.platform}/{image.variant}")
    except UsageError:
        return False
    return Platform.host().rank(built_for, host_variant(built_for.architecture)) >= 0
