"""The index of tar members against the standard library's reader, and against hostile headers."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from udk.archive.tarindex import TarIndex
from udk.errors import InvalidImageError

NAMES = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0/"), min_size=1, max_size=80
)


def index_of(data: bytes, directory: Path) -> TarIndex:
    path = directory / "x.tar"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        return TarIndex(fd, "the archive")
    finally:
        os.close(fd)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.lists(NAMES, min_size=1, max_size=4), st.binary(max_size=1500)), min_size=1, max_size=6
    ),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_agrees_with_the_standard_library(
    tmp_path: Path, files: list[tuple[list[str], bytes]], form: int
) -> None:
    out = io.BytesIO()
    expected = {}
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8") as tar:
        for parts, content in files:
            name = "/".join(parts)
            if any(p in (".", "..") for p in parts):
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            expected[name] = content
    if not expected:
        return
    data = out.getvalue()
    index = index_of(data, tmp_path)
    for name, content in expected.items():
        place = index.find(name)
        assert place is not None
        assert data[place[0] : place[0] + place[1]] == content


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_never_leads_outside_the_file(tmp_path: Path, data: st.DataObject) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a", "ü" * 80, "b"):
            info = tarfile.TarInfo(name)
            info.size = 10
            tar.addfile(info, io.BytesIO(b"0123456789"))
    raw = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        index = index_of(bytes(raw), tmp_path)
    except InvalidImageError as e:
        assert "\n" not in str(e)
        return
    assert all(offset >= 0 and offset + size <= len(raw) for offset, size in index.places.values())


def member(name: bytes, size_field: bytes, kind: bytes = b"0", body: bytes = b"") -> bytes:
    """One member with a valid checksum, whatever its size field says."""
    header = bytearray(512)
    header[: len(name)] = name
    header[100:108], header[108:116], header[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    header[124:136], header[136:148] = size_field.ljust(12, b"\0"), b"00000000000\0"
    header[156:157], header[257:265] = kind, b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + body.ljust(-(-len(body) // 512) * 512, b"\0")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (member(b"a", b"77777777777\0") + bytes(1024), "goes beyond its end"),
        (member(b"a", b"\xff" * 12), "impossible size"),
        (member(b"a", b"\x80" + b"\xff" * 11), "impossible size"),
        (member(b"a", b"9"), "impossible size"),
        (member(b"a", b"-1"), "impossible size"),
        (member(b"L", b"77777777\0", b"L"), "header of"),
        (member(b"x", b"15\0", b"x", b"999 path=abc\n"), "malformed PAX"),
        (member(b"x", b"13\0", b"x", b"0 path=abc\n") + bytes(1024), "malformed PAX"),
        (member(b"x", b"15\0", b"x", b"13 size=-999\n") + member(b"a", b"0"), "of the size '-999'"),
        (
            member(b"x", b"34\0", b"x", b"28 size=9999999999999999999\n") + member(b"a", b"0"),
            "of the size '9+'",
        ),
        (bytes(1024), "not a tar archive"),
        (b"\x1b[31m" * 200, "not a tar archive"),
    ],
)
def test_hostile_headers(tmp_path: Path, data: bytes, text: str) -> None:
    with pytest.raises(InvalidImageError, match=text):
        index_of(data, tmp_path)


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from udk.archive import tarindex

    monkeypatch.setattr(tarindex, "MAX_MEMBERS", 10)
    with pytest.raises(InvalidImageError, match="more than 10 members"):
        index_of(member(b"a", b"0") * 11 + bytes(1024), tmp_path)


def test_the_last_of_a_name_counts(tmp_path: Path) -> None:
    index = index_of(
        member(b"./a", b"1\0", body=b"x") + member(b"a", b"2\0", body=b"yy") + bytes(1024), tmp_path
    )
    assert index.find("a") == (1536, 2)
