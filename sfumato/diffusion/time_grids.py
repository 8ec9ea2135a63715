"""Grids of times for the solvers: N + 1 points for N steps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, Positive
from sfumato.diffusion.process import DDPM, Chain, Process

Spacing = Literal["time", "log_snr", "karras", "chain"]


@checked
def grid(
    process: Process,
    steps: Count,
    spacing: Spacing = "karras",
    *,
    start: float | None = None,
    stop: float | None = None,
    clean: bool = False,
    rho: Positive = 7.0,
) -> Tensor:
    """steps + 1 times for that many steps, float64; never below t_min except for t = 0 itself.

    Args:
        process: whose times they are.
        steps: number of steps.
        spacing: "time": uniform in t; "log_snr": uniform in log(alpha^2/sigma^2); "karras": uniform
            in (sigma/alpha)^(1/rho) (Karras et al. 2022, eq. 5); "chain": levels of the discrete
            chain, evenly respaced: the process's own, or DDPM's.
        start: first time, t_max by default.
        stop: last time, t_min by default. stop > start gives an encoding grid.
        clean: append t = 0 as the last point; it counts as one of the steps.
        rho: exponent of "karras".

    Raises:
        UserError: for ends outside [t_min, t_max], or times that are not strictly monotone.
    """
    start = process.t_max if start is None else start
    stop = process.t_min if stop is None else stop
    n = steps - 1 if clean else steps
    for t in (start, stop):
        if not process.t_min <= t <= process.t_max:
            raise UserError(
                f"times must lie in [t_min, t_max] = [{process.t_min:g}, {process.t_max:g}], not {t:g}"
            )
    ends = torch.tensor([start, stop], dtype=torch.float64)
    u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    if spacing == "time":
        times = ends[0] + (ends[1] - ends[0]) * u
    elif spacing == "log_snr":
        a, b = process.log_snr(ends)
        times = process.time(a + (b - a) * u)
    elif spacing == "karras":
        a, b = (-process.log_snr(ends) / 2 / rho).exp()
        times = process.time(-2 * rho * (a + (b - a) * u).log())
    else:
        chain = process if isinstance(process, Chain) else DDPM()
        a, b = (chain.time(process.log_snr(ends)) * chain.steps).clamp(1, chain.steps)
        levels = (a + (b - a) * u).round(decimals=6).round()  # halves are halves on any processor
        if (levels.diff() == 0).any():
            most = int((a.round() - b.round()).abs()) + clean
            raise UserError(f"the chain has room for {most} steps there, not for {steps}")
        times = process.time(chain.log_snr(levels / chain.steps))
    if spacing != "chain":  # undo rounding at the ends
        times[0], times[-1] = ends[0], ends[1] if n else ends[0]
    times = times.clamp(min(process.t_min, start, stop), process.t_max)
    times = torch.cat([times, torch.zeros(1, dtype=torch.float64)]) if clean else times
    jumps = times.diff()
    if not ((jumps > 0).all() or (jumps < 0).all()):
        raise UserError(
            f"no strictly monotone {steps + 1} times lead from start={start:g} to stop={stop:g}"
            f"{', then 0' * clean} with rho={rho:g}: expected start above stop"
            f"{', or below it' * (not clean)}, and rho of about 7"
        )
    return times


def chain_time(process: Process, share: float) -> float:
    """The time of `process` with the noise level of this share M/T of the DDPM chain.

    The papers count noise in steps M of that chain; at equal log-SNR a share means the same for
    every process. Clipped to [t_min, t_max] from the chain's first level on; of less noise than that,
    0 stands for what is below t_min.
    """
    chain = DDPM()
    level = torch.tensor(share, dtype=torch.float64)
    time = process.time(chain.log_snr(level)).item() if share > 0 else 0.0
    if time < process.t_min:
        return process.t_min if share >= chain.t_min else 0.0
    return min(time, process.t_max)
