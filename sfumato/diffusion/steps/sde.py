"""Stochastic steps: the reverse SDE  dx = (f x - g^2 score) dt + g dw.  Downwards only."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sfumato.core.arguments import checked
from sfumato.core.ranges import Positive, Whole
from sfumato.diffusion.denoiser import score_of
from sfumato.diffusion.steps.step import (
    Counted,
    Draw,
    Point,
    Step,
    blend,
    downwards,
    draw,
    lambda_step,
    share_kept,
)


def euler_maruyama(f: Counted, past: list[Point], s: Tensor, noise: Draw | None = None) -> Tensor:
    """Euler-Maruyama on the reverse SDE, uniform or not: weak order 1.

    x_s = x_t + h (g^2 score - f x_t) + g sqrt(h) z with h = t - s > 0. A step that ends at t_min or
    below adds no noise (the mean of the last step is the sample, as in the score-SDE paper). Milstein's
    correction is zero, since g depends on t alone: the strong order is 1, too.
    """
    now = past[-1]
    downwards(now, s)
    h = now.t - s
    drift, g2 = f.process.sde(now.t)
    score = score_of(now.mean, now.x, now.alpha, now.sigma)
    x = now.x + h * (g2 * score - drift * now.x)
    if s <= f.process.t_min * (1 + 1e-9):
        return x
    return x + (g2 * h).sqrt() * draw(noise, now)


def ancestral(
    f: Counted,
    past: list[Point],
    s: Tensor,
    noise: Draw | None = None,
    variance: Literal["small", "large"] = "small",
) -> Tensor:
    """The DDPM posterior (Ho et al. 2020, eqs. 6-7), exact for data that is one point.

    variance small: that of q(x_s | x_t, x); large: that of q(x_t | x_s), beta_t of the chain.
    """
    now = past[-1]
    downwards(now, s)
    alpha, sigma = f.levels(s)
    kept = share_kept(now, alpha, sigma)
    mean = alpha * now.mean + sigma * kept.sqrt() * now.eps
    if sigma == 0:
        return mean
    ratio = now.alpha / alpha
    std = {"small": sigma * (1 - kept).sqrt(), "large": (now.sigma**2 - ratio**2 * sigma**2).sqrt()}[variance]
    return mean + std * draw(noise, now)


def sde_dpm2m(f: Counted, past: list[Point], s: Tensor, noise: Draw | None = None) -> Tensor:
    """The SDE form of DPM-Solver++(2M) (Lu et al. 2022, eq. 18 of the appendix on SDE solvers)."""
    now = past[-1]
    downwards(now, s)
    alpha, sigma = f.levels(s)
    if sigma == 0:
        return alpha * now.mean
    h = lambda_step(now, alpha, sigma)
    x = sigma / now.sigma * (-h).exp() * now.x - alpha * torch.expm1(-2 * h) * blend(past, alpha, sigma)
    return x + sigma * (-torch.expm1(-2 * h)).sqrt() * draw(noise, now)


def sde_heun(f: Counted, past: list[Point], s: Tensor, noise: Draw | None = None) -> Tensor:
    """Stochastic Heun, the Runge-Kutta method of weak order 2 for additive noise; two evaluations.

    In lambda = log(alpha/sigma) the reverse SDE is linear but for E[x | x_t]. The linear part and its
    noise are integrated exactly and E[x | x_t] by the trapezoidal rule between x_t and an ancestral
    step that has met the same noise (Kloeden & Platen 1992, sec. 15.1, in the exponential form of
    Gonzalez et al. 2023, https://arxiv.org/abs/2305.14267).
    """
    now = past[-1]
    alpha, sigma = f.levels(s)
    z = None if sigma == 0 else draw(noise, now)
    x = ancestral(f, past, s, None if z is None else lambda like: z)
    if sigma == 0:
        return x
    h = lambda_step(now, alpha, sigma)
    return x - alpha * torch.expm1(-2 * h) * (f(x, s).mean - now.mean) / 2


@checked
def predictor_corrector(
    f: Counted,
    past: list[Point],
    s: Tensor,
    noise: Draw | None = None,
    predictor: Step = ancestral,
    r: Positive = 0.16,
    corrections: Whole = 1,
) -> Tensor:
    """Any step, then Langevin steps at the level it reached (Song et al. 2021, algs. 3 and 5; VE: 4).

    x <- x + e score + sqrt(2 e) z with e = 2 (alpha_t/alpha_s)^2 (r |z| / |score|)^2: the paper's alpha_i
    is the step's. Norms are each image's own, not the batch's mean. There is no correction at t_min or
    below, where the sample is done. A Langevin step leaves N(0, v) with variance v (1 + 4 r^4).

    Args:
        f: the denoiser.
        past: the points so far.
        s: the time to go to.
        noise: draws for the predictor and for each correction.
        predictor: a step; deterministic ones leave all noise to the corrector.
        r: signal-to-noise ratio of a correction.
        corrections: Langevin steps at each level, one evaluation each.
    """
    now = past[-1]
    downwards(now, s)
    x = predictor(f, past, s, noise)
    if s <= f.process.t_min * (1 + 1e-9):
        return x
    for _ in range(corrections):
        p = f(x, s)
        z, score = draw(noise, p), score_of(p.mean, x, p.alpha, p.sigma)
        sizes = (_norm(z) / _norm(score)).reshape(-1, *[1] * (x.ndim - 1))
        e = 2 * (now.alpha / p.alpha) ** 2 * (r * sizes) ** 2
        x = x + e * score + (2 * e).sqrt() * z
    return x


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)
