"""Removal of whole trees of files made by anybody: directories without permissions, any depth, hostile
names."""

from __future__ import annotations

import os
from errno import EACCES, EEXIST, ENOTEMPTY, EPERM

from udk.base.files import unique

_DEEP = 60  # levels held open at once


def remove_tree(path: str) -> None:
    """Removes ``path``, whatever it is; nothing outside of it is touched, also when someone plants symbolic
    links meanwhile. A missing ``path`` is fine. What cannot be removed does not keep the rest from going;
    then the first OSError is raised at the end."""
    parent, _, name = path.rstrip("/").rpartition("/")
    top = os.open(parent or ("/" if path.startswith("/") else "."), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    errors: list[OSError] = []
    try:
        try:
            os.unlink(name, dir_fd=top)
            return
        except FileNotFoundError:
            return
        except IsADirectoryError:
            pass
        # Directories deeper than _DEEP are moved up beside the tree and done after it.
        pending = [name]
        while pending:
            _remove_dir(top, pending.pop(), top, name, pending, errors)
    finally:
        os.close(top)
    if errors:
        raise errors[0]


def _open_dir(parent: int, name: str) -> int:
    """Opens a directory for listing, giving the owner all rights on it first if need be; never follows a
    link."""
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except PermissionError:
        fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{fd}", 0o700)
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        finally:
            os.close(fd)


def _unlink(fd: int, name: str, directory: bool) -> None:
    remove = os.rmdir if directory else os.unlink
    try:
        remove(name, dir_fd=fd)
    except FileNotFoundError:
        pass
    except OSError as e:
        if e.errno not in (EACCES, EPERM):
            raise
        os.fchmod(fd, 0o700)
        remove(name, dir_fd=fd)


class _Level:
    """One directory being removed: where it is, its descriptor, and the subdirectories still to do."""

    __slots__ = ("failed", "fd", "name", "parent", "todo", "tries")

    def __init__(self, parent: int, name: str, fd: int, failed: int, tries: int) -> None:
        self.parent = parent
        self.name = name
        self.fd = fd
        self.failed = failed  # errors before it
        self.tries = tries
        self.todo: list[str] = []


def _remove_dir(
    parent: int, name: str, top: int, base: str, pending: list[str], errors: list[OSError]
) -> None:
    stack: list[_Level] = []
    try:
        _enter(stack, parent, name, errors)
        while stack:
            level = stack[-1]
            if level.todo:
                child = level.todo.pop()
                if len(stack) < _DEEP:
                    _enter(stack, level.fd, child, errors)
                    continue
                aside = f"{base[:100]}.{unique()}"
                try:
                    _move(level.fd, child, top, aside)
                    pending.append(aside)
                except OSError as e:
                    errors.append(e)
                continue
            stack.pop()
            os.close(level.fd)
            try:
                _unlink(level.parent, level.name, True)
            except OSError as e:
                if e.errno in (ENOTEMPTY, EEXIST) and level.tries and len(errors) == level.failed:
                    # Some file systems pass over entries when others are removed while they are listed.
                    _enter(stack, level.parent, level.name, errors, level.tries - 1)
                else:
                    errors.append(e)
    finally:
        for level in stack:
            os.close(level.fd)


def _move(fd: int, child: str, top: int, aside: str) -> None:
    try:
        os.rename(child, aside, src_dir_fd=fd, dst_dir_fd=top)
    except PermissionError:  # its ".." changes, so it must be writable, as must be where it is taken from
        os.fchmod(fd, 0o700)
        os.close(_open_dir(fd, child))
        inner = os.open(child, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            os.chmod(f"/proc/self/fd/{inner}", 0o700)
        finally:
            os.close(inner)
        os.rename(child, aside, src_dir_fd=fd, dst_dir_fd=top)


def _enter(stack: list[_Level], parent: int, name: str, errors: list[OSError], tries: int = 3) -> None:
    """Opens a directory, removes all in it but its directories, and pushes it."""
    try:
        fd = _open_dir(parent, name)
    except FileNotFoundError:
        return
    except OSError as e:
        errors.append(e)
        return
    level = _Level(parent, name, fd, len(errors), tries)
    stack.append(level)
    try:
        with os.scandir(fd) as entries:
            for entry in entries:  # one by one: a directory may hold millions
                if entry.is_dir(follow_symlinks=False):
                    level.todo.append(entry.name)
                    continue
                try:
                    _unlink(fd, entry.name, False)
                except IsADirectoryError:
                    level.todo.append(entry.name)
                except OSError as e:
                    errors.append(e)
    except OSError as e:
        errors.append(e)
