"""Bounds on what an image may ask for while it is unpacked, and the wording of refusals."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from udk.errors import DiskFullError, LayerError, StoreError

if TYPE_CHECKING:
    from udk.config import Config

MIB = 1 << 20
GIB = 1 << 30

PATH_MAX = 4095  # bytes of a path, without the NUL
NAME_MAX = 255
U32_MAX = 0xFFFFFFFF


class Caps:
    """Limits against bombs; every one can be raised by the caller.

    ``entries``: entries of all layers of a tree. ``bytes``: bytes of all layers of a tree, uncompressed,
    and apparent bytes of its files. ``ratio``: uncompressed to compressed, enforced per layer beyond
    ``ratio_floor`` uncompressed bytes. ``header_bytes``: extended headers (PAX, GNU long names, sparse
    maps) of one entry. ``xattr_bytes``: names and values of one entry's extended attributes.
    ``window_bytes``: memory that a decompressor may take for its window.
    """

    __slots__ = ("bytes", "entries", "header_bytes", "ratio", "ratio_floor", "window_bytes", "xattr_bytes")

    def __init__(
        self,
        *,
        entries: int = 1_900_000,
        bytes: int = 256 * GIB,
        ratio: int = 200,
        ratio_floor: int = GIB,
        header_bytes: int = MIB,
        xattr_bytes: int = 256 * 1024,
        window_bytes: int = 128 * MIB,
    ) -> None:
        self.entries = entries
        self.bytes = bytes
        self.ratio = ratio
        self.ratio_floor = ratio_floor
        self.header_bytes = header_bytes
        self.xattr_bytes = xattr_bytes
        self.window_bytes = window_bytes

    @classmethod
    def from_config(cls, config: Config | None) -> Caps:
        """The caps that the ``unpack`` section of the configuration sets."""
        if config is None:
            return cls()
        return cls(
            entries=config.unpack_entries,
            bytes=config.unpack_bytes,
            ratio=config.unpack_ratio,
            window_bytes=config.unpack_window,
        )


def show(name: bytes) -> str:
    """A name from a layer, safe to print on a terminal in one line: escaped, and of a long one both
    ends."""
    if len(name) > 120:
        return show(name[:70]) + "..." + show(name[-40:])
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def refusal(what: str) -> LayerError:
    return LayerError(
        what, "the layer is damaged or hostile: rebuild the image or pull it from a trusted source"
    )


class CapError(LayerError):
    """A layer asks for more than a cap allows; whether it is intact was not looked at."""


def over_cap(what: str, cap: str) -> CapError:
    """``cap``: the setting's name below ``unpack.`` or ``""`` for a cap that no honest image comes near."""
    if not cap:
        return CapError(what, "the layer is damaged or hostile: pull it from a trusted source")
    return CapError(what, f"if you trust this image, raise unpack.{cap} (UDK_UNPACK_{cap.upper()})")


def disk_error(e: OSError, what: str) -> StoreError | LayerError:
    """What an OSError met while writing a tree means for the user."""
    if e.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(f"no space left while writing {what}", "free some space or use another UDK_HOME")
    if e.errno == errno.EFBIG:
        return StoreError(
            f"{what} is larger than this file system or `ulimit -f` allows", "use another UDK_HOME"
        )
    if e.errno == errno.EMFILE:
        return StoreError("too many open files", "raise `ulimit -n`")
    if e.errno == errno.ENAMETOOLONG:
        return refusal(f"the name {what} is too long for this file system")
    return StoreError(f"cannot write {what}: {e.strerror}", "check the file system that holds the store")
