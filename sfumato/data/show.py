"""Images for people: many on one sheet, one inside a page; and the pages."""

import base64
import io
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.terminal import plain
from sfumato.data.images import picture


def shown(images: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n k h w"]:
    """Images to be looked at, in 3 channels or 1: of more bands the first three, of two the first."""
    c = images.shape[-3]
    return images[..., : 3 if c > 2 else 1, :, :]


def base64_png(image: Float[Tensor, "c h w"]) -> str:
    """An image to be looked at, as text that a page can hold."""
    buffer = io.BytesIO()
    picture(shown(image)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def page(template: str, **values: Any) -> str:
    """A page of `sfumato/templates`, all of which share the head and style of page.html, with these values.

    They are escaped, and shown as a terminal shows them: nothing in a name is markup or hides.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("sfumato"), autoescape=True,
        finalize=lambda x: plain(x) if type(x) is str else x,
    )  # fmt: skip
    return environment.get_template(template).render(values)


def tile(images: Float[Tensor, "n c h w"], columns: int) -> Float[Tensor, "c H W"]:
    """One picture of many, row by row, with white gaps of 2 pixels; missing ones stay white."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    sheet = images.new_ones(c, rows * (h + 2) - 2, columns * (w + 2) - 2)
    for i, image in enumerate(images):
        top, left = i // columns * (h + 2), i % columns * (w + 2)
        sheet[:, top : top + h, left : left + w] = image
    return sheet


def enlarged(image: Float[Tensor, "c h w"], side: int = 256) -> Float[Tensor, "c H W"]:
    """A small picture with every pixel a square, so that its longer side is about `side` pixels."""
    times = max(1, side // max(image.shape[1:]))
    return image.repeat_interleave(times, 1).repeat_interleave(times, 2)


def heat(x: Float[Tensor, "b h w"]) -> Float[Tensor, "b 3 h w"]:
    """Numbers in [0, 1] as colours from black over red to white, in [-1, 1]."""
    return torch.stack([3 * x, 3 * x - 1, 3 * x - 2], 1).clamp(0, 1) * 2 - 1


def evenly(n: int, count: int) -> list[int]:
    """Indices of `count` of n things, evenly through them; of all, if there are fewer."""
    count = min(n, count)
    return [int((i + 0.5) * n / count) for i in range(count)]
