"""Publishing a directory as a new revision of a repository that any static web server can serve.

The repository directory is what clients get as ``<server>/cvmfs/<fqrn>``. Objects are written before the
manifest that names them, and each file appears by rename: whoever reads or kills at any moment sees the old
revision or the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ..entry import Chunk
from ..errors import UsageError, show
from ..hash import (
    CATALOG_ALGORITHMS,
    SHA1,
    SUFFIX_CATALOG,
    SUFFIX_CERTIFICATE,
    SUFFIX_METAINFO,
    SUFFIX_PARTIAL,
    Hash,
)
from . import catalogs, history
from .catalogs import NO_HASH, CatalogRef
from .history import REF_CATALOG, REF_CERTIFICATE, REF_HISTORY, REF_METAINFO, Reflog, TagRow
from .keys import RepositoryKeys, check_days, check_fqrn
from .objects import ObjectStorage, PublishError, Stored
from .previous import PreviousRevision, read_manifest
from .tree import Node, Tree, scan

ROOT_PATH_HASH = "d41d8cd98f00b204e9800998ecf8427e"
_NO_ID = (1 << 32) - 1  # what chown takes for "leave it"
_ATTEMPTS = 3  # at a file that changes while it is read


class Options(NamedTuple):
    """How to publish; sizes in bytes."""

    algorithm: str = SHA1  # of hash.CATALOG_ALGORITHMS
    compress: bool = True
    level: int = 6  # of zlib
    chunk_size: int = 8 << 20  # larger files are stored in pieces of this size; 0: never
    catalog_entries: int = 10_000  # split catalogs beyond; 0: only at .cvmfscatalog
    catalog_least: int = 1_000  # entries of an automatic catalog
    ttl: int = 240  # s, of the root catalog
    owner: tuple[int, int] | None = None  # uid and gid for all entries; None: as on disk
    xattrs: bool = True
    reread: bool = False  # read all files, even those whose size and time are as in the last revision
    volatile: bool = False  # clients shall evict these contents first
    membership: str = ""  # who may read (voms_authz)
    garbage_collectable: bool = True
    whitelist_days: float = 30
    timestamp: int | None = None  # s since the epoch, for reproducible output; None: now


DEFAULTS = Options()


class PublishResult(NamedTuple):
    """What a publication did; bytes are as stored."""

    fqrn: str
    revision: int
    root_hash: str
    entries: int
    new_objects: int
    new_bytes: int
    known_objects: int
    read_files: int
    new_catalogs: int
    skipped_xattrs: tuple[bytes, ...]
    changed: bool  # False: nothing differs from the last revision, none was made


def publish(
    source: str | bytes,
    repository: str,
    *,
    fqrn: str | None = None,
    keys: str | RepositoryKeys,
    options: Options = DEFAULTS,
    tag: str = "",
    description: str = "",
    metainfo: dict[str, object] | None = None,
) -> PublishResult:
    """Publishes the tree below ``source`` as the new head revision of ``repository``.

    ``repository`` is created where it does not exist; ``fqrn`` defaults to its last path component. ``keys``
    is a key directory (keys are made there for a new repository) or loaded keys. ``tag`` names the revision.
    Raises PublishError, ConfigError, UsageError; the last revision then stays the head.
    """
    if isinstance(keys, RepositoryKeys):
        fqrn = fqrn or keys.fqrn
    fqrn = fqrn or os.path.basename(os.path.abspath(repository))
    check_fqrn(fqrn)
    _check_options(options, tag)
    storage = ObjectStorage(repository, algorithm=options.algorithm, level=options.level)
    with publisher_lock(repository, fqrn):
        storage.prepare()
        fields = read_manifest(repository)
        if fields and fields.get("N", fqrn) != fqrn:
            raise UsageError(f"{repository} holds the repository {fields['N']}, not {fqrn}")
        if isinstance(keys, str):
            keys = RepositoryKeys.load(keys, fqrn) if fields else RepositoryKeys.create(keys, fqrn)
        return _Publication(storage, keys, options, fields).run(
            os.fsencode(source), tag=tag, description=description, metainfo=metainfo
        )


def _check_options(options: Options, tag: str) -> None:
    if options.algorithm not in CATALOG_ALGORITHMS:
        raise UsageError(
            f"{options.algorithm!r} is not a hash of repositories", "use sha1, rmd160 or shake128"
        )
    if options.chunk_size < 0 or 0 < options.chunk_size < 4096:
        raise UsageError(
            f"a chunk size of {options.chunk_size} bytes is too small", "use 4096 or more, or 0 for none"
        )
    if not 1 <= options.level <= 9:
        raise UsageError(f"there is no level of compression {options.level}", "use 1 to 9")
    if not 0 < options.ttl < 1 << 31:
        raise UsageError(f"a time to live of {options.ttl} s cannot be", "use e.g. 240")
    if options.catalog_entries < 0:
        raise UsageError(f"catalogs of {options.catalog_entries} entries cannot be", "use 0 for no limit")
    if options.owner is not None and max(options.owner) >= _NO_ID:
        raise UsageError(f"the owner {options.owner[0]}:{options.owner[1]} cannot be: ids have 32 bits")
    check_days(options.whitelist_days)
    if tag in (history.TRUNK, history.TRUNK_PREVIOUS) or any(c.isspace() or not c.isprintable() for c in tag):
        raise UsageError(f"{tag!r} cannot be the name of a tag")


@contextlib.contextmanager
def publisher_lock(repository: str, fqrn: str) -> Iterator[None]:
    """One publisher (or collector) at a time."""
    try:
        os.makedirs(repository, exist_ok=True)
        fd = os.open(repository, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise PublishError(f"cannot use the repository directory: {error}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PublishError(
                f"{fqrn} is being published by another process", "try again when it has ended"
            ) from None
        except OSError:
            pass  # a file system without locks: the caller has to see to it
        yield
    finally:
        os.close(fd)


class _Publication:
    """One run of :func:`publish`."""

    def __init__(
        self, storage: ObjectStorage, keys: RepositoryKeys, options: Options, fields: dict[str, str] | None
    ) -> None:
        self.storage = storage
        self.keys = keys
        self.options = options
        self.fields = fields or {}
        # before the scan: a file changed from now on is read again next time
        self.timestamp = int(time.time()) if options.timestamp is None else options.timestamp
        self.previous: PreviousRevision | None = None
        self.read_files = 0
        self.new_catalogs = 0
        self.new_revision = (
            False  # even where nothing changed, for a tag: clients look at revision numbers only
        )

    def run(
        self, source: bytes, *, tag: str, description: str, metainfo: dict[str, object] | None
    ) -> PublishResult:
        if self.fields:
            self.previous = PreviousRevision(self.storage, self.fields)
        tags = {t.name: t.hash for t in history.read_tags(self.storage, self.fields.get("H"))}
        self.new_revision = bool(tag) and (tag not in tags or tags[tag] != self.fields.get("C"))
        try:
            tree = scan(source, owner=self.options.owner, xattrs=self.options.xattrs)
            self._store_files(tree)
            root = self._store_catalogs(tree)
            changed = self.previous is None or root.hash != self.previous.root
            revision = self._sign(root, tag=tag, description=description, metainfo=metainfo, changed=changed)
        finally:
            if self.previous is not None:
                self.previous.close()
        counters = self.storage.counters
        return PublishResult(
            self.keys.fqrn, revision, str(root.hash), 1 + sum(len(d.children) for d in tree.directories),
            counters.objects, counters.bytes, counters.known, self.read_files, self.new_catalogs,
            tuple(tree.skipped_xattrs), changed,
        )  # fmt: skip

    # contents

    def _store_files(self, tree: Tree) -> None:
        options, previous = self.options, self.previous
        waiting: list[Node] = []
        linked: dict[tuple[int, int], list[Node]] = {}
        for node in tree.files():
            if (
                previous is not None
                and not options.reread
                and previous.reuse(node, compressed=options.compress, algorithm=options.algorithm)
            ):
                continue
            if node.inode is not None:
                members = linked.setdefault(node.inode, [])
                members.append(node)
                if len(members) > 1:
                    continue
            waiting.append(node)
        self.read_files = len(waiting)
        # zlib and hashing let other threads run
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            size = 256
            for start in range(0, len(waiting), size):
                batch = waiting[start : start + size]
                list(pool.map(lambda node: self._store_file(tree, node), batch))
        for members in linked.values():
            for node in members[1:]:
                node.hash, node.chunks, node.size = members[0].hash, members[0].chunks, members[0].size

    def _store_file(self, tree: Tree, node: Node) -> None:
        path = tree.local(node)
        try:
            for _ in range(_ATTEMPTS):
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    before = os.fstat(fd)
                    self._store_content(node, fd, before.st_size)
                    after = os.fstat(fd)
                finally:
                    os.close(fd)
                if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) == (
                    node.size, node.mtime_ns,
                ):  # fmt: skip
                    return
                node.mtime_ns = after.st_mtime_ns
        except OSError as error:
            raise PublishError(f"cannot publish {show(path)}: {error.strerror}") from error
        raise PublishError(
            f"{show(path)} changes while it is read", "publish when nothing writes to the tree"
        )

    def _store_content(self, node: Node, fd: int, size: int) -> None:
        options = self.options
        piece = options.chunk_size
        if not piece or size <= piece:
            if size > 64 << 20:
                stored = self.storage.put_stream(fd, compress=options.compress)
            else:
                stored = self.storage.put(_read(fd, size + 1), compress=options.compress)
            node.hash, node.chunks, node.size = stored.hash, (), stored.size
            return
        chunks = []
        offset = 0
        while True:
            data = _read(fd, piece)
            if not data:
                break
            stored = self.storage.put(data, SUFFIX_PARTIAL, compress=options.compress)
            chunks.append(Chunk(offset, len(data), stored.hash))
            offset += len(data)
        node.hash, node.chunks, node.size = None, tuple(chunks), offset

    # catalogs

    def _store_catalogs(self, tree: Tree) -> CatalogRef:
        options = self.options
        empty: Stored | None = None
        keep = self.previous.automatic() if self.previous else frozenset()
        if options.catalog_entries:
            empty = self.storage.put(b"")
        catalogs.split(
            tree, limit=options.catalog_entries, least=options.catalog_least, keep=keep, empty=empty
        )
        below: dict[bytes, list[CatalogRef]] = {}
        mountpoints = {d.path for d in tree.directories if d.nested}
        for directory in reversed(tree.directories):
            if directory.path and not directory.nested:
                continue
            ref = self._store_catalog(directory, below.pop(directory.path, []))
            if not directory.path:
                return ref
            parent = directory.path.rpartition(b"/")[0]
            while parent and parent not in mountpoints:
                parent = parent.rpartition(b"/")[0]
            below.setdefault(parent, []).append(ref)
        raise PublishError("the tree has no root")

    def _store_catalog(self, root: Node, below: list[CatalogRef]) -> CatalogRef:
        options = self.options
        properties = {}
        if root.path:
            properties["root_prefix"] = os.fsdecode(root.path)
        else:
            properties["TTL"] = str(options.ttl)
            if options.membership:
                properties["voms_authz"] = options.membership
        if options.volatile:
            properties["volatile"] = "1"
        content = catalogs.compose(root, below, compressed=options.compress, properties=properties)
        own, subtree = catalogs.count(content, below)
        totals = {kind: own[kind] + subtree[kind] for kind in own}
        same = self.previous.same(root.path, content) if self.previous else None
        if same is not None and (root.path or not self.new_revision):
            return CatalogRef(root.path, same.hash, same.size, totals)
        old = self.previous.catalogs.get(root.path) if self.previous else None
        stamps = {
            "last_modified": str(self.timestamp),
            "revision": str((self.previous.revision_of(root.path) if self.previous else 0) + 1),
            "previous_revision": str(old.hash) if old else NO_HASH,
        }
        if not root.path:
            stamps["revision"] = str(self._next_revision())
        scratch = self.storage.scratch()
        try:
            catalogs.write_database(scratch, content, own, subtree, stamps)
            with open(scratch, "rb") as file:
                data = file.read()
        finally:
            os.unlink(scratch)
        self.new_catalogs += 1
        return CatalogRef(root.path, self.storage.put(data, SUFFIX_CATALOG).hash, len(data), totals)

    def _next_revision(self) -> int:
        return (self.previous.revision if self.previous else 0) + 1

    # what is signed

    def _sign(
        self,
        root: CatalogRef,
        *,
        tag: str,
        description: str,
        metainfo: dict[str, object] | None,
        changed: bool,
    ) -> int:
        storage, options, old = self.storage, self.options, self.fields
        tags = {t.name: t for t in history.read_tags(storage, old.get("H"))}
        meta = old.get("M", "")
        if metainfo is not None or not meta:
            text = json.dumps(metainfo or {"description": self.keys.fqrn}, indent=1, sort_keys=True)
            meta = str(storage.put(text.encode(), SUFFIX_METAINFO).hash)
        certificate = str(storage.put(self.keys.certificate, SUFFIX_CERTIFICATE).hash)
        revision = self._next_revision() if changed else int(old["S"])
        timestamp = self.timestamp if changed else int(old.get("T", self.timestamp))
        # a client refuses what is older than what it has seen
        timestamp = max(timestamp, int(old.get("T", 0)))
        self._write_whitelist()
        if not changed and not tag and (meta, certificate) == (old.get("M"), old.get("X")):
            return revision
        head = TagRow(history.TRUNK, str(root.hash), revision, timestamp, "current HEAD", root.size)
        if changed and history.TRUNK in tags:
            tags[history.TRUNK_PREVIOUS] = tags[history.TRUNK]._replace(
                name=history.TRUNK_PREVIOUS, description="default undo target"
            )
        tags[history.TRUNK] = head
        if tag:
            tags[tag] = head._replace(name=tag, description=description)
        database = history.write_history(storage, self.keys.fqrn, tags.values(), old.get("H", NO_HASH))
        reflog = Reflog(storage, self.keys.fqrn)
        try:
            now = self.timestamp
            reflog.add(root.hash, REF_CATALOG, now)
            reflog.add(Hash.parse(certificate), REF_CERTIFICATE, now)
            reflog.add(database, REF_HISTORY, now)
            reflog.add(Hash.parse(meta), REF_METAINFO, now)
            write_manifest(storage, self.keys, {
                "C": str(root.hash), "B": str(root.size), "R": ROOT_PATH_HASH, "D": str(options.ttl),
                "S": str(revision), "G": "yes" if options.garbage_collectable else "no", "A": "no",
                "N": self.keys.fqrn, "X": certificate, "H": str(database), "T": str(timestamp), "M": meta,
            }, reflog)  # fmt: skip
        finally:
            reflog.close()
        return revision

    def _write_whitelist(self) -> None:
        """Renews the whitelist when half of its time is over, or another certificate is in use."""
        path = os.path.join(self.storage.root, ".cvmfswhitelist")
        algorithm = self.options.algorithm
        try:
            with open(path, "rb") as file:
                lines = file.read().split(b"\n--\n")[0].decode("ascii", "replace").split("\n")
            left = _epoch(lines[1][1:]) - time.time()
            fresh = left > self.options.whitelist_days * 43200 and self.keys.fingerprint(algorithm) in lines
        except (OSError, ValueError, IndexError):
            fresh, lines = False, []
        if fresh or (lines and not self.keys.can_sign_whitelist):
            return
        write_file(self.storage, path, self.keys.whitelist(self.options.whitelist_days, algorithm))


def _epoch(text: str) -> float:
    import calendar

    return float(calendar.timegm(time.strptime(text[:14], "%Y%m%d%H%M%S")))


def _read(fd: int, size: int) -> bytes:
    """Up to ``size`` bytes, fewer only at the end of the file."""
    data = os.read(fd, size)
    if len(data) == size or not data:
        return data
    pieces = [data]
    left = size - len(data)
    while left and data:
        data = os.read(fd, left)
        pieces.append(data)
        left -= len(data)
    return b"".join(pieces)


def write_manifest(
    storage: ObjectStorage, keys: RepositoryKeys, fields: dict[str, str], reflog: Reflog
) -> None:
    """Saves the reflog and signs the manifest: from here on clients see the revision."""
    os.sync()  # no manifest may survive a power cut that its objects do not
    fields = {**fields, "Y": str(reflog.save())}
    body = "".join(f"{letter}{value}\n" for letter, value in fields.items()).encode("ascii")
    path = os.path.join(storage.root, ".cvmfspublished")
    write_file(storage, path, keys.sign_manifest(body, storage.algorithm))


def write_file(storage: ObjectStorage, path: str, data: bytes) -> None:
    """Replaces a served file, durably."""
    scratch = storage.scratch()
    with open(scratch, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
