"""``python -m tests.contract.start ENGINE < SPEC``: becomes the container of the RunSpec on stdin."""

from __future__ import annotations

import os
import sys

from udk.engines.guard import exec_guard
from udk.engines.select import by_name
from udk.runtime.spec import RunSpec

if __name__ == "__main__":
    spec = RunSpec.from_json(sys.stdin.read())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    engine = by_name(sys.argv[1])
    reason = engine.probe()
    if reason:
        sys.exit(f"{engine.name}: {reason}")
    exec_guard(spec, engine.launch(spec))
