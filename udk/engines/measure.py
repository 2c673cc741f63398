"""How long a container takes to start, measured by starting one: for ``udk doctor``."""

from __future__ import annotations

import os
import time

from udk.engines.base import Engine
from udk.errors import UdkError

_TIMES = 3


def start_up(engine: Engine) -> float | None:
    """Milliseconds from the guard's start to the end of a small program in a container with a private layer,
    the best of three; None where it does not run."""
    import shutil
    import subprocess
    import tempfile

    from udk.engines.guard import NATIVE, spawn
    from udk.runtime.spec import Mount, Root, RunSpec

    best: float | None = None
    for _ in range(_TIMES):
        base = os.path.realpath(tempfile.mkdtemp(prefix="udk-doctor-"))
        try:
            for name in ("lower", "upper", "work"):
                os.mkdir(f"{base}/{name}")
            shutil.copy(f"{NATIVE}/udk-hello-loaded", f"{base}/lower/hello")
            spec = RunSpec(
                argv=("/hello", "pid"), env={"PATH": "/"}, hostname="doctor",
                mounts=(Mount(kind="proc", target="/proc"), Mount(kind="dev", target="/dev")),
                root=Root(
                    lower=(f"{base}/lower",), records=("",), upper=f"{base}/upper", work=f"{base}/work",
                    changes=f"{base}/changes", volatile=True,
                ),
            )  # fmt: skip
            if engine.reasons_against(spec):
                return None
            engine.prepare(spec)
            begun = time.monotonic()
            process = spawn(
                spec, engine.launch(spec), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            if process.wait(30) != 0:
                return None
            taken = (time.monotonic() - begun) * 1000
            best = taken if best is None else min(best, taken)
        except (UdkError, OSError, subprocess.TimeoutExpired):
            return None
        finally:
            _remove(base)
    return best


def _remove(base: str) -> None:
    from udk.engines.guard import remove

    try:
        remove([base])
    except UdkError:
        pass
