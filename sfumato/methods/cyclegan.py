"""CycleGAN: two generators that undo each other (Zhu et al. 2017, https://arxiv.org/abs/1703.10593).

With G_A from A (source) to B (target), G_B back, D_A for B's pictures and D_B for A's,

    L_G = L(D_A(G_A(a)), 1) + L(D_B(G_B(b)), 1)
          + lambda_A |G_B(G_A(a)) - a|_1 + lambda_B |G_A(G_B(b)) - b|_1
          + lambda_idt (lambda_B |G_A(b) - b|_1 + lambda_A |G_B(a) - a|_1)
    L_D = 1/2 [L(D(real), 1) + L(D(fake of the pool), 0)]   for each,

and L least squares.  The paper's setting: --net paper --size 256 --batch 1 --flip --jitter 0.117
(286 pixels, cropped to 256), 100 + 100 epochs.
For 32 to 64 pixels on a CPU (docs/experiments/one-budget.md):
--norm batch --antialias --batch 4 --lr 1e-3 --ema 0.99.

@inproceedings{zhu2017unpaired,
  title = {Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks},
  author = {Zhu, Jun-Yan and Park, Taesung and Isola, Phillip and Efros, Alexei A.},
  booktitle = {IEEE International Conference on Computer Vision},
  year = {2017},
  url = {https://arxiv.org/abs/1703.10593}
}
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sfumato.core.arguments import Seed
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, NotNegative, PictureSide, Whole
from sfumato.diffusion.watch import Watch
from sfumato.methods._shared import adversarial as gan
from sfumato.methods._shared.memory import Replay
from sfumato.methods.registry import Direction, end
from sfumato.module import Part
from sfumato.nets.layers import Init, Norm, batch_norms


class CycleGAN(Part):
    """A generator and a discriminator for each of two unpaired domains.

    Args:
        net: size of the networks: tiny, small, medium, paper (11.4 M parameters a generator).
        side: side of the training images in pixels; given by the training.
        lambda_a: weight of the cycle A to B to A.
        lambda_b: weight of the cycle B to A to B.
        lambda_identity: weight of the identity terms, as a share of the cycles'; 0: none.
        pool_size: earlier fakes that the discriminators are shown from; 0: none.
        gan_mode: lsgan or vanilla.
        n_layers_d: most layers of the discriminators that halve; patches of 16, 34, 70 pixels for 1, 2, 3.
        norm: instance, batch, or affine (instance norm with weights).
        antialias: blur with every down- and upsampling.
        init: initialisation of the weights: normal or xavier.
        init_gain: standard deviation of normal, factor of xavier.
        directions: both, or source-to-target for a single generator that was trained elsewhere.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
        bounded: whether results lie in [-1, 1]: pictures do, latents do not; given by the training.
    """

    data: ClassVar[str] = "unpaired"
    generators_at: ClassVar[tuple[str, ...]] = ("generators.source", "generators.target")
    settings: ClassVar[dict[str, Any]] = gan.SETTINGS
    steady: ClassVar[bool] = False

    net: str | nn.Module = "small"
    side: PictureSide = 256
    lambda_a: NotNegative = 10.0
    lambda_b: NotNegative = 10.0
    lambda_identity: NotNegative = 0.5
    pool_size: Whole = 50
    gan_mode: gan.GANMode = "lsgan"
    n_layers_d: Count = 3
    norm: Norm = "instance"
    antialias: bool = False
    init: Init = "normal"
    init_gain: NotNegative = 0.02
    directions: Literal["both", "source-to-target"] = "both"
    channels: Count = 3
    bounded: bool = True

    def __post_init__(self) -> None:
        how = self.norm, self.antialias, self.init, self.init_gain
        self.generators, self.discriminators = nn.ModuleDict(), nn.ModuleDict()
        self.pools = nn.ModuleDict()
        for which in ("target", "source") if self.directions == "both" else ("target",):
            made = gan.make_resnet(self.net, self.channels, *how, self.bounded)
            shared = made is self.net and which == "source"
            self.generators[which] = copy.deepcopy(made) if shared else made  # one network each
            critic = gan.make_critic(self.net, self.channels, self.side, self.n_layers_d, *how)
            self.discriminators[which], self.pools[which] = critic, Replay(self.pool_size)
        self.notes = gan.notes(critic, self.n_layers_d, self.side)

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        if self.directions != "both":
            raise UserError("a CycleGAN is trained in both directions; leave out --directions")
        a, b = next(batches)
        g_a, g_b = self.generators["target"], self.generators["source"]
        d_a, d_b = self.discriminators["target"], self.discriminators["source"]
        fake_b, fake_a = g_a(a), g_b(b)
        loss = gan.gan_loss(d_a(fake_b), True, self.gan_mode)
        loss = loss + gan.gan_loss(d_b(fake_a), True, self.gan_mode)
        with batch_norms(self.generators, momentum=0.0):
            loss = loss + self.lambda_a * _l1(g_b(fake_b), a) + self.lambda_b * _l1(g_a(fake_a), b)
            if self.lambda_identity:
                same = self.lambda_b * _l1(g_a(b), b) + self.lambda_a * _l1(g_b(a), a)
                loss = loss + self.lambda_identity * same
        yield "generators", loss
        for which, d, real, fake in (("target", d_a, b, fake_b), ("source", d_b, a, fake_a)):
            fake = self.pools[which](fake.detach(), rng)
            yield f"discriminators.{which}", gan.critic_loss(d(real), d(fake), self.gan_mode)

    @torch.no_grad()
    def measures(self, a: Tensor, b: Tensor, rng: torch.Generator) -> dict[str, float]:
        """The discriminators' mean scores of real and of generated pictures."""
        out: dict[str, float] = {}
        for which, x, y, said in (("target", a, b, ""), ("source", b, a, " (source)")):
            d, fake = self.discriminators[which], self.generators[which](x)
            out |= gan.health(d(y), d(fake), self.gan_mode, said)
        return out

    warning = staticmethod(gan.saturated)

    @torch.no_grad()
    def translate(
        self,
        source: Tensor,
        *,
        seed: Seed = 0,
        watch: Watch | None = None,
        direction: Direction = "source-to-target",
    ) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to images of the other domain.

        Args:
            source: images in [-1, 1].
            seed: of no effect: nothing is random.
            watch: see `integrate`.
            direction: source-to-target, or back.
        """
        if (side := end(direction)) not in self.generators:
            raise UserError("this model has one direction; import the generator of the way back, too")
        return gan.one_pass(self.generators[side], source, watch)


def _l1(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().mean()
