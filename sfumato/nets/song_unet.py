"""The U-Net of score SDEs, as EDM trains it: DDPM++ and NCSN++.

Song et al. 2021 (https://arxiv.org/abs/2011.13456, appendix H) and Karras et al. 2022
(https://arxiv.org/abs/2206.00364, appendix F.2): residual blocks whose sums are scaled by 1/sqrt(2), sizes
halved and doubled inside of them by a filter, attention of one head.  DDPM++ is told the noise level by
sines and cosines; NCSN++ by random frequencies, and adds the picture, halved, at every level on the way down.
`sfumato.checkpoints.edm` reads a file of it.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.padding import mirrored
from sfumato.core.ranges import BelowOne, Count, Whole
from sfumato.core.terminal import count
from sfumato.module import Part
from sfumato.nets.adm import attend


class SongUNet(Part):
    """(x (B,C,H,W), noise levels (B,) as it is told them, labels (B,) or None) -> (B,C,H,W).

    Args:
        channels: image channels, of the input and of the output.
        labels: number of domains; one label more, the last, means "any domain". 0: no labels.
        first: channels of the first convolution.
        widths: channels of each level; each level halves the size.
        blocks: residual blocks a level on the way down, and one more on the way up.
        attention: levels with self-attention, 0 at full size: in all blocks on the way down, and in the last
            on the way up (the middle always has).
        embedding: sines and cosines of the noise level.
        hidden: channels that they are brought to.
        fourier: random frequencies of them, else geometric ones.
        residual: the picture, halved and through a convolution, is added at every level on the way down.
        taps: of the filter that halves and doubles, in one direction; an even number of them.
        dropout: probability.
    """

    by_domain: ClassVar[tuple[str, ...]] = ("map_label.weight",)

    channels: Count = 3
    labels: Whole = 0
    first: Count = 128
    widths: tuple[int, ...] = (256, 256, 256)
    blocks: Count = 4
    attention: tuple[int, ...] = (2,)
    embedding: Count = 128
    hidden: Count = 512
    fourier: bool = False
    residual: bool = False
    taps: tuple[int, ...] = (1, 1)
    dropout: BelowOne = 0.0

    def __post_init__(self) -> None:
        if len(self.taps) % 2 or sum(self.taps) == 0:
            raise UserError(f"taps must be an even number of them, as 1, 3, 3, 1, not {self.taps}")
        if self.fourier:
            self.register_buffer("frequencies", 16 * torch.randn(self.embedding // 2))
        if self.labels:
            self.map_label = nn.Embedding(self.labels + 1, self.embedding)
            nn.init.zeros_(self.map_label.weight)  # a new domain begins as "any"
        self.map_layer0 = nn.Linear(self.embedding, self.hidden)
        self.map_layer1 = nn.Linear(self.hidden, self.hidden)
        c, beside = self.first, self.channels
        self.enc = nn.ModuleList([nn.Conv2d(self.channels, c, 3, padding=1)])
        skips = [c]
        for level, width in enumerate(self.widths):
            if level:
                self.enc.append(self._block(c, c, way="down"))
                skips.append(c)
                if self.residual:
                    self.enc.append(Beside(beside, c, self.taps))
                    beside = c
            for _ in range(self.blocks):
                self.enc.append(self._block(c, width, level in self.attention))
                skips.append(c := width)
        self.dec = nn.ModuleList([self._block(c, c, True), self._block(c, c)])
        for level, width in reversed(list(enumerate(self.widths))):
            if level < len(self.widths) - 1:
                self.dec.append(self._block(c, c, way="up"))
            for i in range(self.blocks + 1):
                attention = i == self.blocks and level in self.attention
                self.dec.append(self._block(c, width, attention, skip=skips.pop()))
                c = width
        self.out = nn.Sequential(group_norm(c), nn.SiLU(), nn.Conv2d(c, self.channels, 3, padding=1))

    def forward(
        self, x: Float[Tensor, "b c h w"], noise: Float[Tensor, " b"], label: Tensor | None = None
    ) -> Float[Tensor, "b c h w"]:
        if x.shape[1] != self.channels:
            raise UserError(f"this network takes {count(self.channels, 'channel')}, not {x.shape[1]}")
        height, width = x.shape[2:]
        e = self._waves(noise).to(x)
        if self.labels and label is not None:
            e = e + self.map_label(label)
        e = F.silu(self.map_layer1(F.silu(self.map_layer0(e))))
        h = beside = mirrored(x, 2 ** (len(self.widths) - 1))
        skips: list[Tensor] = []
        for layer in self.enc:
            if isinstance(layer, Beside):
                h = beside = skips[-1] = (h + layer(beside)) / math.sqrt(2)
                continue
            h = layer(h, e) if isinstance(layer, Block) else layer(h)
            skips.append(h)
        for layer in self.dec:
            h = layer(torch.cat([h, skips.pop()], 1) if layer.joins else h, e)
        return self.out(h)[..., :height, :width]

    def _waves(self, noise: Tensor) -> Tensor:
        """Sines, then cosines (B, embedding) of noise levels."""
        if self.fourier:
            f = 2 * math.pi * self.frequencies.float()
        else:
            half = self.embedding // 2
            f = 1e-4 ** (torch.arange(half, device=noise.device) / max(half - 1, 1))
        angle = noise.float()[:, None] * f
        return torch.cat([angle.sin(), angle.cos()], 1)

    def _block(self, c_in: int, c_out: int, attention: bool = False, way: str = "", skip: int = 0) -> Block:
        return Block(c_in + skip, c_out, self.hidden, self.dropout, attention, way, self.taps, bool(skip))


class Block(nn.Module):
    """Residual block, and attention of one head if it has; `joins` what the way down left to it."""

    def __init__(
        self, c_in: int, c_out: int, e: int, dropout: float, attention: bool, way: str,
        taps: tuple[int, ...], joins: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.way, self.taps, self.joins, self.attention = way, taps, joins, attention
        self.norm0, self.norm1 = group_norm(c_in), group_norm(c_out)
        self.conv0, self.conv1 = (nn.Conv2d(c, c_out, 3, padding=1) for c in (c_in, c_out))
        self.affine = nn.Linear(e, c_out)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(c_in, c_out, 1) if way or c_in != c_out else nn.Identity()
        if attention:
            self.norm2 = group_norm(c_out)
            self.qkv, self.proj = nn.Conv2d(c_out, 3 * c_out, 1), nn.Conv2d(c_out, c_out, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv0(self._resized(F.silu(self.norm0(x))))
        h = F.silu(self.norm1(h + self.affine(e)[:, :, None, None]))
        h = (self.conv1(self.dropout(h)) + self.skip(self._resized(x))) / math.sqrt(2)
        if not self.attention:
            return h
        a = attend(self.qkv(self.norm2(h)).flatten(2), 1, "old")
        return (h + self.proj(a.view_as(h))) / math.sqrt(2)

    def _resized(self, x: Tensor) -> Tensor:
        return {"": lambda v, _: v, "down": halved, "up": doubled}[self.way](x, self.taps)


class Beside(nn.Conv2d):
    """The picture for the next level: a convolution, then halved."""

    def __init__(self, c_in: int, c_out: int, taps: tuple[int, ...]) -> None:
        super().__init__(c_in, c_out, 3, padding=len(taps) // 2, bias=True)
        self.taps = taps

    def forward(self, x: Tensor) -> Tensor:
        return halved(super().forward(x), self.taps, 0)


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, or fewer of at least 4 channels."""
    return nn.GroupNorm(max(1, min(32, channels // 4)), channels, eps=1e-6)


def halved(x: Tensor, taps: tuple[int, ...], padding: int | None = None) -> Tensor:
    """Images (B, C, H, W) through a filter in both directions, every other pixel, zeros beyond the edges."""
    padding = len(taps) // 2 - 1 if padding is None else padding
    return F.conv2d(x, _kernel(x, taps), stride=2, padding=padding, groups=x.shape[1])


def doubled(x: Tensor, taps: tuple[int, ...]) -> Tensor:
    """Images (B, C, H, W) of twice the size, by the same filter."""
    kernel, padding = 4 * _kernel(x, taps), len(taps) // 2 - 1
    return F.conv_transpose2d(x, kernel, stride=2, padding=padding, groups=x.shape[1])


def _kernel(x: Tensor, taps: tuple[int, ...]) -> Tensor:
    k = x.new_tensor(taps) / sum(taps)
    return torch.outer(k, k).expand(x.shape[1], 1, -1, -1)
