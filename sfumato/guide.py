"""Wrappers denoiser -> denoiser, and energies.  Solvers never learn that guidance exists.

An energy E(x_t, t) turns the density p_t into p_t exp(-E): score <- score - grad E, which by Tweedie's
formula is  E[x | x_t] <- E[x | x_t] - sigma^2 / alpha grad E.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.denoiser import Denoises
from sfumato.part import Part
from sfumato.process import Process


class Energy:
    """A callable (x_t (B, ...), t) -> energies (B,).  Energies add and scale: a * E1 + b * E2.

    Args:
        function: the energy; the source image, if any, is bound when it is made.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.function(x_t, t)

    def __add__(self, other: Energy) -> Energy:
        return Energy(lambda x, t: self(x, t) + other(x, t))

    def __rmul__(self, weight: float) -> Energy:
        return Energy(lambda x, t: weight * self(x, t))


class Conditioned(Part):
    """A denoiser with a domain (and a conditioning image) bound: (x_t, t) -> E[x | x_t].

    `sfumato.load("FOLDER:DOMAIN")` returns one.

    Args:
        denoiser: the denoiser.
        domain: a domain's name, or None for any.
    """

    denoiser: nn.Module
    domain: str | None = None

    def __post_init__(self) -> None:
        self.image: Tensor | None = None

    def on(self, image: Tensor) -> Conditioned:
        """The same, conditioned on images (B, C, H, W) in [-1, 1]."""
        bound = Conditioned(denoiser=self.denoiser, domain=self.domain)
        bound.image = image
        return bound

    @property
    def process(self) -> Process:
        return self.denoiser.process  # type: ignore[return-value]

    def forward(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        kwargs: dict[str, Any] = {"domain": self.domain} if self.domain is not None else {}
        if self.image is not None:
            kwargs["image"] = self.image
        return self.denoiser(x_t, t, **kwargs)


class Clipped(nn.Module):
    """Clips E[x | x_t] to [-1, 1].  Breaks invertibility: never for encoding."""

    def __init__(self, denoiser: Denoises) -> None:
        super().__init__()
        self.denoiser, self.process = denoiser, denoiser.process

    def forward(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        return self.denoiser(x_t, t).clamp(-1, 1)


class ClassifierFree(nn.Module):
    """mean + scale (mean - unconditional mean)  (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598).

    Args:
        denoiser: with the condition bound.
        unconditional: without it.
        scale: 0 is no guidance.
    """

    def __init__(self, denoiser: Denoises, unconditional: Denoises, scale: float) -> None:
        super().__init__()
        self.denoiser, self.unconditional, self.scale = denoiser, unconditional, scale
        self.process = denoiser.process

    def forward(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        mean = self.denoiser(x_t, t)
        return mean if self.scale == 0 else mean + self.scale * (mean - self.unconditional(x_t, t))


class Guided(nn.Module):
    """score <- score - grad E: the denoiser of p_t exp(-E).

    Args:
        denoiser: (x_t, t) -> E[x | x_t].
        energy: (x_t, t) -> (B,), differentiable in x_t.
    """

    def __init__(self, denoiser: Denoises, energy: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.denoiser, self.energy, self.process = denoiser, energy, denoiser.process

    def forward(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        alpha, sigma = self.process.at(t, x_t)
        with torch.enable_grad():
            y = x_t.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.energy(y, t).sum(), y)
        return self.denoiser(x_t, t) - sigma**2 / alpha * gradient
