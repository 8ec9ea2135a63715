"""`integrate` with exact gradients, in memory that does not grow with the network's activations.

Backpropagation through N steps keeps N networks' worth of activations.  Here each step keeps its states
only and is taken once more, with a graph, in the backward pass (Chen et al. 2016,
https://arxiv.org/abs/1604.06174, by `torch.utils.checkpoint`).  The gradients are those of the discrete
steps, equal to plain backpropagation up to rounding.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sfumato.diffusion.denoiser import Denoises
from sfumato.diffusion.integrate import PAST, Counted, Point, Solver, checked, named_step, take
from sfumato.diffusion.noise import Noise


def integrate_flat(
    step: Solver, denoiser: Denoises, x: Tensor, times: Tensor, *, noise: Noise | None = None
) -> Tensor:
    """`integrate` with the same result and the same gradients, at one network's memory.

    It keeps two images a step and evaluates the network once more in the backward pass.  The denoiser must
    answer the same when it is asked again; dropout is drawn again as it was.

    Args:
        step: a step, or its name in `STEPS`; any solver, deterministic or stochastic.
        denoiser: (x_t, t) -> E[x | x_t], with a `.process`; whatever it reads gets its gradient.
        x: states (B, ...) at times[0].
        times: N + 1 times for N steps, see `integrate`.
        noise: the noise of stochastic steps; it is left where `integrate` leaves it.

    Returns:
        States (B, ...) at times[-1].

    Raises:
        UserError: as `integrate` does.
    """
    times, step, f = checked(times, denoiser.process), named_step(step), Counted(denoiser)
    past: list[Point] = []

    def again(past: list[Point], x: Tensor, t: Tensor, s: Tensor, noise: Noise | None) -> Any:
        noise = noise and noise.clone()  # what is drawn, is drawn once more
        return *take(step, f, past, x, t, s, noise), noise

    at = noise and noise.clone()
    for t, s in pairwise(times):
        past, x, at = checkpoint(again, past[1 - PAST :], x, t, s, at, use_reentrant=False)
    if noise is not None and at is not None:
        noise.go_on_as(at)
    return x
