"""``udk info``, ``doctor``, ``version``, ``store`` and ``cvmfs``."""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING

from udk import __version__
from udk.cli import output
from udk.cli.image import sweep
from udk.errors import EngineUnavailableError, UsageError

if TYPE_CHECKING:
    from typing import Any

    from udk.cli.main import Context


def version(context: Context) -> None:
    """``udk version``."""
    context.exactly(0, 0)
    if context.options.get("json"):
        output.write_json(
            {"version": __version__, "python": platform.python_version(), "platform": platform.machine()}
        )
    else:
        output.write(f"udk version {__version__}")


def info(context: Context) -> None:
    """``udk info``."""
    from udk.runtime.container import Containers
    from udk.runtime.launch import scratch

    context.exactly(0, 0)
    store = context.store()
    containers = [c.state()["status"] for c in Containers(store).all()]
    facts: dict[str, Any] = {
        "version": __version__,
        "store": store.path,
        "images": len({i.image_id for i in store.images()}),
        "containers": len(containers),
        "running": containers.count("running"),
        "scratch": scratch({}),
        "user": {"uid": os.getuid(), "gid": os.getgid()},
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "processors": len(os.sched_getaffinity(0)),
    }
    if context.options.get("json"):
        output.write_json(facts)
        return
    facts["user"] = f"uid {os.getuid()}, gid {os.getgid()}"
    width = max(map(len, facts)) + 1
    for name, value in facts.items():
        output.write(f"{(name + ':').ljust(width)} {output.clean(str(value))}")


def doctor(context: Context) -> int:
    """``udk doctor``: 0 where at least one engine works."""
    from udk.engines.confine import describe, kernel_abi
    from udk.engines.measure import start_up
    from udk.engines.select import all_engines, probe

    context.exactly(0, 0)
    wanted = context.options.get("engine")
    engines = [e for e in all_engines() if not wanted or wanted in (e.name, *e.aliases)]
    if not engines:
        raise EngineUnavailableError(f"no engine {wanted!r}", "see `udk doctor`")
    rows: list[dict[str, Any]] = []
    abi = kernel_abi()
    for engine in engines:
        reason = probe(engine, fresh=True)
        row = {
            "engine": engine.name, "aliases": list(engine.aliases), "works": not reason, "reason": reason,
            "confine": describe(engine, abi) if not reason else "",
        }  # fmt: skip
        row["start_ms"] = None if reason else start_up(engine)
        if context.options.get("run") and not reason:
            row["run"] = _run_hello(engine.name)
        rows.append(row)
    if context.options.get("json"):
        output.write_json(rows)
    else:
        _print_doctor(rows)
    usable = [r for r in rows if r["works"] and r.get("run", {}).get("status", 0) == 0]
    return 0 if usable else 1


def _print_doctor(rows: list[dict[str, Any]]) -> None:
    best = next((r["engine"] for r in rows if r["works"]), None)
    table = []
    for r in rows:
        verdict = ("works, is used" if r["engine"] == best else "works") if r["works"] else "no"
        start = "" if r["start_ms"] is None else f"{r['start_ms']:.1f} ms"
        table.append([r["engine"], " ".join(r["aliases"]), verdict, start, r["confine"], r["reason"]])
    output.table(["ENGINE", "ALSO", "WORKS", "START", "CONFINES", "WHY NOT, AND WHAT WOULD HELP"], table)
    for r in rows:
        if "run" in r:
            status, text = r["run"]["status"], r["run"]["output"]
            output.write(f"\nudk run --engine {r['engine']} udk/hello: status {status}")
            for line in text.splitlines():
                output.write("  " + output.clean(line))


def _run_hello(engine: str) -> dict[str, Any]:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "udk", "run", "--engine", engine, "udk/hello"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return {"status": done.returncode, "output": done.stdout}


def store(context: Context) -> int:
    """``udk store gc|fsck|df|path``."""
    (action,) = context.exactly(1, 1)
    here = context.store()
    as_json = bool(context.options.get("json"))
    if action == "path":
        output.write_json(here.path) if as_json else output.write(here.path)
        return 0
    from udk.cli.upkeep import df, fsck, gc

    actions = {"gc": gc, "fsck": fsck, "df": df}
    if action not in actions:
        raise UsageError(f"no such action: udk store {action}", "write gc, fsck, df or path")
    sweep(here)
    return actions[action](context, here, as_json)


def cvmfs(context: Context) -> int:
    """``udk cvmfs ...``: the client's own command line."""
    from cvmfs_client.cli import main

    status = main(context.words)
    return int(status or 0)
