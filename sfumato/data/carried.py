"""What a result takes over from its source's file: EXIF, resolution, and the place on Earth of a GeoTIFF.

Of EXIF go what would be wrong of the result: the orientation, which is applied on reading, sizes, previews
and makers' notes.  A colour profile is applied on reading, too: results are sRGB, and carry none.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sfumato.data.arrays import kind_of
from sfumato.data.decode import seen
from sfumato.data.header import orientation
from sfumato.data.png import png_chunks
from sfumato.data.resize import Placed
from sfumato.data.tiff import is_tiff

TEXTS = 271, 272, 306, 315, 33432
"""Of EXIF's and TIFF's first table: make, model, time, artist, copyright."""
DETAILS, PLACE = 0x8769, 0x8825
"""EXIF's further tables: how the picture was taken, and where."""
WRONG = 0x9286, 0x927C, 0xA001, 0xA002, 0xA003, 0xA005
"""Of the details: comment in an encoding of its own, maker's note, colour space, sides, another table."""
LARGEST = 65_000
"""Bytes of EXIF, as JPEG holds them."""
SCALE, TIES, MATRIX, KEYS = 33550, 33922, 34264, (34735, 34736, 34737)
"""GeoTIFF's tags: size of a pixel, points of pixel and place, or a matrix of both; and what these mean."""
COUNTS = {SCALE: 3, TIES: 6, MATRIX: 16, KEYS[0]: 4}
"""Numbers of which these hold one set, or many."""
POINT = 2
"""Value of the key 1025 of pictures whose coordinates are those of pixels' centres."""
NODATA = 42113


class Text(str):
    """A text of a file, in UTF-8; those who write files ask for ASCII, which has no umlauts."""

    def encode(self, *_: str) -> bytes:
        return super().encode("utf-8")

    @classmethod
    def of(cls, value: str) -> Text:
        """What Pillow read, for which all texts are Latin-1."""
        raw = value.encode("latin-1", "replace")
        with suppress(UnicodeDecodeError):
            return cls(raw.decode("utf-8"))
        return cls(value)


class Carried(NamedTuple):
    """What is carried over."""

    exif: Mapping[int, Any] = {}
    """Tags of EXIF, whose tables are mappings themselves."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch along x and y."""
    geo: Mapping[int, Any] = {}
    """Tags of GeoTIFF."""
    odd: bool = False
    """Whether there are such tags that say no place."""

    def moved(self, placed: Placed) -> Carried:
        """The same for a picture that was scaled and cut."""
        dpi = self.dpi and (self.dpi[0] * placed.scale[1], self.dpi[1] * placed.scale[0])
        return Carried(self.exif, dpi, _moved(self.geo, placed) if self.geo else {}, self.odd)

    def exif_bytes(self) -> bytes:
        """EXIF as files hold it, after its six first bytes; empty if there is none."""
        made = Image.Exif()
        for tag, value in self.exif.items():
            made[tag] = value
        return made.tobytes().removeprefix(b"Exif\0\0") if self.exif else b""


NOTHING = Carried()


def carried_by(data: bytes) -> Carried:
    """What a picture file holds that its result carries; what is broken of it is not carried."""
    if kind_of(data):  # a patient's name and dates are not for results
        return NOTHING
    try:
        found = _of_tiff(data) if is_tiff(data) else _of_others(data)
        return found if len(found.exif_bytes()) <= LARGEST else found._replace(exif={})
    except Exception:  # decoders raise almost anything on broken data
        return NOTHING


def _of_others(data: bytes) -> Carried:
    (kind, info), _ = seen(data, lambda image: (image.format, dict(image.info)))
    block, dpi = info.get("exif") or b"", info.get("dpi")
    if kind == "PNG":
        block = next((body for kind, body in png_chunks(data) if kind == b"eXIf"), b"")
    given, exif, turn = Image.Exif(), dict[int, Any](), 1
    if 0 < len(block) <= LARGEST:
        with suppress(Exception):  # what is broken of it loses nothing else
            given.load(block)
            turn = orientation(given.get(0x0112))
            texts = {tag: given.get(tag) for tag in (270, 305, *TEXTS)}
            exif = {tag: Text.of(text) for tag, text in texts.items() if isinstance(text, str)}
            exif |= _tables(given)
    return Carried(exif, _dpi(*dpi[:: -1 if turn > 4 else 1]) if dpi else None)


def _tables(given: Image.Exif) -> dict[int, Any]:
    """EXIF's further tables, without what would be wrong."""
    tables = dict[int, Any]()
    for table in (DETAILS, PLACE):
        if kept := {k: v for k, v in given.get_ifd(table).items() if k not in WRONG}:
            tables[table] = {k: Text.of(v) if isinstance(v, str) else v for k, v in kept.items()}
    return tables


def _of_tiff(data: bytes) -> Carried:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        tags = tiff.pages[0].tags  # type: ignore[union-attr]
        exif: dict[int, Any] = {tag: Text(tags[tag].value) for tag in TEXTS if tag in tags}
        if DETAILS in tags or PLACE in tags:
            with suppress(Exception):  # what it cannot read loses no place
                exif |= seen(data, lambda image: _tables(image.getexif()))[0]
        unit, turn = int(tags.valueof("ResolutionUnit", 1)), orientation(tags.valueof("Orientation", 1))
        inch = {2: 1.0, 3: 2.54}.get(unit, 0.0)
        sides = [tags.valueof(name, (0, 1)) for name in ("XResolution", "YResolution")]
        dpi = _dpi(*(inch * n / d if d else 0.0 for n, d in sides[:: -1 if turn > 4 else 1]))
        geo = {tag: tags[tag].value for tag in (SCALE, TIES, MATRIX, *KEYS, NODATA) if tag in tags}
        odd = any(tag in geo and np.size(geo[tag]) % n for tag, n in COUNTS.items()) or turn > 1
        return Carried(exif, dpi, {} if odd else _written(geo), bool(geo) and odd)


def _written(geo: Mapping[int, Any]) -> dict[int, Any]:
    """GeoTIFF's tags as they are written: two of them are texts."""
    return {tag: Text(value) if tag in (KEYS[2], NODATA) else value for tag, value in geo.items()}


def _dpi(x: float, y: float) -> tuple[float, float] | None:
    return (float(x), float(y)) if 1 <= min(x, y) and max(x, y) < 1e6 else None


def _moved(geo: Mapping[int, Any], placed: Placed) -> dict[int, Any]:
    """GeoTIFF's tags for pixels (i, j) that were (i, j) * scale - cut before, counted from their corners."""
    keys = np.array(geo.get(KEYS[0], ()), int).reshape(-1, 4)
    half = 0.5 if any(key == 1025 and value == POINT for key, _, _, value in keys[1:]) else 0.0
    (sy, sx), (top, left) = placed
    moved = dict(geo)
    if SCALE in geo:
        x, y, z = geo[SCALE][:3]
        moved[SCALE] = (x / sx, y / sy, z)
    if TIES in geo:
        ties = np.array(geo[TIES], float).reshape(-1, 6)
        ties[:, 0] = (ties[:, 0] + half) * sx - half - left
        ties[:, 1] = (ties[:, 1] + half) * sy - half - top
        moved[TIES] = tuple(ties.flatten())
    if MATRIX in geo:
        back = np.diag([1 / sx, 1 / sy, 1, 1])
        back[:2, 3] = (left + half) / sx - half, (top + half) / sy - half
        moved[MATRIX] = tuple((np.array(geo[MATRIX], float).reshape(4, 4) @ back).flatten())
    return moved
