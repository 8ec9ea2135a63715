"""Deterministic steps: quadratures of eps in  du = eps(x_t, t) d sig.  Up or down in time."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.diffusion.steps.step import Counted, Draw, Point, blend, draw, lambda_step, share_kept


def ddim(f: Counted, past: list[Point], s: Tensor, noise: Draw | None = None, eta: float = 0.0) -> Tensor:
    """DDIM (Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 12), order 1.

    eta = 0 is Euler's method on the ODE; eta = 1 is the ancestral step with the small variance.
    """
    now = past[-1]
    alpha, sigma = f.levels(s)
    if eta == 0:
        return alpha * now.mean + sigma * now.eps
    fresh = eta * sigma * (1 - share_kept(now, alpha, sigma)).clamp(min=0).sqrt()
    return alpha * now.mean + (sigma**2 - fresh**2).sqrt() * now.eps + fresh * draw(noise, now)


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
    return sigma / now.sigma * now.x - alpha * torch.expm1(-lambda_step(now, alpha, sigma)) * blend(
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
        p1, p0 = (_antiderivative(l, c0, c1, c2) for l in (end, 0.0))
        u = u + (sig1 * p1 - sig0 * p0) * p.eps
    return alpha * u


def _antiderivative(l: float, c0: float, c1: float, c2: float) -> float:
    """p - p' + p'' of p = c0 + c1 l + c2 l^2."""
    return (c0 + c1 * l + c2 * l * l) - (c1 + 2 * c2 * l) + 2 * c2
