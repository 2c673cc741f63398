"""Where umoci and buildah accept an image, the trees agree; every difference there is is named here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.layers import torture
from tests.layers.support import Bytes, describe
from tests.support.images import Layout
from tests.support.needs import needs
from udk.layers.tree import TreeBuilder

if TYPE_CHECKING:
    from pathlib import Path

# Lists a tree as whoever owns it sees it; run inside the peer's user namespace where it has one.
LISTING = """
import json, os, stat, sys
root = os.fsencode(sys.argv[1])
out, todo = {}, [b""]
while todo:
    path = todo.pop()
    full = os.path.join(root, path) if path else root
    st = os.lstat(full)
    if stat.S_ISDIR(st.st_mode):
        os.chmod(full, 0o700)
        todo += [os.path.join(path, n) for n in os.listdir(full)]
        held = ""
    elif stat.S_ISLNK(st.st_mode):
        held = os.readlink(full).decode("latin-1")
    elif stat.S_ISREG(st.st_mode):
        os.chmod(full, 0o600)
        held = open(full, "rb").read().decode("latin-1")
        os.chmod(full, stat.S_IMODE(st.st_mode))
    else:
        held = ""
    out[path.decode("latin-1")] = [st.st_mode, st.st_uid, st.st_gid, held, st.st_mtime_ns, st.st_ino]
json.dump(out, sys.stdout)
"""
KINDS = {"file": 0o100000, "dir": 0o040000, "link": 0o120000, "fifo": 0o010000}


def ours(where: Path, layers: tuple[bytes, ...]) -> tuple[dict[str, Any], dict[str, int]]:
    where.mkdir()
    with TreeBuilder(str(where)) as builder:
        for layer in layers:
            builder.apply(Bytes(layer), "", None)
        builder.finish()
    tree = {}
    for path, (kind, mode, uid, gid, held) in describe(where).items():
        assert isinstance(mode, int)
        text = held.decode("latin-1") if isinstance(held, bytes) else ""
        tree[path] = (KINDS.get(str(kind), 0o100000) | mode, uid, gid, text)
    root = os.fsencode(where / "rootfs")
    times = {p: os.lstat(os.path.join(root, p.encode("latin-1"))).st_mtime_ns for p in tree}
    return tree, times


def groups(listing: dict[str, Any]) -> set[frozenset[str]]:
    by_inode: dict[int, set[str]] = {}
    for path, row in listing.items():
        by_inode.setdefault(row[5], set()).add(path)
    return {frozenset(g) for g in by_inode.values() if len(g) > 1}


def layout(where: Path, layers: tuple[bytes, ...]) -> str:
    Layout(where).add_image(list(layers), tag="torture")
    return f"{where}:torture"


@needs("umoci")
def test_umoci_makes_the_same_tree(tmp_path: Path) -> None:
    layers = (*torture.LAYERS, torture.DUPLICATES, torture.ODD_LAYER)
    image = layout(tmp_path / "layout", layers)
    bundle = tmp_path / "bundle"
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", image, str(bundle)], check=True, capture_output=True
    )
    out = subprocess.run(
        [sys.executable, "-c", LISTING, str(bundle / "rootfs")], check=True, capture_output=True
    )
    theirs = json.loads(out.stdout)
    tree, times = ours(tmp_path / "ours", layers)

    # umoci has no owners here (it writes them to extended attributes), the rest is the same
    assert {p: (row[0], row[3]) for p, row in theirs.items()} == {p: (v[0], v[3]) for p, v in tree.items()}
    assert groups(theirs) == {frozenset(g) for g in torture.LINKS} | {
        frozenset({"attributes", "attributes.link"})
    }
    # directories that no layer names get the time of the unpacking from umoci, and the epoch from us;
    # so do, with umoci, some that a later layer changes something in without naming them
    differ = {p for p, row in theirs.items() if row[4] != times[p]}
    unnamed = {p for p, ns in times.items() if ns == 0}
    assert differ - unnamed <= {"", "names"}
    assert {"home", "usr", "unlisted", "unlisted/parents"} <= unnamed


@needs("buildah", "newuidmap")
def test_buildah_makes_the_same_tree(tmp_path: Path) -> None:
    """With real owners: its layers are applied in a user namespace with subordinate ids."""
    image = layout(tmp_path / "layout", torture.LAYERS)
    storage = [
        "--storage-driver",
        "vfs",
        "--root",
        str(tmp_path / "root"),
        "--runroot",
        str(tmp_path / "run"),
    ]

    def buildah(*args: str) -> str:
        out = subprocess.run(["buildah", *storage, *args], check=True, stdout=subprocess.PIPE, text=True)
        return out.stdout.strip()

    try:
        image_id = buildah("pull", "--quiet", f"oci:{image}")
        container = buildah("from", "--pull=never", image_id)
        script = 'py=$1 list=$2 name=$3; shift 3; exec "$py" -c "$list" "$(buildah "$@" mount "$name")"'
        listed = buildah("unshare", "sh", "-ec", script, "sh", sys.executable, LISTING, container, *storage)
        theirs = json.loads(listed)
    finally:
        # its files belong to subordinate ids: only its namespace can remove them
        subprocess.run(["buildah", *storage, "unshare", "rm", "-rf", str(tmp_path / "root")], check=False)

    tree, times = ours(tmp_path / "ours", torture.LAYERS)
    assert {p: tuple(row[:4]) for p, row in theirs.items()} == tree
    # the vfs driver copies each layer: a hard link to a symbolic link does not survive that
    assert groups(theirs) == {frozenset(g) for g in torture.LINKS if "etc/mtab" not in g}
    # directories that a later layer changes without naming them have the time of the unpacking there
    unnamed = {p for p, ns in times.items() if ns == 0}
    changed = {"", "bin", "file-to-dir", "home/other", "names", "opaque-after", "opaque-before", "usr/lib"}
    assert {p for p, row in theirs.items() if row[4] != times[p]} <= unnamed | changed
