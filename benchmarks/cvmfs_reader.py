"""One measured run of the client in a process of its own: ``python cvmfs_reader.py MODE REPOSITORY-URL KEY
CACHE PREFETCH [ARGUMENT]`` prints JSON: seconds, and those of processor time, peak memory in MB, entries or
bytes."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from cvmfs_client import Repository

FQRN = "bench.example.org"
_BLOCK = 1 << 20


def _read(repository: Repository, path: str) -> int:
    size = 0
    with repository.open(path) as file:
        while True:
            piece = file.read(_BLOCK)
            if not piece:
                return size
            size += len(piece)


def first(repository: Repository, argument: str) -> int:
    """Reads one small file."""
    return _read(repository, argument)


def names(repository: Repository, argument: str) -> int:
    """Every directory, names only: what find does."""
    return sum(len(found) + len(files) for _, found, files in repository.walk("/"))


def walk(repository: Repository, argument: str) -> int:
    """Every directory, and the attributes of every entry."""
    count = 0
    for directory, names, files in repository.walk("/"):
        for name in names + files:
            repository.lstat(f"{directory}/{name}")
            count += 1
    return count


def reads(repository: Repository, argument: str) -> int:
    """3,000 files at random, whose list is in the file ``argument``."""
    with open(argument) as file:
        paths = file.read().split("\n")
    return sum(_read(repository, path) for path in random.Random(3).sample(paths, 3000))


def copy(repository: Repository, argument: str) -> int:
    """The whole tree to the directory ``argument``."""
    from cvmfs_client.copying import Copier

    copier = Copier(repository)
    copier.copy(b"", repository.lookup(b""), argument)
    return len(copier.errors)


def trace(repository: Repository, argument: str) -> int:
    """The files listed in ``argument``, in this order."""
    with open(argument) as file:
        return sum(_read(repository, path) for path in file.read().split("\n"))


MODES: dict[str, Callable[[Repository, str], int]] = {
    "open": lambda repository, argument: 0, "first": first, "names": names, "walk": walk, "reads": reads,
    "copy": copy, "trace": trace,
}  # fmt: skip


def main(mode: str, url: str, key: str, cache: str, prefetch: str, argument: str = "") -> None:
    start, processor = time.perf_counter(), time.process_time()
    config: dict[str, Any] = {"CVMFS_PREFETCH": prefetch, "CVMFS_QUOTA_LIMIT": "4000"}
    with Repository(FQRN, server=url, keys=key, proxy="DIRECT", cache=cache, config=config) as repository:
        amount = MODES[mode](repository, argument)
        seconds = time.perf_counter() - start
    cpu = time.process_time() - processor
    print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": _peak_memory(), "amount": amount}))


def _peak_memory() -> int:
    """MB. Not ru_maxrss, which remembers what the process was before exec."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) // 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
