"""Pix2pix: a conditional GAN on pairs (Isola et al. 2017, https://arxiv.org/abs/1611.07004).

    L_D = 1/2 [-log D(x, y) - log(1 - D(x, G(x, z)))]
    L_G = -log D(x, G(x, z)) + lambda |y - G(x, z)|_1

G is a U-Net, and its only noise z the dropout on the way up, in translation, too (pictures below 64
pixels have none); D sees source and target together, and judges patches.  The paper's setting: --net
paper --size 256 --batch 1 --flip --jitter 0.117 (286 pixels, cropped to 256), 100 + 100 epochs.
For 32 to 64 pixels on a CPU (docs/experiments/one-budget.md):
--jitter 0.12 --lr 5e-4 --ema 0.999.

@inproceedings{isola2017image,
  title = {Image-to-Image Translation with Conditional Adversarial Networks},
  author = {Isola, Phillip and Zhu, Jun-Yan and Zhou, Tinghui and Efros, Alexei A.},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2017},
  url = {https://arxiv.org/abs/1611.07004}
}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sfumato.core.arguments import Seed
from sfumato.core.ranges import Count, NotNegative, PictureSide, Whole
from sfumato.diffusion.integrate import Draw
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.watch import Watch
from sfumato.methods._shared import adversarial as gan
from sfumato.module import Part
from sfumato.nets.layers import Init, Norm, batch_norms
from sfumato.nets.unet_generator import UNetGenerator


class Pix2Pix(Part):
    """A U-Net generator from source to target, and a discriminator of both together.

    Args:
        net: size of the networks: tiny, small, medium, paper (54 M parameters).
        side: side of the training images in pixels; given by the training.
        lambda_l1: weight of |y - G(x)|_1.
        gan_mode: vanilla or lsgan.
        n_layers_d: most layers of the discriminator that halve; patches of 16, 34, 70 pixels for 1, 2, 3.
        norm: batch, instance, or affine (instance norm with weights).
        init: initialisation of the weights: normal or xavier.
        init_gain: standard deviation of normal, factor of xavier.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
        to_channels: the same of the targets; 0: as many.
        bounded: whether results lie in [-1, 1]: pictures do, latents do not; given by the training.
    """

    data: ClassVar[str] = "pairs"
    generators_at: ClassVar[tuple[str, ...]] = ("generator",)
    settings: ClassVar[dict[str, Any]] = gan.SETTINGS
    steady: ClassVar[bool] = False

    net: str | nn.Module = "small"
    side: PictureSide = 256
    lambda_l1: NotNegative = 100.0
    gan_mode: gan.GANMode = "vanilla"
    n_layers_d: Count = 3
    norm: Norm = "batch"
    init: Init = "normal"
    init_gain: NotNegative = 0.02
    channels: Count = 3
    to_channels: Whole = 0
    bounded: bool = True

    def __post_init__(self) -> None:
        how, pair = (self.init, self.init_gain), self.channels + (self.to_channels or self.channels)
        self.generator = gan.make_unet(
            self.net, self.channels, self.side, self.norm, *how, self.to_channels, self.bounded
        )
        self.discriminator = gan.make_critic(
            self.net, pair, self.side, self.n_layers_d, self.norm, False, *how
        )
        self.notes = gan.notes(self.discriminator, self.n_layers_d, self.side)
        self.draws = isinstance(self.generator, UNetGenerator)  # one's own network has no dropout of ours
        if self.draws and not self.generator.dropouts:
            self.notes.append(
                f"a U-Net of {self.generator.downs} levels is without dropout: all seeds give the same"
            )

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        x, y = next(batches)
        fake = self._generate(x, lambda like: torch.randn(like.shape, generator=rng).to(like))
        yield (
            "discriminator",
            gan.critic_loss(self._judge(x, y), self._judge(x, fake.detach()), self.gan_mode),
        )
        # the graph of `fake` is used here only, and holds no weight that has changed since
        loss = gan.gan_loss(self._judge(x, fake), True, self.gan_mode)
        yield "generator", loss + self.lambda_l1 * (fake - y).abs().mean()

    @torch.no_grad()
    def measures(self, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, float]:
        """The discriminator's mean scores of real and of generated pairs."""
        fake = self._generate(x, lambda like: torch.randn(like.shape, generator=rng).to(like))
        return gan.health(self._judge(x, y), self._judge(x, fake), self.gan_mode)

    warning = staticmethod(gan.saturated)

    @torch.no_grad()
    def translate(
        self,
        source: Tensor,
        *,
        seed: Seed = 0,
        watch: Watch | None = None,
        statistics: Literal["running", "image"] = "running",
    ) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to images of the target's domain.

        Args:
            source: images in [-1, 1].
            seed: seed of the dropout.
            watch: see `integrate`.
            statistics: of batch norm: running averages of the training, or each image's own, which
                is the published test of models that were trained with a batch of 1.
        """
        noise = Noise.of(source, seed)
        with batch_norms(self.generator, own=statistics == "image"):
            return gan.one_pass(lambda x: self._generate(x, noise), source, watch)

    def _generate(self, x: Tensor, draw: Draw) -> Tensor:
        return self.generator(x, draw) if self.draws else self.generator(x)

    def _judge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.discriminator(torch.cat([x, y], 1))
