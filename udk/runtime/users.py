"""Who the payload is: docker's ``USER[:GROUP]`` resolved in the image's own passwd and group files."""

from __future__ import annotations

from udk.errors import ContainerError, UsageError
from udk.runtime.spec import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udk.runtime.rootfs import Rootfs

MAX_ID = (1 << 31) - 1  # what docker and runc accept


def resolve_user(rootfs: Rootfs, user: str, group_add: list[str], subids: bool = False) -> Identity:
    """The identity for ``user`` (``""`` is root): names or ids, ``:GROUP`` optional.

    An id without a passwd line is taken as it is, with group 0 and home ``/``; a name without one is an error
    (ContainerError). Without ``:GROUP`` the group is that of the passwd line and the supplementary groups
    are those that list the user; with it there are none. ``group_add`` are further groups, by name or
    id."""
    who, colon, group = user.partition(":")
    if colon and not group:
        raise UsageError(f"user {user!r} has no group after `:`", "write USER or USER:GROUP")
    lines = _lines(rootfs, "/etc/passwd")
    who = who or "0"
    entry = _find(lines, who, 7)
    if entry is not None:
        name, uid, gid, home = entry[0], _id(entry[2], "uid"), _id(entry[3], "gid"), entry[5]
    elif _number(who):
        name, uid, gid, home = "", _id(who, "user"), 0, ""
    else:
        raise ContainerError(f"the image has no user {who!r}", "give a number, or a name of its /etc/passwd")
    groups: list[int] = []
    if group:
        gid = _group(rootfs, group)
    elif name:
        for row in _lines(rootfs, "/etc/group"):
            if len(row) >= 4 and name in row[3].split(",") and _number(row[2]):
                groups.append(int(row[2]))
    groups += [_group(rootfs, g) for g in group_add]
    unique = tuple(dict.fromkeys(g for g in groups if g != gid))
    return Identity(
        uid=uid, gid=gid, groups=unique, name=name, home=home or "/", fake_root=uid == 0, subids=subids
    )


def _lines(rootfs: Rootfs, path: str) -> list[list[str]]:
    text = (rootfs.read(path) or b"").decode("utf-8", "surrogateescape")
    return [line.rstrip("\r").split(":") for line in text.split("\n") if line and line[0] not in "#+-"]


def _find(rows: list[list[str]], wanted: str, width: int) -> list[str] | None:
    """The first row with this name, else with this id."""
    for row in rows:
        if row[0] == wanted and len(row) >= width - 1 and _number(row[2]):
            return row
    number = str(int(wanted)) if _number(wanted) else ""
    for row in rows:
        if number and len(row) >= width - 1 and _number(row[2]) and str(int(row[2])) == number:
            return row
    return None


def _group(rootfs: Rootfs, wanted: str) -> int:
    row = _find(_lines(rootfs, "/etc/group"), wanted, 4)
    if row is not None:
        return _id(row[2], "group")
    if _number(wanted):
        return _id(wanted, "group")
    raise ContainerError(f"the image has no group {wanted!r}", "give a number, or a name of its /etc/group")


def _id(text: str, what: str) -> int:
    if not _number(text) or int(text) > MAX_ID:
        raise ContainerError(f"{what} id {text!r} is not between 0 and {MAX_ID}")
    return int(text)


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit()
