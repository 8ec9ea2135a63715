"""NOT: neural optimal transport, strong and weak (Korotin et al. 2023, https://arxiv.org/abs/2201.12220).

    max_f min_T  E C(x, T(x, .)) - E f(T(x, z)) + E f(y)                                     (eq. 15)

    strong   C = |x - T(x)|^2, a map
    weak     C = |x - E_z T|^2 + (1 - gamma) Var_z T = E_z |x - T|^2 - gamma Var_z T, samples

with squares as means over pixels.  Of Z samples of T, the mean's variance is Var / Z, so that

    |x - mean_Z T|^2 + (1 - gamma - 1/Z) var_Z T   has the expectation C.

Between Gaussians strong T is the Monge map.  In one dimension weak T has the slope min(1/gamma, s1/s0): it is
stochastic only where the target is more than 1/gamma times as spread as the source.  The paper's setting:
--net paper --size 128 --gamma-warmup 25000 --ema 0, 100,000 steps of f, which are 1,100,000 of `fit`.

@inproceedings{korotin2023neural,
  title = {Neural Optimal Transport},
  author = {Korotin, Alexander and Selikhanovych, Daniil and Burnaev, Evgeny},
  booktitle = {International Conference on Learning Representations},
  year = {2023},
  url = {https://arxiv.org/abs/2201.12220}
}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sfumato.core.arguments import Seed
from sfumato.core.errors import UserError, choose
from sfumato.core.ranges import Count, NotNegative, PictureSide, Positive, Share, Whole
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.watch import Watch
from sfumato.methods._shared.transport import SETTINGS, Turns, potential_loss
from sfumato.module import Part
from sfumato.nets.layers import Norm
from sfumato.nets.potential import make_potential
from sfumato.nets.transport_unet import SIZES, TransportUNet


class NeuralOT(Part):
    """A transport map T and a potential f, of two unpaired domains.

    Args:
        net: size of T and of f: tiny, small, medium, paper; or T: (x or cat(x, z)) -> y.
        critic: the potential: same (as net), another size, or a network f: y -> (B, 1).
        cost: strong (one result an image) or weak (samples).
        gamma: share of the samples' variance that is free of cost; weak only.
        gamma_warmup: steps of f over which gamma rises from 0; the paper: a quarter of all, 25000.
        z_size: samples Z of T an image in training, two or more; weak only.
        z_std: standard deviation of the noise channel z; weak only.
        k_t: steps of T for each of f.
        reach: root mean square distance (a pixel) above which the potential's slope costs; images in
            [-1, 1] are at most 2 apart; 0: without limit, as published, where it may run away.
        norm: of T: batch, instance, or affine (instance norm with weights).
        published: size paper to the letter, with T in evaluation mode while f learns; false: as others.
        side: side of the training images in pixels; given by the training.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
    """

    data: ClassVar[str] = "unpaired"
    generators_at: ClassVar[tuple[str, ...]] = ("transport",)
    before: ClassVar[dict[str, Any]] = {"published": False}
    settings: ClassVar[dict[str, Any]] = SETTINGS
    steady: ClassVar[bool] = False
    only_with: ClassVar[dict[str, tuple[str, str]]] = dict.fromkeys(
        ("gamma", "gamma_warmup", "z_size", "z_std"), ("cost", "weak")
    )

    net: str | nn.Module = "small"
    critic: str | nn.Module = "same"
    cost: Literal["strong", "weak"] = "strong"
    gamma: Share = 0.66
    gamma_warmup: Whole = 100
    z_size: Count = 8
    z_std: Positive = 0.1
    k_t: Count = 10
    reach: NotNegative = 2.0
    norm: Norm = "batch"
    published: bool = True
    side: PictureSide = 64
    channels: Count = 3

    def __post_init__(self) -> None:
        if self.cost == "weak" and self.z_size < 2:
            raise UserError("a variance needs two samples: z_size must be at least 2, not 1")
        self.rests = self.published and self.net == "paper"  # T, while f learns
        if isinstance(self.net, nn.Module):
            self.transport: nn.Module = self.net
        else:
            how = SIZES[choose("net", self.net, SIZES)] | {"noise": int(self.cost == "weak")}
            how |= {"norm": self.norm, "corners": self.rests}
            self.transport = TransportUNet(channels=self.channels, **how)
        self.published = self.published and "paper" in (self.net, self.critic)
        how = {"channels": self.channels, "side": self.side, "after": self.published}
        self.potential = make_potential(self.critic, self.net, **how)
        self.turns = Turns("transport", "potential", self.k_t)

    def begin_step(self) -> None:
        self.turns.seen += 1

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        x, y = next(batches)
        for player in self.turns.players():
            with torch.set_grad_enabled(torch.is_grad_enabled() and player == "transport"):
                self.transport.train(self.training and not (self.rests and player == "potential"))
                made = self._samples(x, rng)
            flat = made.flatten(0, 1)
            if player == "transport":
                yield player, self._cost(x, made) - self.potential(flat).mean()
            else:
                yield player, potential_loss(self.potential, flat, y, self.reach)

    @torch.no_grad()
    def translate(self, source: Tensor, *, seed: Seed = 0, watch: Watch | None = None) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to images of the target's domain.

        Args:
            source: images in [-1, 1].
            seed: seed of the noise; other seeds give other samples with the weak cost, the same with strong.
            watch: see `integrate`.
        """
        y = self._map(source, Noise.of(source, seed)(source[:, :1]))
        if watch is not None:
            watch(0.0, y.clone(), y.clone(), {"nfe": 1})
        return y

    def _map(self, x: Tensor, z: Tensor) -> Tensor:
        """T(x, z), with standard normal z (B, 1, ...)."""
        return self.transport(torch.cat([x, self.z_std * z], 1) if self.cost == "weak" else x)

    def _samples(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """(B, Z, ...): Z samples of T for each x; strong: one, and nothing is drawn."""
        if self.cost == "strong":
            return self.transport(x)[:, None]
        many = x.repeat_interleave(self.z_size, 0)
        made = self._map(many, torch.randn(many[:, :1].shape, generator=rng).to(x))
        return made.reshape(len(x), self.z_size, *made.shape[1:])

    def _cost(self, x: Tensor, made: Tensor) -> Tensor:
        if self.cost == "strong":
            return (x - made[:, 0]).square().mean()
        return weak_cost(x, made, self.gamma * self.turns.ramp(self.gamma_warmup))


def weak_cost(x: Tensor, made: Tensor, gamma: float) -> Tensor:
    """|x - E T|^2 + (1 - gamma) Var T, unbiased from the samples made (B, Z, ...); a mean."""
    weight = 1 - gamma - 1 / made.shape[1]
    return (x - made.mean(1)).square().mean() + weight * made.var(1).mean()
