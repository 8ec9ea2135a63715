"""Pictures as masks: white where pixels are kept."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.data.hashing import hash_of
from sfumato.data.header import said_lost
from sfumato.data.image_folder import ImageFolder
from sfumato.data.preparation import Preparation, Prepared
from sfumato.data.resize import UNCUT, alike, said_size

FAINT = 16 / 127.5
"""Up to 16 of 255 gray levels off are black, white or gray still, as in a JPEG."""


def check_mask(file: Path) -> None:
    """Says how a mask is read that is not black and white alone.

    Raises:
        UserError: it is not a file, no picture, or coloured.
    """
    if not file.is_file():
        raise UserError(f"the mask {file} is not a file: expected a picture, white where pixels are kept")
    picture = Preparation(size=None, resize="none", channels=3).read(file)
    image = picture.image
    if (image.amax(0) - image.amin(0) > FAINT).any():
        raise UserError(f"the mask {file} is coloured: expected black and white, white where pixels are kept")
    if -1 < image.amax() < FAINT - 1:
        raise UserError(
            f"the mask {file} has no level above {(image.amax().item() + 1) * 127.5:.0f} of 255, which is "
            f"black: expected white where pixels are kept; multiply labels of 0 and 1 by 255"
        )
    for line in said_lost(f"the mask {file}", picture.lost):
        warnings.warn(line, stacklevel=3)
    alpha = Preparation().opacity(file)
    if alpha is not None and (clear := float((alpha < 0).mean())):
        warnings.warn(
            f"the mask {file} is transparent at {clear:.1%} of its pixels: these are laid on white, and kept",
            stacklevel=3,
        )
    soft = (image.abs() < 1 - FAINT).float().mean().item()
    if soft:
        warnings.warn(
            f"the mask {file} is gray at {soft:.1%} of its pixels: those that are lighter than middle gray "
            f"are kept, the others not",
            stacklevel=3,
        )


def masks_of(path: Path, names: Sequence[str]) -> list[Path]:
    """The mask of each of these pictures, of a folder the one of its name, without suffixes.

    Raises:
        UserError: a picture has none, or a mask that is one for all is none.
    """
    if not path.is_dir():
        check_mask(path)
        return [path] * len(names)
    masks = ImageFolder(path)
    masks.by_name()
    return masks.only(names, "mask", "pictures").paths


def mask_record(path: Path) -> str:
    """What a run records of masks: the file's sha256; those of a folder belong to its pictures."""
    return EACH if path.is_dir() else hash_of(path)


EACH = "one for each picture"


def mask_for(file: Path, picture: Prepared, prepare: Preparation) -> Tensor:
    """1 where the picture `file` is white, else 0, (1, 1, H, W): prepared as the picture is, unless it has
    its size.

    Raises:
        UserError: its proportions are others than the picture's.
    """
    h, w = picture.image.shape[-2:]
    how = replace(prepare, size=(h, w), channels=1, upscale=True, side="whole", range=None, beside=())
    if how.resize == "none" or how.resize in UNCUT:
        how = replace(how, resize="crop")  # of the same proportions: nothing is cut
    mask = how.read(file)
    if mask.size != (h, w) and not alike(mask.size, picture.size):
        raise UserError(
            f"the mask {file} is {said_size(mask.size)} pixels, a picture {said_size(picture.size)}: "
            f"expected the same proportions"
        )
    if mask.size[0] < h or mask.size[1] < w:
        warnings.warn(
            f"the mask {file} is {said_size(mask.size)} pixels and is enlarged to {said_size((h, w))}",
            stacklevel=2,
        )
    return (mask.image > 0).float()[None]
