"""Energies: what guidance lowers.  Each is a function of the sample y, the noised source x and t -> (B,).

`against` binds the source and makes an `Energy` of it, of which sums and multiples are energies again:

    2 * against(low_pass_distance(LowPass(4)), reference) + 500 * against(similarity(f), reference)

An energy of one's own is any such function; it has to be differentiable in y.  `edges` is an example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution
from torch.nn import functional as F

from sfumato.guide import Energy
from sfumato.lowpass import LowPass
from sfumato.process import Process
from sfumato.solve import Draw

Compares = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(y, x, t) -> (B,): the sample at noise level t against the source noised to the same level."""


@runtime_checkable
class Classifies(Protocol):
    """A classifier of noisy images."""

    domains: tuple[str, ...]
    process: Process

    def __call__(self, x_t: Tensor, t: Tensor | float, /) -> Tensor:
        """Logits (B, N) of its N domains."""

    def features(self, x_t: Tensor, t: Tensor | float, /) -> Tensor:
        """Features (B, C, h, w)."""


class Reference:
    """The source noised to t: one Monte-Carlo draw x_t ~ q(x_t | x_0) for each noise level visited.

    Args:
        process: the noising process.
        source: images (B, ...).
        draw: of the noise; one that always gives the same is EGSDE's published code.
    """

    def __init__(self, process: Process, source: Tensor, draw: Draw) -> None:
        self.process, self.source, self.draw = process, source, draw
        self._now: tuple[float, Tensor] | None = None

    def __call__(self, t: Tensor | float) -> Tensor:
        """x_t; the terms of one step see the same one."""
        if self._now is None or self._now[0] != float(t):
            self._now = float(t), self.process.perturb(self.source, t, self.draw(self.source))
        return self._now[1]


def against(function: Compares, reference: Reference) -> Energy:
    """The energy y -> function(y, x_t, t) with x_t the noised source."""
    return Energy(lambda y, t: function(y, reference(t), t))


def low_pass_distance(phi: LowPass, process: Process) -> Compares:
    """|phi(y) - phi(x)|^2, summed over channels and pixels (EGSDE's -S_i, domain-independent).

    y and x are taken in variance-preserving coordinates, those of the paper, whatever the process.
    """

    def distance(y: Tensor, x: Tensor, t: Tensor) -> Float[Tensor, " b"]:
        alpha, sigma = process.at(t, y)
        return phi((y - x) / (alpha**2 + sigma**2).sqrt()).square().flatten(1).sum(1)

    return distance


def similarity(features: Callable[[Tensor, Tensor], Tensor]) -> Compares:
    """Cosine of y's and x's features at each position, mean over positions (EGSDE's S_s).

    For features of a classifier it says how much they look of one domain. With unit vectors
    u and v the cosine is 1 - |u - v|^2 / 2, whose gradient is zero to the bit where u = v.

    Args:
        features: (x_t, t) -> (B, C, h, w).
    """

    def cosine(y: Tensor, x: Tensor, t: Tensor) -> Float[Tensor, " b"]:
        u, v = (F.normalize(features(z, t), dim=1, eps=1e-10) for z in (y, x.detach()))
        return 1 - (u - v.detach()).square().sum(1).flatten(1).mean(1) / 2

    return cosine


def surprise(model: Callable[[Tensor, Tensor], Distribution], y: Tensor) -> Energy:
    """-log p_t(y | x_t), so that guidance by it samples x given y (Song et al. 2021, eq. 14).

    Args:
        model: (x_t, t) -> the distribution of y given x_t: a `Categorical` of classes, a
            `Normal` about a regression, or any other with batch first.
        y: what was observed, (B, ...).
    """
    return Energy(lambda x_t, t: -_per_image(model(x_t, t).log_prob(y.to(x_t.device))))


def domain_surprise(classifier: Classifies, domain: int) -> Energy:
    """-log p_t(domain | x_t): classifier guidance (Dhariwal & Nichol 2021)."""
    return surprise(lambda x, t: Categorical(logits=classifier(x, t)), torch.tensor(domain))


def edges(y: Tensor, x: Tensor, t: Tensor) -> Float[Tensor, " b"]:
    """Distance of neighbouring pixels' differences: keeps where the source changes, not its colours."""

    def gradient(z: Tensor) -> Tensor:
        right, down = z.diff(dim=-1), z.diff(dim=-2)
        return torch.cat([right.flatten(1), down.flatten(1)], dim=1)

    return (gradient(y) - gradient(x)).square().sum(1)


def masked(function: Compares, mask: Tensor) -> Compares:
    """`function` of what the mask (1 inside, 0 outside; broadcasts against images) lets through."""
    return lambda y, x, t: function(y * mask.to(y), x * mask.to(x), t)


def _per_image(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1) if values.ndim > 1 else values
