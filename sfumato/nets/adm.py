"""The U-Net of improved- and guided-diffusion, with their names of weights.

Nichol & Dhariwal 2021 (https://arxiv.org/abs/2102.09672) and Dhariwal & Nichol 2021, who call it ADM
(https://arxiv.org/abs/2105.05233): residual blocks with the level's embedding, self-attention at some
levels, half and twice the size by convolutions or inside of residual blocks.  A file of their code is a
state dict of it; `sfumato.checkpoints.guided_diffusion` reads one.
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
from sfumato.core.ranges import AttentionOrder, BelowOne, Count, Whole
from sfumato.core.terminal import count
from sfumato.module import Part


class ADM(Part):
    """(x (B,C,H,W), numbers k of levels (B,), labels (B,) or None) -> (B, channels, H, W).

    Without a decoder: -> (B, features, h, w), the middle block at the lowest level's resolution.

    Args:
        channels: image channels, of the input and of the output.
        labels: number of domains; one label more, the last, means "any domain". 0: no labels.
        widths: channels of each level; each level halves the size.
        blocks: residual blocks a level.
        attention: levels with self-attention, 0 at full size (the middle always has).
        heads: attention heads; 0: as head_channels says.
        head_channels: channels of one attention head.
        attention_order: of the 3 C rows that queries, keys and values come from: new, these three first and
            heads in each; or old, heads first and the three in each.
        embedding: sines and cosines of the number.
        updown: residual blocks change the size; else convolutions.
        scale_shift: the embedding scales and shifts a norm; else it is added before.
        dropout: probability.
        decoder: whether there is a way up again; an encoder alone serves classifiers.
        pool: side of an encoder's features, of which attention makes one vector; 0: none, or their mean.
    """

    by_domain: ClassVar[tuple[str, ...]] = ("label_emb.weight",)

    channels: Count = 3
    labels: Whole = 0
    widths: tuple[int, ...] = (128, 128, 256, 256, 512, 512)
    blocks: Count = 1
    attention: tuple[int, ...] = (4,)
    heads: Whole = 0
    head_channels: Count = 64
    attention_order: AttentionOrder = "old"
    embedding: Count = 128
    updown: bool = True
    scale_shift: bool = True
    dropout: BelowOne = 0.0
    decoder: bool = True
    pool: Whole = 0

    def __post_init__(self) -> None:
        e = 4 * self.embedding
        self.time_embed = nn.Sequential(nn.Linear(self.embedding, e), nn.SiLU(), nn.Linear(e, e))
        if self.labels:
            self.label_emb = nn.Embedding(self.labels + 1, e)
            nn.init.zeros_(self.label_emb.weight)  # a new domain begins as "any"
        skips = [c := self.widths[0]]
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(self.channels, c, 3, padding=1))])
        for level, width in enumerate(self.widths):
            for _ in range(self.blocks):
                self.input_blocks.append(self._stage(c, width, level in self.attention))
                skips.append(c := width)
            if level < len(self.widths) - 1:
                self.input_blocks.append(Stage(self._block(c, c, "down") if self.updown else Down(c)))
                skips.append(c)
        self.middle_block = Stage(self._block(c, c), self._attention(c), self._block(c, c))
        self.features = c
        if not self.decoder:
            return
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(self.widths))):
            for i in range(self.blocks + 1):
                stage = self._stage(c + skips.pop(), width, level in self.attention)
                c = width
                if level and i == self.blocks:
                    stage.append(self._block(c, c, "up") if self.updown else Up(c))
                self.output_blocks.append(stage)
        self.out = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(), nn.Conv2d(c, self.channels, 3, padding=1))

    def forward(
        self, x: Float[Tensor, "b c h w"], k: Float[Tensor, " b"], label: Tensor | None = None
    ) -> Float[Tensor, "b features height width"]:
        if x.shape[1] != self.channels:
            raise UserError(f"this network takes {count(self.channels, 'channel')}, not {x.shape[1]}")
        height, width = x.shape[2:]
        e = self.time_embed(sinusoids(k, self.embedding).to(x))
        if self.labels and label is not None:
            e = e + self.label_emb(label)
        h, skips = mirrored(x, 2 ** (len(self.widths) - 1)), []
        for stage in self.input_blocks:
            skips.append(h := stage(h, e))
        h = self.middle_block(h, e)
        if not self.decoder:
            return h
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], 1), e)
        return self.out(h)[..., :height, :width]

    def pooling(self) -> nn.Module | None:
        """Of an encoder, what makes a vector (B, features) of its features, if it is not their mean."""
        if not self.pool:
            return None
        attention = AttentionPool(self.features, self.pool, self.features // self.head_channels)
        return nn.Sequential(nn.GroupNorm(32, self.features), nn.SiLU(), attention)

    def _stage(self, c_in: int, c_out: int, attend: bool) -> Stage:
        return Stage(self._block(c_in, c_out), *([self._attention(c_out)] if attend else []))

    def _block(self, c_in: int, c_out: int, way: str = "") -> Residual:
        return Residual(c_in, c_out, 4 * self.embedding, self.scale_shift, self.dropout, way)

    def _attention(self, channels: int) -> Attention:
        if channels % (self.heads or self.head_channels):
            kind = f"{self.heads} heads" if self.heads else f"heads of {self.head_channels} channels"
            raise UserError(f"{channels} channels are no {kind}: expected a divisor")
        return Attention(channels, self.heads or channels // self.head_channels, self.attention_order)


class Stage(nn.Sequential):
    """Layers, of which residual blocks take the embedding, too."""

    def forward(self, h: Tensor, e: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            h = layer(h, e) if isinstance(layer, Residual) else layer(h)
        return h


class Residual(nn.Module):
    """Residual block that keeps the size, halves it by means ("down") or doubles it by copies ("up")."""

    def __init__(self, c_in: int, c_out: int, e: int, scale_shift: bool, dropout: float, way: str) -> None:
        super().__init__()
        self.scale_shift, self.way = scale_shift, way
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(e, (1 + scale_shift) * c_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, c_out), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        r = self.in_layers[:2](h)
        if self.way:
            r, h = (F.avg_pool2d(v, 2) if self.way == "down" else twice(v) for v in (r, h))
        r = self.in_layers[2](r)
        e = self.emb_layers(e)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            r = self.out_layers[1:](torch.addcmul(shift, self.out_layers[0](r), 1 + scale))
        else:
            r = self.out_layers(r + e)
        return self.skip_connection(h) + r


class Attention(nn.Module):
    """Self-attention over positions, with a residual connection."""

    def __init__(self, channels: int, heads: int, order: AttentionOrder) -> None:
        super().__init__()
        self.heads, self.order = heads, order
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        a = attend(self.qkv(self.norm(h).flatten(2)), self.heads, self.order)
        return h + self.proj_out(a).view_as(h)


class AttentionPool(nn.Module):
    """(B, C, side, side) -> (B, C): what the mean finds by attention over itself and all positions."""

    def __init__(self, channels: int, side: int, heads: int) -> None:
        super().__init__()
        self.side, self.heads = side, heads
        self.positional_embedding = nn.Parameter(torch.randn(channels, side**2 + 1) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        if h.shape[2:] != (self.side, self.side):
            found = "x".join(map(str, h.shape[2:]))
            raise UserError(
                f"this classifier takes pictures of the size that it was trained on alone: expected "
                f"{self.side}x{self.side} features, not {found}"
            )
        h = h.flatten(2)
        h = torch.cat([h.mean(2, keepdim=True), h], 2) + self.positional_embedding
        return attend(self.qkv_proj(h), self.heads, "new")[:, :, 0]


def attend(qkv: Tensor, heads: int, order: AttentionOrder) -> Tensor:
    """(B, 3 C, N) -> (B, C, N): attention of each head over N positions."""
    b, c, n = qkv.shape
    first = (3, heads) if order == "new" else (heads, 3)
    rows = qkv.reshape(b, *first, c // 3 // heads, n)
    q, k, v = rows.mT.contiguous().unbind(1 if order == "new" else 2)
    return F.scaled_dot_product_attention(q, k, v).mT.reshape(b, c // 3, n)


class Down(nn.Module):
    """Half the size by a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.op(h)


class Up(nn.Module):
    """Twice the size, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(twice(h))


def twice(h: Tensor) -> Tensor:
    """Each pixel four times."""
    return F.interpolate(h, scale_factor=2.0, mode="nearest")


def sinusoids(k: Tensor, dim: int) -> Tensor:
    """Cosines and sines (B, dim) of numbers, at frequencies from 1 to 1e-4 (geometric)."""
    f = torch.exp(-math.log(10_000) * torch.arange(dim // 2, device=k.device) / (dim // 2))
    angle = k.float()[:, None] * f
    return torch.cat([angle.cos(), angle.sin()], dim=1)
