"""A network made into E[x_0 | x_t], or E[x_0 | x_t, x_T], of a bridge x_t = a x_T + b x_0 + c z.

What the network takes and what it learns have unit variance for pictures of deviation s whose two sides
correlate by r (Zhou et al. 2024, https://arxiv.org/abs/2309.16948, section 4):

    D = c_skip x_t + c_out F(c_in x_t, log(c/b), x_T)
    var = s^2 (a^2 + b^2 + 2 a b r) + c^2,    c_in = var^(-1/2),    c_skip = s^2 (b + a r) / var,
    c_out^2 = s^2 (a^2 s^2 (1 - r^2) + c^2) / var.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.ranges import Interval, Positive
from sfumato.diffusion.bridges import BridgeProcess, Brownian, crossed
from sfumato.diffusion.checks import as_times, floats
from sfumato.diffusion.denoiser import TimeLaw, drawn_times, predicted
from sfumato.diffusion.domains import domain_index
from sfumato.diffusion.guidance import Conditioned
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import spread
from sfumato.module import Part


class BridgeDenoiser(Part):
    """(x_t, t, image=) -> E[x_0 | x_t]; see `Bridged` for solvers.

    Args:
        net: maps (input, log(c/b)) to a prediction of the image's shape; with the source beside it the
            input's channels are cat(x_t, source).
        process: the bridge.
        times: law of the training times, as of `Denoiser`, in c/b.
        std: standard deviation of the pictures.
        correlation: of the two pictures of a pair.
        domains: the ends that one network is told to predict, by label; empty for a network of one end.
    """

    generators_at: ClassVar[tuple[str, ...]] = ("net",)

    net: nn.Module
    process: BridgeProcess = Brownian()
    times: TimeLaw = "uniform"
    std: Positive = 0.5
    correlation: Annotated[float, Interval(-1, 1, "()")] = 0.5
    domains: tuple[str, ...] = ()

    def forward(
        self,
        x_t: Float[Tensor, "b ..."],
        t: Tensor | float,
        image: Float[Tensor, "b ..."] | None = None,
        domain: str | None = None,
    ) -> Float[Tensor, "b ..."]:
        """E[x_0 | x_t] for states x_t (B, ...) at time t (a number or (B,)).

        Args:
            x_t: states.
            t: time in [0, 1]; outside the bridge's [t_min, t_max] the answer is that at the nearest end.
            image: x_T, for networks that see it.
            domain: the end to predict, for networks of several.
        """
        c_skip, c_out, out = self._predict(x_t, t, image, domain)
        return c_skip * x_t + c_out * out

    def loss(
        self,
        x: Float[Tensor, "b ..."],
        source: Float[Tensor, "b ..."],
        t: Float[Tensor, " b"],
        z: Float[Tensor, "b ..."],
        image: Float[Tensor, "b ..."] | None = None,
        domain: str | None = None,
    ) -> Float[Tensor, ""]:
        """Mean squared error of D over c_out^2 on x_t = a source + b x + c z."""
        a, b, c = self._levels(t, x)
        x_t = a * source + b * x + c * floats(z, x.shape, "z, the noise of x, is")
        c_skip, c_out, out = self._predict(x_t, t, image, domain)
        return (out - (x - c_skip * x_t) / c_out).square().mean()

    def sample(self, domain: str | None, image: Tensor, noise: Noise, **how: Any) -> Tensor:
        """Samples of an end from the other's images (B, ...), which the network does not see; `crossed`."""
        return crossed(Conditioned(denoiser=self, domain=domain), image, noise, **how)

    def draw_times(self, n: int, rng: torch.Generator) -> Float[Tensor, " n"]:
        """n training times, see `drawn_times`."""
        return drawn_times(self.times, self.process, n, rng)

    def _levels(self, t: Tensor | float, x: Tensor) -> list[Tensor]:
        within = as_times(t, "cpu").clamp(self.process.t_min, self.process.t_max)
        return spread(self.process.coefficients, within, x)

    def _predict(
        self, x_t: Tensor, t: Tensor | float, image: Tensor | None, domain: str | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, what the network says)."""
        a, b, c = self._levels(t, x_t)
        s2, r = self.std**2, self.correlation
        var = s2 * (a**2 + b**2 + 2 * a * b * r) + c**2
        c_out = (s2 * (s2 * a**2 * (1 - r**2) + c**2) / var).sqrt()
        label = None
        if domain is not None:
            label = torch.full((len(x_t),), domain_index(domain, self.domains), device=x_t.device)
        out = predicted(self.net, x_t / var.sqrt(), c / b, label, image)
        return s2 * (b + a * r) / var, c_out, out
