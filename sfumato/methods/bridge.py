"""Paired translation by a diffusion bridge: from the source picture itself to the target, not from noise.

    x_t = a x_T + b x_0 + c z,     L = E |F(x_t, t, x_T) - ...|^2 = E |D(x_t, t, x_T) - x_0|^2 / c_out^2

with D = E[x_0 | x_t, x_T] and (a, b, c) of a family: brownian (BBDM, https://arxiv.org/abs/2205.07680), i2sb
(https://arxiv.org/abs/2302.05872), ddbm-vp or ddbm-ve (DDBM).  Translation is DBIM's
(https://arxiv.org/abs/2405.15885), by any solver.  Two denoisers are trained together, one for each
direction: the same bridge with its ends swapped.

@inproceedings{zhou2024denoising,
  title = {Denoising Diffusion Bridge Models},
  author = {Zhou, Linqi and Lou, Aaron and Khanna, Samar and Ermon, Stefano},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
  url = {https://arxiv.org/abs/2309.16948}
}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sfumato.core.arguments import Seed
from sfumato.core.ranges import Count, NotNegative, Steps
from sfumato.diffusion.bridge_denoiser import BridgeDenoiser
from sfumato.diffusion.bridges import BRIDGES, Family, Width, check_draws, crossed
from sfumato.diffusion.denoiser import TimeLaw
from sfumato.diffusion.guidance import Conditioned
from sfumato.diffusion.integrate import Solver
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.time_grids import Spacing
from sfumato.diffusion.watch import Watch
from sfumato.methods.registry import Direction, end
from sfumato.module import Part
from sfumato.nets.sizes import make_net


class Bridge(Part):
    """Both directions of a paired translation, one denoiser of a bridge each.

    Args:
        net: size of each network: tiny, small (1 M parameters, for CPUs), medium, large, thesis (58 M).
        family: the bridge: brownian, i2sb, ddbm-vp or ddbm-ve.
        gamma: noise on the way, in multiples of the family's own, which for brownian has a standard
            deviation of 1/2 halfway.
        markov: the network sees the state alone, as BBDM's and I2SB's; without it the source beside it, as
            DDBM's. Translating then takes a solver that draws noise.
        source_noise: standard deviation of noise that is added to the source, for results that differ more.
        times: law of the training times: wide, lognormal or log_uniform in c/b, or the papers': uniform in t.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
    """

    data: ClassVar[str] = "pairs"

    net: str | nn.Module = "small"
    family: Family = "brownian"
    gamma: Width = 1.0
    markov: bool = False
    source_noise: NotNegative = 0.0
    times: TimeLaw = "wide"
    channels: Count = 3

    def __post_init__(self) -> None:
        process, shown = BRIDGES[self.family](gamma=self.gamma), 0 if self.markov else self.channels
        self.denoisers = nn.ModuleDict()
        for which in ("target", "source"):
            net = make_net(self.net, conditioning=shown, channels=self.channels, copied=True)
            self.denoisers[which] = BridgeDenoiser(net=net, process=process, times=self.times)

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        x, y = next(batches)
        t = self._denoiser("target").draw_times(len(x), rng)
        z, noise = (torch.randn(x.shape, generator=rng).to(x) for _ in range(2))
        for which, made, given in (("target", y, x), ("source", x, y)):
            given = given + self.source_noise * noise
            loss = self._denoiser(which).loss(made, given, t, z, image=None if self.markov else given)
            yield f"denoisers.{which}", loss

    @torch.no_grad()
    def translate(
        self,
        source: Tensor,
        *,
        seed: Seed = 0,
        watch: Watch | None = None,
        direction: Direction = "source-to-target",
        steps: Steps = 18,
        solver: Solver = "sde_dpm2m",
        spacing: Spacing = "karras",
        clip: bool = False,
    ) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to one sample of the other domain given each.

        Args:
            source: images in [-1, 1].
            seed: seed of the noise; other seeds give other samples.
            watch: see `integrate`; it is handed x_t, and its score's size in place of alpha and sigma.
            direction: source-to-target, or back.
            steps: solver steps.
            solver: what takes the steps.
            spacing: spacing of the solver's times: karras, log_snr, time or chain.
            clip: clip E[x_0 | x_t] to [-1, 1] at every step.
        """
        if self.markov:
            check_draws(solver, "a model trained with --markov")
        noise = Noise.of(source, seed)
        if self.source_noise:
            source = source + self.source_noise * noise.stream("source")(source)
        given: Any = Conditioned(denoiser=self._denoiser(end(direction)))
        f = given if self.markov else given.on(source)
        how: dict[str, Any] = {"steps": steps, "solver": solver, "spacing": spacing, "clip": clip}
        return crossed(f, source, noise, watch, **how)

    def _denoiser(self, which: str) -> BridgeDenoiser:
        denoiser = self.denoisers[which]
        assert isinstance(denoiser, BridgeDenoiser)
        return denoiser
