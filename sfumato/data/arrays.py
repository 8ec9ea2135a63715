"""Arrays as pictures: `.npy`, and the slices of DICOM and NIfTI by the packages pydicom and nibabel.

Of what they say besides their samples only shapes, types and scales are read, nothing of a patient.
"""

from __future__ import annotations

import gzip
import importlib
import io
import itertools
import math
import re
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfumato.core.terminal import count
from sfumato.data.header import LIMITS, Header, Refused, check_page, of_unknown_bands, of_unknown_range

NPY, DICOM, NIFTI = "NPY", "DICOM", "NIFTI"
NEEDED = {DICOM: "pydicom", NIFTI: "nibabel"}
"""The package that reads each."""
GZIP, ONE, TWO = b"\x1f\x8b", b"n+1\0", b"n+2\0"
START = {ONE: 348, TWO: 540}
"""Bytes of a header of NIfTI, of its two versions."""
DEFLATED = b"1.2.840.10008.1.2.1.99"
"""DICOM that unpacks as a whole before anything is known of it."""
GRAY, COLOURS = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
TAGS = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
QUIET = "ignore", None, Warning, re.compile("pydicom"), 0
"""Warnings of pydicom, which name no file."""


class Array(NamedTuple):
    """What a file says of its samples."""

    kind: str
    width: int
    height: int
    bands: int
    pages: int
    stored: np.dtype[Any]
    """Type of its samples."""
    ends: tuple[int, int] | None = None
    """The least and the largest of them, where they are whole numbers."""
    scale: tuple[float, float] = (1.0, 0.0)
    """What they are multiplied by, and what is added then."""
    start: int = 0
    """Bytes before the first one."""
    order: str = "HWC"
    """How their axes follow each other in the file, the last one fastest."""
    inverted: bool = False
    """Whether white is their least."""

    @property
    def size(self) -> int:
        """Bytes of a page."""
        return self.width * self.height * self.bands * self.stored.itemsize

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its values: of scaled ones whole numbers, if they are, and hold them all."""
        if self.scale == (1, 0):
            return self.stored.newbyteorder("=")
        slope, inter = self.scale
        if self.ends and slope.is_integer() and inter.is_integer():
            low, high = sorted(slope * end + inter for end in self.ends)
            for kind in map(np.dtype, ("int16", "int32")):
                if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                    return kind
        return np.dtype(np.float32)


def kind_of(data: bytes) -> str | None:
    """Which kind of array a file is, by its content; None if it is none."""
    if data[:6] == b"\x93NUMPY":
        return NPY
    if data[128:132] == b"DICM":
        return DICOM
    return NIFTI if data[:2] == GZIP or _version(data) else None


def array_header(data: bytes, kind: str, page: int = 0) -> Header:
    """Of one of its pages, from 0 on.

    Raises:
        Refused: there are fewer, or it is none that can be read.
    """
    x = _array(data, kind, page)
    return Header(kind, x.width, x.height, x.pages, x.dtype.name, x.bands)


def read_array(
    data: bytes, kind: str, ranged: bool = False, wanted: int | None = None, page: int | None = None
) -> NDArray[Any]:
    """Values (H, W, bands) of a page, by default the first.

    Where their range is known (`ranged`), they may be of any type. Bands are gray or red, green and blue,
    and alpha, unless so many are `wanted`.

    Raises:
        Refused: it is none that can be read.
    """
    x = _array(data, kind, page or 0)
    if (size := x.size * x.pages) > LIMITS.file:
        raise Refused(f"unpacks to {size:,} bytes: expected at most {LIMITS.file:,}")
    if wanted is None and x.bands > 4:
        raise of_unknown_bands(x.bands)
    if x.dtype not in (np.uint8, np.uint16) and not ranged:
        raise of_unknown_range(f"{x.dtype} samples")
    samples = _frame(data, page or 0) if kind == DICOM else _unpacked_page(data, x, page or 0)
    samples = samples.reshape(x.height, x.width, x.bands)
    if x.inverted and x.ends:
        samples = (sum(x.ends) - samples.astype(np.int64)).astype(x.stored)
    if x.scale != (1, 0):
        samples = samples.astype(np.float64) * x.scale[0] + x.scale[1]
    return samples.astype(x.dtype)


def _array(data: bytes, kind: str, page: int) -> Array:
    x = {NPY: _npy, DICOM: _dicom, NIFTI: _nifti}[kind](data, page)
    check_page(page, x.pages)
    if x.stored.kind not in "iuf":
        raise Refused(f"holds values of type {x.stored}: expected whole numbers or floats")
    if min(x.width, x.height, x.bands) < 1:
        raise Refused("is empty")
    return x


def _unpacked_page(data: bytes, x: Array, page: int) -> NDArray[Any]:
    """Samples (H, W, bands) of a page that lie in the file as they are, but for gzip."""
    at = x.start + page * x.size
    if data[:2] == GZIP:  # all for the further pages, which are read one after the other
        data = _all_unzipped(data, x.start + x.pages * x.size) if page else _unzipped(data, at + x.size)
    if at + x.size > len(data):
        raise Refused("is broken (a part of its pixels is missing)")
    sides = {"H": x.height, "W": x.width, "C": x.bands}
    flat = np.frombuffer(data, x.stored, x.size // x.stored.itemsize, at)
    samples = flat.reshape([sides[axis] for axis in x.order])
    return samples.transpose([x.order.index(axis) for axis in "HWC"])


# ---- NumPy ---------------------------------------------------------------------------------------


def _npy(data: bytes, _: int) -> Array:
    """Nothing is unpickled: that runs code."""
    file, form = io.BytesIO(data), np.lib.format
    readers = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
    if (version := form.read_magic(file)) not in readers:
        raise Refused(f"is of NumPy's format {version[0]}.{version[1]}: expected 1.0 or 2.0")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise Refused("holds Python objects, which may run code and are not read: expected numbers")
    if len(shape) not in (2, 3):
        raise Refused(f"has shape {shape}: expected (H, W), (H, W, C) or (C, H, W)")
    first = len(shape) == 3 and shape[2] > 4 and shape[0] < shape[2]
    order, shape = ("CHW", shape) if first else ("HWC", (*shape, 1)[:3])
    sides = dict(zip(order, shape, strict=True))
    if fortran:
        order = order[::-1]
    return Array(NPY, sides["W"], sides["H"], sides["C"], 1, dtype, start=file.tell(), order=order)


# ---- NIfTI ---------------------------------------------------------------------------------------


def _nifti(data: bytes, _: int) -> Array:
    """Slices along all further axes than the first, across, and the second, down."""
    start = _unzipped(data, START[TWO]) if data[:2] == GZIP else data[: START[TWO]]
    if not (version := _version(start)):
        raise Refused("is a gzip file that holds no NIfTI: expected n+1 or n+2 in its header")
    nibabel = _package(NIFTI)
    form = nibabel.Nifti1Header if version == ONE else nibabel.Nifti2Header
    header = form(start[: START[version]], check=False)  # which prints
    w, h, *more = map(int, (*header.get_data_shape(), 1, 1)[: max(2, len(header.get_data_shape()))])
    dtype, (slope, inter) = header.get_data_dtype(), header.get_slope_inter()
    scale = (1.0, 0.0) if slope is None else (float(slope), float(inter or 0))
    if (at := int(header.get_data_offset())) < START[version]:
        raise Refused("is broken (its pixels begin in its header)")
    return Array(NIFTI, w, h, 1, math.prod(more), dtype, _ends(dtype), scale, at)


def _version(data: bytes) -> bytes:
    """The word that marks a NIfTI, or nothing."""
    return next((word for word, at in ((ONE, 344), (TWO, 4)) if data[at : at + 4] == word), b"")


def _unzipped(data: bytes, size: int) -> bytes:
    """So many bytes of a gzip file, whatever it unpacks to; fewer if it has no more."""
    return gzip.GzipFile(fileobj=io.BytesIO(data)).read(size)


_all_unzipped = lru_cache(maxsize=1)(_unzipped)


# ---- DICOM ---------------------------------------------------------------------------------------


def _dicom(data: bytes, page: int) -> Array:
    """Of a frame."""
    pydicom = _package(DICOM)
    if DEFLATED in data:
        raise Refused("is a deflated DICOM, which may unpack to anything: save it without deflation")
    if QUIET not in warnings.filters:  # as for Pillow's: threads share filters
        warnings.filterwarnings("ignore", module="pydicom")
    said = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=[*TAGS])
    if missing := [tag for tag in (*TAGS[:2], *TAGS[3:8]) if said.get(tag) is None]:
        raise Refused(f"is a DICOM that holds no picture: it lacks {missing[0]}")
    colours, kind = said.SamplesPerPixel, str(said.PhotometricInterpretation)
    bits, stored, signed = said.BitsAllocated, said.BitsStored, said.PixelRepresentation == 1
    if (colours, bits) not in ((1, 8), (1, 16), (1, 32), (3, 8)) or not 1 <= stored <= bits:
        raise Refused(
            f"has {count(colours, 'band')} of {bits} bits: expected gray of 8, 16 or 32 bits, or RGB of 8"
        )
    if kind not in (COLOURS if colours == 3 else GRAY):
        raise Refused(f"has samples of kind {kind}: expected {', '.join(GRAY)} or RGB")
    if "ModalityLUTSequence" in said:
        raise Refused("has a table of values (modality LUT), which is not applied: save it with its values")
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
    return Array(
        DICOM, said.Columns, said.Rows, colours, int(said.get("NumberOfFrames") or 1),
        np.dtype(f"{'i' if signed else 'u'}{bits // 8}"), (low, high), _rescale(said, page),
        inverted=kind == GRAY[0],
    )  # fmt: skip


def _rescale(said: Any, page: int) -> tuple[float, float]:
    """Slope and intercept of a frame."""
    shared, frames = (said.get(tag) or [] for tag in TAGS[-2:])
    groups = (g.get("PixelValueTransformationSequence") for g in (*shared[:1], *frames[page : page + 1]))
    for place in (said, *itertools.chain.from_iterable(filter(None, groups))):
        if "RescaleSlope" in place:
            scale = float(place.RescaleSlope), float(place.RescaleIntercept)
            if not all(map(math.isfinite, scale)):
                raise Refused(f"is broken (its values are scaled by {scale[0]} and {scale[1]})")
            return scale
    return 1.0, 0.0


def _frame(data: bytes, page: int) -> NDArray[Any]:
    """Samples of a frame, colours in RGB."""
    from pydicom import dcmread
    from pydicom.pixels.utils import pixel_array

    try:
        return pixel_array(io.BytesIO(data), index=page)
    except (NotImplementedError, RuntimeError):  # for want of a decoder, or by all that there are
        said = dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=[])
        raise Refused(
            f"is broken, or compressed as {said.file_meta.TransferSyntaxUID.name} in a way that takes more "
            f"packages to read: pip install 'pylibjpeg[all]', or save it uncompressed"
        ) from None


def _ends(dtype: np.dtype[Any]) -> tuple[int, int] | None:
    return (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) if dtype.kind in "iu" else None


def _package(kind: str) -> Any:
    """The package that reads a kind.

    Raises:
        Refused: it is not installed.
    """
    try:
        return importlib.import_module(NEEDED[kind])
    except ImportError:
        raise Refused(
            f"is {kind}, which takes one more package to read: pip install {NEEDED[kind]}"
        ) from None
