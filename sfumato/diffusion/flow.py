"""Flows between the two pictures of a pair, along straight lines: bridges without noise.

    x_t = (1 - t) x_0 + t x_1,      v(x, t) = E[x_1 - x_0 | x_t = x],      dx = v(x, t) dt

with the target x_0 and the source x_1 (Liu et al. 2022, https://arxiv.org/abs/2209.03003; Lipman et al.
2023, https://arxiv.org/abs/2210.02747).  x_t = x_0 + t (x_1 - x_0) is an ordinary process of the target,
alpha = 1 and sigma = t, whose noise is x_1 - x_0: its ODE du = eps d sig is dx = v dt, and every
deterministic solver, guidance and `watch` works as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.ranges import Interval, Positive, Time
from sfumato.diffusion.checks import as_times, floats, numbers
from sfumato.diffusion.denoiser import drawn_times, predicted
from sfumato.diffusion.integrate import OdeSolver, integrate, without_noise
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import Process, spread
from sfumato.diffusion.watch import Watch
from sfumato.module import Part


@dataclass(frozen=True)
class Line(Process):
    """alpha = 1, sigma = t: of x_t = x_0 + t (x_1 - x_0)."""

    t_min: Time = 1e-3
    t_max: Time = 1.0

    def __call__(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = as_times(t)
        return torch.ones_like(t), t

    def time(self, log_snr: Tensor | float) -> Tensor:
        return (-numbers(log_snr) / 2).exp()


class FlowDenoiser(Part):
    """(x_t, t) -> E[x_0 | x_t] = x_t - t v(x_t, t), by a network for v; see `Backwards` for E[x_1 | x_t].

    What the network takes and what it learns have unit variance for pictures of deviation s whose two
    sides correlate by r, as those of `BridgeDenoiser` without noise:

        v = k x_t + k' F(x_t / var^(1/2), log(t / (1 - t))),    var = s^2 (1 - 2 t (1 - t) (1 - r)),
        k = s^2 (2 t - 1) (1 - r) / var,    k' = s^2 (1 - r^2)^(1/2) / var^(1/2).

    Args:
        net: maps (input, log(t / (1 - t))) to a prediction of the image's shape.
        std: standard deviation of the pictures.
        correlation: of the two pictures of a pair.
    """

    generators_at: ClassVar[tuple[str, ...]] = ("net",)

    net: nn.Module
    std: Positive = 0.5
    correlation: Annotated[float, Interval(-1, 1, "()")] = 0.5

    @property
    def process(self) -> Line:
        return Line()

    def forward(self, x_t: Float[Tensor, "b ..."], t: Tensor | float) -> Float[Tensor, "b ..."]:
        """E[x_0 | x_t] for states x_t (B, ...) at time t (a number or (B,))."""
        return x_t - self.process.at(t, x_t)[1] * self.velocity(x_t, t)

    def velocity(self, x_t: Float[Tensor, "b ..."], t: Tensor | float) -> Float[Tensor, "b ..."]:
        """v = E[x_1 - x_0 | x_t]; at the ends the answer is that a thousandth before."""
        k, scale, out = self._predict(x_t, t)
        return k * x_t + scale * out

    def loss(
        self, x: Float[Tensor, "b ..."], source: Float[Tensor, "b ..."], t: Float[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        """Mean squared error of v over k'^2 on x_t = (1 - t) x + t source."""
        far = floats(source, x.shape, "the source of x is") - x
        x_t = x + self.process.at(t, x)[1] * far
        k, scale, out = self._predict(x_t, t)
        return (out - (far - k * x_t) / scale).square().mean()

    def sample(
        self, side: str, image: Tensor, noise: Noise | None = None, *, steps: int, solver: OdeSolver,
        watch: Watch | None = None,
    ) -> Tensor:  # fmt: skip
        """Where dx = v dt carries images (B, ...) to a side, target or source, in even steps."""
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return integrate(
            without_noise(solver), self if side == "target" else Backwards(self), image, times, watch=watch
        )

    def draw_times(self, n: int, rng: torch.Generator) -> Float[Tensor, " n"]:
        """n training times, uniform; see `drawn_times`."""
        return drawn_times("uniform", self.process, n, rng)

    def _predict(self, x_t: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """(k, k', what the network says)."""
        least, r, s2 = self.process.t_min, self.correlation, self.std**2
        (t,) = spread(lambda t: (t,), as_times(t, "cpu").clamp(least, 1 - least), x_t)
        var = s2 * (1 - 2 * t * (1 - t) * (1 - r))
        scale = s2 * ((1 - r**2) / var).sqrt()
        out = predicted(self.net, x_t / var.sqrt(), t / (1 - t), None, None)
        return s2 * (2 * t - 1) * (1 - r) / var, scale, out


class Backwards(nn.Module):
    """The same flow with its ends swapped: (x, t) -> E[x_1 | x_{1-t} = x] = x + t v(x, 1 - t)."""

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow, self.process = flow, flow.process

    def forward(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        t = as_times(t, "cpu")
        return x_t + self.process.at(t, x_t)[1] * self.flow.velocity(x_t, 1 - t)
