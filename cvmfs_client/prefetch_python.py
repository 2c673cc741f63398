"""Python packages: which files an import will read, found in the catalogs before the interpreter asks.

A module's file is followed by the files of the modules it imports, and so on: the order in which an
interpreter finds out costs it a round trip each, but nothing keeps us from going ahead as soon as a file is
here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

from .prefetch_elf import Readable
from .prefetch_imports import Import, imports_of_bytecode, imports_of_extension, imports_of_source
from .prefetch_listing import Listings

_SOURCE = b".py"
_CACHE = b"__pycache__"
_CACHED = re.compile(rb"([^.]+)\.(?P<tag>[a-z]+-?\d+)(?:\.opt-\d)?\.pyc\Z")
_EXTENSION = re.compile(rb"([^.]+)(?:\.(?P<tag>[^./]*))?\.so\Z")
_ROOTS = 16
_PIECE = 1 << 20  # bytes of a library that are searched at a time
_OVERLAP = 256
_VERSION = re.compile(rb"([a-z]+)-?(\d)(\d+)")


class Module(NamedTuple):
    """What an import of one module reads: file paths, in order. ``package`` is its directory, b"" for a
    plain module.
    """

    files: tuple[bytes, ...]
    package: bytes


class PythonPlanner:
    """Knows what was seen of interpreters so far: their tag (cpython-311), whether they read bytecode, where
    their modules are. Not thread-safe. Paths are of the repository."""

    def __init__(self, listings: Listings) -> None:
        self._listings = listings
        self._roots: list[bytes] = []
        self._tag = b""
        self._bytecode = True  # until a source is read although there is bytecode
        self._bytecode_read: set[bytes] = set()

    @staticmethod
    def concerns(path: bytes) -> bool:
        """Whether a file is one that interpreters import."""
        return path.endswith((b".py", b".pyc", b".so"))

    def saw(self, path: bytes) -> None:
        """An interpreter has opened this file."""
        directory, _, name = path.rpartition(b"/")
        match = _CACHED.fullmatch(name)
        if match and directory.endswith(b"/" + _CACHE):
            self._tag = match["tag"]
            self._bytecode = True
            package = directory[: -len(_CACHE) - 1]
            self._bytecode_read.add(package + b"/" + match[1])
        elif name.endswith(_SOURCE):
            package = directory
            if self._cached_file(directory, name[:-3]) and self._tag:
                # there is bytecode, and yet the source is read: it is stale, or not wanted
                self._bytecode = False
        else:
            match = _EXTENSION.fullmatch(name)
            if match is None:
                return
            package = directory
            if match["tag"] and match["tag"].startswith((b"cpython-", b"pypy")):
                self._tag = self._tag or b"-".join(match["tag"].split(b"-")[:2])
        self._add_root(package)

    def _add_root(self, package: bytes) -> None:
        """The directory that absolute imports start from: the first above that is not a package."""
        root = package
        while root and b"__init__.py" in self._listings.names(root):
            root = root.rpartition(b"/")[0]
        if root in self._roots:
            return
        if len(self._roots) < _ROOTS:
            self._roots.append(root)
        # site-packages belongs to a lib/pythonX.Y, and the other way round
        if root.endswith((b"/site-packages", b"/lib-dynload")):
            self._add_known(root.rpartition(b"/")[0])
            self._add_known(root.rpartition(b"/")[0] + b"/lib-dynload")
        elif re.search(rb"/python\d+\.\d+\Z", root):
            self._add_known(root + b"/lib-dynload")
            self._add_known(root + b"/site-packages")

    def _top(self, directory: bytes) -> bytes:
        """Name of the outermost package that a directory belongs to; b"" for none."""
        top = b""
        while directory and b"__init__.py" in self._listings.names(directory):
            directory, _, top = directory.rpartition(b"/")
        return top

    def _add_known(self, root: bytes) -> None:
        if root not in self._roots and len(self._roots) < _ROOTS and self._listings.names(root):
            self._roots.append(root)

    def follow(self, path: bytes, data: Readable, size: int) -> Iterator[bytes]:
        """Files that importing this one reads next. ``data`` gives slices of its ``size`` bytes."""
        directory, _, name = path.rpartition(b"/")
        if name.endswith(_SOURCE):
            imports: Optional[list[Import]] = imports_of_source(data[0:size])
        elif name.endswith(b".pyc") and directory.endswith(b"/" + _CACHE):
            imports = imports_of_bytecode(data[0:size])
            directory = directory[: -len(_CACHE) - 1]
            stem = name.split(b".")[0]
            if imports is None:
                # bytecode of an unknown version: its source says the same
                source = directory + b"/" + stem + _SOURCE
                if self._listings.file(source):
                    yield source
                return
        elif name.endswith(b".so"):
            top = self._top(directory)
            if not top:
                return
            imports = []
            for at in range(0, size, _PIECE - _OVERLAP):
                imports += imports_of_extension(data[at : min(at + _PIECE, size)], top)
            imports = list(dict.fromkeys(imports))
        else:
            return
        seen: set[bytes] = set()
        for item in imports or ():
            for module in self._modules(item, directory):
                for file in module.files:
                    if file not in seen:
                        seen.add(file)
                        yield file

    def _modules(self, item: Import, directory: bytes) -> Iterator[Module]:
        """The modules that one import statement in a file of ``directory`` may load."""
        parts = [p for p in item.name.encode("utf-8", "replace").split(b".") if p]
        if item.level:
            base = directory
            for _ in range(item.level - 1):
                base = base.rpartition(b"/")[0]
            if not parts:
                yield from self._members(base, item.names)
                return
            found = list(self._chain(base, parts))
        else:
            found = []
            for root in self._roots:
                found = list(self._chain(root, parts))
                if found:
                    break
        yield from found
        if found and len(found) == len(parts) and found[-1].package:
            yield from self._members(found[-1].package, item.names)

    def _chain(self, base: bytes, parts: list[bytes]) -> Iterator[Module]:
        for part in parts:
            module = self._module(base, part)
            if module is None:
                return
            yield module
            if not module.package:
                return
            base = module.package

    def _members(self, package: bytes, names: tuple[str, ...]) -> Iterator[Module]:
        for name in names:
            if name != "*":
                module = self._module(package, name.encode("utf-8", "replace"))
                if module is not None:
                    yield module

    def _module(self, directory: bytes, name: bytes) -> Optional[Module]:
        """What importing ``name`` from ``directory`` reads; None where there is no such module."""
        names = self._listings.names(directory)
        inside = directory + b"/" + name
        if name in names and names[name].is_dir:
            below = self._listings.names(inside)
            if b"__init__.py" in below or _CACHE in below:
                files = tuple(self._python_files(inside, b"__init__"))
                return Module(files, inside)
            return Module((), inside)  # a namespace package, or no package: reading it costs nothing
        extension = self._extension(directory, name, names)
        if extension:
            return Module((extension,), b"")
        if name + _SOURCE in names:
            return Module(tuple(self._python_files(directory, name)), b"")
        return None

    def _python_files(self, directory: bytes, stem: bytes) -> Iterator[bytes]:
        """The bytecode if it will be read, else the source."""
        cached = self._cached_file(directory, stem)
        if cached:
            yield cached
        if not cached or not self._bytecode:
            source = directory + b"/" + stem + _SOURCE
            if self._listings.file(source):
                yield source

    def _cached_file(self, directory: bytes, stem: bytes) -> bytes:
        place = directory + b"/" + _CACHE
        if _CACHE not in self._listings.names(directory):
            return b""
        names = self._listings.names(place)
        if self._tag:
            name = stem + b"." + self._tag + b".pyc"
            return place + b"/" + name if name in names else b""
        matches = [
            n for n in names if n.startswith(stem + b".") and _CACHED.fullmatch(n) and b".opt-" not in n
        ]
        return place + b"/" + matches[0] if len(matches) == 1 else b""

    def _extension(self, directory: bytes, name: bytes, names: dict[bytes, Any]) -> bytes:
        if name + b".so" in names:
            return directory + b"/" + name + b".so"
        best = b""
        for candidate in self._listings.extensions(directory).get(name, ()):
            match = _EXTENSION.fullmatch(candidate)
            tag = match["tag"] if match else b""
            if self._tag and tag.startswith(self._tag + b"-"):
                return directory + b"/" + candidate
            if tag == b"abi3" or not self._tag:
                best = directory + b"/" + candidate
        return best
