"""Configuration: which file wins, what parameters mean, what is reported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cvmfs_client import errors, parameters
from cvmfs_client.config import Configuration, check_fqrn, configured_repositories
from cvmfs_client.errors import ConfigError, UsageError
from cvmfs_client.shell_conditions import LocalFiles

FQRN = "sw.example.org"


class Site:
    """A directory like /etc/cvmfs."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.etc = top / "etc"
        self.mount = top / "cvmfs"

    def write(self, name: str, text: str) -> None:
        place = self.etc / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def shared(self, name: str, text: str) -> None:
        place = self.mount / "config.example.org" / "etc" / "cvmfs" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def load(self, fqrn: str = FQRN, environ: dict[str, str] | None = None, **values: str) -> Configuration:
        return Configuration.load(
            fqrn, directory=str(self.etc), values=values, environ=environ or {}, files=LocalFiles()
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


ORDER = [
    "default.conf",
    "default.d/10.conf",
    "default.d/20.conf",
    "@default.conf",
    "default.local",
    "@domain.d/example.org.conf",
    "domain.d/example.org.conf",
    "domain.d/example.org.local",
    f"@config.d/{FQRN}.conf",
    f"config.d/{FQRN}.conf",
    f"config.d/{FQRN}.local",
]


@pytest.mark.parametrize("last", range(len(ORDER)))
def test_order_of_files(site: Site, last: int) -> None:
    """Each file overrides those before it; a @ stands for the configuration repository."""
    site.write(
        "default.conf",
        f"CVMFS_MOUNT_DIR={site.mount}\nCVMFS_CONFIG_REPOSITORY=config.example.org\nCVMFS_TIMEOUT=0\n",
    )
    site.shared("placeholder", "")
    for number, name in enumerate(ORDER[: last + 1]):
        text = f"CVMFS_TIMEOUT={number + 100}\n"
        if name.startswith("@"):
            site.shared(name[1:], text)
        elif number:
            site.write(name, text)
        else:
            with open(site.etc / name, "a") as f:
                f.write(text)
    config = site.load()
    assert config.get("CVMFS_TIMEOUT") == str(last + 100)
    assert config.settings["CVMFS_TIMEOUT"].source.endswith(ORDER[last].lstrip("@"))
    assert config.warnings == []


def test_environment_and_arguments_win(site: Site) -> None:
    site.write("default.conf", "CVMFS_TIMEOUT=1\nCVMFS_MAX_RETRIES=1\nCVMFS_MOUNT_DIR=/cvmfs\n")
    environ = {
        "CVMFS_TIMEOUT": "2",
        "CVMFS_MAX_RETRIES": "2",
        "CVMFS_MOUNT_DIR": "/else",
        "CVMFS_NONSENSE": "x",
    }
    config = site.load(environ=environ, CVMFS_TIMEOUT="3")
    assert config.get("CVMFS_TIMEOUT") == "3"
    assert config.settings["CVMFS_MAX_RETRIES"] == ("2", "environment")
    assert config.get("CVMFS_MOUNT_DIR") == "/cvmfs"
    assert "CVMFS_NONSENSE" not in config.settings


def test_files_see_what_was_set_before(site: Site) -> None:
    site.write("default.conf", "CVMFS_HTTP_PROXY=DIRECT\n")
    site.write(
        "domain.d/example.org.conf",
        'if [ "$CVMFS_HTTP_PROXY" = DIRECT ]; then\n  CVMFS_SERVER_URL="http://cdn/@fqrn@"\n'
        'else\n  CVMFS_SERVER_URL="http://s1/@fqrn@"\nfi\nCVMFS_PUBLIC_KEY=/keys/$CVMFS_FQRN.pub\n',
    )
    assert site.load().get("CVMFS_SERVER_URL") == f"http://cdn/{FQRN}"
    site.write("default.local", "CVMFS_HTTP_PROXY=http://squid:3128\n")
    config = site.load()
    assert config.get("CVMFS_SERVER_URL") == f"http://s1/{FQRN}"
    assert config.get("CVMFS_PUBLIC_KEY") == f"/keys/{FQRN}.pub"


def test_variables_of_an_included_file_count_only_when_assigned_here(site: Site) -> None:
    """As the official client, which looks for names in the text of the file itself."""
    site.write("common.conf", "CVMFS_TIMEOUT=9\nCVMFS_MAX_RETRIES=9\n")
    site.write("domain.d/example.org.conf", 'CVMFS_TIMEOUT="$CVMFS_TIMEOUT"\n. ../common.conf\n')
    config = site.load()
    assert config.get("CVMFS_TIMEOUT") == "9"
    assert config.integer("CVMFS_MAX_RETRIES", 1) == 1


def test_the_configuration_repository(site: Site) -> None:
    site.write("default.conf", f"CVMFS_MOUNT_DIR={site.mount}\nCVMFS_CONFIG_REPOSITORY=config.example.org\n")
    config = site.load()
    assert "config.example.org is not there" in config.warnings[0]
    site.write("default.local", "CVMFS_TIMEOUT=3\n")
    with pytest.raises(ConfigError, match=re.escape("config.example.org is not there")):
        site.write("default.d/x.conf", "CVMFS_CONFIG_REPO_REQUIRED=yes\n")
        site.load()
    # the repository itself is configured without it
    assert site.load("config.example.org").get("CVMFS_TIMEOUT") == "3"


def test_unqualified_names(site: Site) -> None:
    site.write("default.local", "CVMFS_DEFAULT_DOMAIN=example.org\n")
    site.write(f"config.d/{FQRN}.conf", "CVMFS_TIMEOUT=4\n")
    config = site.load("sw")
    assert config.fqrn == FQRN
    assert config.get("CVMFS_TIMEOUT") == "4"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a..b", "x" * 300, "a b", "a\n"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError):
        check_fqrn(name)


def test_templates(site: Site) -> None:
    config = site.load(CVMFS_SERVER_URL="http://s1/cvmfs/@fqrn@;http://s2/@org@")
    assert config.items("CVMFS_SERVER_URL", ";") == [f"http://s1/cvmfs/{FQRN}", "http://s2/sw"]


def test_typed_values(site: Site) -> None:
    for text in ("yes", "ON", "1", "True"):
        assert site.load(CVMFS_USE_GEOAPI=text).boolean("CVMFS_USE_GEOAPI")
    for text in ("no", "Off", "0", "FALSE"):
        assert not site.load(CVMFS_USE_GEOAPI=text).boolean("CVMFS_USE_GEOAPI", True)
    assert site.load().boolean("CVMFS_WORLD_READABLE", True) is False  # the documented default is no
    site.write("default.conf", "CVMFS_USE_GEOAPI=perhaps\nCVMFS_TIMEOUT=soon\n")
    config = site.load()
    with pytest.raises(ConfigError, match=r"perhaps \(.*default.conf\) is neither yes nor no"):
        config.boolean("CVMFS_USE_GEOAPI")
    with pytest.raises(ConfigError, match="is not a number"):
        config.integer("CVMFS_TIMEOUT", 1)


def test_only_the_files_given(site: Site, tmp_path: Path) -> None:
    site.write("default.conf", "CVMFS_TIMEOUT=1\n")
    one, two = tmp_path / "one.conf", tmp_path / "two.conf"
    one.write_text("CVMFS_SERVER_URL=http://one\nCVMFS_MAX_RETRIES=5\n")
    two.write_text("CVMFS_SERVER_URL=$CVMFS_SERVER_URL\\;http://two\n")
    config = Configuration.load(FQRN, paths=[str(one), str(two)], environ={})
    assert config.items("CVMFS_SERVER_URL", ";") == ["http://one", "http://two"]
    assert not config.is_set("CVMFS_TIMEOUT")
    with pytest.raises(ConfigError, match="no configuration file"):
        Configuration.load(FQRN, paths=[str(tmp_path / "none.conf")], environ={})


def test_a_users_own_files(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "home" / ".config" / "cvmfs" / "config.d"
    mine.mkdir(parents=True)
    (mine / f"{FQRN}.conf").write_text("CVMFS_HTTP_PROXY=DIRECT\n")
    site.write("default.local", "CVMFS_HTTP_PROXY=http://squid:3128\n")
    environ = {"HOME": str(tmp_path / "home"), "CVMFS_CONFIG_DIR": str(site.etc)}
    assert Configuration.load(FQRN, environ=environ).get("CVMFS_HTTP_PROXY") == "DIRECT"
    assert (
        Configuration.load("other.example.org", environ=environ).get("CVMFS_HTTP_PROXY")
        == "http://squid:3128"
    )


def test_configured_repositories(site: Site) -> None:
    site.write("default.local", 'CVMFS_REPOSITORIES="a.x.org, b  ,c"\nCVMFS_DEFAULT_DOMAIN=example.org\n')
    found = configured_repositories({}, str(site.etc))
    assert found == ["a.x.org", "b.example.org", "c.example.org"]


def test_show(site: Site) -> None:
    site.write("default.conf", "CVMFS_SERVER_URL=http://s1/@fqrn@\n")
    rows = {name: (value, source) for name, value, source in site.load().show()}
    assert rows["CVMFS_SERVER_URL"] == (f"http://s1/{FQRN}", str(site.etc / "default.conf"))
    assert rows["CVMFS_TIMEOUT"] == ("5", "default")
    assert rows["CVMFS_PUBLIC_KEY"] == ("", "")
    assert "CVMFS_PUBLIC_KEY" not in {name for name, _, _ in site.load().show(empty=False)}


# --- the table of parameters

PACKAGE = Path(parameters.__file__).parent
SOURCES = {
    p: p.read_text() for p in PACKAGE.rglob("*.py") if p.name != "parameters.py" and "publish" not in p.parts
}


def test_honoured_parameters_are_used() -> None:
    text = "\n".join(SOURCES.values())
    unused = [name for name in parameters.HONOURED if name not in text]
    assert unused == []


def test_used_parameters_are_in_the_table() -> None:
    for path, text in SOURCES.items():
        for name in re.findall(
            r'(?<!environ\.)(?:get|boolean|integer|items|is_set)\(\s*"(CVMFS_[A-Z0-9_]+)"', text
        ):
            assert name in parameters.HONOURED or name.startswith(("CVMFS_CACHE_", "CVMFS_AUTHZ_")), (
                path,
                name,
            )
    assert not set(parameters.HONOURED) & parameters.ACCEPTED


def test_honoured_parameters_are_documented() -> None:
    guide = (PACKAGE.parent / "docs" / "cvmfs.md").read_text()
    missing = [name for name in parameters.HONOURED if f"`{name}`" not in guide]
    assert missing == []


def test_exit_statuses_are_documented() -> None:
    """The guide's table names every error class with the status that it has."""
    guide = (PACKAGE.parent / "docs" / "cvmfs.md").read_text()
    listed = {
        name: int(status)
        for status, names in re.findall(r"^\| (\d+) \| (`\w+Error`[^|]*) \|", guide, re.M)
        for name in re.findall(r"`(\w+)`", names)
    }
    assert len(listed) >= 20
    for name, status in listed.items():
        assert getattr(errors, name).status == status, name
    leaves = {
        c.__name__
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, errors.CvmfsError) and not issubclass(c, errors.PathError)
    }
    assert leaves - set(listed) == {"CvmfsError", "CvmfsIoError"}
