"""The image-and-noise-level U-Net that every denoiser uses unless it is given another network.

A patch stem (pixel-unshuffle) makes the U-Net run at 1/patch of the resolution: on a CPU 3.4 times
the images per second of full resolution at equal width.  The head returns to full resolution by
pixel-shuffle and mixes in the noisy input with one 3x3 convolution, so that no grid of patches shows.
Residual blocks and the noise-level embedding follow Dhariwal & Nichol 2021
(https://arxiv.org/abs/2105.05233): scale-shift norm, attention at the lowest levels only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sfumato.core.errors import UserError
from sfumato.core.padding import mirrored
from sfumato.core.ranges import BelowOne, Count, Whole
from sfumato.core.terminal import count
from sfumato.module import Part
from sfumato.nets.layers import BlurUp


class UNet(Part):
    """(x (B,C,H,W), log(sigma/alpha) (B,), labels (B,)) -> (B, channels, H, W).

    Without a decoder: -> (B, features, h, w), the middle block at the lowest level's resolution.

    Args:
        channels: image channels, of the noisy input and of the output.
        conditioning: channels of a conditioning image, concatenated behind the noisy input.
        labels: number of domains; one label more, the last, means "any domain". 0: no labels.
        width: channels of the first level.
        multipliers: channels of each level, as multiples of width; each level halves the size.
        blocks: residual blocks a level.
        patch: side of the patches of the stem, a power of two; 1 is full resolution.
        attention: how many of the lowest levels have self-attention (the middle always has).
        heads: channels of one attention head.
        dropout: probability.
        checkpointing: recompute blocks in the backward pass, to save memory.
        decoder: whether there is a way up again; an encoder alone serves classifiers.
        smooth: bilinear upsampling and edges repeated, not zeros, so that it sees no grid and no frame.
        detail: channels at full resolution that the head mixes with the input; 0: four an image channel.
    """

    by_domain: ClassVar[tuple[str, ...]] = ("label_embed.weight",)

    channels: Count = 3
    conditioning: int = 0
    labels: int = 0
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    patch: int = 2
    attention: int = 1
    heads: int = 32
    dropout: BelowOne = 0.0
    checkpointing: bool = False
    decoder: bool = True
    smooth: bool = False
    detail: Whole = 0

    def __post_init__(self) -> None:
        conv3 = _convolution(self.smooth)
        widths = [self.width * m for m in self.multipliers]
        self.embed_dim = 4 * self.width
        self.embed = nn.Sequential(
            nn.Linear(self.width, self.embed_dim), nn.SiLU(), nn.Linear(self.embed_dim, self.embed_dim)
        )
        self.label_embed = nn.Embedding(self.labels + 1, self.embed_dim) if self.labels else None
        inputs = self.channels + self.conditioning
        self.stem = conv3(inputs * self.patch**2, widths[0])

        def block(c_in: int, c_out: int, attend: bool) -> Block:
            return Block(
                c_in=c_in, c_out=c_out, embed_dim=self.embed_dim, dropout=self.dropout,
                heads=self.heads if attend else 0, smooth=self.smooth,
            )  # fmt: skip

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, c = [widths[0]], widths[0]
        for level, w in enumerate(widths):
            attend = len(widths) - level <= self.attention
            for _ in range(self.blocks):
                self.down.append(block(c, w, attend))
                skips.append(c := w)
            if level < len(widths) - 1:
                self.down.append(conv3(c, c, stride=2))
                skips.append(c)
        self.middle = nn.ModuleList([block(c, c, True), block(c, c, False)])
        self.features = c
        if not self.decoder:
            return
        for level, w in reversed(list(enumerate(widths))):
            attend = len(widths) - level <= self.attention
            for _ in range(self.blocks + 1):
                self.up.append(block(c + skips.pop(), w, attend))
                c = w
            if level > 0:
                self.up.append(conv3(c, c))
        detail = (self.detail or 4 * self.channels) if self.patch > 1 else c
        self.head_norm = nn.GroupNorm(_groups(c), c)
        self.head = conv3(c, detail * self.patch**2) if self.patch > 1 else None
        self.out = conv3(detail + (inputs if self.patch > 1 else 0), self.channels)
        self.enlarge = BlurUp() if self.smooth else nn.Upsample(scale_factor=2.0, mode="nearest")
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, 0)  # type: ignore[arg-type]

    def forward(
        self, x: Float[Tensor, "b c h w"], log_sigma: Float[Tensor, " b"], label: Tensor | None = None
    ) -> Float[Tensor, "b features height width"]:
        if x.shape[1] != (wanted := self.channels + self.conditioning):
            raise UserError(f"this network takes {count(wanted, 'channel')}, not {x.shape[1]}")
        height, width = x.shape[2:]
        x = mirrored(x, self.patch * 2 ** (len(self.multipliers) - 1))
        e = self.embed(fourier(log_sigma, self.width).to(x))
        if self.label_embed is not None and label is not None:
            e = e + self.label_embed(label)
        e = F.silu(e)
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        skips = [h]
        for layer in self.down:
            h = self._run(layer, h, e)
            skips.append(h)
        for layer in self.middle:
            h = self._run(layer, h, e)
        if not self.decoder:
            return h
        for layer in self.up:
            if isinstance(layer, Block):
                h = self._run(layer, torch.cat([h, skips.pop()], 1), e)
            else:
                h = layer(self.enlarge(h))
        h = F.silu(self.head_norm(h))
        if self.head is not None:
            h = torch.cat([F.pixel_shuffle(self.head(h), self.patch), x], 1)
        return self.out(h)[..., :height, :width]

    def adapted(self, state: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
        """The state of a network that is like this one, but of so many channels, as one for this one.

        It sees each channel as the mean of its own, and answers the mean: to a gray picture what the other
        answered to its copy in colours, made gray, and to that copy what the other answered to the picture.
        """
        n, m, first, found = channels, self.channels, state["stem.weight"], dict(state)

        def seen(weight: Tensor, places: int) -> Tensor:
            folded = weight.reshape(len(weight), -1, n, places, 3, 3).sum(2, keepdim=True) / m
            return folded.repeat_interleave(m, 2).flatten(1, 3)

        found["stem.weight"] = seen(first, self.patch**2)
        if self.decoder:
            last, detail = state["out.weight"], len(state["out.weight"][0])
            if self.patch > 1:  # the noisy input is behind the detail
                detail -= first.shape[1] // self.patch**2
                last = torch.cat([last[:, :detail], seen(last[:, detail:], 1)], 1)
            found["out.weight"], found["out.bias"] = (
                value.mean(0, keepdim=True).repeat_interleave(m, 0) for value in (last, state["out.bias"])
            )
        return found

    def _run(self, layer: nn.Module, h: Tensor, e: Tensor) -> Tensor:
        if not isinstance(layer, Block):
            return layer(h)
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, h, e, use_reentrant=False)
        return layer(h, e)


class Block(Part):
    """Residual block with scale-shift norm by the embedding, and self-attention if heads > 0."""

    c_in: int
    c_out: int
    embed_dim: int
    dropout: float = 0.0
    heads: int = 0
    smooth: bool = False

    def __post_init__(self) -> None:
        conv3 = _convolution(self.smooth)
        self.norm1 = nn.GroupNorm(_groups(self.c_in), self.c_in)
        self.conv1 = conv3(self.c_in, self.c_out)
        self.scale_shift = nn.Linear(self.embed_dim, 2 * self.c_out)
        self.norm2 = nn.GroupNorm(_groups(self.c_out), self.c_out)
        self.drop = nn.Dropout(self.dropout)
        self.conv2 = conv3(self.c_out, self.c_out)
        nn.init.zeros_(self.conv2.weight)  # a new block is the identity
        same = self.c_in == self.c_out
        self.skip = nn.Identity() if same else nn.Conv2d(self.c_in, self.c_out, 1)
        self.attention = Attention(channels=self.c_out, heads=self.heads) if self.heads else None

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.scale_shift(e)[:, :, None, None].chunk(2, dim=1)
        r = self.conv1(F.silu(self.norm1(h)))
        r = F.silu(torch.addcmul(shift, self.norm2(r), 1 + scale))
        h = self.skip(h) + self.conv2(self.drop(r))
        return h if self.attention is None else self.attention(h)


class Attention(Part):
    """Self-attention over positions, with a residual connection."""

    channels: Count
    heads: int = 32

    def __post_init__(self) -> None:
        self.norm = nn.GroupNorm(_groups(self.channels), self.channels)
        self.qkv = nn.Conv2d(self.channels, 3 * self.channels, 1)
        self.out = nn.Conv2d(self.channels, self.channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, h: Tensor) -> Tensor:
        b, c, height, width = h.shape
        n = max(1, c // self.heads)
        heads = self.qkv(self.norm(h)).reshape(b, 3, n, c // n, height * width)
        q, k, v = heads.mT.contiguous().unbind(1)  # of strided ones the whole N x N is kept
        a = F.scaled_dot_product_attention(q, k, v).mT
        return h + self.out(a.reshape(b, c, height, width))


def fourier(log_sigma: Tensor, dim: int) -> Tensor:
    """Sines and cosines (B, dim) of log(sigma/alpha), at frequencies from 1/8 to 16 (geometric)."""
    f = torch.logspace(math.log10(0.125), math.log10(16), dim // 2, device=log_sigma.device)
    angle = log_sigma.float()[:, None] * f
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _groups(channels: int) -> int:
    """Group count of a GroupNorm: 8 channels a group, at most 32 groups."""
    return math.gcd(channels, min(32, max(1, channels // 8)))


def _convolution(smooth: bool) -> Callable[..., nn.Conv2d]:
    """3x3, of the same size."""
    edge: Literal["replicate", "zeros"] = "replicate" if smooth else "zeros"
    return partial(nn.Conv2d, kernel_size=3, padding=1, padding_mode=edge)
