"""Removal of whole trees of files made by anybody: directories without permissions, any depth, hostile
names."""

from __future__ import annotations

import os
from errno import EACCES, EPERM

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


def _remove_dir(
    parent: int, name: str, top: int, base: str, pending: list[str], errors: list[OSError]
) -> None:
    # An explicit stack of (parent descriptor, name, own descriptor, subdirectories still to do).
    stack: list[tuple[int, str, int, list[str]]] = []
    try:
        _enter(stack, parent, name, errors)
        while stack:
            above, name, fd, todo = stack[-1]
            if todo:
                child = todo.pop()
                if len(stack) < _DEEP:
                    _enter(stack, fd, child, errors)
                    continue
                aside = f"{base[:100]}.{unique()}"
                try:
                    _move(fd, child, top, aside)
                    pending.append(aside)
                except OSError as e:
                    errors.append(e)
                continue
            stack.pop()
            os.close(fd)
            try:
                _unlink(above, name, True)
            except OSError as e:
                errors.append(e)
    finally:
        for entry in stack:
            os.close(entry[2])


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


def _enter(
    stack: list[tuple[int, str, int, list[str]]], parent: int, name: str, errors: list[OSError]
) -> None:
    """Opens a directory, removes all in it but its directories, and pushes it."""
    try:
        fd = _open_dir(parent, name)
    except FileNotFoundError:
        return
    except OSError as e:
        errors.append(e)
        return
    todo: list[str] = []
    stack.append((parent, name, fd, todo))
    try:
        with os.scandir(fd) as entries:
            listed = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
    except OSError as e:
        errors.append(e)
        return
    for entry, directory in listed:
        if directory:
            todo.append(entry)
            continue
        try:
            _unlink(fd, entry, False)
        except IsADirectoryError:
            todo.append(entry)
        except OSError as e:
            errors.append(e)
