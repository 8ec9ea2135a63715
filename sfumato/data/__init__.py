"""Pictures on disk to images (B,C,H,W) in [-1,1], and small data sets that need no download."""

from collections.abc import Callable
from typing import Any

from sfumato.data.digits import write_digits, write_mnist
from sfumato.data.earth import write_earth
from sfumato.data.folders import new_folder, write_text
from sfumato.data.image_folder import ImageFolder
from sfumato.data.images import find_images, fit_image, list_pictures, read_image, write_png
from sfumato.data.layout import layout
from sfumato.data.open_data import (
    open_data,
    open_domains,
    open_images,
    open_pairs,
    open_side_by_side,
    open_unpaired,
)
from sfumato.data.preparation import Preparation
from sfumato.data.sets import Dataset, Domains, Pairs, Unpaired
from sfumato.data.show import base64_png, tile

WRITERS: dict[str, Callable[..., Any]] = {"earth": write_earth, "digits": write_digits, "mnist": write_mnist}

__all__ = [
    "WRITERS",
    "Dataset",
    "Domains",
    "ImageFolder",
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
    "open_images",
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
