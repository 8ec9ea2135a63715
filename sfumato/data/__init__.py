"""Pictures on disk to images (B,C,H,W) in [-1,1], and small data sets that need no download."""

from collections.abc import Callable
from typing import Any

from .cached import Images
from .digits import write_digits, write_mnist
from .earth import write_earth
from .folders import new_folder, write_text
from .images import find_images, fit_image, list_pictures, read_image, write_png
from .layout import layout
from .open_data import open_data, open_domains, open_pairs, open_side_by_side, open_unpaired
from .preparation import Preparation
from .sets import Dataset, Domains, Pairs, Unpaired
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
    "Preparation",
    "Unpaired",
    "base64_png",
    "find_images",
    "fit_image",
    "layout",
    "list_pictures",
    "new_folder",
    "open_data",
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
