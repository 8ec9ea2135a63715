"""What a picture file says of itself, what it may ask of the machine, and what is not read of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from sfumato.core.terminal import count


class Limits(NamedTuple):
    """What a file may ask of the machine."""

    pixels: int = 100_000_000
    """Of the picture; decoding and fitting take up to 30 bytes for each."""
    side: int = 65_535
    """Pixels of the longer side."""
    scans: int = 100
    """Times that a progressive JPEG is drawn over."""
    file: int = 2_000_000_000
    """Bytes of the file."""


LIMITS = Limits()


class Header(NamedTuple):
    """What a file says of itself before any pixel is decoded."""

    kind: str
    """The format: PNG, JPEG, WEBP, BMP, TIFF, GIF, AVIF, NPY, DICOM or NIFTI."""
    width: int
    height: int
    pages: int
    """Pictures in the file, of which the first is read."""
    dtype: str = "uint8"
    """NumPy's name of the type of its samples; bits and palettes are read as uint8."""
    bands: int = 0
    """Samples of a pixel, transparency among them, where the header of a TIFF or an array says them."""


PAGED = "TIFF", "DICOM", "NIFTI"
"""Formats whose further pictures are pages, which can be read."""
LOST = {
    "pages": "hold several pictures, of which the first is read",
    "bands": "hold bands that are not read",
    "depth": "use a small part of their 16 bits, and come out dark with few levels (see --range)",
    "range": "hold values outside of the stated range, which become its ends",
    "profile": "have a colour profile that is not applied",
    "orientation": "have a broken EXIF block, and are taken as they lie",
    "metadata": "have broken metadata, such as texts or a resolution, which are not read",
    "colour": "are in colour, which a model of one channel does not see",
    "beside": "hold others beside the picture that is read, as phones add depth, light or the other eye",
}
"""What can get lost of a picture that is read."""
WHOLE = "beside", "range", "metadata"
"""Said, and no reason for strict to refuse: the photo itself is read whole, what a phone adds, it adds to
every JPEG, and no pixel needs a text or a resolution; values beyond a stated range are meant to be cut.
Pages and frames are pictures as good as the first.
"""


class Refused(Exception):
    """A file that is not read; the text follows its name."""


def of_unknown_range(samples: str, stated: bool = False) -> Refused:
    """Samples such as "int16 samples" have no range, stated or not."""
    state = "" if stated else "state it by --range LOW HIGH, or "
    return Refused(f"has {samples}, whose range is not known: {state}save it as gray or RGB of 8 or 16 bits")


def of_unknown_bands(bands: int) -> Refused:
    """So many bands are no colours."""
    return Refused(
        f"has {bands} bands and does not say which are red, green and blue: train with --channels "
        f"{bands}, or save the three that are meant as RGB"
    )


def check_page(number: int, pages: int) -> None:
    """Sees that a file has a page of this number, from 0 on.

    Raises:
        Refused: it has not.
    """
    if number >= pages:
        raise Refused(f"has no page {number + 1}, but {count(pages, 'page')}")


def said_lost(what: str | Path, lost: Mapping[str, str]) -> list[str]:
    """A line for everything that is lost of a picture."""
    return [
        f"{what} is of those that {LOST[kind]}: {detail}".removesuffix(": ") for kind, detail in lost.items()
    ]


def orientation(tag: Any) -> int:
    """What an EXIF tag says of it, 1 to 8; 1, which is upright, if it says anything else."""
    return int(tag) if tag in range(1, 9) else 1


def upright(samples: NDArray[Any], turn: int) -> NDArray[Any]:
    """Undo an EXIF orientation 1 to 8 of (H,W,C)."""
    if turn in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples[::-1] if turn in (3, 4, 7, 8) else samples
