"""The probability-flow ODE to a tolerance: Dormand & Prince's embedded Runge-Kutta pair 5(4).

In l = log(sigma/alpha) and u = x_t/alpha the ODE reads  du/dl = u - E[x | x_t], for every process.
Each image has its own step size, times and number of steps, numbers of the CPU, so that its result
does not depend on its batch; the denoiser is asked with a time for each image, (B,), as it is in training.

Coefficients: Dormand & Prince 1980, https://doi.org/10.1016/0771-050X(80)90013-3, table 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import NotNegative, Positive
from sfumato.diffusion.steps.step import Counted, Draw, Point

C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # the solution of order 5
)
E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)  # minus order 4
LOCAL = 1 / 20
"""Share of the tolerance that one step may use: with it the error at the end keeps the tolerance."""
MOST = 1000
"""Steps, taken or refused, before it gives up."""


@checked
def dopri5(
    f: Counted,
    past: list[Point],
    s: Tensor,
    noise: Draw | None = None,
    rtol: Positive = 1e-2,
    atol: NotNegative = 1e-2,
) -> Tensor:
    """As many steps of order 5 from t to s as the tolerance needs, 6 evaluations each.

    The root mean square over an image of the error in u = x_s/alpha stays below rtol sigma/alpha, plus
    atol on the way down. So rtol counts in units of the noise and atol in those of the image; on the
    way up an error near the data grows with the noise, and atol would let it. The default is about
    one level of 8 bits. Ask `integrate` for few steps, one will do: the choice is made here.

    Args:
        f: the denoiser.
        past: the points so far.
        s: the time to go to; for t = 0 the last evaluation, at t_min, is the result.
        noise: not used.
        rtol: tolerance in units of the noise.
        atol: tolerance in units of the image; downwards only.

    Raises:
        UserError: where no step is small enough, or the denoiser's answer is not finite.
    """
    now = past[-1]
    alpha, sigma = f.levels(s)
    if sigma == 0:
        least = torch.full_like(s, f.process.t_min)
        if now.t > least:
            now = f(dopri5(f, past, least, noise, rtol, atol), least)
        return alpha * now.mean
    u, l = now.x / now.alpha, now.log_sig.expand(len(now.x))
    end = (sigma / alpha).log()
    down, between = bool(end < now.log_sig), sorted((now.t.item(), s.item()))

    def slope(u: Tensor, l: Tensor) -> Tensor:
        t = f.process.time(-2 * l).clamp(*between)
        return u - f.mean(f.process.at(t, u)[0] * u, t)

    k, h = u - now.mean, (end - l).clamp(-0.5, 0.5)
    for _ in range(MOST):
        if (l == end).all():
            return alpha * u
        last = h.abs() >= (end - l).abs()
        h = torch.where(last, end - l, h)
        y, ks = u, [k]
        for c, row in zip(C, A, strict=True):
            y = u + _like(h, u) * sum(a * k for a, k in zip(row, ks, strict=True))
            ks.append(slope(y, l + c * h))
        error = torch.stack([e * k for e, k in zip(E, ks, strict=True)]).sum(0).detach()
        sig = l.exp()
        size = h.abs() * error.flatten(1).square().mean(1).sqrt().cpu().double()
        size = size / (LOCAL * (rtol * sig + atol * down))
        if not size.isfinite().all():
            raise UserError("the denoiser's answers are not finite: is the model trained?")
        good = size <= 1
        u = torch.where(_like(good, u), y, u)
        k = torch.where(_like(good, u), ks[-1], k)  # the last slope is the next step's first
        l = torch.where(good, torch.where(last, end, l + h), l)
        h = h * (0.9 * size ** (-1 / 5)).clamp(0.2, 5)
    raise UserError(f"dopri5 cannot keep rtol={rtol:g}, atol={atol:g} in {MOST} steps: raise them")


def _like(v: Tensor, u: Tensor) -> Tensor:
    """One number an image (B,), to broadcast against u (B, ...)."""
    v = v.to(u.device) if v.dtype == torch.bool else v.to(u.dtype).to(u.device)
    return v.reshape(-1, *[1] * (u.ndim - 1))
