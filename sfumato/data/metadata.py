"""The parts of a picture file beside its pixels: what they say, and the file without those that are broken.

PNG     https://www.w3.org/TR/png-3/                                       chunks
JPEG    ITU-T T.81, annex B                                                segments before the first scan
WebP    https://developers.google.com/speed/webp/docs/riff_container       chunks
AVIF    ISO/IEC 23008-12                                                   items
"""

from __future__ import annotations

import functools
import io
import re
import struct
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

PIXELS, EXIF, PROFILE, OTHER = "pixels", "exif", "profile", "other"
LOST = {EXIF: "orientation", PROFILE: "profile", OTHER: "metadata"}
"""What is lost with them, see `sfumato.data.header.LOST`."""
ORDER = [left for n in (1, 2, 3) for left in combinations((OTHER, EXIF, PROFILE), n)]
"""What is left out, the least first."""
Part = tuple[str, bytes]
"""What it is of, and its bytes, as they stand in the file."""

PNG_NEEDS = b"tRNS", b"acTL", b"fcTL", b"fdAT"
"""Chunks that a reader may skip, and which hold pixels all the same."""
COMMENT, SCAN = 0xFE, 0xDA
"""Markers of JPEG: of a text, and of the first scan."""
COLOURS = (0xE0, b"JFIF\0"), (0xEE, b"Adobe")
"""Segments that say the kind of a JPEG's colours."""
WEBP_NEEDS = b"ALPH", b"ANIM", b"ANMF"
"""Chunks of pixels besides VP8, VP8L and VP8X."""
WEBP_FLAGS = {EXIF: 0x08, PROFILE: 0x20, OTHER: 0x04}
"""Bits by which a WebP says what it holds."""
EXIF_TYPES = {*range(1, 14), 129}
"""Types of values that EXIF 3.0 knows."""
AVIF_EXIF = re.compile(rb"(infe\x02.{7})Exif", re.DOTALL)
"""An entry of AVIF's list of items: version, flags, number, protection, and the type of an item."""


def without_broken(data: bytes) -> Iterator[tuple[bytes, dict[str, str]]]:
    """A file as it is; then without more and more that its pixels do not need, and what is lost by that."""
    yield data, {}
    if data[4:8] == b"ftyp" and AVIF_EXIF.search(data):
        yield AVIF_EXIF.sub(rb"\1skip", data), {LOST[EXIF]: ""}
    parts = list(_parts(data))
    known = {what for what, _ in parts}
    tried = set[frozenset[str]]()
    for left in ORDER:
        gone = frozenset(left) & known
        if gone and gone not in tried:
            tried.add(gone)
            yield _joined(data, parts, gone), {LOST[what]: "" for what in left if what in gone}


def _parts(data: bytes) -> Iterator[Part]:
    """The parts of a file after its first bytes; none of other formats."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        yield from _png(data)
    elif data.startswith(b"\xff\xd8"):
        yield from _jpeg(data)
    elif data[:4] + data[8:12] == b"RIFFWEBP":
        yield from _webp(data)


def _joined(data: bytes, parts: list[Part], gone: frozenset[str]) -> bytes:
    """The file without what is gone."""
    kept = b"".join(body for what, body in parts if what not in gone)
    if data.startswith(b"\x89PNG"):
        return data[:8] + kept
    if data.startswith(b"\xff\xd8"):
        return data[:2] + kept
    if kept.startswith(b"VP8X"):
        flags = kept[8] & ~sum(WEBP_FLAGS[what] for what in gone)
        kept = kept[:8] + bytes([flags]) + kept[9:]
    return b"RIFF" + struct.pack("<I", 4 + len(kept)) + b"WEBP" + kept


def _png(data: bytes) -> Iterator[Part]:
    at = 8
    while at + 8 <= len(data):
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        needed = not kind[0] & 0x20 or kind in PNG_NEEDS  # small first letters may be skipped
        what = {b"eXIf": EXIF, b"iCCP": PROFILE}.get(kind, PIXELS if needed else OTHER)
        yield what, data[at : at + 12 + length]
        at += 12 + length


def _jpeg(data: bytes) -> Iterator[Part]:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (SCAN, 0xFF):
        marker, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        body = data[at : at + 2 + length]
        what = OTHER if marker == COMMENT or 0xE0 <= marker <= 0xEF else PIXELS
        if body[4:10] == b"Exif\0\0":
            what = EXIF
        elif body[4:16] == b"ICC_PROFILE\0":
            what = PROFILE
        elif (marker, body[4:9]) in COLOURS and length >= 14:  # whole, as decoders take it
            what = PIXELS
        yield what, body
        at += 2 + length
    yield PIXELS, data[at:]


def _webp(data: bytes) -> Iterator[Part]:
    at, kinds = 12, {b"EXIF": EXIF, b"ICCP": PROFILE, b"XMP ": OTHER}
    while at + 8 <= len(data):
        (length,), kind = struct.unpack_from("<I", data, at + 4), data[at : at + 4]
        end = at + 8 + length + length % 2
        yield kinds.get(kind, PIXELS if kind[:3] == b"VP8" or kind in WEBP_NEEDS else OTHER), data[at:end]
        at = end


def turn_of(image: Image.Image) -> Any:
    """The orientation that a picture says; None if its EXIF block is broken before it does."""
    block = image.info.get("exif")
    try:
        return image.getexif().get(0x0112) or (_turn(block) if block else 1)
    except Exception:  # Pillow raises almost anything on broken data, and not of every format
        return _turn(block) if block else None


def _turn(exif: bytes) -> int | None:
    """The orientation that the first table of an EXIF block says; None if that is broken before it does."""
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (tags,) = struct.unpack_from(f"{order}H", data, start)
        for at in range(start + 2, start + 2 + 12 * tags, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", data, at)
            if kind not in EXIF_TYPES:
                return None
            if tag == 0x0112:
                return int(value)
    except struct.error:
        return None
    return 1


def in_srgb(image: Image.Image, profile: bytes) -> Any:
    """A picture in sRGB, by its colour profile.

    Raises:
        ImageCms.PyCMSError, OSError, ValueError: the profile is broken, or of pictures of another kind.
    """
    from PIL import ImageCms

    given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode="RGB")


@functools.lru_cache(maxsize=64)
def is_srgb(profile: bytes) -> bool:
    """Whether a profile leaves colours as sRGB has them, to 4 of 255: whatever it calls itself."""
    from PIL import ImageCms

    steps = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    try:
        seen = np.asarray(in_srgb(Image.fromarray(cube), profile))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False
    return int(np.abs(seen.astype(int) - cube).max()) <= 4
