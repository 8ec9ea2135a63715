"""The potential of neural optimal transport: the residual critic of https://arxiv.org/abs/1801.04406.

No normalisation and no constraint: f need only be a function.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError, choose
from sfumato.core.ranges import Count, PictureSide
from sfumato.module import Part


class Potential(Part):
    """(B, channels, H, W) -> (B, 1): a number for each image, of any size.

    Args:
        channels: channels of the images.
        width: channels of the first stage; they double from stage to stage up to 512.
        side: side of the images in pixels: as many stages as halve it to 4.
        pool: side of the averages that halve: 3 as published, which counts every second pixel double, so
            that a map that follows f's gradient draws stripes; 2 counts all alike.
        after: whether sums are activated, as published, so that shortcuts carry what is activated, and
            weights begin by He et al. (https://arxiv.org/abs/1502.01852); else what is added is.
    """

    channels: Count = 3
    width: int = 64
    side: PictureSide = 64
    pool: int = 3
    after: bool = False

    def __post_init__(self) -> None:
        stages = max(1, (self.side // 4).bit_length())
        widths = [min(self.width * 2**i, 512) for i in range(stages + 1)]
        layers: list[nn.Module] = [nn.Conv2d(self.channels, self.width, 3, padding=1)]
        for i in range(stages):
            layers += [nn.AvgPool2d(self.pool, 2, padding=self.pool - 2)] if i else []
            layers += [Residual(c_in=widths[i], c_out=widths[i], after=self.after)]
            layers += [Residual(c_in=widths[i], c_out=widths[i + 1], after=self.after)]
        self.body = nn.Sequential(*layers)
        self.out = nn.Linear(16 * widths[-1], 1)
        for m in self.body.modules() if self.after else ():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1"]:
        h = self.body[0](x)
        h = self.body[1:](F.leaky_relu(h, 0.2) if self.after else h)
        h = F.adaptive_avg_pool2d(h, 4)  # 4x4 already, for images of this side
        return self.out((h if self.after else F.leaky_relu(h, 0.2)).flatten(1))


class Residual(Part):
    """x + 0.1 (two 3x3 convolutions), with a 1x1 convolution of x where the channels change.

    Args:
        c_in: channels of x.
        c_out: of the sum.
        after: whether the sum is activated (x was), or what goes into the convolutions.
    """

    c_in: int
    c_out: int
    after: bool = False

    def __post_init__(self) -> None:
        middle, same = min(self.c_in, self.c_out), self.c_in == self.c_out
        self.conv1 = nn.Conv2d(self.c_in, middle, 3, padding=1)
        self.conv2 = nn.Conv2d(middle, self.c_out, 3, padding=1)
        self.skip = nn.Identity() if same else nn.Conv2d(self.c_in, self.c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        r = self.conv1(x if self.after else F.leaky_relu(x, 0.2))
        x = torch.add(self.skip(x), self.conv2(F.leaky_relu(r, 0.2)), alpha=0.1)
        return F.leaky_relu(x, 0.2) if self.after else x


WIDTHS = {"tiny": 8, "small": 16, "medium": 32, "large": 64, "thesis": 64, "paper": 64}
"""Channels of the potential's first stage for each size of the network that it plays against."""


def make_potential(
    critic: str | nn.Module, net: str | nn.Module, channels: int, side: int, after: bool = False
) -> nn.Module:
    """A potential by the name of its size, "same" for that of `net`; a network is returned as it is.

    after: see `Potential`; of size paper only.
    """
    if isinstance(critic, nn.Module):
        return critic
    size = net if critic == "same" else critic
    if isinstance(size, nn.Module):
        raise UserError("a network as `net` needs a network as `critic`, too")
    width = WIDTHS[choose("critic", size, WIDTHS)]
    paper: dict[str, Any] = {"pool": 3, "after": after} if size == "paper" else {"pool": 2}
    return Potential(channels=channels, width=width, side=side, **paper)
