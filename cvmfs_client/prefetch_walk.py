"""Directories that are read one file after the other, by tar, cp, grep: what follows can be guessed."""

from __future__ import annotations

from collections.abc import Iterator

from .prefetch_listing import Listings

_STEPS = 3  # files in a row that make a walk
_FEWER_STEPS = 1  # after walks of other directories
_WALKED = 2  # such directories
_FULL_ROW = 6  # files in a row that count as a directory walked
_FIRST = 16  # files fetched ahead then; doubled while they are used
_MOST = 256
_COUSINS = 2  # sub-packages of one package that make a pattern
_TESTS = (b"tests", b"test", b"testing")
_SMALL = 24 << 10  # bytes of a module that may be guessed with its package
_MODULES = 24
_TRACKED = 1_000


class _Place:
    """What is known of one directory: position and length of the row, files to fetch ahead."""

    __slots__ = ("ahead", "last", "order", "row", "window")

    def __init__(self, order: dict[bytes, int]) -> None:
        self.order = order  # name -> position among the regular files, as listed
        self.last = -2
        self.row = 0
        self.window = 0
        self.ahead = 0  # position up to which files were guessed


class WalkPlanner:
    """Notices walks. Not thread-safe."""

    def __init__(self, listings: Listings) -> None:
        self._listings = listings
        self._places: dict[bytes, _Place] = {}
        self._walks = 0  # directories that were walked: the next is believed sooner
        self._cousins: dict[tuple[bytes, bytes], set[bytes]] = {}

    def saw(self, path: bytes, *, explained: bool = False) -> Iterator[bytes]:
        """A file was opened; the files that probably are next. ``explained``: there is another reason for
        it.
        """
        directory, _, name = path.rpartition(b"/")
        place = self._place(directory)
        at = place.order.get(name, -1)
        if at < 0:
            return
        if explained:
            place.last, place.row = -2, 0
            return
        place.row = place.row + 1 if at == place.last + 1 else int(at == 0)
        place.last = at
        if place.row == min(_FULL_ROW, len(place.order)):
            self._walks += 1
        if place.row < (_FEWER_STEPS if self._walks >= _WALKED else _STEPS):
            return
        if place.window == 0:
            place.window = _FIRST if self._walks < _WALKED else _FIRST * 4
            place.ahead = at + 1
        elif at + place.window // 2 >= place.ahead:
            place.window = min(place.window * 2, _MOST)
        names = list(place.order)
        end = min(at + 1 + place.window, len(names))
        for position in range(max(place.ahead, at + 1), end):
            yield directory + b"/" + names[position]
        place.ahead = max(place.ahead, end)

    def package(self, path: bytes) -> Iterator[tuple[bytes, bool]]:
        """A file was not foreseen for sure; what may be read with it, and whether to look into that too.

        Of a package's first file: its small modules, and the first files of its private sub-packages. Of
        several sub-packages of one package: the first files of all."""
        directory, _, name = path.rpartition(b"/")
        inner = b""
        if directory.endswith(b"/__pycache__"):
            directory, inner = directory[: -len(b"/__pycache__")], b"/__pycache__"
        if not name.startswith(b"__init__."):
            return
        parent, _, child = directory.rpartition(b"/")
        yield from self._modules(directory, inner, name)
        if len(self._cousins) > _TRACKED:
            self._cousins.clear()
        if b"__init__.py" not in self._listings.names(parent):
            return
        seen = self._cousins.setdefault((parent, inner + b"/" + name), set())
        seen.add(child)
        if len(seen) <= _COUSINS:
            for sibling, entry in self._listings.names(parent).items():
                if entry.is_dir and sibling not in seen and sibling not in _TESTS:
                    candidate = parent + b"/" + sibling + inner + b"/" + name
                    if self._listings.file(candidate):
                        yield candidate, len(seen) == _COUSINS

    def _modules(self, directory: bytes, inner: bytes, name: bytes) -> Iterator[tuple[bytes, bool]]:
        yield from self._small_modules(directory, inner, name)
        for sibling, entry in self._listings.names(directory).items():
            if entry.is_dir and sibling.startswith(b"_") and not sibling.startswith(b"__"):
                private = directory + b"/" + sibling
                if self._listings.file(private + inner + b"/" + name):
                    yield private + inner + b"/" + name, True
                    yield from self._small_modules(private, inner, name)

    def _small_modules(self, directory: bytes, inner: bytes, name: bytes) -> Iterator[tuple[bytes, bool]]:
        tail = name[len(b"__init__") :]
        count = 0
        for sibling, entry in self._listings.names(directory + inner).items():
            if (
                entry.is_file
                and sibling.endswith(tail)
                and entry.size <= _SMALL
                and not sibling.startswith((b"test", b"conftest", b"setup."))
            ):
                yield directory + inner + b"/" + sibling, True
                count += 1
                if count == _MODULES:
                    break

    def _place(self, directory: bytes) -> _Place:
        place = self._places.get(directory)
        if place is None:
            if len(self._places) > _TRACKED:
                self._places.clear()
            files = [n for n, e in self._listings.names(directory).items() if e.is_file]
            place = self._places[directory] = _Place({name: i for i, name in enumerate(files)})
        return place
