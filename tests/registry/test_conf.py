"""registries.conf: which places are asked, in which order, and what a broken file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.registry.conftest import Served
from udk.errors import ConfigError, NotFoundError, RegistryError
from udk.oci.digest import Digest
from udk.oci.reference import Reference
from udk.registry import conf as module
from udk.registry.client import RegistryClient
from udk.registry.conf import RegistriesConf, load, parse_toml
from udk.registry.options import RegistryOptions

DIGEST = "sha256:" + "a" * 64


def conf_of(*texts: str) -> RegistriesConf:
    made = RegistriesConf()
    for n, text in enumerate(texts):
        made.merge(parse_toml(text.encode(), f"file{n}"), f"file{n}")
    return made


def places(made: RegistriesConf, name: str) -> list[str]:
    ref = Reference.parse(name)
    tail = len(f":{ref.tag}" if ref.tag else "") + len(f"@{ref.digest}" if ref.digest else "")
    return [
        str(e.reference)[: len(str(e.reference)) - tail] + ("!" if e.insecure else "")
        for e in made.endpoints(ref)
    ]


def test_no_rules() -> None:
    assert places(conf_of(), "quay.io/a/b:1") == ["quay.io/a/b"]


MIRRORS = """
[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "mirror.site:5000/hub"
insecure = true
[[registry.mirror]]
location = "by-digest.site"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "by-tag.site"
pull-from-mirror = "tag-only"
"""


def test_mirrors_in_order() -> None:
    made = conf_of(MIRRORS)
    assert places(made, "debian:12") == [
        "mirror.site:5000/hub/library/debian!", "by-tag.site/library/debian", "docker.io/library/debian",
    ]  # fmt: skip
    assert places(made, f"debian@{DIGEST}") == [
        "mirror.site:5000/hub/library/debian!", "by-digest.site/library/debian", "docker.io/library/debian",
    ]  # fmt: skip
    assert places(made, "quay.io/x") == ["quay.io/x"]


def test_mirror_by_digest_only() -> None:
    made = conf_of(
        '[[registry]]\nlocation="a.io"\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation="m.io"\n'
    )
    assert places(made, "a.io/x:1") == ["a.io/x"]
    assert places(made, f"a.io/x@{DIGEST}") == ["m.io/x", "a.io/x"]


def test_the_longest_prefix() -> None:
    made = conf_of(
        '[[registry]]\nprefix="a.io"\nlocation="b.io"\n'
        '[[registry]]\nprefix="a.io/team"\nlocation="c.io/x"\n'
        '[[registry]]\nprefix="a.io/team/app"\nlocation="d.io:5000"\ninsecure=true\n'
    )
    assert places(made, "a.io/other") == ["b.io/other"]
    assert places(made, "a.io/teamx") == ["b.io/teamx"]
    assert places(made, "a.io/team/y") == ["c.io/x/y"]
    assert places(made, "a.io/team/app/z") == ["d.io:5000/z!"]
    assert places(made, "a.io:5000/team/y") == ["b.io:5000/team/y"]  # a prefix ends at a port, too
    assert places(made, "xa.io/team/y") == ["xa.io/team/y"]


def test_wildcards() -> None:
    made = conf_of(
        '[[registry]]\nprefix="*.example.com"\ninsecure=true\n[[registry.mirror]]\nlocation="m.io/e"\n'
    )
    assert places(made, "a.example.com/x") == ["m.io/e/x", "a.example.com/x!"]
    assert places(made, "a.b.example.com:5000/x") == ["m.io/e/x", "a.b.example.com:5000/x!"]
    assert places(made, "example.com/x") == ["example.com/x"]
    assert places(made, "aexample.com/x") == ["aexample.com/x"]


def test_blocked() -> None:
    made = conf_of('[[registry]]\nprefix="bad.io"\nblocked=true\n')
    with pytest.raises(RegistryError, match=r"registry bad.io is blocked by file0"):
        made.endpoints(Reference.parse("bad.io/x"))


def test_later_files_win() -> None:
    made = conf_of(
        '[[registry]]\nprefix="a.io"\nblocked=true\n', '[[registry]]\nprefix="a.io"\nlocation="b.io"\n',
        'unqualified-search-registries=["x.io"]\n[aliases]\na="b.io/a"\nc="d.io/c"\n',
        'unqualified-search-registries=["y.io"]\n[aliases]\na="z.io/a"\nc=""\n',
    )  # fmt: skip
    assert places(made, "a.io/x") == ["b.io/x"]
    assert (made.search, made.aliases) == (["y.io"], {"a": "z.io/a"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alias", ["z.io/team/alias:latest"]), ("alias:1", ["z.io/team/alias:1"]),
        (f"alias@{DIGEST}", [f"z.io/team/alias@{DIGEST}"]), ("other:1", ["x.io/other:1", "y.io/other:1"]),
        ("quay.io/alias", ["quay.io/alias:latest"]), ("localhost/alias", ["localhost/alias:latest"]),
        ("docker://alias", ["docker.io/library/alias:latest"]), ("/dir", ["oci:/dir"]),
    ],
)  # fmt: skip
def test_short_names(text: str, expected: list[str]) -> None:
    made = conf_of('unqualified-search-registries=["x.io", "y.io"]\n[aliases]\nalias="z.io/team/alias"\n')
    assert [str(r) for r in made.short_names(text)] == expected
    assert [str(r) for r in conf_of().short_names("debian")] == ["docker.io/library/debian:latest"]


BROKEN = [
    ("not TOML at all", "file0 is not TOML"),
    ('[[registry]]\nprefix="a.io"\nprefix="b.io"', "is not TOML"),
    ("[[registry]]\ninsecure=true", "neither prefix nor location"),
    ('registry="a.io"', r"'registry' must be tables, written \[\[registry\]\]"),
    ('[registry]\nprefix="a.io"', "must be tables"),
    ('[[registry]]\nprefix="a.io"\ninsecure="yes"', "'insecure' must be true or false"),
    ("[[registry]]\nprefix=1", "'prefix' must be a string"),
    ('[[registry]]\nprefix="https://a.io"', r"is not host\[:port\]"),
    ('[[registry]]\nprefix="a.*.io"', r"is not host\[:port\]"),
    ('[[registry]]\nlocation="*.a.io"', "never a location"),
    (
        '[[registry]]\nprefix="a.io"\n[[registry.mirror]]\ninsecure=true',
        "a mirror of 'a.io' has no usable location",
    ),
    ('[[registry]]\nprefix="a.io"\n[[registry.mirror]]\nlocation="http://m"', "no usable location"),
    (
        '[[registry]]\nprefix="a.io"\n[[registry.mirror]]\nlocation="m.io"\npull-from-mirror="x"',
        "'x' is not one of all",
    ),
    ('unqualified-search-registries="a.io"', "must be a list"),
    ("unqualified-search-registries=[1]", "must be a list of strings"),
    ('unqualified-search-registries=["a b"]', "is not a host name"),
    ('aliases="x"', "'aliases' must be a table"),
    ("[aliases]\na=1", "alias 'a' must be a string"),
    ('[registries.search]\nregistries=["a.io"]', "is of version 1"),
    ("\x00", "is not TOML"),
    ("a=" + "[" * 5000, "is not TOML"),
]


@pytest.mark.parametrize(("text", "says"), BROKEN, ids=[str(n) for n in range(len(BROKEN))])
def test_broken(text: str, says: str) -> None:
    with pytest.raises(Exception, match=says) as caught:
        conf_of(text)
    assert str(caught.value).isprintable()


def test_a_rewrite_to_no_name() -> None:
    made = conf_of('[[registry]]\nprefix="a.io"\nlocation="b.io/UPPER"\n')
    with pytest.raises(ConfigError, match=r"rewrites a.io/x to 'b.io/UPPER/x', which is no name"):
        made.endpoints(Reference.parse("a.io/x"))


@given(st.text(max_size=200) | st.text('[]registry.mirror="\n =', max_size=200))
def test_any_text(text: str) -> None:
    try:
        conf_of(text)
    except ConfigError as e:
        assert str(e).isprintable()


# --- files


def test_which_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(target: Path, location: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f'[[registry]]\nprefix="a.io"\nlocation="{location}"\n')

    monkeypatch.setattr(module, "SYSTEM_FILE", str(tmp_path / "etc" / "registries.conf"))
    home = tmp_path / "home"
    user = home / ".config" / "containers"

    def now(**environ: str) -> list[str]:
        return places(load(RegistryOptions(environ={"HOME": str(home), **environ})), "a.io/x")

    assert now() == ["a.io/x"]
    rule(tmp_path / "etc" / "registries.conf", "etc.io")
    assert now() == ["etc.io/x"]
    rule(tmp_path / "etc" / "registries.conf.d" / "50.conf", "drop.io")
    assert now() == ["drop.io/x"]
    rule(tmp_path / "etc" / "registries.conf.d" / "90.txt", "ignored.io")
    assert now() == ["drop.io/x"]
    rule(user / "registries.conf.d" / "40.conf", "early.io")
    assert now() == ["drop.io/x"]
    rule(user / "registries.conf.d" / "60.conf", "late.io")
    assert now() == ["late.io/x"]
    rule(user / "registries.conf", "own.io")  # instead of the system's, before all drop-ins
    assert now() == ["late.io/x"]
    rule(tmp_path / "mine.conf", "mine.io")
    assert now(CONTAINERS_REGISTRIES_CONF=str(tmp_path / "mine.conf")) == ["mine.io/x"]
    with pytest.raises(ConfigError, match="does not exist"):
        now(CONTAINERS_REGISTRIES_CONF=str(tmp_path / "none.conf"))


# --- mirrors at work


def mirrored(tmp_path: Path, served: Served, *mirrors: str) -> str:
    lines = [f'[[registry]]\nlocation="{served.registry.host}"\n']
    lines += [f'[[registry.mirror]]\nlocation="{m}"\n' for m in mirrors]
    path = tmp_path / "mirrors.conf"
    path.write_text("".join(lines))
    return str(path)


def pull(client: RegistryClient, served: Served) -> None:
    assert client.manifest(served.ref)[0] == served.image.manifest
    for layer, expected in zip(served.manifest.layers, served.image.layers):
        assert b"".join(client.blob(served.ref, layer)) == expected


def test_a_mirror_serves_all(
    served: Served, options: Any, tmp_path: Path, make_mirror: Callable[..., Any]
) -> None:
    mirror = make_mirror(layouts={"cache/team/app": served.layout.path})
    with RegistryClient(
        options(registries_conf=mirrored(tmp_path, served, f"{mirror.host}/cache"))
    ) as client:
        pull(client, served)
    assert served.registry.requests() == []
    assert len(mirror.requests()) == 4


@pytest.mark.parametrize("trouble", ["down", "empty", "broken", "wrong", "denied"])
def test_a_mirror_in_trouble_is_passed_over(
    served: Served, options: Any, tmp_path: Path, make_mirror: Callable[..., Any], trouble: str
) -> None:
    mirror = make_mirror(layouts={} if trouble == "empty" else {"team/app": served.layout.path})
    if trouble == "down":
        mirror.stop()
    elif trouble == "broken":
        mirror.fault("/v2/", "status", code=500)
    elif trouble == "wrong":
        mirror.fault("/manifests/", "headers", headers={"Docker-Content-Digest": DIGEST})
    elif trouble == "denied":
        mirror.require_basic("u", "p")
    given_options = options(registries_conf=mirrored(tmp_path, served, mirror.host), attempts=2)
    with RegistryClient(given_options) as client:
        pull(client, served)
    assert len(served.registry.requests()) == 4


def test_a_mirror_that_dies_within_a_blob(
    served: Served, options: Any, tmp_path: Path, make_mirror: Callable[..., Any]
) -> None:
    mirror = make_mirror()
    given_options = options(registries_conf=mirrored(tmp_path, served, mirror.host), attempts=2)
    with RegistryClient(given_options) as client:
        client.manifest(served.ref)
        mirror.fault("/blobs/", "drop")
        mirror.fault("/blobs/", "truncate", after=1_000_000, count=1)
        assert b"".join(client.blob(served.ref, served.manifest.layers[0])) == served.image.layers[0]
    (request,) = served.registry.requests("/blobs/")
    assert request.headers["range"] == "bytes=1000000-"


def test_a_blob_asked_for_again_comes_from_elsewhere(
    served: Served, options: Any, tmp_path: Path, make_mirror: Callable[..., Any]
) -> None:
    """Its content was wrong: that only the reader could see."""
    mirror = make_mirror()
    mirror.fault("/blobs/", "flip", at=5)
    with RegistryClient(options(registries_conf=mirrored(tmp_path, served, mirror.host))) as client:
        client.manifest(served.ref)
        layer = served.manifest.layers[1]
        assert b"".join(client.blob(served.ref, layer)) != served.image.layers[1]
        assert b"".join(client.blob(served.ref, layer)) == served.image.layers[1]


def test_nobody_has_it(served: Served, options: Any, tmp_path: Path, make_mirror: Callable[..., Any]) -> None:
    mirror = make_mirror()
    with RegistryClient(options(registries_conf=mirrored(tmp_path, served, mirror.host))) as client:
        with pytest.raises(NotFoundError, match=f"registry {served.registry.host} does not have"):
            client.manifest(served.ref.with_tag("none"))
        with pytest.raises(NotFoundError):
            client.manifest(served.ref.with_digest(Digest.parse(DIGEST)))
