"""Autoencoder: pictures to latents, in which other methods work, and back.

Rombach et al. 2022 (https://arxiv.org/abs/2112.10752, sec. 3.1) with losses that need no other network:

    L = |y - x|_1 + detail sum_s |grad (y_s - x_s)|_1 + kl KL + critic (-log D(y)),    y = decode(encode(x))

with y_s and x_s at full, half and quarter size.  The critic comes in after
`critic_after` batches, when there is something to judge; with it come the L1 distances of its own features
(https://arxiv.org/abs/1711.11585, eq. 4).  `translate` gives pictures back as their latents hold them.

A run's folder is named where a codec is asked for: `sfumato train diffusion ... --codec RUN`.

@inproceedings{rombach2022high,
  title = {High-Resolution Image Synthesis with Latent Diffusion Models},
  author = {Rombach, Robin and Blattmann, Andreas and Lorenz, Dominik and Esser, Patrick and
            Ommer, Bjorn},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
  url = {https://arxiv.org/abs/2112.10752}
}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.arguments import Seed
from sfumato.core.errors import UserError
from sfumato.core.padding import mirrored
from sfumato.core.ranges import Count, NotNegative, PictureSide, Whole
from sfumato.diffusion.latents import codec_of
from sfumato.diffusion.watch import Watch
from sfumato.methods._shared import adversarial as gan
from sfumato.module import Part
from sfumato.nets.autoencoder import Code, make_autoencoder

SCALES = 3
"""Sizes at which the differences of neighbouring pixels are compared."""


class Autoencoder(Part):
    """A codec, and a critic of what comes back from it.

    Args:
        net: size of the networks: tiny, small, medium, large; or a codec.
        factor: pixels a side that become one latent: 4, 8 or another power of two.
        latent_channels: channels of the latents.
        code: kl (continuous) or vq (the nearest of some vectors).
        entries: vectors of vq.
        linear: whether a linear code lies beside the network, which begins with the lowest frequencies:
            sharper copies, and latents that a diffusion model is slower to learn.
        kl: weight of the KL divergence, a mean over the latents; of kl only.
        detail: weight of the differences of neighbouring pixels.
        critic: weight of the critic, and of its features; 0 has none.
        critic_after: batches before the critic comes in.
        side: side of the training images in pixels; given by the training.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
    """

    data: ClassVar[str] = "domains"
    settings: ClassVar[dict[str, Any]] = {"batch": 16, "lr": 1e-3, "beta1": 0.5}
    steady: ClassVar[bool] = False
    phases: ClassVar[tuple[str, ...]] = ("critic_after",)
    only_with: ClassVar[dict[str, tuple[str, str]]] = {"kl": ("code", "kl"), "entries": ("code", "vq")}

    net: str | nn.Module = "small"
    factor: Count = 4
    latent_channels: Count = 4
    code: Code = "kl"
    entries: Count = 1024
    linear: bool = False
    kl: NotNegative = 1e-3
    detail: NotNegative = 1.0
    critic: NotNegative = 0.02
    critic_after: Whole = 2000
    side: PictureSide = 256
    channels: Count = 3

    def __post_init__(self) -> None:
        self.codec: Any = make_autoencoder(
            self.net, channels=self.channels, latent_channels=self.latent_channels, factor=self.factor,
            code=self.code, entries=self.entries, linear=self.linear,
        )  # fmt: skip
        codec = codec_of(self.codec, "net")
        if self.side < codec.factor:
            raise UserError(f"factor {codec.factor} is more than the {self.side} pixels of a picture")
        self.factor, self.latent_channels, self.channels = codec.factor, codec.latent_channels, codec.channels
        self.discriminator = None
        if self.critic:
            size = "small" if self.net == "large" or isinstance(self.net, nn.Module) else self.net
            self.discriminator = gan.make_critic(
                size, self.channels, self.side, 3, "instance", False, "normal", 0.02
            )
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.seen: Tensor  # batches it has learnt from

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        x = mirrored(next(batches)[0], self.codec.factor)
        y, cost = self.codec(x, lambda like: torch.randn(like.shape, generator=rng).to(like))
        loss = (
            (y - x).abs().mean() + self.detail * _detail(y, x) + (self.kl if self.code == "kl" else 1) * cost
        )
        judged = self.discriminator is not None and int(self.seen) >= self.critic_after
        self.seen += self.training
        if judged:
            real, fake = self._features(x)[-1], self._features(y.detach())[-1]
            yield "discriminator", gan.critic_loss(real, fake, "vanilla")
            with torch.no_grad():
                *known, _ = self._features(x)
            *felt, score = self._features(y)
            alike = sum(F.l1_loss(a, b) for a, b in zip(felt, known, strict=True)) / len(known)
            loss = loss + self.critic * (gan.gan_loss(score, True, "vanilla") + alike)
        yield "codec", loss

    @torch.no_grad()
    def measures(self, x: Tensor, label: Tensor, rng: torch.Generator) -> dict[str, float]:
        """Of pictures (B, C, H, W): PSNR of what comes back, in dB, and the deviation of their latents."""
        x = mirrored(x, self.codec.factor)
        z = self.codec.encode(x)
        error = (self.codec.decode(z).clamp(-1, 1) - x).square().mean((1, 2, 3)).clamp(min=1e-10)
        return {"psnr": (10 * (4 / error).log10()).mean().item(), "latents' deviation": z.std().item()}

    @torch.no_grad()
    def translate(self, source: Tensor, *, seed: Seed = 0, watch: Watch | None = None) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] as they come back from their latents.

        Args:
            source: images in [-1, 1].
            seed: not used; the method is deterministic.
            watch: see `integrate`.
        """
        return gan.one_pass(self._reconstruct, source, watch)

    def _reconstruct(self, x: Tensor) -> Tensor:
        z = self.codec.encode(mirrored(x, self.codec.factor))
        return self.codec.decode(z)[..., : x.shape[2], : x.shape[3]]

    def _features(self, x: Tensor) -> list[Tensor]:
        """What the critic's layers say of pictures; the last are its scores."""
        assert self.discriminator is not None
        return self.discriminator.features(x)


def _detail(y: Tensor, x: Tensor) -> Tensor:
    """Mean absolute difference of the differences of neighbours, over `SCALES` sizes."""
    d, total = y - x, y.new_zeros(())
    for _ in range(SCALES):
        total = total + (d.diff(dim=2).abs().mean() + d.diff(dim=3).abs().mean()) / SCALES
        d = F.avg_pool2d(d, 2) if min(d.shape[2:]) > 3 else d
    return total
