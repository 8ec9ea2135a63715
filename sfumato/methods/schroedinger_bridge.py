r"""Schroedinger bridge between two unpaired domains: alpha-DSBM (De Bortoli et al. 2024).

https://arxiv.org/abs/2409.09347, after DSBM (Shi et al. 2023, https://arxiv.org/abs/2303.16852).  Of all
processes from one domain to the other, that which is nearest to Brownian motion of variance epsilon t:

    x_t = t x_1 + (1 - t) x_0 + sqrt(epsilon t (1 - t)) z,
    L = E |D(x_t, t, to 0) - x_0|^2 / c_out^2 + E |D(x_t, t, to 1) - x_1|^2 / c_out^2.

The end that is learned is real; the other one is drawn at random at first (bridge matching), and then is
what a slow copy of the network makes of the real one.  The only fixed point of this is the entropic plan
for |x - y|^2 / 2, that of `entropic_ot`, without a critic.  The network sees x_t alone, not the source.

@inproceedings{debortoli2024schrodinger,
  title = {Schr{\"o}dinger Bridge Flow for Unpaired Data Translation},
  author = {De Bortoli, Valentin and Korshunova, Iryna and Mnih, Andriy and Doucet, Arnaud},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  url = {https://arxiv.org/abs/2409.09347}
}
@inproceedings{shi2023diffusion,
  title = {Diffusion {Schr{\"o}dinger} Bridge Matching},
  author = {Shi, Yuyang and De Bortoli, Valentin and Campbell, Andrew and Doucet, Arnaud},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023},
  url = {https://arxiv.org/abs/2303.16852}
}
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from sfumato.core.arguments import Seed
from sfumato.core.ranges import BelowOne, Count, Interval, OneOf, Steps, Whole
from sfumato.diffusion.bridge_denoiser import BridgeDenoiser
from sfumato.diffusion.bridges import Brownian, check_draws
from sfumato.diffusion.denoiser import TimeLaw
from sfumato.diffusion.integrate import SDE, Step
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.time_grids import Spacing
from sfumato.diffusion.watch import Watch
from sfumato.methods._shared.unpaired import OTHER, Pairs, drawn, swapped
from sfumato.methods.registry import Direction, end
from sfumato.module import Part
from sfumato.nets.sizes import make_net

Noisy = Annotated[str, OneOf(tuple(SDE))] | Step


class SchroedingerBridge(Part):
    """Both directions of an unpaired translation, by one network that is told the direction.

    Args:
        net: size of the network: tiny, small (1 M parameters, for CPUs), medium, large, thesis (58 M).
        epsilon: variance of the noise over the whole way; pictures lie in [-1, 1], so 1 is much. The more,
            the less is kept of a source, and the more do results of one source differ.
        warmup_batches: batches at the start which learn from independent pictures of both sides.
        loop_steps: steps that make a picture of the other side while it learns.
        loop_solver: solver of these steps, one that draws noise.
        buffer: pairs kept for each direction.
        refresh: batches between new pairs.
        pairs_ema: decay a batch of the slow copy that makes pairs.
        times: law of the training times: wide, lognormal or log_uniform in c/b, or the papers': uniform in t.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
    """

    data: ClassVar[str] = "unpaired"
    settings: ClassVar[dict[str, Any]] = {"batch": 16, "lr": 2e-3}
    steady: ClassVar[bool] = False
    phases: ClassVar[tuple[str, ...]] = ("warmup_batches",)

    net: str | nn.Module = "small"
    epsilon: Annotated[float, Interval(1e-6, 1e6)] = 1.0
    warmup_batches: Whole = 2000
    loop_steps: Count = 10
    loop_solver: Annotated[str, OneOf(tuple(SDE))] = "sde_dpm2m"
    buffer: Count = 512
    refresh: Count = 16
    pairs_ema: BelowOne = 0.999
    times: TimeLaw = "wide"
    channels: Count = 3

    def __post_init__(self) -> None:
        check_draws(self.loop_solver, "a network that sees the state alone")
        ends, process = tuple(OTHER), Brownian(gamma=math.sqrt(self.epsilon))
        net = make_net(self.net, channels=self.channels, labels=len(ends), copied=True)
        self.denoiser = BridgeDenoiser(net=net, process=process, times=self.times, domains=ends)
        loop = {"steps": self.loop_steps, "solver": self.loop_solver, "spacing": "log_snr"}
        self.pairs = Pairs("buffer", None, loop, self.buffer, self.refresh)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.seen: Tensor  # batches it has learnt from

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        n, real = int(self.seen), dict(zip(("source", "target"), next(batches), strict=True))
        if self.training:
            self.pairs.follow(self.denoiser, min(self.pairs_ema, (1 + n) / (10 + n)), False)
            self.seen += 1
        given = swapped(real)  # independent
        if n >= self.warmup_batches:
            real, made = self.pairs(self.denoiser, real, rng, False, n)
            given = swapped(made)
        x, f = real["target"], self.denoiser
        t, z = f.draw_times(len(x), rng), drawn(x, rng)
        yield "denoiser", torch.stack([f.loss(real[s], given[s], t, z, domain=s) for s in OTHER]).sum()

    @torch.no_grad()
    def translate(
        self,
        source: Tensor,
        *,
        seed: Seed = 0,
        watch: Watch | None = None,
        direction: Direction = "source-to-target",
        steps: Steps = 18,
        solver: Noisy = "sde_dpm2m",
        spacing: Spacing = "log_snr",
        clip: bool = False,
    ) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to one sample of the other domain each.

        Args:
            source: images in [-1, 1].
            seed: seed of the noise; other seeds give other samples.
            watch: see `integrate`; it is handed x_t, and its score's size in place of alpha and sigma.
            direction: source-to-target, or back.
            steps: solver steps.
            solver: what takes the steps, with noise; the papers' is ancestral, which needs many.
            spacing: spacing of the solver's times: karras, log_snr, time or chain.
            clip: clip E[x_0 | x_t] to [-1, 1] at every step.
        """
        check_draws(solver, "a Schroedinger bridge")
        how: dict[str, Any] = {"steps": steps, "solver": solver, "spacing": spacing, "clip": clip}
        return self.denoiser.sample(end(direction), source, Noise.of(source, seed), watch=watch, **how)
