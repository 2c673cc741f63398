"""The rules by which the official server tools judge a repository, applied to what the publisher writes."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from cvmfs_client.publish import Options, RepositoryKeys, publish
from tests.cvmfs import plainreader
from tests.cvmfs.test_publish import FQRN, age, make_tree

_COLUMNS = (
    "md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, mtime, mtimens, flags, name, "
    "symlink, uid, gid, xattr"
)
Row = tuple[Any, ...]


def key(path: bytes) -> tuple[int, int]:
    first, second = struct.unpack("<qq", hashlib.md5(path).digest())
    return first, second


class Checked:
    """One catalog and all below, checked; ``total`` are the counters of self and subtree."""

    def __init__(self, repository: Path, name: str, path: bytes, transition: Row | None) -> None:
        self.path = path
        self.database = plainreader.database(zlib.decompress(plainreader.stored(repository, name, "C")))
        properties = dict(self.database.execute("SELECT key, value FROM properties"))
        assert properties[b"schema"] == b"2.5" and properties[b"schema_revision"] == b"7"
        assert properties.get(b"root_prefix", b"") == path
        assert (b"TTL" in properties) == (path == b"")
        assert int(properties[b"revision"]) >= 1 and len(properties[b"previous_revision"]) >= 40
        rows = self.database.execute(f"SELECT {_COLUMNS} FROM catalog").fetchall()
        self.by_key = {row[:2]: row for row in rows}
        self.by_parent: dict[tuple[int, int], list[Row]] = collections.defaultdict(list)
        for row in rows:
            self.by_parent[row[2:4]].append(row)
        self.nested = {
            p: (h.decode(), s)
            for p, h, s in self.database.execute("SELECT path, sha1, size FROM nested_catalogs")
        }
        self._check_root(transition)
        self.counters: collections.Counter[str] = collections.Counter()
        self.total: collections.Counter[str] = collections.Counter()
        self.mountpoints: dict[bytes, Row] = {}
        visited = 1
        waiting = [path]
        self._count(self.by_key[key(path)])
        while waiting:
            directory = waiting.pop()
            entries = [r for r in self.by_parent[key(directory)] if r[:2] != key(path)]
            visited += len(entries)
            waiting += self._check_directory(directory, entries)
        assert visited == len(rows), "dangling entries"
        assert set(self.mountpoints) == set(self.nested)
        self._check_statistics(repository)

    def _check_root(self, transition: Row | None) -> None:
        root = self.by_key[key(self.path)]
        assert bool(root[10] & 32) == (self.path != b"") and root[10] & 1
        if transition is not None:
            # apart from what tells the two sides of the seam apart, they are the same
            assert transition[2:10] == root[2:10] and transition[11:] == root[11:]
            assert transition[10] & ~2 == root[10] & ~32

    def _check_directory(self, directory: bytes, entries: list[Row]) -> list[bytes]:
        below: list[bytes] = []
        links: dict[int, list[Row]] = collections.defaultdict(list)
        names = [r[11] for r in entries]
        assert len(set(names)) == len(names) and b"" not in names
        marked = b".cvmfscatalog" in names
        assert marked if directory == self.path != b"" else not marked or directory == b""
        subdirectories = 0
        for row in entries:
            path = directory + b"/" + row[11]
            assert row[:2] == key(path) and row[2:4] == key(directory)
            self._count(row)
            flags, mode, count, group = row[10], row[7], row[4] & 0xFFFFFFFF, row[4] >> 32
            assert count > 0
            if flags & 1:
                assert stat.S_ISDIR(mode) and group == 0
                subdirectories += 1
                if flags & 2:
                    self.mountpoints[path] = row
                    assert not self.by_parent[row[:2]], "a mountpoint with entries"
                else:
                    below.append(path)
                continue
            if count > 1:
                assert group
                links[group].append(row)
            self._check_file(path, row)
        assert self.by_key[key(directory)][4] == subdirectories + 2
        for members in links.values():
            assert {m[4] & 0xFFFFFFFF for m in members} == {len(members)}
            assert len({(m[5], *m[6:11], *m[12:]) for m in members}) == 1
        return below

    def _check_file(self, path: bytes, row: Row) -> None:
        flags, mode = row[10], row[7]
        chunks = self.database.execute(
            "SELECT offset, size, hash FROM chunks WHERE md5path_1=? AND md5path_2=? ORDER BY offset", row[:2]
        ).fetchall()
        if flags & 8:
            assert stat.S_ISLNK(mode) and row[5] is None and row[6] == len(row[12]) and not chunks
        elif flags & 16:
            assert not stat.S_ISREG(mode) and row[5] is None and row[12] == b"" and not chunks
            assert row[6] == 0 or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        else:
            assert flags & 4 and stat.S_ISREG(mode) and row[12] == b""
            assert bool(chunks) == bool(flags & 64)
            assert flags & 64 or len(row[5]) == 20, path
            at = 0
            for offset, size, digest in chunks:
                assert offset == at and size > 0 and len(digest) == 20
                at += size
            assert not chunks or at == row[6]
            self.counters["chunks"] += len(chunks)

    def _count(self, row: Row) -> None:
        flags = row[10]
        kind = "dir" if flags & 1 else "symlink" if flags & 8 else "special" if flags & 16 else "regular"
        self.counters[kind] += 1
        self.counters["xattr"] += bool(row[15])
        self.counters["nested"] += bool(flags & 2)
        if kind == "regular":
            self.counters["file_size"] += row[6]
            self.counters["chunked"] += bool(flags & 64)
            self.counters["chunked_size"] += row[6] if flags & 64 else 0

    def _check_statistics(self, repository: Path) -> None:
        told = {k.decode(): v for k, v in self.database.execute("SELECT counter, value FROM statistics")}
        kinds = {k.split("_", 1)[1] for k in told}
        assert len(told) == 2 * len(kinds) == 24
        assert {k: told[f"self_{k}"] for k in kinds} == {k: self.counters[k] for k in kinds}
        below: collections.Counter[str] = collections.Counter()
        for path, (name, size) in self.nested.items():
            assert len(zlib.decompress(plainreader.stored(repository, name, "C"))) == size
            below += Checked(repository, name, path, self.mountpoints[path]).total
        assert {k: told[f"subtree_{k}"] for k in kinds} == {k: below[k] for k in kinds}
        self.total = self.counters + below


def check(repository: Path) -> collections.Counter[str]:
    fields = plainreader.manifest_fields(repository)
    assert fields["R"] == hashlib.md5(b"").hexdigest()
    root = plainreader.stored(repository, fields["C"], "C")
    assert int(fields["B"]) == len(zlib.decompress(root))
    json.loads(zlib.decompress(plainreader.stored(repository, fields["M"], "M")))
    history = plainreader.database(zlib.decompress(plainreader.stored(repository, fields["H"], "H")))
    branches = dict(history.execute("SELECT branch, initial_revision FROM branches"))
    for branch, revision in history.execute("SELECT branch, revision FROM tags"):
        assert revision >= branches[branch]
    assert {b for (b,) in history.execute("SELECT branch FROM tags")} == set(branches)
    assert dict(history.execute("SELECT key, value FROM properties"))[b"fqrn"] == FQRN.encode()
    return Checked(repository, fields["C"], b"", None).total


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(catalog_entries=20, catalog_least=5, chunk_size=4096),
        Options(algorithm="rmd160", compress=False, catalog_entries=30, catalog_least=8),
        Options(algorithm="shake128", volatile=True, membership="scitokens%test"),
    ],
)
def test_rules_hold_through_a_life_of_changes(tmp_path: Path, options: Options) -> None:
    tree, repository, keys = tmp_path / "tree", tmp_path / "repo", str(tmp_path / "keys")
    make_tree(tree)
    (tree / ".cvmfscatalog").touch()
    RepositoryKeys.create(keys, FQRN)

    def revision() -> collections.Counter[str]:
        publish(str(tree), str(repository), fqrn=FQRN, keys=keys, options=options)
        return check(repository)

    counters = revision()
    assert counters["regular"] > 50 and counters["special"] == 1 and counters["symlink"] == 2
    (tree / "nested" / "more").mkdir()
    (tree / "nested" / "more" / ".cvmfscatalog").touch()
    (tree / "nested" / "more" / "x").write_bytes(b"x" * 10_000)
    assert revision()["nested"] == counters["nested"] + 1
    (tree / "nested" / ".cvmfscatalog").unlink()
    os.rename(tree / "dir5", tree / "nested" / "dir5")
    revision()
    for i in range(40):
        (tree / "dir1" / f"grown{i}").write_text(str(i))
        os.link(tree / "dir1" / f"grown{i}", tree / "dir1" / f"again{i}")
    age(tree, 1_650_000_000)
    revision()
    for path in sorted(tree.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert revision() == collections.Counter({"dir": 1})
