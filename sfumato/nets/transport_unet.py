"""The transport map of neural optimal transport (https://arxiv.org/abs/2201.12220, app. E): a U-Net.

Pairs of 3x3 convolutions, max-pooling on the way down, bilinear interpolation on the way up
(https://arxiv.org/abs/1505.04597).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.padding import mirrored
from sfumato.core.ranges import Count, Interval
from sfumato.module import Part
from sfumato.nets.layers import BlurUp, Norm, make_norm

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"base": 8, "levels": 2, "residual": True, "edge": "replicate"},
    "small": {"base": 24, "levels": 3, "residual": True, "edge": "replicate"},
    "medium": {"base": 32, "levels": 4, "residual": True, "edge": "replicate"},
    "paper": {"base": 48, "levels": 4},
}
"""tiny: for tests; small: pictures of 32 to 64 pixels on a CPU; paper: the published network."""


class TransportUNet(Part):
    """(B, channels + noise, H, W) -> (B, channels, H, W), without bounds.

    As published but for the convolutions' biases, which batch norm takes out again.

    Args:
        channels: channels of the images.
        noise: channels of noise behind them.
        base: channels of the first level; they double from level to level.
        levels: that halve the size.
        norm: batch (the paper's) or instance.
        edge: zeros (the paper's) or replicate, with which the map cannot know where the edge is, and draws
            no frame.
        residual: whether it begins as the identity map and learns the difference.
        corners: whether the way up keeps the corners' pixels where they are (align_corners, the paper's),
            and not the pictures' edges.
    """

    channels: Count = 3
    noise: int = 0
    base: int = 48
    levels: Annotated[int, Interval(1, 16)] = 4
    norm: Norm = "batch"
    edge: Literal["zeros", "replicate"] = "zeros"
    residual: bool = False
    corners: bool = False

    def __post_init__(self) -> None:
        widths = [self.base * 2**i for i in range(self.levels)]
        self.first = self._pair(self.channels + self.noise, self.base, self.base)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()  # up begins at the lowest level
        for c, width in zip(widths, [*widths[1:], widths[-1]], strict=True):
            self.down.append(self._pair(c, width, width))
        c = widths[-1]
        for skip in reversed(widths):
            width = max(self.base, skip // 2)
            self.up.append(self._pair(skip + c, (skip + c) // 2, width))
            c = width
        self.out = nn.Conv2d(c, self.channels, 1)
        corners = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.enlarge = corners if self.corners else BlurUp()
        if self.residual:
            nn.init.zeros_(self.out.weight)

    def forward(self, x: Float[Tensor, "b cz h w"]) -> Float[Tensor, "b c h w"]:
        height, width = x.shape[2:]
        x = mirrored(x, 2**self.levels)
        h, skips = self.first(x), list[Tensor]()
        for level in self.down:
            skips.append(h)
            h = level(F.max_pool2d(h, 2))
        for level in self.up:
            h = level(torch.cat([skips.pop(), self.enlarge(h)], 1))
        y = self.out(h) + x[:, : self.channels] if self.residual else self.out(h)
        return y[..., :height, :width]

    def _pair(self, c: int, middle: int, width: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for a, b in ((c, middle), (middle, width)):
            conv = nn.Conv2d(a, b, 3, padding=1, padding_mode=self.edge, bias=self.norm != "batch")
            layers += [conv, make_norm(self.norm, b), nn.ReLU()]
        return nn.Sequential(*layers)
