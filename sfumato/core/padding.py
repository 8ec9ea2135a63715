"""Images made larger, for networks whose sides are multiples of something."""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored(x: Tensor, step: int, least: int = 1) -> Tensor:
    """Images x (B, C, H, W), mirrored beyond their lower and right edges for a network that halves them.

    Its result is cut back to H, W.

    Args:
        x: images.
        step: what their sides become multiples of.
        least: what they are at least.
    """
    for axis in (2, 3):
        n = x.shape[axis]
        if (wanted := -(-max(n, least) // step) * step) != n:
            places = torch.arange(wanted, device=x.device) % (2 * n)
            x = x.index_select(axis, torch.minimum(places, 2 * n - 1 - places))
    return x
