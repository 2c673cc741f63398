"""Pulls one image, as a process of its own: ``python -m tests.support.puller STORE REFERENCE [POLICY]``.

Prints the digest and what the pull cost this process, as one line of JSON; an error of udk as its text, status 125.
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


def start_puller(store: Path, reference: str, policy: str = "always", **more: Any) -> subprocess.Popen[str]:
    """Starts such a process; its stdout and stderr are pipes."""
    env = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.puller", str(store), reference, policy],
        cwd=ROOT,
        env={**env, "HOME": "/nonexistent"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


if __name__ == "__main__":
    sys.exit(main())
