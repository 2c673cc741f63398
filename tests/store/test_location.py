"""Where the store is, for users with and without a home."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from udk.errors import ConfigError, StoreError
from udk.store import Store
from udk.store.location import check_owner, locate, scratch_dir


def home_of_passwd(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    line = pwd.getpwuid(os.getuid())
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd((*line[:5], home, *line[6:])))


def no_passwd(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", missing)


def test_named_by_variable(tmp_path: Path) -> None:
    assert locate({"UDK_HOME": f"{tmp_path}/a/b", "HOME": "/nonexistent"}) == f"{tmp_path}/a/b"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_named_by_variable_but_unusable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="UDK_HOME"):
        locate({"UDK_HOME": f"{tmp_path}/file/x", "HOME": str(tmp_path)})


def test_data_home_then_home(tmp_path: Path) -> None:
    environ = {"XDG_DATA_HOME": f"{tmp_path}/data", "HOME": f"{tmp_path}/home"}
    assert locate(environ) == f"{tmp_path}/data/udk"
    assert locate({**environ, "XDG_DATA_HOME": "relative"}) == f"{tmp_path}/home/.local/share/udk"


def test_without_home_the_passwd_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home_of_passwd(monkeypatch, f"{tmp_path}/pw")
    assert locate({}) == f"{tmp_path}/pw/.local/share/udk"


def test_home_that_cannot_be_written_falls_to_scratch_then_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_passwd(monkeypatch)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environ = {"HOME": str(locked), "TMPDIR": str(tmp_path)}
    assert locate({**environ, "_CONDOR_SCRATCH_DIR": str(scratch)}) == f"{scratch}/udk"
    assert locate({**environ, "SLURM_TMPDIR": str(scratch)}) == f"{scratch}/udk"
    assert locate({"TMPDIR": str(tmp_path)}) == f"{tmp_path}/udk-{os.getuid()}"


def test_home_that_is_full_of_nothing_but_a_store_on_a_read_only_place(tmp_path: Path) -> None:
    made = Store.open(f"{tmp_path}/.local/share/udk")
    os.chmod(made.path, 0o500)
    assert locate({"HOME": str(tmp_path)}) == made.path  # it can still be read
    os.chmod(made.path, 0o700)


def test_in_tmp_only_what_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_passwd(monkeypatch)
    environ = {"TMPDIR": str(tmp_path)}
    path = tmp_path / f"udk-{os.getuid()}"
    assert locate(environ) == str(path)
    assert path.stat().st_mode & 0o777 == 0o700
    path.chmod(0o755)
    with pytest.raises(StoreError, match="can be used by others"):
        locate(environ)
    path.rmdir()
    path.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    with pytest.raises(StoreError, match="belongs to someone else"):
        locate(environ)
    with pytest.raises(StoreError, match="belongs to someone else"):
        check_owner("/")


def test_scratch_dir(tmp_path: Path) -> None:
    assert scratch_dir({"SLURM_TMPDIR": str(tmp_path)}) == str(tmp_path)
    assert scratch_dir({"SLURM_TMPDIR": f"{tmp_path}/missing"}) == ""
    assert scratch_dir({"SLURM_TMPDIR": "relative"}) == ""


def test_open_makes_a_store_once(tmp_path: Path) -> None:
    path = tmp_path / "s"
    Store.open(str(path))
    assert (path / "version").read_text() == "udk-store 1\n"
    assert (path / "oci" / "oci-layout").exists()
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    Store.open(str(path))
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before


def test_open_refuses_another_format_and_other_content(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    Path(store.path, "version").write_text("udk-store 99\n")
    with pytest.raises(StoreError, match="does not know"):
        Store.open(store.path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match="not empty"):
        Store.open(str(other))
    assert os.listdir(other) == ["thesis.tex"]


def test_open_completes_what_was_killed_while_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (path / "refs").mkdir(parents=True)
    (path / "oci").mkdir()
    (path / "cvmfs").mkdir()  # the CVMFS client may have been here first
    Store.open(str(path))
    assert Store.open(str(path)).fsck() == []
