"""Bridges between the two pictures of a pair: x_t = a x_T + b x_0 + c z, target x_0, source x_T at t = 1.

Every family is a Brownian bridge with a clock u(t) from 0 to 1, a scale and a width w of its noise:

    a = scale(t) / scale(1) u,     b = scale (1 - u),     c = scale w sqrt(u (1 - u)).

Then y = x_t - a x_T = b x_0 + c z is an ordinary process of the target, alpha = b and sigma = c, whose SNR
(1 - u) / (w^2 u) falls to 0 at the source.  Solvers carry y, and `Bridged` shows a network x_t: so every
step, guidance, `watch` and exact denoiser is one of bridges.  `ddim` with eta is DBIM (Zheng et al. 2024,
https://arxiv.org/abs/2405.15885); with eta = 1, `ancestral`, x_T drops out of the step, which is the sampler
of BBDM and I2SB; `ab2`, `ab3` and `dpm2m` are DBIM's of higher order.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from sfumato.core.arguments import check_value, checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Interval, NotNegative, Positive
from sfumato.diffusion.checks import as_times, floats, numbers
from sfumato.diffusion.denoiser import Denoises, Trace, Traced, ask, score_of
from sfumato.diffusion.guidance import sampled
from sfumato.diffusion.integrate import ODE, Solver, rms
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import Process, spread
from sfumato.diffusion.watch import Watch

Width = Annotated[float, Interval(1e-3, 1e3)]
"""Of a bridge's noise: with less, float64 cannot tell its last times from the source."""
LEAST, MOST = 0.005, 40.0
"""c/b at t_min and at t_max."""
NEAR = 1e-3
"""The clock at t_min, at most: networks that do not see the source need to come near the target."""


@dataclass(frozen=True)
class BridgeProcess(Process):
    """The process of y = x_t - a x_T.

    Args:
        gamma: the noise, in multiples of the family's own.
    """

    gamma: Width = 1.0

    @abc.abstractmethod
    def clock(self, t: Tensor) -> Tensor:
        """u at the times t, growing from 0 to 1."""

    @abc.abstractmethod
    def at_clock(self, u: Tensor) -> Tensor:
        """The inverse of `clock`."""

    @property
    def width(self) -> float:
        """w: half of it is the most noise, at scale 1."""
        return self.gamma

    def scale(self, t: Tensor) -> Tensor:
        """The factor of both pictures and the noise at the times t; 1 at t = 0."""
        return torch.ones_like(t)

    @property
    def t_min(self) -> float:
        return min(self._level(LEAST), self._when(NEAR))

    @property
    def t_max(self) -> float:
        return self._level(MOST)

    def coefficients(self, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """(a, b, c) at the times `t` in [0, 1], float64, of t's shape."""
        t = as_times(t)
        u, scale = self.clock(t), self.scale(t)
        return scale / self.scale(torch.ones_like(t)) * u, scale * (1 - u), self._noise(u, scale)

    def __call__(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        _, b, c = self.coefficients(t)
        return b, c

    def time(self, log_snr: Tensor | float) -> Tensor:
        return self.at_clock(torch.sigmoid(-numbers(log_snr) - 2 * math.log(self.width)))

    def _noise(self, u: Tensor, scale: Tensor) -> Tensor:
        return scale * self.width * (u * (1 - u)).sqrt()

    def _level(self, noise: float) -> float:
        """The time at which c/b is this."""
        return self._when(noise**2 / (noise**2 + self.width**2))

    def _when(self, u: float) -> float:
        """The time of a clock's reading, on the CPU whatever torch's default is."""
        return self.at_clock(numbers(u, "cpu")).item()


@dataclass(frozen=True)
class Brownian(BridgeProcess):
    """u = t: a Brownian bridge.  c^2 = gamma^2 t (1 - t); BBDM's s is gamma^2 / 2.

    Li et al. 2023 (https://arxiv.org/abs/2205.07680); also that of DSBM and, with little noise, LBM.
    """

    def clock(self, t: Tensor) -> Tensor:
        return t

    def at_clock(self, u: Tensor) -> Tensor:
        return u


@dataclass(frozen=True)
class I2SB(BridgeProcess):
    """u = r^2 / (r^2 + q^2), the noise gathered from 0 to t over that of the whole way.

    Its rate grows to the middle and falls as it grew: sqrt(beta) = sqrt(beta_min) + (sqrt(beta_max) -
    sqrt(beta_min)) t up to t = 1/2 (Liu et al. 2023, https://arxiv.org/abs/2302.05872).
    """

    beta_min: Positive = 0.1
    beta_max: Positive = 0.3

    def _gathered(self, t: Tensor) -> Tensor:
        """The integral of beta from 0 to t <= 1/2."""
        start, rise = math.sqrt(self.beta_min), math.sqrt(self.beta_max) - math.sqrt(self.beta_min)
        return t * (start**2 + start * rise * t + rise**2 * t**2 / 3)

    @property
    def _half(self) -> float:
        return self._gathered(numbers(0.5, "cpu")).item()

    @property
    def width(self) -> float:
        return self.gamma * math.sqrt(2 * self._half)

    def clock(self, t: Tensor) -> Tensor:
        first = self._gathered(torch.where(t > 0.5, 1 - t, t)) / (2 * self._half)
        return torch.where(t > 0.5, 1 - first, first)

    def at_clock(self, u: Tensor) -> Tensor:
        start, rise = math.sqrt(self.beta_min), math.sqrt(self.beta_max) - math.sqrt(self.beta_min)
        gathered = torch.where(u > 0.5, 1 - u, u) * 2 * self._half
        if rise == 0:
            t = gathered / start**2
        else:  # (start + rise t)^3 = start^3 + 3 rise gathered
            t = ((start**3 + 3 * rise * gathered) ** (1 / 3) - start) / rise
        return torch.where(u > 0.5, 1 - t, t)


@dataclass(frozen=True)
class DDBMVP(BridgeProcess):
    """The VP process pinned to its end: u = rho(t)^2 / rho(1)^2 with rho = sigma/alpha, scale = alpha.

    alpha^2 = exp(-B), B = beta_min t + beta_d t^2 / 2 (Zhou et al. 2024, https://arxiv.org/abs/2309.16948).
    """

    beta_min: NotNegative = 0.1
    beta_d: Positive = 2.0

    def _exponent(self, t: Tensor) -> Tensor:
        return self.beta_min * t + self.beta_d * t**2 / 2

    @property
    def _end(self) -> float:
        """rho(1)^2."""
        return torch.expm1(self._exponent(numbers(1, "cpu"))).item()

    @property
    def width(self) -> float:
        return self.gamma * math.sqrt(self._end)

    def scale(self, t: Tensor) -> Tensor:
        return (-self._exponent(t) / 2).exp()

    def clock(self, t: Tensor) -> Tensor:
        return torch.expm1(self._exponent(t)) / self._end

    def at_clock(self, u: Tensor) -> Tensor:
        B = torch.log1p(u * self._end)
        return 2 * B / (self.beta_min + (self.beta_min**2 + 2 * self.beta_d * B).sqrt())


@dataclass(frozen=True)
class DDBMVE(BridgeProcess):
    """The VE process of sigma = sigma_max t pinned to its end: u = t^2 (Zhou et al. 2024)."""

    sigma_max: Positive = 80.0

    @property
    def width(self) -> float:
        return self.gamma * self.sigma_max

    def clock(self, t: Tensor) -> Tensor:
        return t**2

    def at_clock(self, u: Tensor) -> Tensor:
        return u.sqrt()


Family = Literal["brownian", "i2sb", "ddbm-vp", "ddbm-ve"]
BRIDGES: dict[Family, type[BridgeProcess]] = {
    "brownian": Brownian, "i2sb": I2SB, "ddbm-vp": DDBMVP, "ddbm-ve": DDBMVE,
}  # fmt: skip


class Bridged(Traced, nn.Module):
    """A denoiser of x_t as one of y = x_t - a x_T, which solvers carry.

    Args:
        denoiser: (x_t, t) -> E[x_0 | x_t], or given x_T, too; its process is a bridge.
        source: x_T (B, ...).

    Raises:
        UserError: its process is no bridge.
    """

    @checked
    def __init__(self, denoiser: Denoises, source: Tensor) -> None:
        super().__init__()
        check_value("the denoiser's process", denoiser.process, BridgeProcess)
        self.denoiser, self.process, self.source = denoiser, denoiser.process, source

    def forward(self, y: Tensor, t: Tensor | float, trace: Trace | None = None) -> Tensor:
        return ask(self.denoiser, self.state(y, t), t, trace)

    def state(self, y: Tensor, t: Tensor | float) -> Tensor:
        """x_t = y + a x_T."""
        process = self.process
        assert isinstance(process, BridgeProcess)
        a, *_ = spread(process.coefficients, t, y)
        return y + a * floats(self.source, tuple(y.shape), "the source of a bridge is")

    def shown(self, watch: Watch | None) -> Watch | None:
        """A `watch` that is handed x_t in place of y, and its score's size (B,), not y's alpha and sigma."""
        if watch is None:
            return None

        def shown(t: float, y: Tensor, mean: Tensor, extras: dict[str, Any]) -> None:
            more = {k: v for k, v in extras.items() if k not in ("alpha", "sigma")}
            more["score"] = rms(
                score_of(mean, y, *self.process.at(t, y))
            )  # of x_t, too: they differ by a x_T
            watch(t, self.state(y, t), mean, more)

        return shown


def crossed(
    denoiser: Denoises, source: Tensor, noise: Noise, watch: Watch | None = None, **how: Any
) -> Tensor:
    """Samples of a bridge's target (B, ...) for each source x_T, from the source on.

    Args:
        denoiser: see `Bridged`.
        source: x_T (B, ...).
        noise: draws that of the way.
        watch: see `integrate`; it is handed x_t, and its score's size in place of alpha and sigma.
        how: steps, solver, spacing and clip of `sampled`.
    """
    bridged = Bridged(denoiser, source)
    return sampled(bridged, source, noise, watch=bridged.shown(watch), **how)


def check_draws(solver: Solver, what: str) -> None:
    """Sees that a solver suits a denoiser that sees x_t alone.

    Raises:
        UserError: the solver draws no noise; says `what` the model is.
    """
    if solver in ODE:
        raise UserError(
            f"solver {solver!r} draws no noise, and {what} does not know the source without: expected one "
            f"that does, such as sde_dpm2m"
        )
