"""References on disk: every name has its own file, whatever characters it has."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.support import add_image, snapshot
from udk.errors import CorruptStoreError
from udk.oci.platform import Platform
from udk.oci.reference import Reference
from udk.store import Store
from udk.store.refs import all_ref_files, platform_file, read_ref, ref_dir

HEX = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "s"))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("debian", "docker.io/library/debian/:latest"),
        ("localhost:5000/a/b:T_1", "localhost:5000/a/b/:T_1"),
        (f"quay.io/a@sha256:{HEX}", f"quay.io/a/@sha256:{HEX}"),
        (f"quay.io/a:1@sha256:{HEX}", f"quay.io/a/@sha256:{HEX}"),
        ("oci:/srv/a b:n", "_local/+oci:%2fsrv%2fa%20b:n"),
    ],
)
def test_paths(name: str, path: str) -> None:
    assert ref_dir(Reference.parse(name)) == path


names = st.from_regex(r"[a-z0-9]+(?:[._-][a-z0-9]+){0,3}", fullmatch=True).map(lambda s: s[:60])
references = st.builds(
    lambda host, path, tail: f"{host}/{'/'.join(path)}{tail}",
    st.sampled_from(["a.example", "a.example:5000", "localhost", "docker.io"]),
    st.lists(names, min_size=1, max_size=4),
    st.sampled_from(["", ":1", ":latest", ":_x", f"@sha256:{HEX}", ":json", ":linux-amd64.json"]),
)
local = st.text(st.characters(codec="utf-8", exclude_characters="\0:@\n"), min_size=1, max_size=300).map(
    lambda s: f"oci:/{s}"
)


@settings(max_examples=100)
@given(references | local, references | local)
def test_different_names_have_different_files_none_of_which_is_in_the_way_of_another(a: str, b: str) -> None:
    try:
        first, second = Reference.parse(a), Reference.parse(b)
    except Exception:  # what is not a reference has no file
        return
    paths = [ref_dir(r) + "/" + platform_file(None) for r in (first, second)]
    same = str(first) == str(second)
    assert (paths[0] == paths[1]) == same
    for mine, other in (paths, paths[::-1]):
        assert same or not other.startswith(mine + "/")
        assert all(0 < len(part.encode()) <= 255 and part not in (".", "..") for part in mine.split("/"))


def test_platform_files() -> None:
    assert platform_file(Platform.parse("linux/arm64")) == "linux-arm64.json"
    assert platform_file(Platform.parse("linux/arm64/v8")) == "linux-arm64.json"
    assert platform_file(Platform.parse("linux/arm/v7")) == "linux-arm-v7.json"
    assert platform_file(None) == platform_file(Platform.host())


def test_round_trip_and_removal(store: Store) -> None:
    empty = snapshot(Path(store.path) / "refs")
    image = add_image(store, "localhost:5000/team/app:1")
    found = store.find(Reference.parse("localhost:5000/team/app:1"))
    assert found is not None
    assert {s: getattr(found, s) for s in found.__slots__} == {s: getattr(image, s) for s in image.__slots__}
    assert found.reference == "localhost:5000/team/app:1"
    assert store.remove_ref(image)
    assert not store.remove_ref(image)
    assert store.find(Reference.parse("localhost:5000/team/app:1")) is None
    assert snapshot(Path(store.path) / "refs") == empty  # no empty directories either


def test_damaged_and_foreign_files(store: Store) -> None:
    image = add_image(store, "app:1")
    add_image(store, "other:1", {"x": "y"})
    for text in ("", "{", "[]", '{"version": 2}', '{"version": 1}', "null"):
        Path(image.path).write_text(text)
        with pytest.raises(CorruptStoreError, match="fsck --repair"):
            store.find(Reference.parse("app:1"))
        assert [i.familiar for i in store.images()] == ["other:1"]


def test_platforms_of_one_name(store: Store) -> None:
    amd = add_image(store, "app:1", {"a": "1"}, platform="linux/amd64")
    arm = add_image(store, "app:1", {"a": "2"}, platform="linux/arm64")
    for platform, image in (("linux/amd64", amd), ("linux/arm64", arm)):
        found = store.find(Reference.parse("app:1"), Platform.parse(platform))
        assert found is not None
        assert found.digest == image.digest
    assert len(list(all_ref_files(store.path))) == 2


def test_image_for_a_better_machine_is_not_found_on_a_lesser_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import udk.oci.platform

    image = add_image(store, "app:1")
    image.variant = "v3"
    store.set_ref(Reference.parse("app:1"), image)
    monkeypatch.setattr(udk.store.refs, "host_platform", lambda: "linux/amd64")
    monkeypatch.setattr(Platform, "host", classmethod(lambda cls: cls("linux", "amd64")))
    for level, there in (("v2", False), ("v3", True), ("v4", True)):
        monkeypatch.setattr(udk.oci.platform, "host_variant", lambda architecture, level=level: level)
        assert (store.find(Reference.parse("app:1")) is not None) == there


def test_read_ref_without_file(store: Store) -> None:
    assert read_ref(store.path, f"{store.path}/refs/nothing") is None
    assert read_ref(store.path, f"{store.path}/version/nothing") is None
