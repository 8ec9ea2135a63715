"""Solvers: steps x_t -> x_s as plain functions, and the one loop that takes them.

In the coordinates  u = x_t / alpha,  sig = sigma / alpha  the probability-flow ODE of every process is

    du = eps(x_t, t) d sig       (Song et al. 2021, eq. 13; Karras et al. 2022, eq. 1)

so deterministic steps are quadratures of eps.  Stochastic steps solve the reverse SDE
dx = (f x - g^2 score) dt + g dw.  Times run either way: down to translate, up to encode.

A step is a function `step(f, past, s, noise) -> x_s`.  `past` holds the last `PAST` points visited, the
present one last, each with what the denoiser said there.  `ODE` and `SDE` give the steps their names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import Tensor

from sfumato.core import arguments
from sfumato.core.errors import UserError, choose
from sfumato.core.ranges import Count, OneOf
from sfumato.diffusion.checks import numbers
from sfumato.diffusion.denoiser import Denoises, answered, ask, process_of
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import Process
from sfumato.diffusion.steps.dopri5 import dopri5
from sfumato.diffusion.steps.ode import ab2, ab3, ddim, dpm2m, heun
from sfumato.diffusion.steps.sde import ancestral, euler_maruyama, predictor_corrector, sde_dpm2m, sde_heun
from sfumato.diffusion.steps.step import Counted, Draw, Point, Step
from sfumato.diffusion.time_grids import Spacing, grid
from sfumato.diffusion.watch import Watch

PAST = 3
"""How many points a step sees, the present one among them; ab3 needs as many."""
SDE: dict[str, Step] = {
    "euler_maruyama": euler_maruyama,
    "ancestral": ancestral,
    "ancestral_large": partial(ancestral, variance="large"),
    "predictor_corrector": predictor_corrector,
    "sde_dpm2m": sde_dpm2m,
    "sde_heun": sde_heun,
}
"""Stochastic steps by name: they need noise, and cannot encode."""
ODE: dict[str, Step] = {
    "ddim": ddim, "heun": heun, "dpm2m": dpm2m, "ab2": ab2, "ab3": ab3, "dopri5": dopri5,
}  # fmt: skip
"""Deterministic steps by name."""
STEPS = SDE | ODE
OdeName = Annotated[str, OneOf(tuple(ODE))]
OdeSolver = OdeName | Step
Solver = Annotated[str, OneOf(tuple(STEPS))] | Step


@arguments.checked
def integrate(
    step: Solver,
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
        times: N + 1 times for N steps, strictly monotone, float64 (see `grid`), each of them 0 or in
            the process's [t_min, t_max].
        noise: draws standard normal noise like its argument; stochastic steps need it.
        after: called after each step as after(x_s, s); its result replaces x_s.
        watch: called for each step as watch(t, x_t, E[x | x_t], extras). Extras hold nfe, the evaluations
            it took; alpha and sigma at x_t; moved (B,), by how much `after` moved x_s (root mean
            square); and of guidance, for each energy NAME, energy/NAME (B,), its value with its weight,
            and push/NAME (B,), by how much it moved eps (of unit size itself; root mean square).

    Returns:
        States (B, ...) at times[-1].

    Raises:
        UserError: for unknown steps, times that are not monotone or not the process's, or missing noise.
    """
    step = named_step(step)
    times = checked(times, process_of(denoiser))
    if not x.is_floating_point():
        raise UserError(f"states of {x.dtype}: expected floating-point numbers, as of x.float()")
    if not x.ndim or not x.numel():
        raise UserError(f"states of shape {tuple(x.shape)}: expected a batch (B, ...) of one or more")
    f = Counted(denoiser)
    past: list[Point] = []
    for t, s in pairwise(times):
        before = f.trace.nfe
        past, free = take(step, f, past, x, t, s, noise)
        now, f.trace.told = past[-1], {}
        x = free if after is None else ask(after, free, s, f.trace, "after=")
        if watch is not None:
            extras: dict[str, Any] = {"nfe": f.trace.nfe - before, **now.told, **f.trace.told}
            extras |= {"alpha": now.alpha.item(), "sigma": now.sigma.item()}
            extras |= {} if after is None else {"moved": rms(x - free)}
            watch(t.item(), now.x.clone(), now.mean.clone(), extras)  # which it may change
    return x


@arguments.checked
def sample(
    step: Solver,
    denoiser: Denoises,
    like: Tensor,
    noise: Noise,
    steps: Count,
    spacing: Spacing,
    *,
    clean: bool = True,
    run: Callable[..., Tensor] = integrate,
    **how: Any,
) -> Tensor:
    """Draws from what is denoised: sigma z at t_max, then as many steps down.

    Args:
        step: a step, or its name.
        denoiser: (x_t, t) -> E[x | x_t].
        like: tensor (B, ...) of the samples' shape and type.
        noise: draws z; its stream "steps" is that of the steps.
        steps: how many.
        spacing: of their times, see `grid`.
        clean: down to t = 0, instead of t_min.
        run: what takes the steps: `integrate`, or `integrate_flat`.
        how: more of its arguments.
    """
    times = grid(denoiser.process, steps, spacing, clean=clean)
    start = denoiser.process.perturb(torch.zeros_like(like), times[0], noise(like))
    return run(step, denoiser, start, times, noise=noise.stream("steps"), **how)


def rms(x: Tensor) -> Tensor:
    """Root mean square (B,) of each of a batch."""
    return x.flatten(1).square().mean(1).sqrt()


def checked(times: Tensor, process: Process) -> Tensor:
    """The times, float64 and on the CPU, if they are some to step along (see `integrate`)."""
    times = numbers(times, "cpu")
    low, high = process.t_min, process.t_max
    within = times.clamp(low, high).where(times != 0, times)  # moves by the rounding of float32 only
    if (outside := times[~torch.isclose(times, within, rtol=1e-6, atol=0)]).numel():
        raise UserError(
            f"times must be 0 or within [t_min, t_max] = [{low:g}, {high:g}], not {outside[0]:g}; see grid()"
        )
    jumps = within.flatten().diff()
    if times.ndim != 1 or len(times) < 2 or not ((jumps > 0).all() or (jumps < 0).all()):
        raise UserError("times must be at least two in a row, strictly increasing or strictly decreasing")
    return within


def take(
    step: Step, f: Counted, past: list[Point], x: Tensor, t: Tensor, s: Tensor, noise: Draw | None
) -> tuple[list[Point], Tensor]:
    """One step from x_t: the last points, and x_s."""
    now = f(x, t)
    past = [*(p for p in past if p.t != now.t), now][-PAST:]  # t = 0 and t_min are asked alike
    return past, answered(step(f, past, s, noise), tuple(x.shape), "the solver")


def named_step(step: Solver) -> Step:
    """The step of this name; functions are returned as they are."""
    if not isinstance(step, str):
        return step
    return STEPS[choose("solver", step, STEPS)]


def without_noise(solver: OdeSolver) -> OdeSolver:
    """The solver.

    Raises:
        UserError: it is one that draws noise, or unknown.
    """
    if isinstance(solver, str) and solver in SDE:
        raise UserError(f"solver {solver!r} draws noise: expected {', '.join(ODE)}")
    return choose("solver", solver, ODE) if isinstance(solver, str) else solver


__all__ = [
    "ODE", "PAST", "SDE", "STEPS", "Counted", "Draw", "OdeName", "OdeSolver", "Point", "Solver", "Step",
    "ab2", "ab3", "ancestral", "checked", "ddim", "dopri5", "dpm2m", "euler_maruyama", "heun",
    "integrate", "named_step", "predictor_corrector", "rms", "sample", "sde_dpm2m", "sde_heun", "take",
    "without_noise",
]  # fmt: skip
