"""Pulls one image, as a process of its own: ``python -m tests.support.puller STORE REFERENCE [POLICY]``.

Prints the digest and what the pull cost this process, as one line of JSON; an error of udk as its text, with
status 125.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    from udk.errors import UdkError
    from udk.oci.reference import Reference
    from udk.runtime.pull import pull
    from udk.store.store import Store

    store, reference, policy = (sys.argv[1:] + ["always"])[:3]
    try:
        image = pull(Store.open(store), Reference.parse(reference), policy=policy)
    except UdkError as e:
        print(f"udk: error: {e}", file=sys.stderr)
        return e.status
    loaded = [m for m in ("requests", "udk.runtime.fetch") if m in sys.modules]
    print(json.dumps({"digest": image.digest, "tree": image.tree, "loaded": loaded}))
    return 0


class Warm:
    """Starts such processes from one that has everything loaded, so that killing many takes little time.
    They are processes of their own, forked and in no way different. A context manager."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", "from tests.support.puller import serve; serve()"],
            cwd=ROOT, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *exc: object) -> None:
        self._parent.kill()
        self._parent.communicate()

    def _line(self) -> str:
        assert self._parent.stdout is not None
        return self._parent.stdout.readline()

    def start(self, store: Path, reference: str) -> int:
        """The pid of a new one."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(f"{store} {reference}\n")
        self._parent.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """The status of the one started last, negative for a signal."""
        return int(self._line())


def serve() -> None:
    import requests  # noqa: F401 (loaded before the fork)

    import udk.layers.tree
    import udk.registry.client
    import udk.runtime.fetch  # noqa: F401

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            sys.argv[1:] = line.split()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(main())
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _environment() -> dict[str, str]:
    path = os.environ.get("PATH", "")
    return {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}


def start_puller(
    store: Path, reference: str, policy: str = "always", *, code: str = "", **more: Any
) -> subprocess.Popen[str]:
    """Starts such a process; its stdout and stderr are pipes. ``code`` is run instead of the module."""
    return subprocess.Popen(
        [
            sys.executable,
            *(("-c", code) if code else ("-m", "tests.support.puller")),
            str(store),
            reference,
            policy,
        ],
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


if __name__ == "__main__":
    sys.exit(main())
