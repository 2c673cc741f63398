"""Decompressors: every kind, in any pieces, with bounded output and memory."""

from __future__ import annotations

import bz2
import errno
import lzma
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.layers.support import Bytes
from tests.support import tarmaker as t
from udk.errors import IntegrityError, LayerError, StoreError, UnsupportedImageError
from udk.layers import decompress as module
from udk.layers import longzstd
from udk.layers.caps import Caps
from udk.layers.decompress import CHUNK, announced, decompress, sniff, zstd_window
from udk.layers.stream import LayerStream
from udk.oci.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DATA = os.urandom(300_000) + bytes(3 << 20) + b"end"
KINDS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes, "gzip": t.gz, "zstd": t.zst, "bzip2": bz2.compress, "xz": lzma.compress,
}  # fmt: skip


def run(data: bytes, most: int = 1 << 20, **kw: Any) -> bytes:
    chunks = list(decompress(Bytes(data, most).read, kw.pop("caps", Caps()), **kw))
    assert all(0 < len(c) <= CHUNK for c in chunks)
    return b"".join(chunks)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [1 << 20, 4097])
def test_every_kind_in_any_pieces(kind: str, most: int) -> None:
    assert run(KINDS[kind](DATA), most) == DATA


@pytest.mark.parametrize("kind", KINDS)
def test_byte_by_byte(kind: str) -> None:
    assert run(KINDS[kind](b"short"), 1) == b"short"


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_concatenated_streams(kind: str) -> None:
    packed = KINDS[kind](DATA[:1000]) + KINDS[kind](b"") + KINDS[kind](DATA[1000:])
    assert run(packed) == DATA
    assert run(packed, 1000) == DATA


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_garbage_after_the_stream(kind: str) -> None:
    for most in (1 << 20, 1):
        with pytest.raises(LayerError, match=r"garbage after|damaged"):
            run(KINDS[kind](b"x") + b"garbage", most)


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_truncation_and_damage(kind: str) -> None:
    packed = KINDS[kind](DATA)
    for cut in (1, 7, 1000):
        with pytest.raises(LayerError, match=f"{kind} stream is truncated"):
            run(packed[:-cut])
    with pytest.raises(LayerError, match="damaged"):
        run(packed[:5000] + bytes(1000) + packed[6000:])


def test_a_damaged_zstd_frame() -> None:
    packed = t.zst(DATA)
    with pytest.raises(LayerError, match="zstd stream is damaged"):
        run(packed[:6] + b"\xff" * 10 + packed[16:])


def test_without_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    assert run(t.gz(DATA)) == DATA
    with pytest.raises(LayerError, match="truncated"):
        run(t.gz(DATA)[:-1])
    with pytest.raises(LayerError, match="damaged"):
        run(t.gz(DATA)[:-8] + bytes(8))


@pytest.mark.parametrize(("missing", "kind"), [("zstandard", "zstd"), ("bz2", "bzip2"), ("lzma", "xz")])
def test_a_decompressor_that_this_python_lacks(
    monkeypatch: pytest.MonkeyPatch, missing: str, kind: str
) -> None:
    packed = KINDS[kind](b"x")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UnsupportedImageError, match=f"{kind}-compressed"):
        run(packed)


def test_skippable_frames_of_zstd_chunked_layers() -> None:
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"table"
    assert run(skippable + t.zst(b"data") + skippable + t.zst(b"more") + skippable) == b"datamore"


def test_an_xz_window_beyond_the_cap() -> None:
    packed = lzma.compress(b"x", preset=9)
    with pytest.raises(LayerError, match="UDK_UNPACK_WINDOW"):
        run(packed, caps=Caps(window_bytes=1 << 20))
    assert run(packed) == b"x"


def test_long_windows_of_zstd() -> None:
    import zstandard

    params = zstandard.ZstdCompressionParameters.from_level(3, window_log=26, enable_ldm=True)
    packed = zstandard.ZstdCompressor(compression_params=params).compressobj()
    data = packed.compress(DATA) + packed.flush()
    assert run(data) == DATA
    with pytest.raises(LayerError, match="UDK_UNPACK_WINDOW"):
        run(data, caps=Caps(window_bytes=32 << 20))


def long_frame(data: bytes, log: int, size: int = -1, checksum: bool = True) -> bytes:
    """A zstd frame that says its window is ``2**log`` bytes, with references that far back."""
    import zstandard

    params = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=log, enable_ldm=True, write_content_size=size >= 0, write_checksum=checksum
    )
    return zstandard.ZstdCompressor(compression_params=params).compress(data)


FAR = os.urandom(66 << 20)
FAR += FAR[: 1 << 20] + b"end"


needs_library = pytest.mark.skipif(longzstd.library() is None, reason="needs libzstd.so.1")


@needs_library
@pytest.mark.parametrize("known_size", [True, False])
def test_long_windows_are_decoded_from_a_file(tmp_path: Path, known_size: bool) -> None:
    packed = long_frame(FAR, 27, 0 if known_size else -1)
    assert zstd_window(packed) == (len(FAR) if known_size else 1 << 27)
    assert len(packed) < len(FAR) - (1 << 19)  # it does look back that far
    got = bytearray()
    spools = set()
    for chunk in decompress(Bytes(packed, 70_000).read, Caps(), spool=str(tmp_path)):
        got += chunk
        spools |= {line.split()[-2] for line in open("/proc/self/maps") if "/.window-" in line}
    assert got == FAR
    assert len(spools) == 1
    assert spools.pop().startswith(str(tmp_path))
    assert not any("/.window-" in line for line in open("/proc/self/maps"))
    assert os.listdir(tmp_path) == []


@needs_library
def test_long_windows_truncated_damaged_or_followed_by_more(tmp_path: Path) -> None:
    def unpack(data: bytes) -> bytes:
        return b"".join(decompress(Bytes(data).read, Caps(), spool=str(tmp_path)))

    packed = long_frame(FAR, 26)
    assert unpack(packed + t.zst(b"more") + long_frame(b"again", 26)) == FAR + b"moreagain"
    with pytest.raises(LayerError, match="zstd stream is truncated"):
        unpack(packed[:-1])
    with pytest.raises(LayerError, match="zstd stream is damaged"):
        unpack(packed[:-1] + bytes([packed[-1] ^ 1]))
    with pytest.raises(LayerError, match="zstd stream is damaged"):
        unpack(packed + b"garbage")
    with pytest.raises(LayerError, match="UDK_UNPACK_WINDOW"):
        unpack(packed + b"\x28\xb5\x2f\xfd\0" + bytes([21 << 3]) + bytes(20))


@needs_library
def test_a_long_window_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        b"".join(decompress(Bytes(long_frame(FAR, 26)).read, Caps(), spool=str(tmp_path)))
    assert os.listdir(tmp_path) == []


def test_a_long_window_without_the_systems_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert b"".join(decompress(Bytes(long_frame(FAR, 26)).read, Caps(), spool=str(tmp_path))) == FAR


def test_the_window_that_a_frame_asks_for() -> None:
    head = b"\x28\xb5\x2f\xfd"
    rest = bytes(18)
    assert zstd_window(head + b"\0" + bytes([16 << 3]) + rest) == 1 << 26
    assert zstd_window(head + b"\0" + bytes([16 << 3 | 4]) + rest) == 3 << 25
    assert zstd_window(head + b"\x20\x07" + rest) == 7
    assert zstd_window(head + b"\x60\0\1" + rest) == 512
    assert zstd_window(head + b"\xa1\xff" + (5 << 25).to_bytes(4, "little") + rest) == 5 << 25
    assert zstd_window(head + b"\xe3\1\2\3\4" + (1 << 40).to_bytes(8, "little") + rest) == 1 << 40
    assert zstd_window(head) == zstd_window(b"\x50" + head[1:] + rest) == 0


def test_sniffing() -> None:
    assert [sniff(f(b"data")) for f in KINDS.values()] == ["", "gzip", "zstd", "bzip2", "xz"]
    assert sniff(b"") == ""


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        ("application/vnd.oci.image.layer.v1.tar", ""),
        ("application/vnd.oci.image.layer.v1.tar+gzip", "gzip"),
        ("application/vnd.oci.image.layer.v1.tar+zstd", "zstd"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip"),
        ("application/vnd.docker.image.rootfs.diff.tar", ""),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip; x=y", "gzip"),
        ("application/octet-stream", None),
        ("", None),
    ],
)
def test_what_media_types_announce(media_type: str, kind: str | None) -> None:
    assert announced(media_type) == kind


def test_media_types_that_lie_are_refused_on_request_only() -> None:
    zstd = "application/vnd.oci.image.layer.v1.tar+zstd"
    assert run(t.gz(b"x"), media_type=zstd) == b"x"
    with pytest.raises(LayerError, match="says it is zstd but is gzip"):
        run(t.gz(b"x"), media_type=zstd, strict=True)


def test_encrypted_layers_are_refused() -> None:
    with pytest.raises(UnsupportedImageError, match="encrypted"):
        run(t.gz(b"x"), media_type="application/vnd.oci.image.layer.v1.tar+gzip+encrypted")


class Promise:
    """A descriptor."""

    def __init__(self, data: bytes) -> None:
        self.digest = digest_of(data)
        self.size = len(data)


def read(source: object, promise: Promise | None = None) -> tuple[bytes, str]:
    with LayerStream(source, "", Caps(), compressed=promise) as stream:  # type: ignore[arg-type]
        data = b"".join(stream)
        return data, stream.diff_id


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_knows_both_digests(kind: str) -> None:
    packed = KINDS[kind](DATA)
    assert read(Bytes(packed), Promise(packed)) == (DATA, t.diff_id(DATA))


def test_a_stream_that_is_not_what_was_promised() -> None:
    packed = t.gz(DATA)
    for other, match in (
        (packed + b"\0", "has more than"),
        (packed[:-1], "bytes, its descriptor says"),
        (packed[:9] + bytes([packed[9] ^ 1]) + packed[10:], "has the digest"),
        (packed[:5000] + bytes(100) + packed[5100:], "has the digest"),
    ):
        with pytest.raises(IntegrityError, match=match):
            read(Bytes(other), Promise(packed))


def test_what_the_source_raises_arrives() -> None:
    class Broken(Bytes):
        def read(self, size: int) -> bytes:
            if not self.data:
                raise ConnectionResetError("gone")
            return super().read(size)

    with pytest.raises(ConnectionResetError, match="gone"):
        read(Broken(t.gz(DATA)[:-10]))


def test_a_source_that_would_block() -> None:
    class Blocking(Bytes):
        def read(self, size: int) -> Any:
            return None

    with pytest.raises(StoreError, match="would block"):
        read(Blocking(b""))


def test_leaving_early_ends_the_thread() -> None:
    import threading

    before = threading.active_count()
    with LayerStream(Bytes(t.gz(bytes(16 << 20))), "", Caps()) as stream:
        next(iter(stream))
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_output_is_bounded_however_well_it_compresses() -> None:
    """A chunk is never larger than asked for, or a bomb would fill the memory before any cap can act."""
    bombs = [
        t.raw_gzip_zeros(16 << 20),
        t.zst(bytes(16 << 20)),
        bz2.compress(bytes(16 << 20)),
        lzma.compress(bytes(16 << 20)),
    ]
    for bomb in bombs:
        total = 0
        for chunk in decompress(Bytes(bomb).read, Caps()):
            assert len(chunk) <= module.CHUNK
            total += len(chunk)
        assert total == 16 << 20
