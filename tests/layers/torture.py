"""An image made to hurt, and what must come out of it, written down by hand.

Three layers: a base, one that changes types and hides things, one that links across layers and brings back
what was hidden. Peers read it too (see test_peers.py), so the layers hold nothing that only some of them
can represent; what peers handle otherwise is in :data:`ODD_LAYER`.
"""

from __future__ import annotations

from tests.support import tarmaker as t

OLD = 1_000_000_000
NEW = 1_500_000_000

BASE = t.tar(
    t.directory(b"./", 0o755, mtime=OLD),
    t.directory(b"./bin", 0o755, mtime=OLD),
    t.file(b"./bin/sh", b"#!shell", mode=0o755, mtime=OLD),
    t.file(b"./bin/su", b"#!su", mode=0o4755, mtime=OLD),
    t.file(b"./bin/wall", b"#!wall", mode=0o2755, gid=5, mtime=OLD),
    t.hardlink(b"./bin/ash", b"./bin/sh", mode=0o755, mtime=OLD),
    t.hardlink(b"./bin/doas", b"bin/su", mode=0o4755, mtime=OLD),
    t.directory(b"./etc", 0o755),
    t.file(b"./etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
    t.file(b"./etc/shadow", b"root:*:0::::::\n", mode=0, gid=42, mtime=OLD),
    t.file(b"./etc/replaced", b"first"),
    t.file(b"./etc/hidden", b"hidden"),
    t.symlink(b"./etc/mtab", b"/proc/self/mounts", mtime=OLD),
    t.symlink(b"./etc/dangling", b"nowhere/at/all"),
    t.symlink(b"./etc/up", b"../../../../etc/passwd"),
    t.directory(b"./usr/lib", 0o755),
    t.symlink(b"./lib", b"usr/lib"),
    t.file(b"./usr/lib/libc.so", b"libc"),
    t.directory(b"./var/empty", 0, mtime=OLD),
    t.directory(b"./var/spool", 0o2775, gid=12),
    t.directory(b"./tmp", 0o1777),
    t.directory(b"./home/user", 0o700, uid=1000, gid=1000, mtime=OLD),
    t.file(b"./home/user/.profile", b"umask 022\n", uid=1000, gid=1000),
    t.file(b"./home/user/private", b"", mode=0o200, uid=1000, gid=1000),
    t.symlink(b"./home/user/link", b".profile", uid=1000, gid=1000),
    t.directory(b"./home/other", 0o3771, uid=40_000, gid=40_001),
    t.directory(b"./opaque-before", 0o755),
    t.file(b"./opaque-before/old", b"old"),
    t.directory(b"./opaque-before/both", 0o755),
    t.file(b"./opaque-before/both/old", b"old"),
    t.directory(b"./opaque-after", 0o755),
    t.file(b"./opaque-after/old", b"old"),
    t.file(b"./opaque-after/same", b"old", uid=7),
    t.directory(b"./gone", 0o755),
    t.file(b"./gone/deep/er/file", b"x"),
    t.directory(b"./file-to-dir.d", 0o755),
    t.file(b"./file-to-dir", b"file"),
    t.directory(b"./dir-to-file", 0o755),
    t.file(b"./dir-to-file/inside", b"x"),
    t.directory(b"./dir-to-link", 0o755),
    t.file(b"./dir-to-link/inside", b"x"),
    t.symlink(b"./link-to-dir", b"usr"),
    t.symlink(b"./link-to-file", b"etc/passwd"),
    t.file(b"./file-to-link", b"x"),
    t.file(b"./file-to-fifo", b"x"),
    t.fifo(b"./fifo", 0o622, mtime=OLD),
    t.directory(b"./names", 0o755),
    t.file(b"./names/with space", b"1"),
    t.file(b"./names/new\nline", b"2"),
    t.file(b"./names/tab\tand\x1b[31mcolour", b"3"),
    t.file(b"./names/caf\xc3\xa9", b"5"),
    t.file(b"./names/-rf", b"6"),
    t.file(b"./names/back\\slash", b"7"),
    t.file(b"./names/*", b"8"),
    t.file(b"./names/Case", b"9"),
    t.file(b"./names/case", b"10"),
    t.file(b"./names/..hidden", b"11"),
    t.file(b"./names/.wh", b"12"),
    t.file(b"./names/" + b"n" * 255, b"13"),
    t.gnu_long(b"./names/" + b"long/" * 40 + b"gnu"),
    t.file(b"x", b"14", magic=b"ustar  \0"),
    t.file(b"./names/" + b"long/" * 40 + b"pax", b"15"),
    t.file(b"./empty", b""),
    t.file(b"./block", b"b" * 512),
    t.file(b"./block+1", b"b" * 513),
    t.file(b"./big", b"0123456789abcdef" * 40_000),
    t.pax({b"mtime": b"1234567890.987654321"}),
    t.file(b"./subsecond", b"x"),
)

CHANGES = t.tar(
    t.directory(b"etc", 0o750, mtime=NEW),
    t.file(b"etc/.wh.hidden"),
    t.file(b"etc/.wh.never-was"),
    t.file(b"etc/replaced", b"second", mode=0o640, uid=8, gid=9),
    t.file(b"opaque-before/.wh..wh..opq"),
    t.file(b"opaque-before/new", b"new"),
    t.directory(b"opaque-before/both", 0o711),
    t.file(b"opaque-before/both/new", b"new"),
    t.file(b"opaque-after/new", b"new"),
    t.file(b"opaque-after/same", b"new"),
    t.file(b"opaque-after/.wh..wh..opq"),
    t.file(b".wh.gone"),
    t.directory(b"file-to-dir", 0o755),
    t.file(b"file-to-dir/inside", b"inside"),
    t.file(b"dir-to-file", b"file"),
    t.symlink(b"dir-to-link", b"file-to-dir"),
    t.directory(b"link-to-dir", 0o755),
    t.file(b"link-to-dir/inside", b"not in usr"),
    t.file(b"link-to-file", b"not passwd"),
    t.symlink(b"file-to-link", b"/etc/passwd"),
    t.fifo(b"file-to-fifo", 0o644),
    t.file(b"lib/through-the-link.so", b"lands in usr/lib"),
    t.directory(b"var/empty", 0o111),
)

AGAIN = t.tar(
    t.directory(b"gone", 0o700, uid=3),
    t.file(b"gone/back", b"again"),
    t.hardlink(b"gone/sh", b"bin/ash", mode=0o755, mtime=OLD),
    t.hardlink(b"gone/su", b"/bin/su", mode=0o4755, mtime=OLD),
    t.hardlink(b"gone/through", b"lib/libc.so"),
    t.hardlink(b"gone/mtab", b"etc/mtab", mode=0o777, mtime=OLD),
    t.file(b"bin/sh", b"#!new shell", mode=0o755),
    t.file(b".wh.big"),
    t.file(b"names/.wh.case"),
    t.file(b"lib/.wh.through-the-link.so"),
    t.file(b"dir-to-link/via", b"v"),
    t.symlink(b"chain1", b"chain2"),
    t.symlink(b"chain2", b"/chain3/."),
    t.symlink(b"chain3", b"home/../home/user/../other"),
    t.file(b"chain1/target", b"t"),
)

# The same name twice in one layer: containers/storage refuses that.
DUPLICATES = t.tar(
    t.file(b"twice", b"first", uid=9),
    t.symlink(b"twice", b"etc/passwd"),
    t.file(b"twice", b"second", mode=0o600),
)

# Devices, odd bytes and attributes: peers that run without root skip, refuse or rewrite some of these.
ODD_LAYER = t.tar(
    t.directory(b"dev", 0o755),
    t.device(b"dev/null", b"3", 1, 3, 0o666),
    t.device(b"dev/sda", b"4", 8, 0, 0o660, gid=6),
    t.file(b"names/caf\xe9", b"4"),
    t.pax(
        {
            b"SCHILY.xattr.user.comment": b"hello\0world",
            b"SCHILY.xattr.security.capability": b"\1\0\0\2" + bytes(16),
            b"SCHILY.xattr.security.selinux": b"label",
            b"SCHILY.xattr.trusted.overlay.opaque": b"y",
            b"SCHILY.xattr.user.overlay.whiteout": b"",
        }
    ),
    t.file(b"attributes", b"a"),
    t.pax({b"SCHILY.xattr.user.dir": b"d"}),
    t.directory(b"attributes.d"),
    t.hardlink(b"attributes.link", b"attributes"),
    t.file(b".wh..wh.aufs"),
    t.file(b"owner", b"o", uid=4_000_000_000, gid=4_000_000_001),
    t.file(b"unlisted/parents/file", b"p"),
)  # fmt: skip

LAYERS = (BASE, CHANGES, AGAIN)

# path: kind mode uid:gid contents; what stands for itself in a name is written in Python's way
MANIFEST = r"""
.                              dir   0755 0:0
bin                            dir   0755 0:0
bin/ash                        file  0755 0:0 #!shell
bin/doas                       file  4755 0:0 #!su
bin/sh                         file  0755 0:0 #!new shell
bin/su                         file  4755 0:0 #!su
bin/wall                       file  2755 0:5 #!wall
block                          file  0644 0:0 512 bytes
block+1                        file  0644 0:0 513 bytes
chain1                         link  0777 0:0 chain2
chain2                         link  0777 0:0 /chain3/.
chain3                         link  0777 0:0 home/../home/user/../other
dir-to-file                    file  0644 0:0 file
dir-to-link                    link  0777 0:0 file-to-dir
empty                          file  0644 0:0
etc                            dir   0750 0:0
etc/dangling                   link  0777 0:0 nowhere/at/all
etc/mtab                       link  0777 0:0 /proc/self/mounts
etc/passwd                     file  0644 0:0 root:x:0:0:root:/root:/bin/sh\n
etc/replaced                   file  0640 8:9 second
etc/shadow                     file  0000 0:42 root:*:0::::::\n
etc/up                         link  0777 0:0 ../../../../etc/passwd
fifo                           fifo  0622 0:0
file-to-dir                    dir   0755 0:0
file-to-dir.d                  dir   0755 0:0
file-to-dir/inside             file  0644 0:0 inside
file-to-dir/via                file  0644 0:0 v
file-to-fifo                   fifo  0644 0:0
file-to-link                   link  0777 0:0 /etc/passwd
gone                           dir   0700 3:0
gone/back                      file  0644 0:0 again
gone/mtab                      link  0777 0:0 /proc/self/mounts
gone/sh                        file  0755 0:0 #!shell
gone/su                        file  4755 0:0 #!su
gone/through                   file  0644 0:0 libc
home                           dir   0755 0:0
home/other                     dir   3771 40000:40001
home/other/target              file  0644 0:0 t
home/user                      dir   0700 1000:1000
home/user/.profile             file  0644 1000:1000 umask 022\n
home/user/link                 link  0777 1000:1000 .profile
home/user/private              file  0200 1000:1000
lib                            link  0777 0:0 usr/lib
link-to-dir                    dir   0755 0:0
link-to-dir/inside             file  0644 0:0 not in usr
link-to-file                   file  0644 0:0 not passwd
names                          dir   0755 0:0
names/*                        file  0644 0:0 8
names/-rf                      file  0644 0:0 6
names/..hidden                 file  0644 0:0 11
names/.wh                      file  0644 0:0 12
names/Case                     file  0644 0:0 9
names/back\\slash              file  0644 0:0 7
names/caf\xc3\xa9              file  0644 0:0 5
names/new\nline                file  0644 0:0 2
names/tab\tand\x1b[31mcolour   file  0644 0:0 3
names/with\x20space            file  0644 0:0 1
names/LONG/gnu                 file  0644 0:0 14
names/LONG/pax                 file  0644 0:0 15
names/N255                     file  0644 0:0 13
opaque-after                   dir   0755 0:0
opaque-after/new               file  0644 0:0 new
opaque-after/same              file  0644 0:0 new
opaque-before                  dir   0755 0:0
opaque-before/both             dir   0711 0:0
opaque-before/both/new         file  0644 0:0 new
opaque-before/new              file  0644 0:0 new
subsecond                      file  0644 0:0 x
tmp                            dir   1777 0:0
usr                            dir   0755 0:0
usr/lib                        dir   0755 0:0
usr/lib/libc.so                file  0644 0:0 libc
var                            dir   0755 0:0
var/empty                      dir   0111 0:0
var/spool                      dir   2775 0:12
"""

DUPLICATES_MANIFEST = r"""
twice                          file  0600 0:0 second
"""

ODD_MANIFEST = r"""
dev                            dir   0755 0:0
dev/null                       char  0666 0:0 1:3
dev/sda                        block 0660 0:6 8:0
names/caf\xe9                  file  0644 0:0 4
attributes                     file  0644 0:0 a
attributes.d                   dir   0755 0:0
attributes.link                file  0644 0:0 a
owner                          file  0644 4000000000:4000000001 o
unlisted                       dir   0755 0:0
unlisted/parents               dir   0755 0:0
unlisted/parents/file          file  0644 0:0 p
"""

# Which names are one file
LINKS = [
    {"bin/ash", "gone/sh"},
    {"bin/su", "bin/doas", "gone/su"},
    {"usr/lib/libc.so", "gone/through"},
    {"etc/mtab", "gone/mtab"},
]

# Seconds (and a fraction), for names whose time is of interest
TIMES = {
    ".": OLD, "bin/ash": OLD, "bin/su": OLD, "etc": NEW, "etc/mtab": OLD, "etc/shadow": OLD, "fifo": OLD,
    "home/user": OLD, "subsecond": 1234567890.987654321, "bin": OLD,
}  # fmt: skip


def expected(text: str) -> dict[str, tuple[object, ...]]:
    """The manifest in the form of :func:`tests.layers.support.describe` (without the directories inside
    LONG)."""
    out: dict[str, tuple[object, ...]] = {}
    for line in filter(None, text.splitlines()):
        name, kind, mode, owner, *rest = line.split(None, 4)
        name = name.encode("latin-1").decode("unicode_escape")
        name = name.replace("LONG", ("long/" * 40)[:-1]).replace("N255", "n" * 255)
        held: object = rest[0].encode().decode("unicode_escape").encode("latin-1") if rest else b""
        if kind in {"dir", "fifo"}:
            held = ""
        elif kind in {"char", "block"}:
            major, _, minor = rest[0].partition(":")
            held = (int(major), int(minor))
        elif isinstance(held, bytes) and held.endswith(b" bytes"):
            held = b"b" * int(held.split()[0])
        uid, _, gid = owner.partition(":")
        out["" if name == "." else name] = (kind, int(mode, 8), int(uid), int(gid), held)
    return out
