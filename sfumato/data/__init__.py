"""Pictures on disk to images (B,C,H,W) in [-1,1], and small data sets that need no download."""

from collections.abc import Callable
from typing import Any

from .cached import Images
from .digits import write_digits, write_mnist
from .earth import write_earth
from .folders import new_folder, write_text
from .images import find_images, fit_image, read_image, write_png
from .sets import (
    Dataset,
    Domains,
    Pairs,
    Unpaired,
    open_domains,
    open_pairs,
    open_side_by_side,
    open_unpaired,
)
from .show import base64_png, tile

WRITERS: dict[str, Callable[..., Any]] = {
    "earth": write_earth,
    "digits": write_digits,
    "mnist": write_mnist,
}

__all__ = [
    "WRITERS",
    "Dataset",
    "Domains",
    "Images",
    "Pairs",
    "Unpaired",
    "base64_png",
    "find_images",
    "fit_image",
    "new_folder",
    "open_domains",
    "open_pairs",
    "open_side_by_side",
    "open_unpaired",
    "read_image",
    "tile",
    "write_digits",
    "write_earth",
    "write_mnist",
    "write_png",
    "write_text",
]
