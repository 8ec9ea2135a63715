"""The parts of a PNG file, and whether all of its rows are there."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from sfumato.data.header import Refused


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of a PNG's chunks, to its end."""
    at, kind = 8, b""
    while at + 8 <= len(data) and kind != b"IEND":
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind = data[at + 4 : at + 8]
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def sound(data: bytes) -> bool:
    """Whether a file is a whole PNG, whose parts have the checksums that stand beside them."""
    begins, ends = b"\x89PNG\r\n\x1a\n", png_chunk((b"IEND", b""))
    if not (data.startswith(begins) and data.endswith(ends)):
        return False
    return data[8:] == b"".join(map(png_chunk, png_chunks(data)))


def png_chunk(part: tuple[bytes, bytes]) -> bytes:
    """A part of a PNG, (name, content), as its bytes."""
    kind, body = part
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def check_rows(data: bytes) -> None:
    """All rows are there: Pillow leaves those black that a sound but short stream lacks."""
    chunks = list(png_chunks(data))
    width, height, bits, colour, _, _, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    depth = bits * {0: 1, 2: 3, 4: 2, 6: 4}.get(colour, 1)
    passes = ADAM7 if interlace else ((0, 0, 1, 1),)
    sides = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    missing = sum(h * (1 + -(-w * depth // 8)) for w, h in sides if w > 0 and h > 0)
    stream, packed = (zlib.decompressobj(), b"".join(body for kind, body in chunks if kind == b"IDAT"))
    while missing > 0 and (part := stream.decompress(packed, 2**20)):
        missing, packed = missing - len(part), stream.unconsumed_tail
    if missing > 0:
        raise Refused("is broken (some of its rows are missing)")


ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
"""First column and row, and their steps, of the passes of an interlaced PNG."""
