"""Platforms: names, variants, and which entry of an index suits."""

from __future__ import annotations

import json
import platform as host_platform
from typing import Any, Optional

import pytest

from udk.errors import PlatformError, UsageError
from udk.oci import platform as module
from udk.oci.manifest import Index, parse_manifest
from udk.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from udk.oci.platform import Platform, candidates, host_variant, select


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"), ("amd64", "linux/amd64"), ("x86_64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"), ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64/v8"),
        ("linux/armhf", "linux/arm/v7"), ("linux/arm/v6", "linux/arm/v6"), ("i686", "linux/386"),
        ("Linux/ARM64", "linux/arm64"), ("windows/amd64", "windows/amd64"),
        ("linux/ppc64le", "linux/ppc64le"),
    ],
)  # fmt: skip
def test_names(text: str, expected: str) -> None:
    assert str(Platform.parse(text)) == expected


@pytest.mark.parametrize(
    "text", ["", "/", "linux/", "a/b/c/d", "linux/am d64", "linux/\x1b", "linux//v8", "x" * 70]
)
def test_names_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Platform.parse(text)
    assert str(caught.value).isprintable()


def test_host() -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(host_platform.machine())
    if machine:
        assert str(Platform.host()) == f"linux/{machine}"
        assert Platform.parse("linux") == Platform.host()
    assert host_variant("riscv64") == ""


def index_of(*rows: Any) -> Index:
    manifests = []
    for n, row in enumerate(rows):
        text, extra = (row, {}) if isinstance(row, str) or row is None else row
        entry: dict[str, Any] = {"mediaType": OCI_MANIFEST, "digest": f"sha256:{n:064x}", "size": 7, **extra}
        if text:
            os, architecture, *variant = text.split("/")
            entry["platform"] = {"os": os, "architecture": architecture}
            if variant:
                entry["platform"]["variant"] = variant[0]
        manifests.append(entry)
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    parsed = parse_manifest(json.dumps(document).encode())
    assert isinstance(parsed, Index)
    return parsed


UNKNOWN = ("unknown/unknown", {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}})


@pytest.mark.parametrize(
    ("rows", "wanted", "chosen"),
    [
        (["linux/arm64", "linux/amd64"], "linux/amd64", 1),
        (["linux/amd64", "linux/amd64"], "linux/amd64", 0),
        (["windows/amd64", "linux/amd64"], "linux/amd64", 1),
        ([UNKNOWN, "linux/amd64"], "linux/amd64", 1),
        (["linux/arm64/v8"], "linux/arm64", 0),
        (["linux/arm64"], "linux/arm64/v8", 0),
        (["linux/arm64/v9", "linux/arm64"], "linux/arm64/v8", 1),
        (["linux/arm64/v8", "linux/arm64/v9"], "linux/arm64/v9", 1),
        (["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", 2),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v6", 2),
        (["linux/arm/v5", "linux/arm/v7"], "linux/arm/v6", 0),
        (["linux/arm/7", "linux/arm/6"], "linux/arm/v6", 1),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64/v2", 1),
        (["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "linux/amd64/v3", 1),
        (["linux/ppc64le/power9", "linux/ppc64le"], "linux/ppc64le", 1),
        (["linux/ppc64le/power9", "linux/ppc64le"], "linux/ppc64le/power9", 0),
        (["linux/ppc64le/power9", "linux/ppc64le"], "linux/ppc64le/power10", 1),
        ([None, "linux/amd64"], "linux/amd64", 1),
        ([None], "linux/amd64", 0),
        (["linux/386", "linux/amd64"], "linux/386", 0),
        (["linux/x86_64"], "linux/amd64", 0),
        ([("linux/amd64", {"mediaType": "application/vnd.example"}), "linux/amd64"], "linux/amd64", 1),
    ],
)
def test_selection(rows: list[Any], wanted: str, chosen: int) -> None:
    assert select(index_of(*rows), Platform.parse(wanted)).digest.hex == f"{chosen:064x}"


@pytest.mark.parametrize(("level", "chosen"), [("v1", 0), ("v2", 1), ("v3", 2), ("v4", 2), ("", 0)])
def test_the_best_level_of_this_host(monkeypatch: pytest.MonkeyPatch, level: str, chosen: int) -> None:
    monkeypatch.setattr(module, "host_variant", lambda architecture: level)
    index = index_of("linux/amd64", "linux/amd64/v2", "linux/amd64/v3")
    assert select(index, Platform("linux", "amd64")).digest.hex == f"{chosen:064x}"


@pytest.mark.parametrize(
    ("rows", "wanted", "offer"),
    [
        (["linux/arm64", "windows/amd64"], "linux/amd64", "linux/arm64, windows/amd64"),
        (["linux/amd64"], "linux/386", "linux/amd64"),  # not asked for, not taken
        (["linux/arm/v7"], "linux/arm/v6", "linux/arm/v7"),
        ([UNKNOWN], "linux/amd64", None),
        ([], "linux/amd64", None),
        (["linux/\x1b[31m"], "linux/amd64", r"linux/\\x1b\[31m"),
    ],
)
def test_nothing_suits(rows: list[Any], wanted: str, offer: Optional[str]) -> None:
    with pytest.raises(
        PlatformError, match=f"no variant for {wanted}" + (f".*: {offer}" if offer else "")
    ) as caught:
        select(index_of(*rows), Platform.parse(wanted))
    assert str(caught.value).isprintable()


def test_candidates_are_ordered() -> None:
    index = index_of(None, "linux/arm/v5", ("", {"mediaType": OCI_INDEX}), "linux/arm/v7", "linux/arm/v6")
    found = [int(d.digest.hex, 16) for d in candidates(index, Platform.parse("linux/arm/v7"))]
    assert found == [3, 4, 1, 2, 0]
