"""Picture files as images in Python, and back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count
from sfumato.core.terminal import count
from sfumato.data.decode import samples_of
from sfumato.data.header import Refused, said_lost
from sfumato.data.in_memory import take
from sfumato.data.preparation import Preparation
from sfumato.data.resize import Resize, to_samples
from sfumato.data.value_range import ValueRange, from_unit, rule_of, type_for
from sfumato.data.write import format_of, write_samples

Ends = Sequence[int | float]


@checked
def read(
    paths: str | Path | Sequence[str | Path],
    *,
    like: Any = None,
    size: int | None = None,
    resize: Resize | None = None,
    upscale: bool = False,
    channels: Count | None = None,
    range: Ends | None = None,
) -> Float[Tensor, "*b c h w"]:
    """Picture files as images in [-1, 1]: (C, H, W) of one, (B, C, H, W) of several.

    What of a file is not in the image, as the further pages of a stack, is said by a warning.

    Args:
        paths: a file, or files that have one size when they are read.
        like: a loaded model: files are brought to it as its training brought its own, but as a whole, and
            but for what is given beside it.
        size: side in pixels; by default every file at its own.
        resize: how: crop (scale the short side, cut the middle, the default without a model), short (do not
            cut) or stretch.
        upscale: enlarge smaller files.
        channels: 3 (the default), 1 for the luma, or as many as the files have bands.
        range: the two values that become -1 and 1, which signed and float samples need.

    Raises:
        UserError: a file is missing, broken, of an unfit size, or of another size than the others.
    """
    how = Preparation() if like is None else getattr(like, "preparation", None)
    if how is None:
        raise UserError("like= takes a model of sfumato.load, which knows how its pictures were prepared")
    how = how.at(size, resize or ("crop" if like is None else None))
    how = replace(how, beside=how.beside if channels is None else ())  # channels of one file
    how = replace(how, upscale=upscale or how.upscale, channels=channels or how.channels)
    how = how if range is None else replace(how, range=_ends(range))
    pictures = [how.read(path) for path in _files(paths)]
    for path, one in zip(_files(paths), pictures, strict=True):
        for line in said_lost(path, one.lost):
            warnings.warn(line, stacklevel=3)
    if len({one.image.shape for one in pictures}) != 1:
        raise UserError("expected files of one size: give size= and resize='crop'")
    images = torch.stack([one.image for one in pictures])
    return images[0] if isinstance(paths, (str, Path)) else images


@checked
def write(pictures: Any, paths: str | Path | Sequence[str | Path], *, range: Ends | None = None) -> None:
    """Writes pictures as PNG, TIFF, JPEG or WebP, each whole or not at all.

    Samples of uint16 are written with 16 bits, all others with 8. JPEG alone loses something. Pictures of
    Pillow keep their transparency; arrays of other channels than 1 and 3 are written as bands of a TIFF.

    Args:
        pictures: a picture of Pillow, or an array, tensor or list of one or many, see `take`.
        paths: a file for one, or as many files; they end in .png, .tif, .jpg or .webp.
        range: the values that -1 and 1 become, as float32 in a TIFF.

    Raises:
        UserError: for other endings, more or fewer files, one file twice, values out of range, or what the
            format does not hold.
        OSError: a file cannot be written; nothing is left of it.
    """
    files, ends = _files(paths), None if range is None else _ends(range)
    each = pictures if isinstance(pictures, (list, tuple)) else [pictures]
    made: list[tuple[NDArray[Any], bool]] = []
    for given in each:
        made += _samples(given, ends)
    if len(files) != len(made):
        raise UserError(
            f"{count(len(made), 'picture')} and {count(len(files), 'file')}: expected a file for each"
        )
    once: dict[Path, Path] = {}
    for file in files:
        place = Path(os.path.realpath(file.parent), file.name)  # a link itself would be replaced
        if (other := once.setdefault(place, file)) is not file:
            raise UserError(
                f"{file} is given twice{f' (as {other})' * (str(other) != str(file))}: "
                f"expected a file for each picture"
            )
        format_of(file)
    for file, (samples, alpha) in zip(files, made, strict=True):
        write_samples(file, samples, alpha=alpha)


def _files(paths: Any) -> list[Path]:
    """One path or several."""
    files = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    if not files:
        raise UserError("an empty list was given: expected the name of a file, or a list of names")
    return files


def _ends(stated: Ends) -> ValueRange:
    """Two ends."""
    if (ends := rule_of([*stated]).ends) is None:
        raise UserError(f"range {stated}: expected its two ends, such as (-1000, 3000)")
    return ends


def _samples(given: Any, ends: ValueRange | None) -> list[tuple[NDArray[Any], bool]]:
    """Samples (C, H, W) of one picture or many, and whether the last channel is alpha."""
    if isinstance(given, Image.Image) and ends is None:
        try:
            samples = samples_of(given)[0].transpose(2, 0, 1)
        except Refused as error:
            raise UserError(f"the picture {error}") from None
        return [(samples, len(samples) in (2, 4))]
    dtype = np.dtype(np.uint16 if str(getattr(given, "dtype", "")).endswith("uint16") else np.uint8)
    images = take(given, _channels_of(given), bright=True).images
    if ends is None:
        return [(to_samples(image, dtype), False) for image in images]
    kind = type_for(ends, "float32", None)
    return [(from_unit(image.numpy(), ends, kind), False) for image in images]


def _channels_of(given: Any) -> int:
    """How many channels a picture has, by its shape: the least of what may be their number."""
    shape = tuple(getattr(given, "shape", ()))
    if len(shape) < 3:
        return 1 if len(shape) == 2 or getattr(given, "mode", "") in ("1", "L") else 3
    ways = shape[-3:-2] if isinstance(given, Tensor) else (shape[-1], shape[-3])
    return next((n for n in (3, 1) if n in ways), min(ways))
