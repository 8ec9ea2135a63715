"""The potential of neural optimal transport: the residual critic of https://arxiv.org/abs/1801.04406.

No normalisation and no constraint: f need only be a function.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.part import Part


class Potential(Part):
    """(B, channels, H, W) -> (B, 1): a number for each image, of any size.

    Args:
        channels: of the images.
        width: channels of the first stage; they double from stage to stage up to 512.
        side: of the images in pixels: as many stages as halve it to 4.
        pool: side of the averages that halve: 3 as published, which counts every second pixel double, so
            that a map that follows f's gradient draws stripes; 2 counts all alike.
    """

    channels: int = 3
    width: int = 64
    side: int = 64
    pool: int = 3

    def __post_init__(self) -> None:
        stages = max(1, (self.side // 4).bit_length())
        widths = [min(self.width * 2**i, 512) for i in range(stages + 1)]
        layers: list[nn.Module] = [nn.Conv2d(self.channels, self.width, 3, padding=1)]
        for i in range(stages):
            layers += [nn.AvgPool2d(self.pool, 2, padding=self.pool - 2)] if i else []
            layers += [Residual(c_in=widths[i], c_out=widths[i])]
            layers += [Residual(c_in=widths[i], c_out=widths[i + 1])]
        self.body = nn.Sequential(*layers)
        self.out = nn.Linear(16 * widths[-1], 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1"]:
        h = F.adaptive_avg_pool2d(self.body(x), 4)  # 4x4 already, for images of this side
        return self.out(F.leaky_relu(h, 0.2).flatten(1))


class Residual(Part):
    """x + 0.1 (two 3x3 convolutions), with a 1x1 convolution of x where the channels change."""

    c_in: int
    c_out: int

    def __post_init__(self) -> None:
        middle, same = min(self.c_in, self.c_out), self.c_in == self.c_out
        self.conv1 = nn.Conv2d(self.c_in, middle, 3, padding=1)
        self.conv2 = nn.Conv2d(middle, self.c_out, 3, padding=1)
        self.skip = nn.Identity() if same else nn.Conv2d(self.c_in, self.c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        r = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))
        return torch.add(self.skip(x), r, alpha=0.1)
