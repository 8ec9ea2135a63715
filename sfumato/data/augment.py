"""Pictures changed at random as training reads them; where and how is the caller's, so pairs stay pairs."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Numbers = NDArray[np.floating[Any]]


def mirrored(images: Float[Tensor, "b c h w"], coins: Numbers) -> Float[Tensor, "b c h w"]:
    """Images mirrored left to right where their coin (B,) in [0, 1) is below one half."""
    return torch.where(torch.from_numpy(coins < 0.5)[:, None, None, None], images.flip(3), images)


def jittered(images: Float[Tensor, "b c h w"], jitter: float, places: Numbers) -> Float[Tensor, "b c h w"]:
    """Images enlarged by the share `jitter` and cropped to their size, at places (2, B) in [0, 1)."""
    h, w = images.shape[2:]
    sides = round(h * (1 + jitter)), round(w * (1 + jitter))
    large = F.interpolate(images, sides, mode="bicubic", align_corners=False).clamp(-1, 1)
    tops, lefts = ((p * (s - n + 1)).astype(int) for p, s, n in zip(places, sides, (h, w), strict=True))
    return torch.stack([one[:, y : y + h, x : x + w] for one, y, x in zip(large, tops, lefts, strict=True)])
