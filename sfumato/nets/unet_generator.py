"""The U-Net generator of pix2pix (https://arxiv.org/abs/1611.07004): dropout is its only noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.padding import mirrored
from sfumato.core.ranges import BelowOne, Count
from sfumato.module import Part
from sfumato.nets.layers import drop, make_norm


class UNetGenerator(Part):
    """(B, channels, H, W) to the same shape, in (-1, 1) if it is bounded.

    Args:
        channels: channels of the images.
        ngf: channels of the first level; they double from level to level up to eightfold.
        downs: levels, each of half the size: 8 for 256 pixels (54 M parameters), which it takes to 1x1.
        norm: batch, instance, or affine.
        dropout: probability, in evaluation, too.
        dropouts: how many of the inner levels have dropout on the way up.
        stem: channels of a level at full size, whose skip keeps small pictures sharp; 0: none, as published.
        to_channels: channels of the results; 0: as many.
        bounded: whether a tanh comes last; results that are no colours have no bounds.
    """

    channels: Count = 3
    ngf: int = 64
    downs: int = 8
    norm: str = "batch"
    dropout: BelowOne = 0.5
    dropouts: int = 3
    stem: int = 0
    to_channels: int = 0
    bounded: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.downs <= 16:
            raise UserError(f"a U-Net has 2 to 16 levels, not {self.downs}; choose a --size "
                             f"that is a multiple of a higher power of two")  # fmt: skip
        widths, bias = [self.ngf * min(2**i, 8) for i in range(self.downs)], self.norm != "batch"
        last = self.downs - 1

        def level(conv: nn.Module, width: int, normed: bool) -> nn.ModuleDict:
            norm = make_norm(self.norm, width) if normed else nn.Identity()
            return nn.ModuleDict({"conv": conv, "norm": norm})

        made = self.to_channels or self.channels
        outer = self.stem or self.channels
        if self.stem:
            self.first = nn.Conv2d(self.channels, self.stem, 3, 1, 1)
            self.final = nn.Conv2d(2 * self.stem, made, 3, 1, 1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()  # up begins at the lowest level
        for i, width in enumerate(widths):
            c = widths[i - 1] if i else outer
            conv = nn.Conv2d(c, width, 4, 2, 1, bias=bias)
            self.down.append(level(conv, width, normed=0 < i < last))
        for i in range(last, -1, -1):
            c, width = widths[i] * (1 if i == last else 2), widths[i - 1] if i else self.stem or made
            up = nn.ConvTranspose2d(c, width, 4, 2, 1, bias=bias or i == 0)
            self.up.append(level(up, width, normed=i > 0 or self.stem > 0))

    def forward(
        self, x: Float[Tensor, "b c h w"], draw: Callable[[Tensor], Tensor] | None = None
    ) -> Float[Tensor, "b made h w"]:
        """`draw` gives the dropout's standard normal numbers of a tensor's shape; None: no dropout."""
        height, width = x.shape[2:]
        x = mirrored(x, 2**self.downs)
        skips: list[Tensor] = []
        if self.stem:
            x = self.first(x)
            skips.append(x)
        for level in self.down:
            # in place, so that the skip is activated, too: the ReLU on the way up makes it no difference
            x = level["norm"](level["conv"](F.leaky_relu_(x, 0.2) if skips else x))  # type: ignore[index]
            skips.append(x)
        x = skips.pop()
        for i, level in enumerate(self.up):
            x = level["norm"](level["conv"](F.relu_(x)))  # type: ignore[index]
            if draw is not None and self.dropout and 0 < i <= min(self.dropouts, self.downs - 2):
                x = drop(x, self.dropout, draw(x))
            x = torch.cat([skips.pop(), x], 1) if skips else x
        y = (self.final(F.relu_(x)) if self.stem else x)[..., :height, :width]
        return y.tanh() if self.bounded else y
