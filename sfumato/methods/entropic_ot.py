"""ENOT: entropic neural optimal transport (Gushchin et al. 2023, https://arxiv.org/abs/2211.01156).

    max_D min_v  E int |v(x_t, t)|^2 dt - E D(x_1) + E D(y),    dx_t = v dt + sqrt(epsilon) dw,  x_0 = x,

with |v|^2 as a mean over pixels (eq. 11, up to a scale of D).  epsilon is a variance a unit of time.
x_1 given x_0 is the entropic plan for |x - y|^2 / 2: with epsilon 0 the Monge map, the more epsilon the
less of the source remains.  N Euler-Maruyama steps, as published without noise in the last; noise in
it, too, adds epsilon / N to the variance that v must leave room for.

The paper's setting: --size 64 --epsilon-warmup 20000 --ema 0, 100,000 steps of D (1,100,000 of `fit`).
For 32 to 64 pixels on a CPU (docs/experiments/one-budget.md), where noise takes long to learn away:
--n-steps 2 --epsilon 0.002 --k-t 2 --batch 16 --lr 1e-3 --beta1 0.5 --ema 0.999 --schedule linear.

@inproceedings{gushchin2023entropic,
  title = {Entropic Neural Optimal Transport via Diffusion Processes},
  author = {Gushchin, Nikita and Kolesov, Alexander and Korotin, Alexander and Vetrov, Dmitry and
            Burnaev, Evgeny},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023},
  url = {https://arxiv.org/abs/2211.01156}
}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sfumato.core.arguments import Seed
from sfumato.core.ranges import Count, NotNegative, PictureSide, Whole
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.watch import Watch
from sfumato.methods._shared.transport import SETTINGS, Turns, potential_loss
from sfumato.module import Part
from sfumato.nets.potential import make_potential
from sfumato.nets.sizes import make_net


class RestOfTheWay(nn.Module):
    """The drift v = net(x_t, t) / (1 - t): the network says how far it is to the end, not how fast.

    Args:
        net: (x_t, 8 t - 4) -> E[x_1 | x_t] - x_t.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.net(x, time) / ((4 - time) / 8).view(-1, *[1] * (x.dim() - 1))


class EntropicOT(Part):
    """A drift v and a potential D, of two unpaired domains.

    Args:
        net: size of both networks: tiny, small (1 M parameters), medium, large, at full size, and v is what
            `RestOfTheWay` makes of it; or a network for v itself: (x_t, 8 t - 4) -> (B, ...).
        critic: the potential: same (as net), another size, or a network D: y -> (B, 1).
        epsilon: variance of the path's noise over the whole time; the papers' are 0, 1 and 10.
        epsilon_warmup: steps of D over which epsilon rises from 0; a fifth of the training is
            the paper's choice (20000).
        n_steps: Euler-Maruyama steps N.
        noisy_end: noise in the last step, too.
        k_t: steps of v for each of D.
        reach: root mean square distance (a pixel) above which the potential's slope costs, more for
            noise (`limit`); images in [-1, 1] are at most 2 apart; 0: without limit, as published, where
            it may run away.
        side: side of the training images in pixels; given by the training.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
    """

    data: ClassVar[str] = "unpaired"
    generators_at: ClassVar[tuple[str, ...]] = ("drift",)
    settings: ClassVar[dict[str, Any]] = SETTINGS
    steady: ClassVar[bool] = False

    net: str | nn.Module = "small"
    critic: str | nn.Module = "same"
    epsilon: NotNegative = 1.0
    epsilon_warmup: Whole = 100
    n_steps: Count = 10
    noisy_end: bool = False
    k_t: Count = 10
    reach: NotNegative = 2.0
    side: PictureSide = 64
    channels: Count = 3

    def __post_init__(self) -> None:
        named = not isinstance(self.net, nn.Module)
        drift = make_net(self.net, channels=self.channels, smooth=True)
        self.drift = RestOfTheWay(drift) if named else drift
        self.potential = make_potential(self.critic, self.net, self.channels, self.side)
        self.turns = Turns("drift", "potential", self.k_t)

    def begin_step(self) -> None:
        self.turns.seen += 1

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        x, y = next(batches)
        draw = lambda like: torch.randn(like.shape, generator=rng).to(like)
        for player in self.turns.players():
            with torch.set_grad_enabled(torch.is_grad_enabled() and player == "drift"):
                made, energy = self.path(x, draw)
            if player == "drift":
                yield player, energy - self.potential(made).mean()
            else:
                yield player, potential_loss(self.potential, made, y, self.limit)

    @property
    def limit(self) -> float:
        """Of the root mean square of v in the last step, which is the potential's slope at the best drift.

        Besides `reach` v takes back the noise of the steps before.  Between two points, where
        v = (y - x_t) / (1 - t), that is sqrt(epsilon N (1 + 1/4 + ... + 1/(N - 1)^2)) of it.
        """
        noise = self.epsilon * self.n_steps * sum(1 / n**2 for n in range(1, self.n_steps))
        return self.reach and self.reach + math.sqrt(noise)

    @torch.no_grad()
    def translate(self, source: Tensor, *, seed: Seed = 0, watch: Watch | None = None) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to one sample of the target's domain each.

        Args:
            source: images in [-1, 1].
            seed: seed of the noise; other seeds give other samples, unless epsilon is 0.
            watch: see `integrate`; its times are 1 - t, so that 0 is the clean end here, too.
        """
        return self.path(source, Noise.of(source, seed).stream("steps"), watch)[0]

    def path(
        self, x: Tensor, draw: Callable[[Tensor], Tensor], watch: Watch | None = None
    ) -> tuple[Tensor, Tensor]:
        """x_1 (B, ...) of x_0 = x with the noise that `draw` makes, and the energy int |v|^2 dt."""
        epsilon = self.epsilon * self.turns.ramp(self.epsilon_warmup)
        dt, energy = 1 / self.n_steps, torch.zeros((), device=x.device)
        for n in range(self.n_steps):
            t = n * dt
            v = self.drift(x, torch.full((len(x),), 8 * t - 4, device=x.device))
            energy = energy + v.square().mean() * dt
            if watch is not None:
                watch(1 - t, x.clone(), x + (1 - t) * v, {"nfe": 1})
            x = x + v * dt  # x_{t + dt} = x_t + v dt + sqrt(epsilon dt) z
            if epsilon and (self.noisy_end or n + 1 < self.n_steps):
                x = x + math.sqrt(epsilon * dt) * draw(x)
        return x, energy
