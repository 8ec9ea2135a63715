"""Controllable generation (Srivastava 2022, eq. 4.1; https://arxiv.org/abs/2011.13456, eq. 14).

Sample x given y with a score that never saw y, and a regression from noisy x to y:

    score(x_t | y) = score(x_t) + grad log p_t(y | x_t),    p_t(y | x_t) = N(y; m(x_t, t), v(t)).

The two are trained on pairs, each as a player of its own: the denoiser on the targets x alone,
m by |m(x_t, t) - y|^2, and v(t), one number for each channel, by the likelihood of what m leaves over.
Between Gaussians the sum is exact.

@mastersthesis{srivastava2022investigating,
  title = {Investigating Novel Methods to Perform Image-to-Image Translation},
  author = {Srivastava, Ishan},
  school = {Durham University},
  year = {2022}
}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Normal

from sfumato.core.arguments import Seed
from sfumato.core.ranges import Count, NotNegative, Steps
from sfumato.diffusion.denoiser import Denoiser, Denoises
from sfumato.diffusion.energies import strong_weight, surprise
from sfumato.diffusion.guidance import Guided
from sfumato.diffusion.integrate import Solver, sample
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.noise_and_denoise import check_finite
from sfumato.diffusion.process import Process, named_process
from sfumato.diffusion.time_grids import Spacing
from sfumato.diffusion.watch import Watch
from sfumato.module import Part
from sfumato.nets.sizes import make_net


class Regressor(Part):
    """(x_t, t) -> N(m, v): what the other image of a pair is, given this one with noise.

    Args:
        net: maps (input, log(sigma/alpha)) to m, of the image's shape.
        process: the noising process.
        channels: channels of the images.
    """

    net: nn.Module
    process: Process
    channels: Count = 3

    def __post_init__(self) -> None:
        self.spread = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, self.channels))

    def forward(self, x_t: Float[Tensor, "b c h w"], t: Tensor | float) -> Normal:
        alpha, sigma = self.process.seen(t, x_t)
        level = (sigma / alpha).log().flatten().expand(len(x_t))
        mean = self.net(self.process.preserving(x_t, t), level)
        std = self.spread(level[:, None].to(mean)).clamp(-5, 2).exp()[:, :, None, None]
        return Normal(mean, std.expand_as(mean), validate_args=False)


class Controllable(Part):
    """An unconditional denoiser of the targets, and a regression from noisy targets to sources.

    Args:
        net: size of each network: tiny, small (1 M parameters), medium, large.
        process: noising process: cosine, vp (the thesis'), ddpm, iddpm, ve or flow.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
    """

    data: ClassVar[str] = "pairs"

    net: str | nn.Module = "small"
    process: str | Process = "cosine"
    channels: Count = 3

    def __post_init__(self) -> None:
        process = named_process(self.process)
        self.denoiser = Denoiser(net=make_net(self.net, channels=self.channels), process=process)
        net = make_net(self.net, channels=self.channels, copied=True)  # one network each
        self.regressor = Regressor(net=net, process=process, channels=self.channels)

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        y, x = next(batches)  # sources and targets
        t = self.denoiser.draw_times(len(x), rng)
        z = torch.randn(x.shape, generator=rng).to(x)
        yield "denoiser", self.denoiser.loss(x, t, z)
        found = self.regressor(self.denoiser.process.perturb(x, t, z), t)
        left = (found.mean - y).square()  # v by -log N, which would let m give up where v is large
        likely = left.detach() / (2 * found.variance) + found.stddev.log()
        yield "regressor", left.mean() + likely.mean()

    @torch.no_grad()
    def translate(
        self,
        source: Tensor,
        *,
        seed: Seed = 0,
        watch: Watch | None = None,
        guidance_scale: NotNegative = 0.1,
        every: Count = 1,
        steps: Steps = 25,
        solver: Solver = "ancestral",
        spacing: Spacing = "karras",
    ) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to one sample of the other domain given each.

        Args:
            source: images y in [-1, 1].
            seed: seed of the noise; other seeds give other samples of the same posterior.
            watch: see `integrate`.
            guidance_scale: weight of the regression: 1 is eq. 4.1 for errors that are independent from
                pixel to pixel, which pictures' are not; 0 forgets the source.
            every: guide anew at every so many steps; the gradient is kept in between.
                A step costs the regression once forward and once back, 1/every of that.
            steps: solver steps.
            solver: what takes the steps.
            spacing: spacing of the solver's times: karras, log_snr, time or chain.
        """
        process, energy = self.denoiser.process, surprise(self.regressor, source)
        f: Denoises = self.denoiser
        if guidance_scale:
            f = Guided(f, guidance_scale * energy, every=every, name="regression")
        noise = Noise.of(source, seed)
        x = sample(solver, f, source, noise, steps, spacing, watch=watch)

        def bounds() -> dict[str, tuple[float, float]]:
            start = process.perturb(torch.zeros_like(source), process.t_max, noise(source))
            most = strong_weight(energy, self.denoiser, start, process.t_max)
            return {"guidance_scale": (guidance_scale, most)} if guidance_scale else {}

        return check_finite(x, bounds)
