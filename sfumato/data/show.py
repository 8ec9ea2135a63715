"""Images for people: many on one sheet, one inside a page."""

import base64
import io

from jaxtyping import Float
from torch import Tensor

from .images import picture


def base64_png(image: Float[Tensor, "c h w"]) -> str:
    """An image as `write_png` writes it, as text that a page can hold."""
    buffer = io.BytesIO()
    picture(image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def tile(images: Float[Tensor, "n c h w"], columns: int) -> Float[Tensor, "c H W"]:
    """One picture of many, row by row, with white gaps of 2 pixels; missing ones stay white."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    sheet = images.new_ones(c, rows * (h + 2) - 2, columns * (w + 2) - 2)
    for i, image in enumerate(images):
        top, left = i // columns * (h + 2), i % columns * (w + 2)
        sheet[:, top : top + h, left : left + w] = image
    return sheet
