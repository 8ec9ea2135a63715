"""Images as arrays (C,H,W) in [-1,1], from and to files; see `decode`, `preparation` and `listing`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.data.folders import replacing
from sfumato.data.listing import find_images, list_pictures, natural
from sfumato.data.read import read_samples
from sfumato.data.resize import Resize, fit_image, to_float, to_samples

__all__ = [
    "Resize", "find_images", "fit_image", "list_pictures", "natural", "picture", "read_image", "to_float",
    "to_samples", "write_png",
]  # fmt: skip


def read_image(path: str | Path, channels: int = 3) -> NDArray[np.float32]:
    """Read an image as float32 (channels,H,W) in [-1,1]; 16-bit files keep all their levels.

    Args:
        path: A PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF file: gray, palette, RGB or CMYK, with or
            without transparency, which is laid on white. It is turned upright as its EXIF orientation
            says, and brought to sRGB as its colour profile says; of several pictures the first is read.
        channels: 3 repeats gray; 1 takes the luma 0.299 R + 0.587 G + 0.114 B.

    Raises:
        UserError: the file is missing, empty, broken, no image, or of a kind without a range.
    """
    return to_float(read_samples(path, channels)[0])


def write_png(path: str | Path, image: Float[Tensor, "c h w"] | NDArray[Any]) -> None:
    """Write an image (3,H,W) or (1,H,W) in [-1,1] as 8-bit PNG, atomically; values are rounded.

    Raises:
        UserError: the shape is another, or a value is not a number.
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    shown = picture(image)
    with replacing(path) as temporary:
        shown.save(temporary, "PNG")


def picture(image: Float[Tensor, "c h w"] | NDArray[Any]) -> Image.Image:
    """An image (3,H,W) or (1,H,W) in [-1,1] as an 8-bit Pillow picture."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise UserError(f"cannot write shape {tuple(image.shape)}: expected (3,H,W) or (1,H,W)")
    pixels = to_samples(image).transpose(1, 2, 0)
    return Image.fromarray(pixels.squeeze(2) if len(image) == 1 else pixels)
