"""Applies one layer's members to a tree: entries, whiteouts and attributes (image-spec, layer.md).

What the disk cannot or must not show (owners, devices, set-id bits, modes that would lock us out, extended
attributes) goes to the tree's log. Layers are applied base first, each on what the ones before left.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from udk.layers import log as treelog
from udk.layers.caps import NAME_MAX, PATH_MAX, U32_MAX, Caps, over_cap, refusal, show
from udk.layers.paths import PathSet
from udk.layers.root import Root, clear, join
from udk.layers.tar import BLK, CHAR, DIR, FIFO, LINK, REG, SYMLINK, Member, TarReader

if TYPE_CHECKING:
    from collections.abc import Callable

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

WHITEOUT = b".wh."
META = b".wh..wh."
OPAQUE = b".wh..wh..opq"

_NS = 1_000_000_000
_EARLIEST = -(1 << 31) * _NS
_LATEST = ((1 << 63) - 1) // _NS * _NS  # the year 2262: nanoseconds in 64 bits

# Attributes that mean something to this host's kernel or to overlayfs only, never to the payload.
_DROPPED = (
    b"security.selinux", b"security.ima", b"security.evm", b"security.apparmor", b"security.SMACK64",
    b"trusted.", b"user.overlay.", b"user.fuseoverlayfs.", b"system.nfs4_", b"system.cifs_",
    b"system.richacl",
)  # fmt: skip

_TYPES = {REG: stat.S_IFREG, DIR: stat.S_IFDIR, SYMLINK: stat.S_IFLNK, CHAR: stat.S_IFCHR, BLK: stat.S_IFBLK,
          FIFO: stat.S_IFIFO}  # fmt: skip

_IMPLICIT_DIR = treelog.pack(treelog.TIMED, stat.S_IFDIR | 0o755, 0, 0, 0, 0, 0, b"")


def clean(name: bytes) -> bytes:
    """A member's name relative to the root, ``b""`` for the root itself. Raises LayerError when it climbs
    out."""
    path = name[2:] if name[:2] == b"./" else name
    parts = path.split(b"/")
    if b"" in parts or b"." in parts or b".." in parts:
        kept: list[bytes] = []
        for part in parts:
            if part == b"..":
                if not kept:
                    raise refusal(f"{show(name)}: the name of an entry leads out of the image")
                kept.pop()
            elif part not in {b"", b"."}:
                kept.append(part)
        path = b"/".join(kept)
    if len(path) > PATH_MAX:
        raise refusal(f"{show(path)}: path of {len(path)} bytes is too long")
    return path


class Counts:
    """What a tree has taken so far: entries applied (for the cap), paths that exist, bytes of file data."""

    __slots__ = ("applied", "data", "existing")

    def __init__(self) -> None:
        self.applied = 0
        self.existing = 0
        self.data = 0


class Extractor:
    """Writes members below ``root_fd``. One instance serves all layers of a tree; it is not thread-safe."""

    def __init__(self, root_fd: int, log: treelog.TreeLog, caps: Caps, masked: int) -> None:
        """``masked``: mode bits that the kernel may take away from a new file (the umask), to be put back."""
        self._fd = root_fd
        self._log = log
        self._caps = caps
        self._masked = masked
        self.counts = Counts()
        self._root = Root(root_fd, self._make_missing, self._replace_file)
        self._written: PathSet | None = None  # what this layer brings; None in the first, which hides nothing
        self._first = True
        self._hidden = PathSet()  # whiteouts done: a second one finds nothing, but would look again
        self._links: dict[bytes, bytes | None] = {}
        self._current = b""

    def close(self) -> None:
        self._root.close()

    def apply(self, tar: TarReader) -> None:
        """Applies one layer. Raises LayerError, or OSError with :attr:`current` naming the path."""
        self._written = None if self._first else PathSet()
        self._first = False
        self._hidden = PathSet()
        self._links = {}
        make: dict[bytes, Callable[[TarReader, Member, int, bytes, bytes], None]] = {
            REG: self._file, DIR: self._directory, SYMLINK: self._symlink, LINK: self._hardlink,
            CHAR: self._device, BLK: self._device, FIFO: self._fifo,
        }  # fmt: skip
        counts = self.counts
        written = None if self._written is None else self._written.add
        cap = self._caps.entries
        for member in tar:
            counts.applied += 1
            if counts.applied > cap:
                raise over_cap(f"the image has more than {cap} entries", "entries")
            self._current = member.name
            path = clean(member.name)
            if WHITEOUT in path and self._special(path):
                continue
            if not path:
                self._root_entry(member)
                continue
            cut = path.rfind(b"/")
            name = path[cut + 1 :]
            found = self._root.directory(path[:cut] if cut > 0 else b"", True)
            assert found is not None
            parent, above = found
            path = join(above, name)
            if len(path) > PATH_MAX or len(name) > NAME_MAX:
                raise refusal(f"{show(path)}: name too long")
            make[member.kind](tar, member, parent, name, path)
            if written is not None:
                written(path)

    @property
    def current(self) -> bytes:
        """The entry being applied, for messages."""
        return self._current

    # Whiteouts

    def _special(self, path: bytes) -> bool:
        """Handles whiteouts and aufs's own files; False for an ordinary entry. Raises LayerError for bad
        ones."""
        *above, name = path.split(b"/")
        if any(part.startswith(META) for part in above):
            return True  # inside .wh..wh.plnk and its like
        if any(part.startswith(WHITEOUT) for part in above):
            raise refusal(f"{show(path)}: an entry below a whiteout")
        if not name.startswith(WHITEOUT):
            return False
        if name.startswith(META) and name != OPAQUE:
            return True
        target = name[len(WHITEOUT) :]
        if target in {b"", b".", b".."}:
            raise refusal(f"{show(path)}: a whiteout of nothing")
        if self._written is None:
            return True  # there is no lower layer
        found = self._root.directory(b"/".join(above), False)
        if found is None:
            return True  # nothing there to hide
        fd, canonical = found
        done = join(canonical, name)
        if done in self._hidden:
            return True
        self._hidden.add(done)
        if name == OPAQUE:
            clear(fd, canonical, self._written, self._gone, self._hollow)
            self._root.forget()
        else:
            self._whiteout(fd, join(canonical, target), target, self._written)
        return True

    def _whiteout(self, parent: int, path: bytes, name: bytes, written: PathSet) -> None:
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except OSError as e:
            if e.errno in {errno.ENOENT, errno.ENAMETOOLONG}:
                return
            raise
        kept = path in written
        if not stat.S_ISDIR(mode):
            if not kept:
                os.unlink(name, dir_fd=parent)
                self._gone(path)
                if stat.S_ISLNK(mode):
                    self._root.forget()
            return
        self._root.forget()
        if self._clear(parent, name, path, written):
            if not kept:
                self._hollow(path, parent, name)
        elif not kept:
            os.rmdir(name, dir_fd=parent)
            self._gone(path)

    def _clear(self, parent: int, name: bytes, path: bytes, keep: PathSet | None) -> bool:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            return clear(fd, path, keep, self._gone, self._hollow)
        finally:
            os.close(fd)

    def _gone(self, path: bytes) -> None:
        self.counts.existing -= 1
        self._log.discard(path)

    def _hollow(self, path: bytes, parent: int, name: bytes) -> None:
        """The lower directory is hidden, yet this layer has something in it: as if its parent had been
        missing."""
        os.chmod(name, 0o755, dir_fd=parent)
        self._strip(parent, name)
        self._log.put(path, _IMPLICIT_DIR)

    # Making entries

    def _make_missing(self, path: bytes, parent: int, name: bytes) -> None:
        if len(path) > PATH_MAX:
            raise refusal(f"{show(path)}: path too long")
        os.mkdir(name, 0o755, dir_fd=parent)
        if self._masked & 0o755:
            os.chmod(name, 0o755, dir_fd=parent)
        self.counts.existing += 1
        self._log.put(path, _IMPLICIT_DIR)

    def _replace_file(self, path: bytes, parent: int, name: bytes) -> None:
        """A layer that brings ``a/b`` without ``a`` hides a lower file ``a``, as overlay snapshots do."""
        if self._written is None or path in self._written:
            raise refusal(f"{show(self._current)}: {show(path)} is not a directory")
        os.unlink(name, dir_fd=parent)
        self._gone(path)
        self._make_missing(path, parent, name)

    def _displace(self, parent: int, name: bytes, path: bytes) -> None:
        """Removes what is in the way of an entry that is not a directory over a directory."""
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            self._clear(parent, name, path, None)
            os.rmdir(name, dir_fd=parent)
            self._root.forget()
        else:
            os.unlink(name, dir_fd=parent)
            if stat.S_ISLNK(mode):
                self._root.forget()
        self._gone(path)
        self._links.pop(path, None)

    def _remember(self, m: Member, path: bytes, true: int, disk: int) -> None:
        """Logs what the disk does not show about a path that is not a directory."""
        raw = encode(m)
        if m.uid or m.gid or true != disk or raw:
            check_owner(m)
            self._log.put(path, treelog.pack(treelog.RECORDED, true, m.uid, m.gid, m.major, m.minor, 0, raw))

    def _file(self, tar: TarReader, m: Member, parent: int, name: bytes, path: bytes) -> None:
        counts = self.counts
        counts.data += m.real_size
        if counts.data > self._caps.bytes:
            raise over_cap(
                f"{show(path)}: the image's files are larger than {self._caps.bytes} bytes", "bytes"
            )
        perms = (m.mode & 0o777) | 0o400
        try:
            fd = os.open(name, _CREATE, perms, dir_fd=parent)
        except FileExistsError:
            self._displace(parent, name, path)
            fd = os.open(name, _CREATE, perms, dir_fd=parent)
        try:
            if perms & self._masked:
                os.fchmod(fd, perms)
            if m.sparse is not None:
                _write_sparse(fd, tar, m)
            elif m.size:
                for piece in tar.data():
                    n = os.write(fd, piece)
                    while n < len(piece):  # a signal, or a disk about to be full
                        n += os.write(fd, piece[n:])
            if m.xattrs:
                _set_user_xattrs(fd, m)
            mtime = m.mtime if _EARLIEST <= m.mtime <= _LATEST else clamp(m.mtime)
            os.utime(fd, ns=(mtime, mtime))
        finally:
            os.close(fd)
        counts.existing += 1
        if m.uid or m.gid or m.mode != perms or m.xattrs:
            self._remember(m, path, stat.S_IFREG | m.mode, stat.S_IFREG | perms)

    def _directory(self, tar: TarReader, m: Member, parent: int, name: bytes, path: bytes) -> None:
        perms = (m.mode & 0o1777) | 0o700
        try:
            os.mkdir(name, perms, dir_fd=parent)
            if perms & self._masked:
                os.chmod(name, perms, dir_fd=parent)
            self.counts.existing += 1
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.chmod(name, perms, dir_fd=parent)
                self._strip(parent, name)
            else:
                self._displace(parent, name, path)
                self._make_missing(path, parent, name)
                os.chmod(name, perms, dir_fd=parent)
        self._dir_attributes(m, parent, name, path, perms)

    def _dir_attributes(self, m: Member, parent: int, name: bytes, path: bytes, perms: int) -> None:
        raw = encode(m)
        if raw:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                _set_user_xattrs(fd, m)
            finally:
                os.close(fd)
        check_owner(m)
        flags = treelog.TIMED
        if m.uid or m.gid or m.mode != perms or raw:
            flags |= treelog.RECORDED
        self._log.put(
            path, treelog.pack(flags, stat.S_IFDIR | m.mode, m.uid, m.gid, 0, 0, clamp(m.mtime), raw)
        )

    def _root_entry(self, m: Member) -> None:
        if m.kind != DIR:
            raise refusal(f"{show(m.name)}: the root of the image is not a directory")
        perms = (m.mode & 0o1777) | 0o700
        os.fchmod(self._fd, perms)
        self._strip(self._fd, b".")
        self._dir_attributes(m, self._fd, b".", b"", perms)

    def _symlink(self, tar: TarReader, m: Member, parent: int, name: bytes, path: bytes) -> None:
        if not m.linkname or len(m.linkname) > PATH_MAX:
            raise refusal(f"{show(path)}: a symbolic link with an empty or too long target")
        try:
            os.symlink(m.linkname, name, dir_fd=parent)
        except FileExistsError:
            self._displace(parent, name, path)
            os.symlink(m.linkname, name, dir_fd=parent)
        mtime = clamp(m.mtime)
        os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)
        self.counts.existing += 1
        self._remember(m, path, stat.S_IFLNK | 0o777, stat.S_IFLNK | 0o777)

    def _hardlink(self, tar: TarReader, m: Member, parent: int, name: bytes, path: bytes) -> None:
        target = clean(m.linkname)
        cut = target.rfind(b"/")
        last = target[cut + 1 :]
        # This is the call after the one that found `parent`: both descriptors are good.
        found = self._root.directory(target[:cut] if cut > 0 else b"", False)
        missing = refusal(f"{show(path)}: hard link to {show(m.linkname)}, which does not exist")
        if found is None or not last:
            raise missing
        source, above = found
        target = join(above, last)
        if target == path:
            raise refusal(f"{show(path)}: hard link to itself")
        try:
            mode = os.stat(last, dir_fd=source, follow_symlinks=False).st_mode
        except OSError as e:
            if e.errno in {errno.ENOENT, errno.ENAMETOOLONG}:
                raise missing from None
            raise
        if stat.S_ISDIR(mode):
            raise refusal(f"{show(path)}: hard link to the directory {show(m.linkname)}")
        try:
            self._link(last, source, name, parent, mode)
        except FileExistsError:
            self._displace(parent, name, path)
            try:
                self._link(last, source, name, parent, mode)
            except FileNotFoundError:
                raise missing from None
        self.counts.existing += 1
        # A hard link has no attributes of its own: it shows those of what it links to.
        if target in self._links:
            value = self._links[target]
        else:
            if len(self._links) > 4096:
                self._links.clear()
            value = self._links[target] = self._log.get(target)
        if value:
            self._log.put(path, value)

    def _link(self, last: bytes, source: int, name: bytes, parent: int, mode: int) -> None:
        try:
            os.link(last, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except OSError as e:
            # Too many links, or a file system without them: a copy is the best that can be had.
            if e.errno not in {errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV} or not stat.S_ISREG(
                mode
            ):
                raise
            _copy(last, source, name, parent)

    def _placeholder(self, m: Member, parent: int, name: bytes, path: bytes, perms: int) -> None:
        try:
            fd = os.open(name, _CREATE, perms, dir_fd=parent)
        except FileExistsError:
            self._displace(parent, name, path)
            fd = os.open(name, _CREATE, perms, dir_fd=parent)
        try:
            os.fchmod(fd, perms)
            mtime = clamp(m.mtime)
            os.utime(fd, ns=(mtime, mtime))
        finally:
            os.close(fd)

    def _device(self, tar: TarReader, m: Member, parent: int, name: bytes, path: bytes) -> None:
        if not (0 <= m.major <= U32_MAX and 0 <= m.minor <= U32_MAX):
            raise refusal(f"{show(path)}: impossible device number {m.major}:{m.minor}")
        perms = (m.mode & 0o777) | 0o400
        self._placeholder(m, parent, name, path, perms)
        self.counts.existing += 1
        self._remember(m, path, _TYPES[m.kind] | m.mode, stat.S_IFREG | perms)

    def _fifo(self, tar: TarReader, m: Member, parent: int, name: bytes, path: bytes) -> None:
        perms = (m.mode & 0o777) | 0o400
        disk = stat.S_IFIFO | perms
        for _ in range(2):
            try:
                os.mkfifo(name, perms, dir_fd=parent)
                os.chmod(name, perms, dir_fd=parent)
                mtime = clamp(m.mtime)
                os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)
                break
            except FileExistsError:
                self._displace(parent, name, path)
            except OSError as e:
                if e.errno not in {errno.EPERM, errno.EOPNOTSUPP}:
                    raise
                self._placeholder(m, parent, name, path, perms)
                disk = stat.S_IFREG | perms
                break
        self.counts.existing += 1
        self._remember(m, path, stat.S_IFIFO | m.mode, disk)

    def _strip(self, parent: int, name: bytes) -> None:
        """Takes the extended attributes of an earlier layer off a directory."""
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            for key in os.listxattr(fd):
                if key.startswith("user."):
                    os.removexattr(fd, key)
        except OSError as e:
            if e.errno != errno.EOPNOTSUPP:
                raise
        finally:
            os.close(fd)


def check_owner(m: Member) -> None:
    # 4294967295 is the kernel's "no change", not an id
    if not (0 <= m.uid < U32_MAX and 0 <= m.gid < U32_MAX):
        raise refusal(f"{show(m.name)}: impossible owner {m.uid}:{m.gid}")


def clamp(mtime: int) -> int:
    return min(max(mtime, _EARLIEST), _LATEST)


def encode(m: Member) -> bytes:
    """The extended attributes to record: all but those that only mean something to this host."""
    if not m.xattrs:
        return b""
    from udk.layers.record import encode_xattrs

    for key, value in m.xattrs.items():
        if not key or len(key) > 255 or b"\0" in key:
            raise refusal(f"{show(m.name)}: impossible name of an extended attribute: {show(key)}")
        if len(value) > 65536:
            raise refusal(f"{show(m.name)}: extended attribute {show(key)} of {len(value)} bytes is too long")
    return encode_xattrs({k: v for k, v in m.xattrs.items() if not k.startswith(_DROPPED)})


def _set_user_xattrs(fd: int, m: Member) -> None:
    for key, value in (m.xattrs or {}).items():
        if key.startswith(b"user.") and not key.startswith(_DROPPED):
            try:
                os.setxattr(fd, key, value)
            except (OSError, ValueError):
                return  # not every file system keeps them; the record does


def _write_sparse(fd: int, tar: TarReader, m: Member) -> None:
    os.ftruncate(fd, m.real_size)
    regions = iter(m.sparse or [])
    offset = left = 0
    for piece in tar.data():
        while piece:
            if not left:
                offset, left = next(regions)
            n = os.pwrite(fd, piece[:left], offset)
            piece = piece[n:]
            offset += n
            left -= n


def _copy(last: bytes, source: int, name: bytes, parent: int) -> None:
    fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        st = os.fstat(fd)
        out = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            while chunk := os.read(fd, 1 << 20):
                while chunk:
                    chunk = chunk[os.write(out, chunk) :]
            os.fchmod(out, stat.S_IMODE(st.st_mode))
            os.utime(out, ns=(st.st_mtime_ns, st.st_mtime_ns))
        finally:
            os.close(out)
    finally:
        os.close(fd)
