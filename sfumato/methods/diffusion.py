"""Diffusion model over one or many named domains: the thing that other methods translate with.

Trained once, it serves DDIB, SDEdit and the others in all N (N - 1) directions: `FOLDER:DOMAIN`
names one of its domains wherever a denoiser is asked for.

Denoising score matching: L = E |F(x_t, t, domain) - target|^2 (https://arxiv.org/abs/2006.11239, eq. 14;
https://arxiv.org/abs/2202.00512 for v; https://arxiv.org/abs/2206.00364 for edm).

@inproceedings{ho2020denoising,
  title = {Denoising Diffusion Probabilistic Models},
  author = {Ho, Jonathan and Jain, Ajay and Abbeel, Pieter},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
  url = {https://arxiv.org/abs/2006.11239}
}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfumato.core.ranges import BelowOne, Count
from sfumato.diffusion.denoiser import Denoiser, Prediction, TimeLaw
from sfumato.diffusion.guidance import Conditioned
from sfumato.diffusion.integrate import sample
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import Process, named_process
from sfumato.diffusion.time_grids import Spacing
from sfumato.diffusion.watch import Watch
from sfumato.module import Part
from sfumato.nets.sizes import make_net


class Diffusion(Part):
    """A denoiser of named domains.

    Args:
        domains: names of the domains; given by the folders it is trained on.
        net: size of the network: tiny, small (1 M parameters, for CPUs), medium, large, thesis (58 M).
        process: noising process: cosine, vp, ddpm, iddpm, ve or flow.
        prediction: what the network predicts: v, eps, x0 or edm.
        times: law of the training times: lognormal or wide in sigma/alpha, uniform in t, or log_uniform in
            sigma/alpha, which spends most on little noise.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
        any_domain: share of training images whose domain is hidden; above 0 the model also
            denoises "any domain", which classifier-free guidance needs.
    """

    data: ClassVar[str] = "domains"

    domains: tuple[str, ...]
    net: str | nn.Module = "small"
    process: str | Process = "cosine"
    prediction: Prediction = "v"
    times: TimeLaw = "lognormal"
    channels: Count = 3
    any_domain: BelowOne = 0.1

    def __post_init__(self) -> None:
        process = named_process(self.process)
        net = make_net(self.net, labels=len(self.domains), channels=self.channels)
        self.denoiser = Denoiser(
            net=net, process=process, prediction=self.prediction, times=self.times,
            domains=tuple(self.domains), any_domain=self.any_domain > 0,
        )  # fmt: skip

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        x, label = next(batches)
        hidden = torch.rand(len(x), generator=rng) < self.any_domain
        label = label.masked_fill(hidden.to(label.device), len(self.domains))
        t = self.denoiser.draw_times(len(x), rng)
        z = torch.randn(x.shape, generator=rng).to(x)
        yield "denoiser", self.denoiser.loss(x, t, z, domain=label)

    @torch.no_grad()
    def sample(
        self,
        domain: str,
        like: Tensor,
        *,
        seed: int = 0,
        steps: int = 18,
        solver: str = "dpm2m",
        spacing: Spacing = "karras",
        watch: Watch | None = None,
    ) -> Tensor:
        """New images of a domain, in [-1, 1], as many and of the size of `like` (B, C, H, W)."""
        noise = Noise([seed + i for i in range(len(like))])
        f = Conditioned(denoiser=self.denoiser, domain=domain)
        return sample(solver, f, like, noise, steps, spacing, watch=watch)

    def preview(self, like: Tensor) -> list[Tensor]:
        """Samples of each domain, one row each, to look at while it trains."""
        return [self.sample(domain, like) for domain in self.domains]
