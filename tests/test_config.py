"""The configuration: precedence, strict types, errors that name file and key, and what it costs when
absent."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from udk.config import SETTINGS, SITE_FILE, Config, config_files
from udk.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def load(*files: str, environ: Any = None, flags: Any = None) -> Config:
    return Config.load(environ or {}, flags, files)


def test_defaults() -> None:
    config = load()
    assert {s.name: getattr(config, s.field) for s in SETTINGS} == {s.name: s.default for s in SETTINGS}
    assert config.origin("pull.parallel") == "default"


def test_every_setting_is_declared_documented_and_has_its_own_variable() -> None:
    assert {s.field for s in SETTINGS} == {n for n in Config.__annotations__ if not n.startswith("_")}
    assert len({s.env for s in SETTINGS}) == len({s.name for s in SETTINGS}) == len(SETTINGS)
    assert all(s.doc and s.env.startswith("UDK_") for s in SETTINGS)


def test_precedence(tmp_path: Path) -> None:
    site = write(tmp_path / "site.toml", '[pull]\nparallel = 5\npolicy = "always"\n[run]\nengine = "runc"')
    user = write(tmp_path / "user.toml", '[pull]\nparallel = 6\npolicy = "never"')
    environ = {"UDK_PULL_PARALLEL": "7"}
    config = load(site, user, environ=environ)
    assert (config.pull_parallel, config.pull_policy, config.run_engine) == (7, "never", "runc")
    assert [config.origin(n) for n in ("pull.parallel", "pull.policy", "run.engine")] == [
        "UDK_PULL_PARALLEL", user, site,
    ]  # fmt: skip
    flagged = load(site, user, environ=environ, flags={"pull.parallel": 8, "pull.policy": None})
    assert (flagged.pull_parallel, flagged.pull_policy) == (8, "never")
    assert flagged.origin("pull.parallel") == "command line"


def test_empty_variable_is_not_set() -> None:
    assert load(environ={"UDK_PULL_PARALLEL": "", "UDK_STORES": ""}).pull_parallel == 3


def test_lists_and_paths() -> None:
    config = load(environ={"UDK_STORES": "/a:/b/../c:", "UDK_INSECURE": "x:5000, y", "UDK_SCRATCH": "rel"})
    assert config.store_others == ("/a", "/c")
    assert config.pull_insecure == ("x:5000", "y")
    assert config.run_scratch == os.path.abspath("rel")


def test_home_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert load(write(tmp_path / "c", '[store]\nothers = ["~/x"]')).store_others == ("/home/me/x",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pull", "not TOML"),
        ("\xff", "not TOML"),
        ("pull = 3", "must be in a section"),
        ("[pul]\nparallel = 3", r"no section \[pul\]"),
        ("[pull]\nparalel = 3", "no setting pull.paralel"),
        ('[pull]\nparallel = "3"', "pull.parallel = '3'"),
        ("[pull]\nparallel = 3.0", "whole number"),
        ("[pull]\nparallel = true", "whole number"),
        ("[pull]\nparallel = 0", "from 1 to 64"),
        ("[pull]\nparallel = 65", "from 1 to 64"),
        ('[pull]\npolicy = "sometimes"', "one of always, missing, never"),
        ("[pull]\npolicy = 3", "a string"),
        ("[store]\nlease_days = nan", "a number"),
        ("[store]\nlease_days = -1", "a number"),
        ('[store]\nothers = "/a"', "list of strings"),
        ("[store]\nothers = [3]", "list of strings"),
        ('[store]\nothers = ["rel"]', "absolute path"),
        ('[run]\nscratch = "rel"', "absolute path"),
        ("a = " + "[" * 5000, "not TOML"),
        ('"\\u001b[2J" = 3', "must be in a section"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=said) as caught:
        load(str(path))
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.status == 125


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("UDK_PULL_PARALLEL", "many", "a number"),
        ("UDK_PULL_PARALLEL", "1.5", "a number"),
        ("UDK_PULL_PARALLEL", "99", "from 1 to 64"),
        ("UDK_LEASE_DAYS", "nan", "a number"),
        ("UDK_PULL", "no", "one of"),
        ("UDK_STORES", "rel", "absolute path"),
    ],
)
def test_mistakes_in_variables_name_the_variable(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load(environ={name: value})
    assert name in str(caught.value)


def test_unreadable_and_huge_files(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text("")
    path.chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        load(str(path))
    path.chmod(0o600)
    path.write_bytes(b"#" * 2_000_000)
    with pytest.raises(ConfigError, match="larger than"):
        load(str(path))
    assert load(str(tmp_path / "missing"), "/dev/null/x").pull_parallel == 3


def test_where_files_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_files({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == (SITE_FILE, "/x/udk/config.toml")
    assert config_files({"XDG_CONFIG_HOME": "rel", "HOME": "/h"}) == (SITE_FILE, "/h/.config/udk/config.toml")
    home = pwd.getpwuid(os.getuid()).pw_dir.rstrip("/")
    assert config_files({}) == (SITE_FILE, f"{home}/.config/udk/config.toml")

    def missing(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", missing)
    assert config_files({}) == (SITE_FILE,)


def test_without_files_no_parser_is_loaded() -> None:
    code = "import sys; from udk.config import Config; Config.load(); print('\\n'.join(sys.modules))"
    env = {"PYTHONPATH": str(ROOT), "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-S", "-c", code]
    loaded = set(subprocess.run(argv, check=True, capture_output=True, text=True, env=env).stdout.split())
    assert not loaded & {"tomllib", "tomli", "re", "typing", "json", "importlib.metadata"}
