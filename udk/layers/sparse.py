"""The maps of sparse files: old GNU headers, and the PAX forms 0.0, 0.1 and 1.0.

Every map is checked before it is used: ascending, without overlap, within the file's size, and together as
long as the data stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from udk.layers.caps import over_cap, refusal, show

if TYPE_CHECKING:
    from udk.layers.tar import ChunkReader, Member

BLOCK = 512


def check_map(m: Member, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """``pairs`` without empty regions. Raises LayerError when they do not fit the file."""
    end = 0
    total = 0
    for offset, length in pairs:
        if offset < end or length < 0 or offset + length > m.real_size:
            raise refusal(f"{show(m.name)}: a sparse file's map is malformed")
        end = offset + length
        total += length
    if total != m.size:
        raise refusal(f"{show(m.name)}: a sparse file's map does not fit its data")
    return [p for p in pairs if p[1]]


def read_gnu_map(source: ChunkReader, block: bytes, m: Member, limit: int) -> list[tuple[int, int]]:
    """The map of an old GNU sparse file: four pairs in the header, 21 in each extension block after it."""
    from udk.layers.tar import number

    pairs: list[tuple[int, int]] = []

    def take(area: bytes, count: int) -> None:
        for at in range(0, count * 24, 24):
            if area[at : at + 24].strip(b"\0 "):
                pairs.append(
                    (number(area[at : at + 12], "sparse map"), number(area[at + 12 : at + 24], "sparse map"))
                )

    take(block[386:482], 4)
    more = block[482]
    read = 0
    while more:
        read += BLOCK
        if read > limit:
            raise over_cap(f"{show(m.name)}: a sparse file's map beyond the limit", "")
        area = source.block()
        if len(area) < BLOCK:
            raise refusal("the layer's tar stream ends in the middle of a sparse file's map")
        take(area, 21)
        more = area[504]
    return check_map(m, pairs)


def pax_sparse_map(
    m: Member, records: list[tuple[bytes, bytes]], pax: dict[bytes, bytes]
) -> list[tuple[int, int]]:
    """The map of form 0.1 (one record with all numbers) or 0.0 (a record for each number, in order)."""
    if b"GNU.sparse.map" in pax:
        numbers = pax[b"GNU.sparse.map"].split(b",") if pax[b"GNU.sparse.map"] else []
    else:
        numbers = []
        for key, value in records:
            if key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:
                if key != (b"GNU.sparse.numbytes" if len(numbers) % 2 else b"GNU.sparse.offset"):
                    raise refusal(f"{show(m.name)}: a sparse file's map is malformed")
                numbers.append(value)
    if len(numbers) % 2 or not all(n.isdigit() and len(n) < 20 for n in numbers):
        raise refusal(f"{show(m.name)}: a sparse file's map is malformed")
    return check_map(m, [(int(numbers[i]), int(numbers[i + 1])) for i in range(0, len(numbers), 2)])


def read_pax1_map(source: ChunkReader, m: Member, limit: int) -> tuple[list[tuple[int, int]], int]:
    """The map of form 1.0, which stands in front of the data, and the bytes it took (a multiple of 512)."""
    used = 0
    rest = b""
    wanted = 1  # numbers still to come: at first their count
    numbers: list[int] = []
    while wanted:
        if used + BLOCK > m.size or used >= limit:
            raise refusal(f"{show(m.name)}: a sparse file's map is malformed")
        block = source.block()
        if len(block) < BLOCK:
            raise refusal("the layer's tar stream ends in the middle of a sparse file's map")
        used += BLOCK
        *lines, rest = (rest + block).split(b"\n")
        for i, line in enumerate(lines):
            if not line.isdigit() or len(line) > 19:
                raise refusal(f"{show(m.name)}: a sparse file's map is malformed")
            numbers.append(int(line))
            wanted -= 1
            if len(numbers) == 1:
                wanted = numbers[0] * 2
                if wanted > limit:
                    raise over_cap(f"{show(m.name)}: a sparse file's map beyond the limit", "")
            if not wanted:
                del lines[i + 1 :]
                break
        if len(rest) > 20 and wanted:
            raise refusal(f"{show(m.name)}: a sparse file's map is malformed")
    pairs = [(numbers[i], numbers[i + 1]) for i in range(1, len(numbers), 2)]
    m.size -= used
    checked = check_map(m, pairs)
    m.size += used
    return checked, used
