"""Solvers: steps x_t -> x_s as plain functions, and the one loop that takes them.

In the coordinates  u = x_t / alpha,  sig = sigma / alpha  the probability-flow ODE of every process is

    du = eps(x_t, t) d sig       (Song et al. 2021, eq. 13; Karras et al. 2022, eq. 1)

so deterministic steps are quadratures of eps.  Stochastic steps solve the reverse SDE
dx = (f x - g^2 score) dt + g dw.  Times run either way: down to translate, up to encode.

A step is a function `step(f, past, s, noise) -> x_s`.  `past` holds the points visited so far, the
present one last, each with what the denoiser said there; multi-step methods look further back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sfumato.choose import choose
from sfumato.denoiser import Denoises, eps_of, score_of
from sfumato.process import Process

Watch = Callable[[float, Tensor, Tensor, dict[str, Any]], None]
Draw = Callable[[Tensor], Tensor]
Step = Callable[["Counted", "list[Point]", Tensor, "Draw | None"], Tensor]


class Point(NamedTuple):
    """Where a solver is: state x_t at time t, and the denoiser's answer there."""

    x: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor
    mean: Tensor

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
        self.denoiser, self.process, self.nfe = denoiser, denoiser.process, 0

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at time t, float64 scalars."""
        return self.process(t)

    def __call__(self, x: Tensor, t: Tensor) -> Point:
        alpha, sigma = self.levels(t)
        if sigma == 0:
            t = torch.as_tensor(self.process.t_min, dtype=torch.float64, device=t.device)
            clean, (alpha, sigma) = alpha, self.levels(t)
            x = x / clean * alpha
        self.nfe += 1
        return Point(x, t, alpha, sigma, self.denoiser(x, t))


def integrate(
    step: Step | str,
    denoiser: Denoises,
    x: Tensor,
    times: Tensor,
    *,
    noise: Draw | None = None,
    after: Callable[[Tensor, Tensor], Tensor] | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Carries x from times[0] to times[-1], up or down in time.

    Args:
        step: a step, or its name in `STEPS`.
        denoiser: (x_t, t) -> E[x | x_t], with a `.process`.
        x: states (B, ...) at times[0].
        times: N + 1 times for N steps, strictly monotone, float64 (see `grid`).
        noise: draws standard normal noise like its argument; stochastic steps need it.
        after: called after each step as after(x_s, s); its result replaces x_s.
        watch: called for each step as watch(t, x_t, E[x | x_t], {"nfe": evaluations it took}).

    Returns:
        States (B, ...) at times[-1].

    Raises:
        ValueError: for unknown steps, times that are not monotone, or missing noise.
    """
    step = named_step(step)
    times = checked(times, denoiser.process).to(x.device)
    f = Counted(denoiser)
    past: list[Point] = []
    for t, s in pairwise(times):
        before = f.nfe
        past, x = take(step, f, past, x, t, s, noise)
        if watch is not None:
            watch(t.item(), past[-1].x, past[-1].mean, {"nfe": f.nfe - before})
        if after is not None:
            x = after(x, s)
    return x


def checked(times: Tensor, process: Process) -> Tensor:
    """The times, float64, if they are some to step along (see `integrate`)."""
    times = torch.as_tensor(times, dtype=torch.float64)
    jumps = times.diff()
    if len(times) < 2 or not ((jumps > 0).all() or (jumps < 0).all()):
        raise ValueError("times must be at least two, strictly increasing or strictly decreasing")
    low = times[times > 0].min().item()
    if low < process.t_min * (1 - 1e-9) or times.min() < 0 or times.max() > 1:
        raise ValueError(
            f"times must be 0 or within [t_min, 1] = [{process.t_min:g}, 1], not {low:g}; see grid()"
        )
    return times


def take(
    step: Step, f: Counted, past: list[Point], x: Tensor, t: Tensor, s: Tensor, noise: Draw | None
) -> tuple[list[Point], Tensor]:
    """One step from x_t, with two points before it at most: the points so far, and x_s."""
    now = f(x, t)
    past = [*(p for p in past[-2:] if p.t != now.t), now]  # t = 0 and t_min are asked alike
    return past, step(f, past, s, noise)


# ---- deterministic steps ------------------------------------------------------------------------


def ddim(
    f: Counted, past: list[Point], s: Tensor, noise: Draw | None = None, eta: float = 0.0
) -> Tensor:
    """DDIM (Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 12), order 1.

    eta = 0 is Euler's method on the ODE; eta = 1 is the ancestral step with the small variance.
    """
    now = past[-1]
    alpha, sigma = f.levels(s)
    if eta == 0:
        return alpha * now.mean + sigma * now.eps
    fresh = eta * sigma * (1 - _kept(now, alpha, sigma)).clamp(min=0).sqrt()
    return alpha * now.mean + (sigma**2 - fresh**2).sqrt() * now.eps + fresh * _draw(noise, now, s)


def heun(f: Counted, past: list[Point], s: Tensor, noise: Draw | None = None) -> Tensor:
    """Heun's method on du = eps d sig (Karras et al. 2022, alg. 1), order 2, two evaluations."""
    now = past[-1]
    alpha, sigma = f.levels(s)
    x = ddim(f, past, s)
    if sigma == 0:
        return x
    h = sigma / alpha - now.sigma / now.alpha
    return alpha * (now.x / now.alpha + h * (now.eps + f(x, s).eps) / 2)


def dpm2m(f: Counted, past: list[Point], s: Tensor, noise: Draw | None = None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, https://arxiv.org/abs/2211.01095, alg. 2), order 2."""
    now = past[-1]
    alpha, sigma = f.levels(s)
    return sigma / now.sigma * now.x - alpha * torch.expm1(-_h(now, alpha, sigma)) * _blend(
        past, alpha, sigma
    )


def ab2(f: Counted, past: list[Point], s: Tensor, noise: Draw | None = None) -> Tensor:
    """Adams-Bashforth on eps, linear in log sig (DEIS, Zhang & Chen 2022), order 2."""
    return _quadrature(f, past[-1], past[-2:], s)


def ab3(f: Counted, past: list[Point], s: Tensor, noise: Draw | None = None) -> Tensor:
    """Adams-Bashforth on eps, quadratic in log sig (DEIS, https://arxiv.org/abs/2204.13902), order 3.

    The very first step takes a second evaluation, at its end, to start at the full order: NFE N + 1.
    """
    now = past[-1]
    if len(past) == 1 and s > 0 and s != now.t:
        return _quadrature(f, now, [now, f(ddim(f, past, s), s)], s)
    return _quadrature(f, now, past[-3:], s)


def _quadrature(f: Counted, now: Point, points: list[Point], s: Tensor) -> Tensor:
    """U + integral of eps d sig from now to s, eps a polynomial in log sig through `points`.

    With l = log sig, d sig = e^l dl, and integral e^l p(l) dl = e^l (p - p' + p'').
    """
    alpha, sigma = f.levels(s)
    if sigma == 0:  # log sig = -inf: no polynomial reaches there
        points = [now]
    l0 = now.log_sig
    nodes = [(p.log_sig - l0).item() for p in points]
    sig0, sig1 = now.sigma / now.alpha, sigma / alpha
    end = (sig1.log() - l0).item() if sigma > 0 else 0.0
    u = now.x / now.alpha
    for j, p in enumerate(points):
        # Lagrange's polynomial of node j: product of (l - l_k) / (l_j - l_k), as c0 + c1 l + c2 l^2
        c0, c1, c2 = 1.0, 0.0, 0.0
        for k, node in enumerate(nodes):
            if k != j:
                d = nodes[j] - node
                c0, c1, c2 = -node * c0 / d, (c0 - node * c1) / d, (c1 - node * c2) / d

        def antiderivative(l: float, c0: float = c0, c1: float = c1, c2: float = c2) -> float:
            return (c0 + c1 * l + c2 * l * l) - (c1 + 2 * c2 * l) + 2 * c2

        u = u + (sig1 * antiderivative(end) - sig0 * antiderivative(0.0)) * p.eps
    return alpha * u


# ---- stochastic steps, downwards only -----------------------------------------------------------


def euler_maruyama(f: Counted, past: list[Point], s: Tensor, noise: Draw | None = None) -> Tensor:
    """Euler-Maruyama on the reverse SDE, uniform or not: weak order 1.

    x_s = x_t + h (g^2 score - f x_t) + g sqrt(h) z with h = t - s > 0. A step that ends at t_min or
    below adds no noise (the mean of the last step is the sample, as in the score-SDE paper).
    """
    now = past[-1]
    _downwards(now, s)
    h = now.t - s
    drift, g2 = f.process.sde(now.t)
    score = score_of(now.mean, now.x, now.alpha, now.sigma)
    x = now.x + h * (g2 * score - drift * now.x)
    if s <= f.process.t_min * (1 + 1e-9):
        return x
    return x + (g2 * h).sqrt() * _draw(noise, now, s)


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
    _downwards(now, s)
    alpha, sigma = f.levels(s)
    kept = _kept(now, alpha, sigma)
    mean = alpha * now.mean + sigma * kept.sqrt() * now.eps
    if sigma == 0:
        return mean
    ratio = now.alpha / alpha
    std = {
        "small": sigma * (1 - kept).sqrt(),
        "large": (now.sigma**2 - ratio**2 * sigma**2).sqrt(),
    }[variance]
    return mean + std * _draw(noise, now, s)


def sde_dpm2m(f: Counted, past: list[Point], s: Tensor, noise: Draw | None = None) -> Tensor:
    """The SDE form of DPM-Solver++(2M) (Lu et al. 2022, eq. 18 of the appendix on SDE solvers)."""
    now = past[-1]
    _downwards(now, s)
    alpha, sigma = f.levels(s)
    if sigma == 0:
        return alpha * now.mean
    h = _h(now, alpha, sigma)
    x = sigma / now.sigma * (-h).exp() * now.x - alpha * torch.expm1(-2 * h) * _blend(
        past, alpha, sigma
    )
    return x + sigma * (-torch.expm1(-2 * h)).sqrt() * _draw(noise, now, s)


STEPS: dict[str, Step] = {
    "euler_maruyama": euler_maruyama,
    "ancestral": ancestral,
    "ancestral_large": partial(ancestral, variance="large"),
    "ddim": ddim,
    "heun": heun,
    "dpm2m": dpm2m,
    "sde_dpm2m": sde_dpm2m,
    "ab2": ab2,
    "ab3": ab3,
}


def named_step(step: Step | str) -> Step:
    """The step of this name; functions are returned as they are."""
    if not isinstance(step, str):
        return step
    return STEPS[choose("solver", step, STEPS)]


def _kept(now: Point, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Share of x_s's noise variance that x_t determines: (alpha_t sigma_s / (alpha_s sigma_t))^2."""
    return (now.alpha * sigma / (alpha * now.sigma)) ** 2


def _h(now: Point, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Step in lambda = log(alpha / sigma)."""
    return now.log_sig - (sigma / alpha).log()


def _blend(past: list[Point], alpha: Tensor, sigma: Tensor) -> Tensor:
    """The mean extrapolated linearly in lambda to the middle of the step (2M's D)."""
    now = past[-1]
    if len(past) == 1 or sigma == 0:
        return now.mean
    last, h = past[-2], _h(now, alpha, sigma)
    r = (last.log_sig - now.log_sig) / h
    return now.mean + (now.mean - last.mean) / (2 * r)


def _downwards(now: Point, s: Tensor) -> None:
    if s > now.t:
        raise ValueError("a stochastic solver cannot encode; use ddim, heun, dpm2m, ab2 or ab3")


def _draw(noise: Draw | None, now: Point, s: Tensor) -> Tensor:
    if noise is None:
        raise ValueError("a stochastic solver needs noise=, for instance Noise(seeds)")
    return noise(now.x)
