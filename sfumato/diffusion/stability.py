"""How large the weight of an energy may be, so that the explicit steps of a solver lower it."""

from __future__ import annotations

import warnings

from torch import Tensor
from torch.nn import functional as F

from sfumato.core.terminal import count
from sfumato.diffusion.process import Process


def spent(process: Process, t: Tensor) -> Tensor:
    """B(t) = integral of beta from 0 to t = log(1 + sigma^2 / alpha^2), float64; 0 where clean."""
    return F.softplus(-process.log_snr(t))


def stable_weight(process: Process, times: Tensor) -> float:
    """Up to which weight of `low_pass_distance` the ancestral steps of `times` are stable.

    The gradient 2 phi^2 d enters a step with beta / sqrt(1 - beta), where 1 - beta is the step's ratio
    of alpha^2 (in variance-preserving coordinates; 1000 steps: beta < 0.02, hence about 50). On data
    of unit variance a step multiplies d by sqrt(1 - beta) - 2 weight beta / sqrt(1 - beta); beyond
    the bound this is below -1 in one of the steps, and d grows instead of falling.
    """
    kept = (spent(process, times).diff() / 2).exp()  # sqrt(1 - beta)
    return float(((1 + kept) * kept / (2 * (1 - kept**2))).min())


def warn_unstable(said: str, weight: float, most: float, times: Tensor, instead: str) -> None:
    """Warns of a weight beyond what is stable in the steps of `times`."""
    if weight > most:
        warnings.warn(
            f"{said}: its explicit step is unstable above {most:.3g} in {count(len(times) - 1, 'step')}; "
            f"take {instead}, or more steps",
            stacklevel=5,
        )
