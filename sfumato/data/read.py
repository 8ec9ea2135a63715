"""Picture files to samples, and to what they say of themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from sfumato.core.errors import UserError
from sfumato.data.carried import NOTHING, Carried, carried_by
from sfumato.data.decode import decode, inspect, plain
from sfumato.data.folders import regular
from sfumato.data.hashing import version_of
from sfumato.data.header import LIMITS, PAGED, Header, Refused
from sfumato.data.listing import page_name
from sfumato.data.value_range import UNIT, ValueRange, to_unit

WHITE = 255, 255, 255
DARK = 2**14
"""16-bit samples that all lie below it are of 10, 12 or 14 bits: they come out dark, with few levels."""


class Unfiled(NamedTuple):
    """A picture that lies in no file, in the place of one."""

    name: str
    samples: NDArray[Any]
    """(H, W, channels), upright, with alpha; floats lie in [-1, 1] unless the range of values is stated."""
    sha: str = ""
    """sha256 of what was given."""
    lost: Mapping[str, str] = MappingProxyType({})
    """What of it is not in the samples, see `sfumato.data.header.LOST`."""

    def __str__(self) -> str:
        return self.name


class Page(NamedTuple):
    """A page of a file, in the place of a file."""

    file: Path
    number: int
    """From 0 on."""

    def __str__(self) -> str:
        return page_name(self.file, self.number)


class Joined(NamedTuple):
    """Files of several folders, in the place of one: their channels are those of one picture."""

    files: tuple[Readable, ...]
    """That of the first folder first, whose name is that of the picture."""

    def __str__(self) -> str:
        return str(self.files[0])


Readable = str | Path | Page | Joined | Unfiled


def files_in(place: Readable) -> list[Path]:
    """The files that are read, that of the first folder first."""
    places = place.files if isinstance(place, Joined) else (place,)
    return [one.file if isinstance(one, Page) else Path(str(one)) for one in places]


def file_in(place: Readable) -> Path:
    """The first of them."""
    return files_in(place)[0]


def version_in(place: Readable) -> tuple[Any, ...] | None:
    """What stays the same as long as nobody writes into its files; None if one is not there."""
    places, files = place.files if isinstance(place, Joined) else (place,), files_in(place)
    if isinstance(place, Unfiled) or not all(file.is_file() for file in files):
        return None
    return *map(version_of, files), *(one.number if isinstance(one, Page) else None for one in places)


def header_of(file: Readable, page: int = 0) -> Header:
    """What a file says of one of its pages, read once.

    Raises:
        UserError: it is none that can be read.
    """
    if isinstance(file, Unfiled):
        h, w, _ = file.samples.shape
        return Header("", w, h, 1, str(file.samples.dtype))
    file = file.files[0] if isinstance(file, Joined) else file
    return _said_by(file_in(file), file.number if isinstance(file, Page) else page)[0]


def pages_of(file: Readable) -> int:
    """Pages of a TIFF, DICOM or NIfTI; pictures of other formats have one.

    Raises:
        UserError: it is none that can be read.
    """
    header = header_of(file)
    return header.pages if header.kind in PAGED else 1


def each_page(file: Readable) -> list[Readable]:
    """Every page of a file; the file itself if it has one picture, or is broken, which reading says."""
    try:
        pages = pages_of(file)
    except UserError:
        return [file]
    if isinstance(file, (Page, Joined, Unfiled)) or pages == 1:
        return [file]
    return [Page(Path(file), number) for number in range(pages)]


def carried_of(file: Path) -> Carried:
    """What the result of a file carries, read with its header or its pixels.

    Raises:
        UserError: it is none that can be read.
    """
    return _said_by(file)[1]


SAID: dict[Any, tuple[Header, Carried]] = {}
"""What files say besides their pixels, by version and page, read once, with these or before."""


def _said_by(file: Path, page: int = 0) -> tuple[Header, Carried]:
    with _reading(file):
        key = *version_of(file), page
        if (said := SAID.get(key)) is None:
            data = _bytes_of(file, page)
            said = _say(key, inspect(data, page=page), data)
        return said


def _bytes_of(file: Path, page: int = 0) -> bytes:
    """What a file holds; read once for all its further pages, which are read one after the other."""
    return _kept(*version_of(file)) if page else regular(file).read_bytes()


@lru_cache(maxsize=1)
def _kept(file: Path, *version: int) -> bytes:
    return regular(file).read_bytes()


def _say(key: Any, header: Header, data: bytes) -> tuple[Header, Carried]:
    if len(SAID) >= 2**16:
        SAID.clear()
    SAID[key] = said = header, NOTHING if key[-1] else carried_by(data)  # of the first page
    return said


def colour_of(name: str) -> tuple[int, int, int]:
    """The red, green and blue of a colour, of 255.

    Raises:
        UserError: it is none.
    """
    try:
        r, g, b, *more = ImageColor.getrgb(name)
        if more:  # a colour that is transparent itself
            raise ValueError
    except ValueError:
        raise UserError(f"alpha {name!r}: expected a colour such as white, black or #ff8800") from None
    return r, g, b


def read_samples(
    path: Readable,
    channels: int = 3,
    colour: tuple[int, int, int] = WHITE,
    ends: ValueRange | None = None,
    page: int | None = None,
) -> tuple[NDArray[Any], dict[str, str]]:
    """Upright samples (channels, H, W) of a file, and what of it is lost.

    They are uint8 or uint16, or float32 in [-1, 1] if the range of its values is known. Transparent ones
    are laid on a colour. Other channels than 1 and 3 are a file's bands, as they are.

    Raises:
        UserError: the file is missing, empty, broken, no image, or of a kind that is not read.
    """
    samples, lost = read_file(path, ranged=ends is not None, bands=bands_of(channels), page=page)
    if ends is None and samples.dtype.kind == "f":
        ends = UNIT
    made: NDArray[Any]
    if ends is not None:
        try:
            made, outside = ranged(samples, channels, colour, ends)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        lost = lost | ({"range": outside} if outside else {})
    else:
        if samples.dtype == np.uint16 and (top := int(samples[..., :3].max())) < DARK:
            lost = lost | {"depth": f"up to {top:,} of 65,535"}
        made = np.ascontiguousarray(plain(samples, channels, colour).transpose(2, 0, 1))
    low, high = ends or (0, np.iinfo(samples.dtype).max)
    if channels == 1 and samples.shape[2] > 2 and _colourful(samples, high - low):
        lost = lost | {"colour": ""}
    return made, lost


def ranged(
    samples: NDArray[Any], channels: int, colour: tuple[int, int, int], ends: ValueRange
) -> tuple[NDArray[np.float32], str]:
    """Samples (H, W, 1 to 4) as float32 (channels, H, W) in [-1, 1], and how many lay outside of the range.

    Raises:
        UserError: a value is not a number.
    """
    alpha = samples.shape[2] in (2, 4) and bands_of(channels) is None
    unit, outside = to_unit(samples[..., : samples.shape[2] - alpha], ends)
    if unit.shape[2] != channels or alpha:
        light = (unit + 1) / 2
        light = np.concatenate([light, opacity_of(samples)], 2) if alpha else light
        unit = 2 * plain(light, channels, colour) - 1
    return np.ascontiguousarray(unit.transpose(2, 0, 1)), outside


def opacity_of(samples: NDArray[Any]) -> NDArray[np.float32]:
    """The last channel of samples (H, W, C) as alpha (H, W, 1) in [0, 1]; that of floats ends at 1, 255 or
    65,535.
    """
    alpha = samples[..., -1:].astype(np.float32)
    if samples.dtype.kind == "f":
        most = alpha.max(initial=0.0)
        top = next((top for top in (1, 255, 65_535) if most <= top), most)
    else:
        top = np.iinfo(samples.dtype).max
    return (alpha / np.float32(top)).clip(0, 1)


def bands_of(channels: int) -> int | None:
    """How many bands files must have for so many channels; None for gray and colours, made of any."""
    return None if channels in (1, 3) else channels


def read_file(
    path: Readable, ranged: bool = False, bands: int | None = None, page: int | None = None
) -> tuple[NDArray[Any], dict[str, str]]:
    """Upright samples (H, W, 1 to 4) of a file, with alpha, and what of it is lost; see `decode`.

    Raises:
        UserError: as `read_samples`.
    """
    if isinstance(path, Unfiled):
        return path.samples, {**path.lost}
    page, name, path = path.number if isinstance(path, Page) else page, path, file_in(path)
    with _reading(name):
        if (size := path.stat().st_size) > LIMITS.file:
            raise Refused(f"has {size:,} bytes: expected at most {LIMITS.file:,}")
        key, data = (*version_of(path), page or 0), _bytes_of(path, page or 0)
        samples, header, lost = decode(data, ranged=ranged, bands=bands, page=page)
        if key not in SAID:
            _say(key, header, data)
        return samples, lost


@contextlib.contextmanager
def _reading(path: Readable) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise UserError(f"cannot read {str(path)!r}: no file can have that name") from None
    except Refused as error:
        raise UserError(f"{path} {error}") from None


def _colourful(samples: NDArray[Any], span: float) -> bool:
    some = samples[:: max(1, len(samples) // 64), :: max(1, samples.shape[1] // 64), :3].astype(float)
    return bool((some.max(2) - some.min(2)).max() > span / 20)
