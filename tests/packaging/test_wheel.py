"""What ``pip install`` gives: a wheel with the native programs, usable from a clean environment."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources that git would track, with nothing built before."""
    import shutil

    source = tmp_path_factory.mktemp("source")
    for name in ("udk", "cvmfs_client", "csrc", "scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("_native", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
    ]
    subprocess.run([*command, str(source)], check=True, cwd="/")
    (found,) = out.glob("udk-*.whl")
    return found


def test_the_wheel_fits_every_python_of_its_platform(wheel: Path) -> None:
    assert "-py3-none-linux_" in wheel.name


def test_native_programs_are_executable_and_need_no_libc(wheel: Path) -> None:
    from elftools.elf.elffile import ELFFile

    with zipfile.ZipFile(wheel) as z:
        native = [i for i in z.infolist() if i.filename.startswith("udk/_native/udk-")]
        assert {"udk/_native/udk-guard", "udk/_native/udk-hello"} <= {i.filename for i in native}
        for info in native:
            assert (info.external_attr >> 16) & 0o777 == 0o755, info.filename
            with z.open(info) as f:
                elf = ELFFile(f)
                kinds = {s.header.p_type: s for s in elf.iter_segments()}
                if info.filename.endswith(("-loaded", "-ldconfig")):  # its own interpreter
                    assert kinds["PT_INTERP"].get_interp_name() == "/hello"
                    assert not list(kinds["PT_DYNAMIC"].iter_tags("DT_NEEDED"))
                else:
                    assert not {"PT_INTERP", "PT_DYNAMIC"} & set(kinds), info.filename
        assert any(i.filename.startswith("udk/_native/hello/blobs/sha256/") for i in z.infolist())
        assert any(i.filename == "udk/py.typed" for i in z.infolist())


@pytest.mark.slow
def test_a_clean_environment_runs_the_embedded_image(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = venv / "lib" / version / "site-packages"
    # The libraries are those of the tests: this test is about our wheel, not about a package registry.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "-q"]
    subprocess.run([*pip, "--no-deps", "--force-reinstall", "--no-index", str(wheel)], check=True)
    home = tmp_path / "home"
    home.mkdir()
    env = {"PATH": f"{venv}/bin:{os.environ['PATH']}", "HOME": str(home)}
    done = subprocess.run(
        [str(venv / "bin" / "udk"), "run", "udk/hello"], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "uid" in done.stdout and done.stderr == ""
    where = subprocess.run(
        [str(venv / "bin" / "python"), "-c", "import udk; print(udk.__file__)"],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(venv)), "the wheel, not the checkout, must be what ran"
