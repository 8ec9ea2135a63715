"""Samples to values in [-1, 1] and back, and images to other sizes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from sfumato.core.errors import UserError, check_numbers, choose
from sfumato.data.header import LIMITS
from sfumato.data.proportions import buckets, nearest

ToOneSize = Literal["crop", "stretch", "none"]
Learnt = Literal[ToOneSize, "pieces", "buckets"]
Resize = Literal[ToOneSize, "short", "buckets"]
UNCUT = "short", "buckets"
"""Ways by which whole pictures keep their proportions."""
ALIKE = 0.02
"""Proportions that differ by less than this share are the same: sides are whole pixels."""
Pixels = TypeVar("Pixels", NDArray[Any], NDArray[np.float32], Tensor)


def said_size(size: tuple[int, int]) -> str:
    """(height, width) as people write it: 64x48 is 64 wide."""
    return f"{size[1]}x{size[0]}"


def sides_of(size: int | str) -> tuple[int, int]:
    """(height, width) of a size as people write it: 64, or 64x48, which is 64 wide.

    Raises:
        UserError: it is written otherwise.
    """
    words = str(size).split("x")
    if len(words) > 2 or not all(word.isascii() and word.isdecimal() for word in words):
        raise UserError(f"size {size}: expected a number of pixels, or WIDTHxHEIGHT as in 96x64")
    return int(words[-1]), int(words[0])


def alike(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two sizes have the same proportions."""
    return abs(a[1] * b[0] / (a[0] * b[1]) - 1) < ALIKE


def centre(image: Pixels, h: int, w: int) -> Pixels:
    """The middle (..., h, w) of an image."""
    top, left = (image.shape[-2] - h) // 2, (image.shape[-1] - w) // 2
    return image[..., top : top + h, left : left + w]


def to_float(samples: NDArray[Any]) -> NDArray[np.float32]:
    """uint8 or uint16 samples of any shape to float32 in [-1,1]; float32 ones are there already."""
    if samples.dtype == np.float32:
        return samples
    return samples.astype(np.float32) * np.float32(2 / np.iinfo(samples.dtype).max) - np.float32(1)


def to_samples(images: Tensor | NDArray[Any], dtype: Any = np.uint8) -> NDArray[Any]:
    """Values of any shape to the nearest uint8 (or uint16) samples: -1 to 0, 1 to the largest.

    As float32 they stay in [-1, 1].

    Raises:
        UserError: a value is not a number.
    """
    values = images.detach().float().cpu().numpy() if isinstance(images, Tensor) else images
    check_numbers({"the image": values}, ": the model diverged; lower --lr")
    if np.dtype(dtype) == np.float32:
        return values.clip(-1, 1)
    top = np.iinfo(dtype).max
    return np.floor((values.clip(-1, 1) + 1) * (top / 2) + 0.5).astype(dtype)


def as_many(images: Tensor, channels: int) -> Tensor:
    """Images (..., C, H, W) to be looked at in other channels: each is the mean of theirs."""
    if images.shape[-3] == channels:
        return images
    shape = (*images.shape[:-3], channels, *images.shape[-2:])
    return images.mean(-3, keepdim=True).expand(shape)


def fit_image(
    image: NDArray[np.float32],
    size: int | tuple[int, int],
    resize: Resize = "crop",
    upscale: bool = False,
    name: str | Path = "the image",
) -> NDArray[np.float32]:
    """Bring an image (C,H,W) to (C,h,w) with an antialiased bicubic filter.

    Args:
        image: Values in [-1,1].
        size: Side in pixels, or (height, width).
        resize: "crop" scales until the image just covers the size and cuts the centre, "short" keeps
            all of it, "buckets" does the same with the bucket that it is of, "stretch" ignores the
            proportions, "none" asks for images of exactly this size.
        upscale: Allow images to be enlarged.
        name: What an error calls the image.

    Raises:
        UserError: the image would be enlarged, or too far; or has another size and `resize` is "none".
    """
    h, w = (size, size) if isinstance(size, int) else size
    old_h, old_w = image.shape[1:]
    h, w = covered((old_h, old_w), (h, w), resize)
    if (old_h, old_w) == (h, w):
        return image
    if choose("resize", resize, get_args(Resize)) == "none":
        raise UserError(f"{name} is {old_w}x{old_h} pixels, expected {w}x{h}: choose resize crop or stretch")
    if (old_h < h or old_w < w) and not upscale:
        raise UserError(
            f"{name} is {old_w}x{old_h} pixels, smaller than the {w}x{h} asked for: "
            f"choose a smaller --size, or enlarge it by --upscale"
        )
    if resize == "crop":
        image = _needed(image, h, w)
        old_h, old_w = image.shape[1:]
    new_h, new_w = h, w
    if resize == "crop" or resize in UNCUT:
        new_h, new_w = covering((old_h, old_w), (h, w))
    if resize in UNCUT:
        h, w = new_h, new_w
        if h * w > LIMITS.pixels:
            raise UserError(f"{name} would be {w}x{h} pixels, expected at most {LIMITS.pixels:,} in all")
    out = np.empty((len(image), h, w), np.float32)
    for band, row in zip(image, out, strict=True):  # one at a time: a third of the memory
        fitted = torch.from_numpy(np.ascontiguousarray(band))[None, None]
        if (new_h, new_w) != (old_h, old_w):
            fitted = interpolate(fitted, (new_h, new_w), mode="bicubic", antialias=True).clamp(-1, 1)
        row[:] = centre(fitted[0, 0], h, w).numpy()
    return out


class Placed(NamedTuple):
    """How a picture was scaled and then cut, along y and x."""

    scale: tuple[float, float]
    cut: tuple[float, float]
    """Pixels above and left of what was kept."""


def covering(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of a picture that is scaled until it just covers the size that is wanted."""
    (old_h, old_w), (h, w) = size, wanted
    scale = max(h / old_h, w / old_w)
    return max(h, round(old_h * scale)), max(w, round(old_w * scale))


def covered(size: tuple[int, int], wanted: tuple[int, int], resize: str) -> tuple[int, int]:
    """The size that a picture of this (height, width) covers: the wanted one, or its bucket of that area."""
    return nearest(size, buckets(wanted)) if resize == "buckets" else wanted


def placed(size: tuple[int, int], fitted: tuple[int, int], resize: str, made: tuple[int, int]) -> Placed:
    """Where in a result a picture's pixels lie.

    Args:
        size: (height, width) of the picture.
        fitted: what `fit_image` made of it.
        resize: how.
        made: of the result, which shows the same as the fitted one.
    """
    (old_h, old_w), (h, w) = size, fitted
    new_h, new_w = covering(size, fitted) if resize == "crop" else fitted
    y, x = made[0] / h, made[1] / w
    return Placed((y * new_h / old_h, x * new_w / old_w), (y * ((new_h - h) // 2), x * ((new_w - w) // 2)))


def _needed(image: NDArray[np.float32], h: int, w: int) -> NDArray[np.float32]:
    """The middle of an image that is to be enlarged, if most of the enlarged one would be cut off."""
    old_h, old_w = image.shape[1:]
    scale = max(h / old_h, w / old_w)
    if scale <= 1 or max(old_h * scale / h, old_w * scale / w) <= 4:
        return image
    keep = []
    for n, side in ((old_h, h), (old_w, w)):
        least = math.ceil(side / scale) + 8  # the filter's reach, and what rounding moves
        keep.append(min(n, least + (n - least) % 2))  # the middle stays the middle
    return centre(image, *keep)
