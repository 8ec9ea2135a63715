"""Backbones, and the named sizes that a method's `net` field accepts."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from sfumato.core.errors import choose
from sfumato.nets.denoiser_unet import UNet

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 16, "multipliers": (1, 2), "blocks": 1, "attention": 0},
    "small": {"width": 32, "multipliers": (1, 2, 2), "blocks": 1},
    "medium": {"width": 64, "multipliers": (1, 2, 2), "blocks": 2},
    "large": {"width": 96, "multipliers": (1, 2, 3), "blocks": 2},
    "thesis": {
        "width": 64, "multipliers": (1, 2, 4, 8), "blocks": 2, "patch": 1, "attention": 0,
        "dropout": 0.2,
    },
}  # fmt: skip
"""tiny: for tests; small: about 1 M parameters, for CPUs; thesis: 58 M, of the paired score-SDE."""


def make_net(
    net: str | nn.Module, *, labels: int = 0, conditioning: int = 0, channels: int = 3,
    decoder: bool = True, smooth: bool = False, copied: bool = False,
) -> nn.Module:  # fmt: skip
    """A network by the name of its size; one that is a network already is returned as it is, or a copy of it.

    smooth: for what learns from a critic alone, which draws every grid and frame that it can see.  A level
    at full size, half as wide, in place of the patches of two; no nearest neighbours, no zeros at edges.

    Raises:
        UserError: for an unknown size, naming the nearest.
    """
    if isinstance(net, nn.Module):
        return copy.deepcopy(net) if copied else net
    size = SIZES[choose("net", net, SIZES)]
    if smooth and size.get("patch", 2) == 2:
        levels = (1, *(2 * m for m in size["multipliers"]))
        size = size | {"width": size["width"] // 2, "multipliers": levels, "patch": 1}
    return UNet(
        channels=channels, labels=labels, conditioning=conditioning, decoder=decoder, smooth=smooth, **size
    )


__all__ = ["SIZES", "UNet", "make_net"]
