"""What lies in folders of pictures: every file decoded once, and small enough facts kept of it."""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sfumato.core.errors import UserError
from sfumato.data.arrays import kind_of
from sfumato.data.decode import seen
from sfumato.data.folders import regular
from sfumato.data.hashing import hash_of
from sfumato.data.header import orientation
from sfumato.data.image_folder import ImageFolder
from sfumato.data.layout import Folders, apart, layout
from sfumato.data.listing import list_pictures
from sfumato.data.metadata import turn_of
from sfumato.data.open_data import WHOLE, measured_range
from sfumato.data.preparation import Preparation
from sfumato.data.read import DARK, Page, Readable, bands_of, file_in, header_of, read_samples
from sfumato.data.resize import alike, to_samples
from sfumato.data.show import shown
from sfumato.data.stacks import Pages
from sfumato.data.value_range import Stated

THUMB = 32
"""Side of the thumbnails in pixels: enough for structure, 3 KB a picture."""
WIDE = (1.9, 2.1)
"""Width / height of what may be two square pictures side by side."""
FLAT = 2 / 255
"""Standard deviation, of values in [0,1], below which a picture shows nothing."""
COLOUR = 6 / 255
"""Difference of channels in a thumbnail, of values in [0,1], that only a colour picture has."""

EVERY = 10.0
"""Seconds between two words on how far it is."""


@dataclass(slots=True)
class Inspected:
    """One picture: where it is, what is wrong with it (`error`), or what it shows.

    `width` and `height` are those of the upright picture; `thumb` is uint8 (32,32,3) of all of it,
    `square` of the square in its middle, as training cuts it, `halves` (2,32,32,3) of its left and
    right half if it is twice as wide as high; of more bands than three they show the first three. `top` is
    the largest sample, `full` what is white: the largest that the bits allow which the 16-bit files of a
    domain use, as 4095; or 255 of 255 where the `ranged` values are known.
    """

    path: Readable
    domain: str
    split: str
    stem: str
    error: str = ""
    file: str = ""
    pixels: str = ""
    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    bits: int = 8
    ranged: bool = False
    turned: bool = False
    transparent: bool = False
    top: int = 255
    full: int = 255
    spread: float = 0.0
    gray: bool = False
    flat: bool = False
    thumb: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((THUMB, THUMB, 3), np.uint8))
    square: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((THUMB, THUMB, 3), np.uint8))
    halves: NDArray[np.uint8] | None = None

    @property
    def of_file(self) -> str:
        """The name of its file, which all of its pages have."""
        return re.sub(r"\[[0-9]+\]$", "", self.stem) if isinstance(self.path, Page) else self.stem

    @property
    def deep(self) -> bool:
        """Whether samples have 16 bits, and nothing says which values are black and white."""
        return self.bits == 16 and not self.ranged

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    def short(self, halved: bool = False) -> int:
        """The shorter side in pixels; of a half, if the picture holds a pair."""
        return min(self.shape(halved))

    def shape(self, halved: bool = False) -> tuple[int, int]:
        """Height and width in pixels; of a half, if the picture holds a pair."""
        return self.height, self.width // 2 if halved else self.width


def folders_of(
    a: str | Path, b: str | Path | None, test_a: str | Path | None, test_b: str | Path | None
) -> Folders:
    """The folders of every domain by split, those of the tests among them.

    Raises:
        UserError: see `layout`; or tests are named that belong to no domain.
    """
    out = layout(a) if b is None else layout(a, b)
    tests = [test_a] if test_b is None else [test_a, test_b]
    if any(tests) and not len(tests) <= len(out) <= 2:
        raise UserError(f"--test-a, --test-b belong to two domains; found {', '.join(out)}")
    for splits, test in zip(out.values(), tests, strict=False):
        if test is not None:
            splits["test"] = Path(test)
    apart([folder for splits in out.values() for folder in splits.values()])
    return out


def ways(
    folders: Folders, channels: int | None, to_channels: int | None, range: Stated | None,
    to_range: Stated | None, pages: str = "first",
) -> dict[str, Preparation]:  # fmt: skip
    """How the pictures of every domain are read, ranges measured as training measures them.

    Raises:
        UserError: one is no range, or there is nothing to measure; or something is stated of the second of
            two folders, and there are more or fewer.
    """
    if len(folders) != 2 and (to_channels or to_range):
        raise UserError("--to-channels and --to-range are of the second folder of two: leave them out")
    own, files = (
        channels or 3,
        [[(f, WHOLE) for f in list_pictures(s["train"]).files] for s in folders.values()],
    )
    if len(folders) != 2:
        every = [one for some in files for one in some]
        ends = measured_range(range, every, own, every=pages == "all")
        return dict.fromkeys(folders, Preparation(channels=own, range=ends))
    there, name = (to_range, "to_range") if to_range else (range, "range")
    stated = zip((range, there), files, (own, to_channels or own), ("range", name), strict=True)
    both = [measured_range(*one, every=pages == "all") for one in stated]
    made = [Preparation(channels=n, range=r) for n, r in zip((own, to_channels or own), both, strict=True)]
    return dict(zip(folders, made, strict=True))


def inspect_folders(
    folders: Mapping[str, Mapping[str, Path]],
    progress: Callable[[str], Any] = lambda _: None,
    how: Mapping[str, Preparation] | None = None,
    pages: str = "first",
) -> tuple[list[Inspected], list[ImageFolder]]:
    """Every picture below the folders, training splits first; and these folders.

    Args:
        folders: of every domain and split.
        progress: is told every `EVERY` seconds how many are done.
        how: of every domain the channels and the range of its pictures, where they are stated.
        pages: first, or all of stacks, each a picture.

    Raises:
        UserError: a folder is missing or holds no image file.
    """
    todo, read = list[Inspected](), list[ImageFolder]()
    for domain, splits in folders.items():
        for split, folder in splits.items():
            read.append(found := (Pages if pages == "all" else ImageFolder)(folder))
            todo += [Inspected(found.picture(i), domain, split, name) for i, name in enumerate(found.names)]
    todo.sort(key=lambda one: one.split != "train")  # stable
    said = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ways = [(how or {}).get(one.domain, Preparation()) for one in todo]
        for i, _ in enumerate(pool.map(_inspect, todo, ways)):
            if time.monotonic() - said > EVERY:
                said = time.monotonic()
                progress(f"looked at {i + 1:,} of {len(todo):,} pictures")
    for domain in folders:
        part = [one for one in todo if one.domain == domain and not one.error]
        used = max((one.top for one in part if one.deep), default=0)
        for one in part:
            _judge(one, 255 if not one.deep else 65535 if used >= DARK else _power(used))
    return todo, read


def _power(used: int) -> int:
    """The largest value of as many bits as `used` needs, 8 or more."""
    return int(max(255, 2 ** used.bit_length() - 1))


def _judge(one: Inspected, full: int) -> None:
    """What a picture shows, when `full` is white; its thumbnails become 8-bit ones."""
    one.full = full
    if one.deep:
        one.thumb, one.square = _shown(one.thumb, full), _shown(one.square, full)
        one.halves = None if one.halves is None else _shown(one.halves, full)
    colours = one.thumb.max(2).astype(int) - one.thumb.min(2)
    one.gray = bool(colours.max() < 255 * COLOUR)
    # one colour; a picture of fine detail only has a thumbnail of one, too
    one.flat = bool(one.thumb.std((0, 1)).max() < 255 * FLAT and one.spread < full * FLAT)


def _inspect(one: Inspected, how: Preparation) -> Inspected:
    try:
        samples, _ = read_samples(one.path, bands_of(how.channels) or 3, ends=how.range)
        data = regular(file_in(one.path)).read_bytes()
    except (UserError, OSError) as error:
        one.error = str(error)
        return one
    one.file = hash_of(file_in(one.path))
    one.pixels = hashlib.sha256(repr(samples.shape).encode() + samples.tobytes()).hexdigest()
    one.format, one.mode, turn, one.transparent = _header(data)
    one.turned = turn != 1
    _, one.height, one.width = samples.shape
    one.ranged, one.bits = how.range is not None, 8 * samples.itemsize
    if one.ranged:
        one.bits, samples = 8 * np.dtype(header_of(one.path).dtype).itemsize, to_samples(samples)
    samples = np.broadcast_to(shown(torch.from_numpy(samples)).numpy(), (3, *samples.shape[1:]))
    one.top, one.spread = int(samples.max()), float(samples.std((1, 2)).max())
    one.thumb = one.square = _thumb(samples)
    short = min(one.width, one.height)
    if not alike(one.size, (1, 1)):
        top, left = (one.height - short) // 2, (one.width - short) // 2
        one.square = _thumb(samples[:, top : top + short, left : left + short])
    if WIDE[0] <= one.width / one.height <= WIDE[1]:
        half = one.width // 2
        one.halves = np.stack([_thumb(samples[..., :half]), _thumb(samples[..., -half:])])
    return one


def _shown(samples: NDArray[Any], full: int) -> NDArray[np.uint8]:
    """Samples of 0 to `full` as 8-bit ones."""
    return np.round(samples * (255 / full)).astype(np.uint8)


def _thumb(samples: NDArray[Any]) -> NDArray[Any]:
    """Samples (3,H,W) of 8 or 16 bits to (32,32,3) of as many."""
    if samples.dtype == np.uint8:
        images = [Image.fromarray(np.ascontiguousarray(samples.transpose(1, 2, 0)))]
    else:
        images = [Image.fromarray(channel.astype(np.float32)) for channel in samples]
    small = [np.asarray(x.resize((THUMB, THUMB), Image.Resampling.HAMMING)) for x in images]
    return small[0] if len(small) == 1 else np.round(np.stack(small, 2)).astype(samples.dtype)


def _header(data: bytes) -> tuple[str, str, int, bool]:
    """Format, mode, EXIF orientation and whether it may be transparent; nothing is decoded."""
    if kind := kind_of(data):
        return kind, "", 1, False
    try:
        look = lambda x: (str(x.format), x.mode, orientation(turn_of(x)), x.has_transparency_data)
        return seen(data, look)[0]
    except UnidentifiedImageError:  # a TIFF of 16-bit colours, which Pillow does not know
        import tifffile

        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            page: Any = tiff.pages[0]
            turn = orientation(page.tags.valueof("Orientation", 1))
            return "TIFF", page.photometric.name, turn, 2 in page.extrasamples
