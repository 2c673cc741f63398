"""References on disk: one small JSON file per (reference, platform), which is the truth about names.

::

    refs/docker.io/library/debian/:12/linux-amd64.json
    refs/localhost:5000/a/b/@sha256:<hex>/linux-arm64.json
    refs/_local/<the reference, percent-escaped, 200 bytes a level>/linux-amd64.json

Neither ``:`` nor ``@`` nor ``_`` can begin a repository component or a host, so no two references collide.
A name with both tag and digest is filed under its digest, which is what decides. On the run path."""

from __future__ import annotations

import os

from udk.base import jsonlite
from udk.base.files import atomic_write, read_file
from udk.errors import CorruptStoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from udk.oci.reference import Reference

VERSION = 1
_LEVEL = 200
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:")
# What `uname -m` says -> the architecture in the image model (Go's names).
_MACHINES = {
    "x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "armv7l": "arm",
    "armv6l": "arm", "armv8l": "arm", "i386": "386", "i486": "386", "i586": "386", "i686": "386",
    "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64", "loongarch64": "loong64",
}  # fmt: skip


class StoredImage:
    """One image in a store.

    ``root`` is the store's directory, ``reference`` the canonical reference it was stored under,
    ``platform`` what was asked for (``linux/amd64``), ``digest`` that of the image manifest, ``top_digest``
    that of what the registry had under the name (an index, or the manifest itself), ``config_digest`` the
    image ID, ``tree`` the key of its tree, ``size`` the bytes of config and layers as stored, ``pulled`` a
    Unix time. ``variant`` is the platform variant that the image was built for, where its index told one.
    """

    __slots__ = (
        "config_digest", "digest", "familiar", "media_type", "path", "platform", "pulled", "reference",
        "root", "size", "top_digest", "top_media_type", "tree", "variant",
    )  # fmt: skip
    config_digest: str
    digest: str
    familiar: str
    media_type: str
    path: str  # of the reference file
    platform: str
    pulled: float
    reference: str
    root: str
    size: int
    top_digest: str
    top_media_type: str
    tree: str
    variant: str

    def __init__(self, **given: Any) -> None:
        for name in self.__slots__:
            setattr(self, name, given[name])

    def __repr__(self) -> str:
        return f"<StoredImage {self.reference} {self.platform} {self.digest}>"

    @property
    def image_id(self) -> str:
        """The image ID: the digest of the config, as Docker has it."""
        return self.config_digest


def host_platform() -> str:
    """``os/architecture`` of this machine."""
    machine = os.uname().machine
    return f"linux/{_MACHINES.get(machine, machine)}"


def platform_file(platform: object | None) -> str:
    """The name of the file for a platform (None: this machine's)."""
    text = host_platform() if platform is None else str(platform)
    if text == "linux/arm64/v8":  # one and the same by definition
        text = "linux/arm64"
    return _escape(text.replace("/", "-")) + ".json"


def _escape(text: str) -> str:
    if _PLAIN.issuperset(text):
        return text
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(chr(b) if chr(b) in _PLAIN else f"%{b:02x}" for b in raw)


def ref_dir(reference: Reference) -> str:
    """The directory of a reference, relative to ``refs/``."""
    if reference.transport == "docker":
        tail = f"@{reference.digest}" if reference.digest else f":{reference.tag}"
        return f"{reference.host}/{reference.repository}/{tail}"
    text = _escape(str(reference))
    return "/".join(["_local", *("+" + text[i : i + _LEVEL] for i in range(0, len(text), _LEVEL))])


def read_ref(root: str, path: str) -> StoredImage | None:
    """The image that the reference file ``path`` of the store ``root`` names; None without such a file.

    Raises CorruptStoreError, OSError."""
    try:
        raw = read_file(path, 1 << 20)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        data = jsonlite.loads(raw)
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']}")
        return StoredImage(root=root, path=path, **{k: v for k, v in data.items() if k != "version"})
    except (ValueError, KeyError, TypeError) as e:
        raise CorruptStoreError(
            f"{path} is not a reference that this udk can read ({type(e).__name__}: {e})",
            "run `udk store fsck --repair`, then pull the image again",
        ) from None


def write_ref(image: StoredImage) -> None:
    """Files ``image`` under its ``path``, durably. Raises OSError."""
    data = {name: getattr(image, name) for name in StoredImage.__slots__ if name not in ("path", "root")}
    raw = jsonlite.dumps({"version": VERSION, **data}) + "\n"
    for _ in range(10):
        try:
            os.makedirs(os.path.dirname(image.path), exist_ok=True)
            atomic_write(image.path, raw.encode(), part_dir=f"{image.root}/staging")
            return
        except FileNotFoundError:
            continue  # a removal took the empty directory away in between
    atomic_write(image.path, raw.encode(), part_dir=f"{image.root}/staging")


def remove_ref(root: str, path: str) -> bool:
    """Removes a reference file and the directories that are empty without it; False when it was not there."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    stop = f"{root}/refs"
    parent = os.path.dirname(path)
    while parent.startswith(stop + "/"):
        try:
            os.rmdir(parent)
        except OSError:
            break
        parent = os.path.dirname(parent)
    return True


def all_ref_files(root: str) -> Iterator[str]:
    """The paths of all reference files of a store, sorted."""
    pending = [f"{root}/refs"]
    found: list[str] = []
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for e in entries:
                    if e.is_dir(follow_symlinks=False):
                        pending.append(e.path)
                    elif e.name.endswith(".json") and e.name[0] != ".":
                        found.append(e.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return iter(sorted(found))
