"""What lies in folders of pictures: every file decoded once, and small enough facts kept of it."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sfumato.data.images import SUFFIXES, find_images
from sfumato.data.listing import stem_of
from sfumato.data.preparation import read_samples
from sfumato.errors import UserError

THUMB = 32
"""Side of the thumbnails in pixels: enough for structure, 3 KB a picture."""
WIDE = (1.9, 2.1)
"""Width / height of what may be two square pictures side by side."""
FLAT = 2 / 255
"""Standard deviation, of values in [0,1], below which a picture shows nothing."""
COLOUR = 6 / 255
"""Difference of channels in a thumbnail, of values in [0,1], that only a colour picture has."""
UNREAD = {".gif", ".heic", ".heif", ".avif", ".jp2", ".jfif", ".jxl", ".tga", ".exr", ".npy"}
"""Suffixes of pictures that sfumato does not read; a folder may hold them unnoticed."""

Folders = dict[str, dict[str, Path]]  # {domain: {split: folder}}


@dataclass(slots=True)
class Look:
    """One file: where it is, what is wrong with it (`error`), or what it shows.

    `width` and `height` are those of the upright picture; `thumb` is uint8 (32,32,3), `halves`
    the same of its left and right half (2,32,32,3) if it is twice as wide as high.
    """

    path: Path
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
    turned: bool = False
    gray: bool = False
    flat: bool = False
    thumb: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((THUMB, THUMB, 3), np.uint8))
    halves: NDArray[np.uint8] | None = None

    def short(self, halved: bool = False) -> int:
        """The shorter side in pixels; of a half, if the picture holds a pair."""
        return min(self.height, self.width // 2 if halved else self.width)


def layout(
    a: str | Path, b: str | Path | None, test_a: str | Path | None, test_b: str | Path | None
) -> Folders:
    """The folders of every domain: {domain: {split: folder}}; "train" is what is not a test split.

    Known are one folder a domain; train/ and test/ in it; and in a single folder A also trainA/ and
    trainB/ (with testA/, testB/), train/DOMAIN/ and test/DOMAIN/, and DOMAIN/.

    Raises:
        UserError: a folder is missing, or lies in another one.
    """
    out = _alone(Path(a)) if b is None else {
        name: _splits(folder) or {"train": folder}
        for name, folder in zip(_names(Path(a), Path(b)), (Path(a), Path(b)), strict=True)
    }  # fmt: skip
    tests = [test for test in (test_a, test_b) if test is not None]
    if tests and (len(out) > 2 or len(out) < len(tests) or test_a is None):
        raise UserError(f"--test-a, --test-b belong to two domains; found {', '.join(out)}")
    for splits, test in zip(out.values(), tests, strict=False):
        splits["test"] = Path(test)
    flat = [folder for splits in out.values() for folder in splits.values()]
    for i, one in enumerate(flat):
        for other in flat[:i]:
            x, y = one.resolve(), other.resolve()
            if x.is_relative_to(y) or y.is_relative_to(x):
                raise UserError(f"{one} lies in {other} (or is it): name folders that are apart")
    return out


def _alone(folder: Path) -> Folders:
    """The domains and splits that one folder holds."""
    found: Folders = {}
    for sub in _subfolders(folder):
        if known := re.fullmatch(r"(train|test|val)[_-]?([ab])", sub.name, re.I):
            found.setdefault(known[2].upper(), {})[known[1].lower()] = sub
    if found and all("train" in splits for splits in found.values()):
        return {k: dict(sorted(found[k].items(), key=_train_first)) for k in sorted(found)}
    splits = _splits(folder)
    for split, root in (splits or {"train": folder}).items():
        inside = _subfolders(root)
        if len(inside) > 1 and not any(p.suffix.lower() in SUFFIXES for p in root.iterdir()):
            for sub in inside:
                found.setdefault(sub.name, {})[split] = sub
    if found and all("train" in parts for parts in found.values()):
        return found
    return {_names(folder)[0]: splits or {"train": folder}}


def _subfolders(folder: Path) -> list[Path]:
    inside = folder.iterdir() if folder.is_dir() else []
    return sorted(p for p in inside if p.is_dir() and not p.name.startswith("."))


def _splits(folder: Path) -> dict[str, Path]:
    known = {p.name: p for p in _subfolders(folder) if p.name in ("train", "test", "val")}
    return dict(sorted(known.items(), key=_train_first)) if "train" in known else {}


def _train_first(item: tuple[str, Path]) -> bool:
    return item[0] != "train"


def _names(*folders: Path) -> list[str]:
    """What the domains are called: as many last parts of the paths as tell them apart."""
    paths = [folder.resolve() for folder in folders]
    for parts in range(1, max(len(p.parts) for p in paths)):
        names = ["_".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{folders[0]} is given twice: name two folders")


def look(folders: Mapping[str, Mapping[str, Path]]) -> tuple[list[Look], Counter[str]]:
    """Every picture below the folders, training splits first; suffixes of pictures not read.

    Raises:
        UserError: a folder is missing or holds no image file.
    """
    todo = [Look(file, domain, split, stem_of(file.relative_to(folder).as_posix()))
            for domain, splits in folders.items() for split, folder in splits.items()
            for file in find_images(folder)]  # fmt: skip
    todo.sort(key=lambda one: one.split != "train")  # stable
    roots = [folder for splits in folders.values() for folder in splits.values()]
    suffixes = (p.suffix.lower() for folder in roots for p in folder.rglob("*"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_look, todo)), Counter(s for s in suffixes if s in UNREAD)


def _look(one: Look) -> Look:
    try:
        samples, _ = read_samples(one.path)
        data = one.path.read_bytes()
    except (UserError, OSError) as error:
        one.error = str(error)
        return one
    one.file, one.pixels = _hash(data), _hash(repr(samples.shape).encode() + samples.tobytes())
    one.format, one.mode, turn = _header(data)
    one.turned = turn != 1
    _, one.height, one.width = samples.shape
    one.bits = 8 * samples.itemsize
    picture = (samples >> 8).astype(np.uint8) if one.bits == 16 else samples
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    one.thumb = _thumb(image)
    spread = one.thumb.max(2).astype(int) - one.thumb.min(2)
    one.gray = bool(spread.max() < 255 * COLOUR)
    one.flat = bool(one.thumb.std((0, 1)).max() < 255 * FLAT)
    if one.flat:  # or it has only fine detail
        one.flat = bool(samples.std((1, 2)).max() < FLAT * np.iinfo(samples.dtype).max)
    if WIDE[0] <= one.width / one.height <= WIDE[1]:
        half = one.width // 2
        left = image.crop((0, 0, half, one.height))
        right = image.crop((one.width - half, 0, one.width, one.height))
        one.halves = np.stack([_thumb(left), _thumb(right)])
    return one


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _thumb(image: Any) -> NDArray[np.uint8]:
    return np.asarray(image.resize((THUMB, THUMB), Image.Resampling.HAMMING))


def _header(data: bytes) -> tuple[str, str, int]:
    """Format, mode and EXIF orientation; nothing is decoded."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return str(image.format), image.mode, int(image.getexif().get(0x0112, 1))
    except UnidentifiedImageError:  # a TIFF of 16-bit colours, which Pillow does not know
        import tifffile

        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            page: Any = tiff.pages[0]
            return "TIFF", page.photometric.name, int(page.tags.valueof("Orientation", 1))
