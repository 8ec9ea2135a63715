"""Noise a picture up to a strength, and denoise it: what SDEdit and all guided methods have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, Strength
from sfumato.diffusion.denoiser import Denoises, ask
from sfumato.diffusion.integrate import Draw, Solver, integrate
from sfumato.diffusion.process import Process
from sfumato.diffusion.time_grids import Spacing, chain_time, grid
from sfumato.diffusion.watch import Watch

After = Callable[[Tensor, Tensor], Tensor]


@checked
def times_of(process: Process, strength: Strength, steps: Count, spacing: Spacing) -> Tensor:
    """Times from the noise level of `strength` (M/T of the DDPM chain) down to clean; M = 1 is one step.

    Raises:
        UserError: for a strength that is less than the process's least noise.
    """
    if not (start := chain_time(process, strength)):
        raise UserError(f"strength must add some noise, which {strength} does not")
    if start == process.t_min:  # from the least noise there is one step down
        steps = min(steps, 1)
    return grid(process, steps, spacing, start=start, clean=True)


@checked
def edit(
    denoiser: Denoises,
    source: Tensor,
    times: Tensor,
    *,
    start: Draw,
    noise: Draw,
    repeats: Count = 1,
    solver: Solver = "ancestral",
    after: After | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """x = alpha source + sigma z at times[0], then the solver's steps down to times[-1].

    Args:
        denoiser: denoiser of the target domain, guided or not.
        source: images (B, ...).
        times: see `times_of`.
        start: draws z.
        noise: draws the steps' noise.
        repeats: each repeat noises the last result again.
        solver: a step, or its name.
        after: called as after(x, s) on the noised source and after each step; its result counts.
        watch: see `integrate`.
    """
    x = source
    for _ in range(repeats):
        x = denoiser.process.perturb(x, times[0], start(x))
        x = x if after is None else ask(after, x, times[0], None, "after=")
        x = integrate(solver, denoiser, x, times, noise=noise, after=after, watch=watch)
    return x


def check_finite(result: Tensor, bounds: Callable[[], Mapping[str, tuple[float, float]]]) -> Tensor:
    """The result, if it is made of numbers.

    Args:
        result: images.
        bounds: asked if it is not: what each weight was, and up to where it is stable.

    Raises:
        UserError: naming the weight that is furthest beyond its bound, if one is.
    """
    if result.isfinite().all():
        return result
    known = bounds()
    beyond = {k: weight / bound for k, (weight, bound) in known.items() if weight > bound}
    if not beyond:
        raise UserError("the result is not finite: the energy is too large, or the model untrained")
    name = max(beyond, key=beyond.__getitem__)
    weight, bound = known[name]
    raise UserError(
        f"{name} {weight:g} is too large: the result is not finite; up to about {bound:.3g} is stable"
    )
