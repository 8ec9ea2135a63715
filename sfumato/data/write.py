"""Samples to picture files: what each format holds, and whether a file is whole."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.core.errors import UserError
from sfumato.data.carried import KEYS, NOTHING, Carried
from sfumato.data.folders import regular, replacing
from sfumato.data.png import png_chunk, sound
from sfumato.data.value_range import HELD

Format = Literal["png", "tiff", "jpeg", "webp"]


class Holds(NamedTuple):
    """What a format holds."""

    endings: tuple[str, ...]
    dtypes: tuple[str, ...]
    alpha: bool = True
    side: int = 2**31 - 1
    """Most pixels of a side."""


FORMATS: dict[Format, Holds] = {
    "png": Holds((".png",), ("uint8", "uint16")),
    "tiff": Holds((".tif", ".tiff"), HELD),
    "jpeg": Holds((".jpg", ".jpeg"), ("uint8",), alpha=False, side=65_535),
    "webp": Holds((".webp",), ("uint8",), side=16_383),
}
BEST: dict[Format, dict[str, Any]] = {
    "jpeg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True, "exact": True},
}  # fmt: skip
"""What Pillow is told."""


def format_of(file: Path) -> Format:
    """The format that a file's name says.

    Raises:
        UserError: it says none that is written.
    """
    for format, holds in FORMATS.items():
        if file.suffix.lower() in holds.endings:
            return format
    named = file.with_suffix(".png") if file.name.strip(".") else file / "picture.png"
    first = [holds.endings[0] for holds in FORMATS.values()]
    raise UserError(
        f"{file}: expected a name that ends in {', '.join(first)}, such as {named}: PNG, TIFF, JPEG and WebP "
        f"are the formats that are written"
    )


def write_samples(
    path: str | Path,
    samples: NDArray[Any] | Sequence[NDArray[Any]],
    carried: Carried = NOTHING,
    *,
    alpha: bool | Sequence[bool] = False,
) -> None:
    """Writes samples (C, H, W) in the format that the name says, atomically; JPEG alone is not lossless.

    Args:
        path: the file.
        samples: gray, RGB or, of TIFF, any number of bands; of a type that the format holds. A
            list of them makes pages, of TIFF alone.
        carried: what goes into the file besides.
        alpha: whether the last channel is alpha, or of each page; other formats than TIFF have no other use
            for 2 or 4.

    Raises:
        UserError: the format does not hold them.
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    path = Path(path)
    pages, format = [samples] if isinstance(samples, np.ndarray) else [*samples], format_of(path)
    if len(pages) > 1 and format != "tiff":
        raise UserError(f"{path}: {format} holds one picture, not {len(pages)}: choose --format tiff")
    (c, h, w), samples = pages[0].shape, pages[0]
    clear = [alpha] * len(pages) if isinstance(alpha, bool) else [*alpha]
    alpha, holds = clear[0], FORMATS[format]
    if samples.dtype.name not in holds.dtypes or (alpha and not holds.alpha):
        what = "transparency" if samples.dtype.name in holds.dtypes else f"samples of {samples.dtype}"
        raise UserError(f"{path}: {format} holds no {what}: choose another format, such as tiff")
    if max(h, w) > holds.side:
        raise UserError(f"{path}: {format} holds at most {holds.side:,} pixels a side, not {w}x{h}")
    if format != "tiff" and c - alpha not in (1, 3) and not (holds.alpha and c in (2, 4)):
        raise UserError(f"{path}: {format} holds no {c} bands: choose --format tiff")
    pixels = np.ascontiguousarray(samples.transpose(1, 2, 0))
    with replacing(path) as temporary:
        if format == "tiff":
            _write_tiff(temporary, pages, carried, clear)
        elif samples.dtype == np.uint16:
            temporary.write_bytes(_deep_png(pixels, carried))
        else:
            _write_by_pillow(temporary, format, pixels, carried)


def _write_by_pillow(file: Path, format: Format, pixels: NDArray[np.uint8], carried: Carried) -> None:
    how = dict(BEST.get(format, {}))
    if carried.dpi and format == "jpeg" and max(carried.dpi) >= 2**16:  # more than it holds
        carried = carried._replace(dpi=None)
    if carried.dpi and format != "webp":
        how["dpi"] = carried.dpi
    elif carried.dpi:
        x, y = carried.dpi
        carried = carried._replace(exif={**carried.exif, 282: x, 283: y, 296: 2})
    if exif := carried.exif_bytes():
        how["exif"] = b"Exif\0\0" + exif
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, format.upper(), **how)


def _deep_png(pixels: NDArray[np.uint16], carried: Carried) -> bytes:
    """A PNG of 16 bits, which Pillow does not write in colour."""
    h, w, c = pixels.shape
    rows = pixels.astype(">u2").view(np.uint8).reshape(h, -1)
    up = np.diff(rows, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint8))  # filter 2, modulo 256
    lines = np.hstack([np.full((h, 1), 2, np.uint8), up]).tobytes()
    header = struct.pack(">IIBBBBB", w, h, 16, {1: 0, 2: 4, 3: 2, 4: 6}[c], 0, 0, 0)
    parts = [(b"IHDR", header)]
    if carried.dpi:
        x, y = (round(n / 0.0254) for n in carried.dpi)
        parts.append((b"pHYs", struct.pack(">IIB", x, y, 1)))  # a metre
    if exif := carried.exif_bytes():
        parts.append((b"eXIf", exif))
    parts += [(b"IDAT", zlib.compress(lines, 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(png_chunk, parts))


def _write_tiff(file: Path, pages: Sequence[NDArray[Any]], carried: Carried, clear: Sequence[bool]) -> None:
    """An uncompressed TIFF, which every reader reads."""
    import tifffile

    texts = [(tag, 2, None, carried.exif[tag], True) for tag in carried.exif if tag in TIFF_TEXTS]
    kinds = {KEYS[0]: 3, KEYS[2]: 2}
    geo = [
        (tag, kinds.get(tag, 12), None if isinstance(value, str) else len(value), value, True)
        for tag, value in carried.geo.items()
    ]
    resolution: dict[str, Any] = {"resolution": carried.dpi, "resolutionunit": "INCH"} if carried.dpi else {}
    with tifffile.TiffWriter(file) as writer:
        for samples, alpha in zip(pages, clear, strict=True):
            pixels = np.ascontiguousarray(samples.transpose(1, 2, 0))
            one, gray = pixels.shape[2] == 1, pixels.shape[2] - alpha != 3
            writer.write(
                pixels.squeeze(2) if one else pixels, metadata=None, software=False, contiguous=False,
                photometric="minisblack" if gray else "rgb", planarconfig=None if one else "contig",
                extrasamples=["unassalpha"] if alpha else None, extratags=[*texts, *geo], **resolution,
            )  # fmt: skip


TIFF_TEXTS = 270, 271, 272, 305, 306, 315, 33432
"""Texts of EXIF's first table that TIFF's has, too; it has no other of EXIF's here."""


def is_whole(file: Path) -> bool:
    """Whether a file that was written here is all there: where the power failed, it may be cut or empty."""
    size, format = file.stat().st_size, format_of(file)
    with regular(file).open("rb") as opened:
        if format == "png":
            return sound(opened.read())
        begins = opened.read(12)
        opened.seek(max(0, size - 12))
        ends = opened.read()
    if format == "jpeg":
        return begins.startswith(b"\xff\xd8") and ends.endswith(b"\xff\xd9")
    if format == "webp":
        return begins[:4] + begins[8:] == b"RIFFWEBP" and int.from_bytes(begins[4:8], "little") + 8 == size
    return _whole_tiff(file, size)


def _whole_tiff(file: Path, size: int) -> bool:
    import tifffile

    try:
        with tifffile.TiffFile(os.fspath(file)) as tiff:
            parts = [(page.dataoffsets, page.databytecounts) for page in iter(tiff.pages)]
    except Exception:  # decoders raise almost anything on broken data
        return False
    return bool(parts) and all(at + n <= size for each in parts for at, n in zip(*each, strict=True))
