"""Checking a store against itself, and repair by moving what is bad out of the way.

Repair never guesses: a bad blob, a reference to something missing, a tree that is not what its record of
making says go to the trash, where they stay for a week. The next pull or run brings back what is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import TYPE_CHECKING

from udk.base.files import read_file, store_error
from udk.base.text import one_line
from udk.errors import CorruptStoreError
from udk.store import leases
from udk.store.layout import make_index, write_index
from udk.store.refs import all_ref_files, read_ref
from udk.store.roots import containers, image_blobs
from udk.store.settle import tree_is_sound
from udk.store.trash import to_trash

if TYPE_CHECKING:
    from collections.abc import Iterator

    from udk.base.progress import Progress
    from udk.store.store import Store

KEEP_SECONDS = 7 * 86400.0
_CHUNK = 1 << 20
_LENGTHS = {"sha256": 64, "sha512": 128}


class Problem:
    """One finding. ``path`` below the store; ``repaired``: it has been moved to the trash or made anew;
    ``serious`` False: a leftover that the next collection takes, or an unfinished download."""

    __slots__ = ("path", "repaired", "serious", "what")

    def __init__(self, path: str, what: str, serious: bool = True) -> None:
        self.path = path
        self.what = what
        self.serious = serious
        self.repaired = False

    def __str__(self) -> str:
        return one_line(f"{self.path}: {self.what}{' (repaired)' if self.repaired else ''}", 500)

    def as_dict(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("path", "what", "serious", "repaired")}


class Checker:
    """One check of ``store``. ``repair``: move what is bad to the trash; ``hashes``: read every blob."""

    def __init__(
        self, store: Store, repair: bool = False, hashes: bool = True, progress: Progress | None = None
    ) -> None:
        self._store = store
        self._root = store.path
        self._repair = repair
        self._hashes = hashes
        self._progress = progress
        self._problems: list[Problem] = []

    def run(self) -> list[Problem]:
        """Raises StoreError."""
        try:
            self._blobs()
            self._trees()
            self._refs()
            self._containers()
            self._index()
            self._leftovers()
        except OSError as e:
            raise store_error(e, self._root) from e
        return self._problems

    def _bad(self, path: str, what: str) -> None:
        problem = Problem(os.path.relpath(path, self._root), what)
        self._problems.append(problem)
        if self._repair:
            to_trash(self._root, path, KEEP_SECONDS)
            problem.repaired = True

    def _note(self, path: str, what: str) -> None:
        self._problems.append(Problem(os.path.relpath(path, self._root), what, serious=False))

    def _listed(self, directory: str) -> Iterator[tuple[str, str]]:
        path = f"{self._root}/{directory}"
        try:
            names = sorted(os.listdir(path))
        except FileNotFoundError:
            return
        for name in names:
            yield name, f"{path}/{name}"

    def _blobs(self) -> None:
        for algorithm, top in self._listed("oci/blobs"):
            if algorithm not in _LENGTHS or not os.path.isdir(top):
                self._bad(top, "not a digest algorithm that udk writes")
                continue
            files = list(self._listed(f"oci/blobs/{algorithm}"))
            task = self._progress.task(f"{algorithm} blobs", len(files)) if self._progress else None
            for n, (name, path) in enumerate(files, 1):
                self._blob(algorithm, name, path)
                if task:
                    task.set(n)
            if task:
                task.finish()

    def _blob(self, algorithm: str, name: str, path: str) -> None:
        if len(name) != _LENGTHS[algorithm] or set(name) - set("0123456789abcdef"):
            self._bad(path, "not a digest")
            return
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return  # collected meanwhile
        except OSError as e:
            self._bad(path, f"cannot be opened: {e.strerror}")
            return
        try:
            hasher = hashlib.new(algorithm)
            while self._hashes and (data := os.read(fd, _CHUNK)):
                hasher.update(data)
        finally:
            os.close(fd)
        if self._hashes and hasher.hexdigest() != name:
            self._bad(path, f"its content has the digest {algorithm}:{hasher.hexdigest()}")

    def _trees(self) -> None:
        for key, path in self._listed("trees"):
            why = self._tree(key, path)
            if why and os.path.lexists(path):
                if why.startswith("may have") and not self._repair:
                    self._note(path, why)
                else:
                    self._bad(path, why)
            elif not why:
                self._tree_index(path)

    def _tree(self, key: str, path: str) -> str:
        """Why the tree is not usable; ``""`` when it is."""
        try:
            made = json.loads(read_file(f"{path}/tree.json"))
            chain, entries = made["chain_id"], made["entries"]
        except FileNotFoundError:
            return "it has no tree.json: it is not complete"
        except (ValueError, KeyError, TypeError, RecursionError):
            return "its tree.json is damaged"
        if self._store.tree_key(chain) != key:
            return f"its tree.json says it is {one_line(chain, 100)}"
        if not tree_is_sound(self._root, key):
            return "may have lost data: this machine stopped before it was flushed; it will be made anew"
        return check_tree(path, entries)

    def _tree_index(self, path: str) -> None:
        """It tells whether the files are as they were made. A tree made by an udk that wrote none has no
        index, a copied tree has that of the original."""
        from udk.layers.index import check_index, write_index

        try:
            current, changed = check_index(path)
        except FileNotFoundError:
            return  # collected meanwhile
        except (OSError, ValueError) as e:
            self._note(path, f"has no index: {e}")
            return
        if changed:
            self._bad(path, f"{one_line(changed, 100)}: not as when it was made")
            return
        if current:
            return
        problem = Problem(
            os.path.relpath(f"{path}/index", self._root), "is missing, or of another tree", serious=False
        )
        self._problems.append(problem)
        if self._repair:
            try:
                write_index(path)
                problem.repaired = True
            except (OSError, ValueError) as e:
                problem.what += f", and cannot be made: {e}"

    def _refs(self) -> None:
        for path in all_ref_files(self._root):
            try:
                image = read_ref(self._root, path)
            except (CorruptStoreError, OSError) as e:
                self._bad(path, e.message if isinstance(e, CorruptStoreError) else str(e))
                continue
            if image is None:
                continue
            for digest, size in image_blobs(image).items():
                if not self._store.has_blob(digest, size):
                    self._bad(path, f"{image.familiar} needs {digest}, which is missing")
                    break
            else:
                if not os.path.exists(f"{self._root}/trees/{image.tree}"):
                    self._note(path, f"the tree of {image.familiar} is missing; the next run makes it anew")

    def _containers(self) -> None:
        for path, raw in containers(self._root):
            try:
                if raw is None or not isinstance(json.loads(raw), dict):
                    raise ValueError
            except (ValueError, RecursionError):
                # Its upper layer may be someone's only copy of something: said, never moved.
                self._problems.append(Problem(os.path.relpath(path, self._root), "is damaged"))

    def _index(self) -> None:
        path = f"{self._root}/oci/index.json"
        try:
            same = read_file(path) == make_index(self._store)
        except OSError:
            same = False
        if not same:
            problem = Problem("oci/index.json", "does not agree with the references", serious=False)
            self._problems.append(problem)
            if self._repair:
                write_index(self._store)
                problem.repaired = True

    def _leftovers(self) -> None:
        staging = list(self._listed("staging"))  # before the leases, as in a collection
        alive = set()
        for path, data, age in leases.all_leases(self._root):
            if leases.lease_alive(data, age):
                alive.add(str(data.get("target")))
            else:
                self._note(path, "its process has ended")
        for name, path in staging:
            if name not in alive:
                self._note(path, "left behind by a process that has ended")
        for _, path in self._listed("ingest"):
            try:
                size = os.stat(f"{path}/data").st_size
                self._note(path, f"an unfinished download, {size} bytes so far")
            except OSError:
                self._note(path, "an unfinished download")
        for name, path in self._listed("trash"):
            self._note(path, f"in the trash since {time.strftime('%Y-%m-%d', _came(name))}")


def _came(name: str) -> time.struct_time:
    try:
        return time.localtime(int(name.partition("-")[0]))
    except (ValueError, OverflowError, OSError):
        return time.localtime(0)


def check_tree(path: str, entries: int) -> str:
    """Why the finished tree at ``path`` does not have the ``entries`` paths that it was made with, or its
    record cannot be read; ``""`` when all is well."""
    from udk.layers.record import RecordReader

    try:
        with RecordReader(f"{path}/record") as record:
            for entry in record:
                name = entry.path
                if not os.path.lexists(os.fsencode(f"{path}/rootfs/") + name):
                    return f"{one_line(os.fsdecode(name))} is in the record but not in the tree"
    except OSError as e:
        return f"its record cannot be read: {e.strerror}"
    except Exception as e:
        return f"its record is damaged: {e}"
    found = 0
    pending = [f"{path}/rootfs"]
    try:
        while pending:
            with os.scandir(pending.pop()) as listed:
                for below in listed:
                    found += 1
                    if below.is_dir(follow_symlinks=False):
                        pending.append(below.path)
    except OSError as e:
        return f"it cannot be read: {e.strerror}"
    return "" if found == entries else f"it has {found} entries, {entries} were made"
