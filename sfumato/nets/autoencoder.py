"""The codec of `sfumato train autoencoder`: pictures to small images of a few channels, and back.

Patches of two pixels go in and come out (pixel-unshuffle), as in the denoisers' U-Net, so that nothing but
two last convolutions runs at full resolution.  What lies between is the encoder and decoder of latent
diffusion (Rombach et al. 2022, https://arxiv.org/abs/2112.10752), without attention.  Beside it lies a linear
code of patches u of the factor's pixels, z = W u + ..., y = W' z + ... (https://arxiv.org/abs/2410.10733); it
begins with the lowest frequencies in space and colour (DCT), so that nothing need be learnt to keep them.
A code is

    kl    N(m, s^2) of which encode gives m; training draws, and pays KL(N(m, s^2) | N(0, 1))
    vq    the nearest of `entries` vectors, which decode looks up (https://arxiv.org/abs/1711.00937)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError, choose
from sfumato.core.ranges import Count
from sfumato.module import Part
from sfumato.nets.layers import BlurUp

Code = Literal["kl", "vq"]
SIZES = {"tiny": (8, 1), "small": (32, 1), "medium": (64, 2), "large": (128, 2)}
"""Channels of the first level and residual blocks a level: tiny for tests, small for CPUs."""
DETAIL = 16
"""Channels at full resolution."""
COMMIT = 0.25
"""Weight with which what is encoded goes to its vector, while the vector goes to it."""


class ConvCodec(Part):
    """Pictures (B, channels, H, W) in [-1, 1] to latents (B, latent_channels, H/factor, W/factor), and back.

    Args:
        channels: of the pictures.
        latent_channels: of the latents.
        factor: pixels a side that become one latent: a power of two.
        width: channels of the first level, of patches of two pixels; each further one doubles them.
        blocks: residual blocks a level.
        code: kl or vq.
        entries: vectors of vq.
        linear: whether a linear code lies beside the network.
    """

    channels: Count = 3
    latent_channels: Count = 4
    factor: Count = 4
    width: Count = 32
    blocks: Count = 1
    code: Code = "kl"
    entries: Count = 1024
    linear: bool = False

    def __post_init__(self) -> None:
        levels = int(math.log2(self.factor))
        if self.factor < 2 or 2**levels != self.factor:
            raise UserError(f"factor must be 2, 4, 8 or another power of two, not {self.factor}")
        choose("code", self.code, ("kl", "vq"))
        widths = [self.width * min(2**i, 4) for i in range(levels)]
        patches, low = 4 * self.channels, widths[-1]
        down: list[nn.Module] = [nn.PixelUnshuffle(2), _conv(patches, widths[0])]
        up: list[nn.Module] = [_conv(self.latent_channels, low)]
        for i, w in enumerate(widths):
            down += [CodecBlock(c=w) for _ in range(self.blocks)]
            if i < levels - 1:
                down.append(nn.Conv2d(w, widths[i + 1], 3, stride=2, padding=1))
        for i in reversed(range(levels)):
            up += [CodecBlock(c=widths[i]) for _ in range(self.blocks + 1)]
            up += [BlurUp(), _conv(widths[i], widths[i - 1])] if i else []
        own = self.latent_channels * (2 if self.code == "kl" else 1)
        self.encoder = nn.Sequential(*down, *_activated(low), _conv(low, own))
        self.decoder = nn.Sequential(
            *up, *_activated(widths[0]), _conv(widths[0], 4 * DETAIL), nn.PixelShuffle(2), nn.SiLU(),
            _conv(DETAIL, self.channels),
        )  # fmt: skip
        if self.linear:
            self.down = nn.Conv2d(self.channels * self.factor**2, self.latent_channels, 1)
            self.up = nn.Conv2d(self.latent_channels, self.channels * self.factor**2, 1)
            with torch.no_grad():
                kept = _frequencies(self.channels, self.factor)[: self.latent_channels]
                for weight, rows in ((self.down.weight, kept), (self.up.weight.transpose(0, 1), kept)):
                    weight.zero_()[: len(rows), :, 0, 0] = (
                        rows  # orthonormal: W' is the inverse on what is kept
                    )
        self.book = nn.Embedding(self.entries, self.latent_channels) if self.code == "vq" else None

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        """Latents of pictures: the mean of their code, or what is nearest to one of its vectors."""
        return self._code(x)[:, : self.latent_channels]

    def decode(self, z: Float[Tensor, "b d y x"]) -> Float[Tensor, "b c h w"]:
        """Pictures of latents."""
        return self._picture(self._nearest(z)[0])

    def forward(
        self, x: Float[Tensor, "b c h w"], draw: Callable[[Tensor], Tensor]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, ""]]:
        """Pictures as they come back in training, and what their code costs, a mean over its numbers.

        Args:
            x: pictures.
            draw: standard normal noise like a tensor.
        """
        if self.code == "vq":
            nearest, cost = self._nearest(self._code(x))
            return self._picture(nearest), cost
        mean, log_variance = self._code(x).chunk(2, 1)
        log_variance = log_variance.clamp(-30, 20)
        z = mean + (log_variance / 2).exp() * draw(mean)
        return self._picture(z), (mean**2 + log_variance.exp() - 1 - log_variance).mean() / 2

    def _code(self, x: Tensor) -> Tensor:
        code = self.encoder(x)
        if not self.linear:
            return code
        z = code[:, : self.latent_channels] + self.down(F.pixel_unshuffle(x, self.factor))
        return torch.cat([z, code[:, self.latent_channels :]], 1)

    def _picture(self, z: Tensor) -> Tensor:
        y = self.decoder(z)
        return y + F.pixel_shuffle(self.up(z), self.factor) if self.linear else y

    def _nearest(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest vectors, through which gradients go as if they were z, and the cost of both."""
        if self.book is None:
            return z, z.new_zeros(())
        rows = z.movedim(1, -1)
        near = self.book(torch.cdist(rows.flatten(0, 2), self.book.weight).argmin(1)).view_as(rows)
        near = near.movedim(-1, 1)
        cost = F.mse_loss(near, z.detach()) + COMMIT * F.mse_loss(z, near.detach())
        return z + (near - z).detach(), cost


class CodecBlock(Part):
    """h + two 3x3 convolutions.

    Args:
        c: channels.
    """

    c: Count

    def __post_init__(self) -> None:
        self.body = nn.Sequential(*_activated(self.c), _conv(self.c, self.c), *_activated(self.c))
        self.last = _conv(self.c, self.c)
        nn.init.zeros_(self.last.weight)  # a new block is the identity

    def forward(self, h: Tensor) -> Tensor:
        return h + self.last(self.body(h))


def _frequencies(channels: int, side: int) -> Tensor:
    """Orthonormal waves (rows) of patches (channels side side), the lowest first: DCT-II, in colour, too.

    Of three colours their waves are lightness and two opponents, which pictures have less of.
    """
    c, s = _cosines(channels), _cosines(side)
    waves = torch.einsum("gc,ai,bj->gabcij", c, s, s).flatten(3).flatten(0, 2)
    g, a, b = torch.cartesian_prod(*(torch.arange(n) for n in (channels, side, side))).T
    return waves[(a + b + 1.5 * g).argsort(stable=True)]


def _cosines(n: int) -> Tensor:
    """c_k cos(pi k (i + 1/2) / n), a row for each k, of length 1."""
    k, i = torch.arange(n)[:, None], torch.arange(n)
    return ((1 + (k > 0).float()) / n).sqrt() * (math.pi / n * k * (i + 0.5)).cos()


def make_autoencoder(net: str | nn.Module, **how: object) -> nn.Module:
    """A codec by the name of its size; one that is a network already is returned as it is.

    Raises:
        UserError: for an unknown size, naming the nearest.
    """
    if isinstance(net, nn.Module):
        return net
    width, blocks = SIZES[choose("net", net, SIZES)]
    return ConvCodec(width=width, blocks=blocks, **how)  # type: ignore[arg-type]


def _activated(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(math.gcd(channels, 8), channels), nn.SiLU()


def _conv(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1)
