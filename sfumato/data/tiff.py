"""TIFF files, whose 16-bit colours and further bands Pillow does not read."""

from __future__ import annotations

import io
import itertools
import logging
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.data.header import (
    LIMITS,
    Header,
    Limits,
    Refused,
    check_page,
    of_unknown_bands,
    of_unknown_range,
    orientation,
    upright,
)

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what is wrong, is said by `decode`


def is_tiff(data: bytes) -> bool:
    """Whether these are a TIFF's first bytes."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiff_header(data: bytes, number: int = 0, limits: Limits = LIMITS) -> Header:
    """Of one of its pictures, counting all.

    Raises:
        Refused: there are fewer, or whole tiles of it, which are unpacked, would be too large.
    """
    page, count = _page(data, number)
    if page.is_tiled and page.tilewidth * page.tilelength > limits.pixels:
        tile = f"{page.tilewidth}x{page.tilelength}"
        raise Refused(f"has tiles of {tile} pixels: expected at most {limits.pixels:,}")
    return Header("TIFF", page.imagewidth, page.imagelength, count, _dtype(page), page.samplesperpixel)


def frame_of(data: bytes, number: int) -> int:
    """Where the page of this number stands among all, of which some are smaller copies of others."""
    return int(_page(data, number)[0].index)


def _page(data: bytes, number: int) -> tuple[Any, int]:
    """The page that holds the picture of this number, and how many pictures there are."""
    pages = _kept(data) if number else _opened(data)
    stack = _stack(pages[0])
    check_page(number, len(pages) * stack)
    return pages[number // stack], len(pages) * stack


def _opened(data: bytes) -> list[Any]:
    """The pages of a file."""
    import tifffile

    tiff = tifffile.TiffFile(io.BytesIO(data))
    return _whole_pages(tiff) or [tiff.pages[0]]


_kept = lru_cache(maxsize=1)(_opened)
"""The same, found once for all further pages of a file, which are read one after the other."""
MANY = 1000
"""Pages of a file that are counted, at most."""


def _whole_pages(tiff: Any) -> list[Any]:
    """Pages that are no smaller copies of others."""
    return [page for page in itertools.islice(iter(tiff.pages), MANY) if not page.is_reduced]


def _stack(page: Any) -> int:
    """Pictures of a page."""
    return int(np.prod([n for n, axis in zip(page.shape, page.axes, strict=True) if axis not in "YXS"]))


def _dtype(page: Any) -> str:
    return "uint8" if page.dtype is None or page.dtype == np.bool_ else str(page.dtype)


def read_tiff(
    data: bytes, ranged: bool = False, wanted: int | None = None, number: int | None = None
) -> tuple[NDArray[Any], dict[str, str]] | None:
    """Samples (H, W, bands) and what is lost; None of ordinary 8-bit files, which Pillow reads.

    Where their range is known (`ranged`), they may be signed, float, or of 32 bits. Bands are red, green,
    blue and alpha, unless so many are `wanted`. Of several pages it reads the first, or that of a `number`.
    """
    import tifffile

    first = number is None  # as training reads it, in many threads
    page: Any = tifffile.TiffFile(io.BytesIO(data)).pages[0] if first else _page(data, number or 0)[0]
    bands, photometric = page.samplesperpixel, int(page.photometric)
    colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(photometric, 1)  # RGB, CMYK, YCbCr, Lab
    alpha = colours < bands and page.extrasamples[:1] in ((1,), (2,))
    kept = colours + alpha if wanted is None else bands
    unpacked = bands * page.imagewidth * page.imagelength * (page.dtype or np.dtype(np.uint8)).itemsize
    if unpacked > LIMITS.file:
        raise Refused(f"unpacks to {unpacked:,} bytes: expected at most {LIMITS.file:,}")
    if kept < bands and colours == 1:
        raise of_unknown_bands(bands)
    lost = {"bands": f"{bands} bands, the first {kept} are read"} if kept < bands else {}
    if any(n == 0 or at + n > len(data) for at, n in zip(page.dataoffsets, page.databytecounts, strict=True)):
        raise Refused("is broken (a part of its pixels is missing)")
    _check_unpacked(data, page)
    plain = page.dtype is None or page.dtype in (np.uint8, np.bool_)
    if plain and not lost and wanted is None and (number is None or _stack(page) == 1):
        return None
    known = page.dtype in (np.uint8, np.uint16) or (
        ranged and page.dtype is not None and page.dtype.kind in "iuf" and photometric > 0
    )
    if not known or photometric > 2:
        what = f"{page.dtype} samples of kind {page.photometric.name}"
        raise of_unknown_range(what, stated=photometric > 2 or ranged)
    try:
        samples = page.asarray()
    except ValueError as error:
        if "imagecodecs" in str(error):
            raise Refused(
                f"is compressed by {page.compression.name}, which takes one more package to read: "
                f"pip install imagecodecs, or save it uncompressed or as PNG"
            ) from None
        raise
    if page.axes.startswith("S"):  # one plane after the other
        samples = np.moveaxis(samples, 0, -1)
    samples = samples.reshape(-1, page.imagelength, page.imagewidth, bands)
    samples = samples[(number or 0) % len(samples), ..., :kept]
    if alpha and wanted is None and page.extrasamples[0] == 1:
        samples = _straight(samples)
    if page.tags.get("InterColorProfile"):
        lost |= {"profile": f"{8 * samples.itemsize} bits"}
    if photometric == 0:  # white is zero
        samples = np.iinfo(samples.dtype).max - samples
    return upright(samples, orientation(page.tags.valueof("Orientation", 1))), lost


def _check_unpacked(data: bytes, page: Any) -> None:
    """Every strip or tile is whole, and none unpacks to more than its size: it may hold a thousand times
    its bytes.
    """
    if int(page.compression) not in (8, 32946):
        return
    most = int(np.prod(page.chunks)) * (page.dtype or np.dtype(np.uint8)).itemsize
    for at, n in zip(page.dataoffsets, page.databytecounts, strict=True):
        packed = zlib.decompressobj()
        if len(packed.decompress(data[at : at + n], most + 1)) > most:
            raise Refused("is broken (it unpacks to more than its size)")
        if not packed.eof:
            raise Refused("is broken (a part of its pixels is missing)")


def _straight(samples: NDArray[Any]) -> NDArray[Any]:
    """Samples (H, W, bands) whose colours were multiplied by their alpha, the last, as they were before."""
    top = 1.0 if samples.dtype.kind == "f" else float(np.iinfo(samples.dtype).max)
    colours, alpha = samples[..., :-1], samples[..., -1:]
    made = (colours * (top / np.maximum(alpha, 1e-9 if top == 1 else 1))).clip(None, top)
    made = made if samples.dtype.kind == "f" else np.floor(made + 0.5)
    return np.concatenate([np.where(alpha > 0, made, colours).astype(samples.dtype), alpha], axis=-1)
