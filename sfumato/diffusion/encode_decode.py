"""Images to latents and back along the probability-flow ODE: the two halves of every bridge.

The state is u = x / alpha at t_min, where an image of unit alpha is the clean image.  Nothing is
clipped: clipping would break the map's invertibility.
"""

from __future__ import annotations

from torch import Tensor

from sfumato.core.arguments import checked
from sfumato.core.ranges import Count
from sfumato.diffusion.denoiser import Denoises
from sfumato.diffusion.integrate import OdeSolver, integrate, without_noise
from sfumato.diffusion.time_grids import Spacing, grid
from sfumato.diffusion.watch import Watch

RHO = 10.0
"""Karras exponent of the times; the usual 7 has fewer of them near the data."""
ENCODING = 0.55
"""Share of the steps: an error near the data grows on its way to the latent, so encoding needs more."""


@checked
def encode(
    f: Denoises,
    images: Tensor,
    *,
    steps: Count = 12,
    solver: OdeSolver = "ab3",
    spacing: Spacing = "karras",
    watch: Watch | None = None,
) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] to latents, nearly N(0, I) in VP processes.

    Args:
        f: denoiser of the images' domain.
        images: images.
        steps: solver steps.
        solver: a deterministic one.
        spacing: spacing of the solver's times: karras, log_snr, time or chain.
        watch: see `integrate`.
    """
    times = grid(f.process, steps, spacing, rho=RHO)
    alpha, _ = f.process.at(f.process.t_min, images)
    return integrate(without_noise(solver), f, alpha * images, times.flip(0), watch=watch)


@checked
def decode(
    f: Denoises,
    latents: Tensor,
    *,
    steps: Count = 10,
    solver: OdeSolver = "ab3",
    spacing: Spacing = "karras",
    watch: Watch | None = None,
) -> Tensor:
    """Latents to images of the domain that `f` denoises; arguments as those of `encode`."""
    times = grid(f.process, steps, spacing, rho=RHO)
    alpha, _ = f.process.at(f.process.t_min, latents)
    return integrate(without_noise(solver), f, latents, times, watch=watch) / alpha
