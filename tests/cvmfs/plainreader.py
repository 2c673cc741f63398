"""Reads a repository directory in the simplest way, independent of the client: what published trees are
compared with.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

_ALGORITHMS = (("sha1", ""), ("ripemd160", "-rmd160"), ("shake_128", "-shake128"))


def digest(data: bytes, index: int = 0) -> str:
    """Text form of the hash of stored bytes; ``index`` as in catalog flags."""
    name, ident = _ALGORITHMS[index]
    if name == "shake_128":
        return hashlib.shake_128(data).hexdigest(20) + ident
    if name == "ripemd160":
        from cvmfs_client.ripemd import Ripemd160

        hasher = Ripemd160()
        hasher.update(data)
        return hasher.digest().hex() + ident
    return hashlib.sha1(data).hexdigest() + ident


def manifest_fields(repository: Path) -> dict[str, str]:
    text = (repository / ".cvmfspublished").read_bytes().split(b"\n--\n")[0].decode()
    return {line[0]: line[1:] for line in text.split("\n")}


def stored(repository: Path, name: str, suffix: str) -> bytes:
    """Bytes of an object as they are served, hash checked."""
    body = (repository / "data" / name[:2] / (name[2:] + suffix)).read_bytes()
    index = {40: 0, 47: 1, 49: 2}[len(name)]
    assert digest(body, index) == name
    return body


def database(data: bytes) -> sqlite3.Connection:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        source = sqlite3.connect(file.name)
        copy = sqlite3.connect(":memory:")
        source.backup(copy)
        source.close()
    copy.text_factory = bytes
    return copy


def entries(repository: Path, root: str | None = None) -> dict[bytes, dict[str, Any]]:
    """path -> mode, mtime_ns, size, link, xattr, nlink, uid, gid, flags, content (bytes), of every catalog
    row.
    """
    found: dict[bytes, dict[str, Any]] = {}
    waiting = [(b"", root or manifest_fields(repository)["C"])]
    while waiting:
        mountpoint, name = waiting.pop()
        catalog = database(zlib.decompress(stored(repository, name, "C")))
        assert catalog.execute("PRAGMA integrity_check").fetchone()[0] == b"ok"
        rows = catalog.execute(
            "SELECT md5path_1, md5path_2, parent_1, parent_2, name, hash, size, mode, mtime, mtimens, "
            "flags, symlink, uid, gid, xattr, hardlinks FROM catalog c"
        ).fetchall()
        by_parent: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
        for row in rows:
            by_parent.setdefault((row[2], row[3]), []).append(row)
        todo = [mountpoint]
        seen = 0
        while todo:
            directory = todo.pop()
            key = struct.unpack("<qq", hashlib.md5(directory).digest())
            for row in by_parent.get(key, []):
                path = directory + b"/" + row[4]
                if path == mountpoint:
                    continue
                assert struct.unpack("<qq", hashlib.md5(path).digest()) == row[:2]
                seen += 1
                found[path] = _entry(repository, catalog, row)
                if row[10] & 3 == 1:
                    todo.append(path)
        assert seen + 1 == len(rows), "entries that no directory leads to"
        if mountpoint == b"":
            found[b""] = _entry(repository, catalog, next(r for r in rows if r[4] == b""))
        for path, below, size in catalog.execute("SELECT path, sha1, size FROM nested_catalogs"):
            assert found[path]["flags"] & 2
            assert len(zlib.decompress(stored(repository, below.decode(), "C"))) == size
            waiting.append((path, below.decode()))
    return found


def _entry(repository: Path, catalog: sqlite3.Connection, row: tuple[Any, ...]) -> dict[str, Any]:
    flags, content = row[10], None
    if flags & 0x1D == 4:
        ident = _ALGORITHMS[flags >> 8 & 7][1]
        plain = flags >> 11 & 7
        chunks = catalog.execute(
            "SELECT offset, size, hash FROM chunks WHERE md5path_1=? AND md5path_2=? ORDER BY offset", row[:2]
        ).fetchall()
        pieces = []
        if flags & 64:
            offset = 0
            for start, size, value in chunks:
                body = stored(repository, value.hex() + ident, "P")
                body = body if plain else zlib.decompress(body)
                assert (start, size) == (offset, len(body))
                offset += size
                pieces.append(body)
        else:
            assert not chunks
            body = stored(repository, row[5].hex() + ident, "")
            pieces.append(body if plain else zlib.decompress(body))
        content = b"".join(pieces)
        assert len(content) == row[6]
    return {
        "mode": row[7], "mtime_ns": row[8] * 10**9 + (row[9] or 0), "size": row[6], "link": row[11],
        "xattr": row[14], "uid": row[12], "gid": row[13], "nlink": row[15] & 0xFFFFFFFF,
        "group": row[15] >> 32, "flags": flags,
        "content": content,
    }  # fmt: skip


def totals(repository: Path) -> tuple[dict[str, int], int]:
    """The counters of the root catalog (self and subtree added) and its revision."""
    fields = manifest_fields(repository)
    catalog = database(zlib.decompress(stored(repository, fields["C"], "C")))
    counters: dict[str, int] = {}
    for name, value in catalog.execute("SELECT counter, value FROM statistics"):
        kind = name.decode().split("_", 1)[1]
        counters[kind] = counters.get(kind, 0) + value
    return counters, int(fields["S"])


def tags(repository: Path) -> dict[str, tuple[str, int]]:
    """name -> (root hash, revision)."""
    history = database(zlib.decompress(stored(repository, manifest_fields(repository)["H"], "H")))
    return {
        n.decode(): (h.decode(), r) for n, h, r in history.execute("SELECT name, hash, revision FROM tags")
    }
