"""Where a solver is, and the denoiser that it asks: what all steps are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.diffusion.denoiser import Denoises, Trace, answered, ask, eps_of

Draw = Callable[[Tensor], Tensor]
Step = Callable[["Counted", "list[Point]", Tensor, "Draw | None"], Tensor]


class Point(NamedTuple):
    """Where a solver is: state x_t at time t, the denoiser's answer there, and what else it told."""

    x: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor
    mean: Tensor
    told: dict[str, Tensor]

    @property
    def eps(self) -> Tensor:
        """E[z | x_t]."""
        return eps_of(self.mean, self.x, self.alpha, self.sigma)

    @property
    def log_sig(self) -> Tensor:
        """log(sigma / alpha), float64."""
        return (self.sigma / self.alpha).log()


class Counted:
    """A denoiser that counts its evaluations (NFE) and answers at t = 0, too.

    At the clean level the denoiser is asked at t_min, with the state carried there along u = x/alpha.
    """

    def __init__(self, denoiser: Denoises) -> None:
        self.denoiser, self.process, self.trace = denoiser, denoiser.process, Trace()

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at time t, float64 scalars."""
        return self.process(t)

    def __call__(self, x: Tensor, t: Tensor) -> Point:
        alpha, sigma = self.levels(t)
        if sigma == 0:
            t = torch.as_tensor(self.process.t_min, dtype=torch.float64, device=t.device)
            clean, (alpha, sigma) = alpha, self.levels(t)
            x = x / clean * alpha
        return Point(x, t, alpha, sigma, self.mean(x, t), self.trace.told)

    def mean(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x | x_t] at a time t, or one for each image (B,)."""
        self.trace.nfe, self.trace.told = self.trace.nfe + 1, {}
        return ask(self.denoiser, x, t, self.trace)


def share_kept(now: Point, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Share of x_s's noise variance that x_t determines: (alpha_t sigma_s / (alpha_s sigma_t))^2."""
    return (now.alpha * sigma / (alpha * now.sigma)) ** 2


def lambda_step(now: Point, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Step in lambda = log(alpha / sigma)."""
    return now.log_sig - (sigma / alpha).log()


def blend(past: list[Point], alpha: Tensor, sigma: Tensor) -> Tensor:
    """The mean extrapolated linearly in lambda to the middle of the step (2M's D)."""
    now = past[-1]
    if len(past) == 1 or sigma == 0:
        return now.mean
    last, h = past[-2], lambda_step(now, alpha, sigma)
    r = (last.log_sig - now.log_sig) / h
    return now.mean + (now.mean - last.mean) / (2 * r)


def downwards(now: Point, s: Tensor) -> None:
    """Refuses to encode."""
    if s > now.t:
        raise UserError("a stochastic solver cannot encode: take a deterministic one, such as ab3")


def draw(noise: Draw | None, now: Point) -> Tensor:
    """Noise like the state."""
    if noise is None:
        raise UserError("a stochastic solver needs noise=, for instance Noise(seeds)")
    return answered(noise(now.x), tuple(now.x.shape), "noise=")
