"""``python -m benchmarks.trap_start ENGINE ROOT COMMAND...``: becomes COMMAND in ROOT by that engine."""

from __future__ import annotations

import os
import sys
import tempfile
import uuid

from udk.engines.guard import exec_guard
from udk.engines.select import by_name
from udk.runtime.spec import Mount, Root, RunSpec

if __name__ == "__main__":
    home = tempfile.mkdtemp(prefix="udk-bench-")
    for name in ("upper", "work"):
        os.mkdir(f"{home}/{name}")
    spec = RunSpec(
        argv=tuple(sys.argv[3:]),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        root=Root(
            lower=(sys.argv[2],), upper=f"{home}/upper", work=f"{home}/work", changes=f"{home}/changes",
            volatile=True,
        ),
        mounts=(Mount(kind="proc", target="/proc"), Mount(kind="dev", target="/dev")),
        cookie=uuid.uuid4().hex[:16],
        cleanup=(home,),
    )  # fmt: skip
    exec_guard(spec, by_name(sys.argv[1]).launch(spec))
