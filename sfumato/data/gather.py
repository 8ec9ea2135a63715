"""Pictures and folders of pictures as they are named on a command line, read as a model takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sfumato.errors import UserError

from .images import Resize, find_images, fit_image, read_image


def gather(paths: Sequence[str | Path], out: Path | None = None) -> dict[Path, Path]:
    """Results' names, relative to the output folder, and the pictures they are made of.

    Raises:
        UserError: for paths that do not exist, an `out` inside of one, or two results of one name.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path} does not exist: expected a picture or a folder of pictures")
        if out and path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise UserError(f"{out} lies inside the folder it is made of; choose another --out")
        for file in find_images(path) if path.is_dir() else [path]:
            name = file.relative_to(path if path.is_dir() else path.parent).with_suffix(".png")
            if name in found:
                raise UserError(
                    f"{found[name]} and {file} would both become {(out or Path()) / name}: "
                    f"rename one, or translate them into two folders"
                )
            found[name] = file
    if not found:
        raise UserError("no pictures given: name some, or a folder of them")
    return found


def reader(
    channels: int, size: int | None, resize: Resize = "crop", upscale: bool = False
) -> Callable[[Path], Tensor]:
    """What reads a file as an image (channels, H, W) in [-1, 1], size pixels a side if it is given.

    It raises a UserError for a file that is no picture, too small, or in colour for one channel.
    """

    def read(file: Path) -> Tensor:
        image = torch.from_numpy(read_image(file))
        if channels == 1:
            if (image.amax(0) - image.amin(0)).max() > 0.1:
                raise UserError(f"{file} is in colour, the model in gray: convert it to gray")
            image = torch.from_numpy(read_image(file, 1))
        if size is None:
            return image
        return torch.from_numpy(fit_image(image.numpy(), size, resize, upscale, file))

    return read
