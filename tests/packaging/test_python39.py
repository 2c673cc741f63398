"""udk on Python 3.9, the oldest it supports: its own tests in a Debian 11 container that udk runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.roots import cache, root_layout

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    "oci", "layers", "registry", "archive", "base", "cli/test_parse.py",
    "cvmfs/test_hash.py", "cvmfs/test_trust.py", "cvmfs/test_catalog.py", "cvmfs/test_tree.py",
    "cvmfs/test_shell.py", "cvmfs/test_config.py", "cvmfs/test_prefetch_analysis.py", "cvmfs/test_opening.py",
)  # fmt: skip

# As root inside (the ordinary user outside) the tests would refuse to run: they run as another uid.
SCRIPT = r"""
set -eu
export HOME=/tmp PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
cp -r /src /tmp/src && cd /tmp/src
if ! /venv/bin/python -c 'import requests, pytest, zstandard, click, hypothesis' 2>/dev/null; then
    python3 -m venv --clear /venv
    /venv/bin/python -m pip install -q --upgrade pip setuptools wheel
    /venv/bin/python -m pip install -q -r /tmp/src/wanted
fi
/venv/bin/python -m pip install -q --no-deps --no-build-isolation -e .
/venv/bin/udk version
/venv/bin/python -m compileall -q udk cvmfs_client
exec /venv/bin/python -m pytest -q -m 'not slow' -p no:cacheprovider "$@"
"""


def udk(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "from udk.cli.main import main; import sys; sys.exit(main())",
        *arguments,
    ]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=800)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_tests_pass_on_python_39(tmp_path: Path) -> None:
    layout = root_layout("debian11")
    kept = cache()
    assert kept is not None
    venv = kept / "venv39"
    venv.mkdir(exist_ok=True)
    source = tmp_path / "src"
    source.mkdir()
    subprocess.run(
        ["cp", "-r", *(str(ROOT / n) for n in ("udk", "cvmfs_client", "csrc", "scripts", "tests", "docs")),
         *(str(ROOT / n) for n in ("pyproject.toml", "setup.py", "README.md", "LICENSE")), str(source)],
        check=True,
    )  # fmt: skip
    subprocess.run(["rm", "-rf", str(source / "udk" / "_native")], check=True)
    try:
        import tomllib
    except ImportError:
        import tomli as tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (source / "wanted").write_text(
        "\n".join([*project["dependencies"], *project["optional-dependencies"]["test"]])
    )
    mounts = [f"{source}:/src:ro", f"{venv}:/venv"]
    # How this site's pip finds its packages is the site's affair: pass it on.
    mounts += [f"{p}:{p}:ro" for p in ("/etc/pip.conf", "/etc/ssl/certs", "/opt/wheels") if os.path.exists(p)]
    env = {"HOME": str(tmp_path), "UDK_HOME": str(tmp_path / "store"), "PATH": os.environ["PATH"]}
    flags = [a for m in mounts for a in ("-v", m)]
    flags += [
        a for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_CERT_")) for a in ("-e", f"{k}={v}")
    ]
    rooms = [f"tests/{r}" for r in ROOMS]
    done = udk("run", "-u", "1000:1000", *flags, f"oci:{layout}:1", "sh", "-c", SCRIPT, "sh", *rooms, env=env)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert " passed" in done.stdout
