"""Wrappers denoiser -> denoiser, and energies.  Solvers never learn that guidance exists.

An energy E(x_t, t) turns the density p_t into p_t exp(-E): score <- score - grad E, which by Tweedie's
formula is  E[x | x_t] <- E[x | x_t] - sigma^2 / alpha grad E.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sfumato.core.arguments import check_value, checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count
from sfumato.diffusion.denoiser import Denoises, Trace, Traced, answered, ask, process_of
from sfumato.diffusion.integrate import Solver, rms, sample
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import Process, norm
from sfumato.diffusion.time_grids import Spacing
from sfumato.module import Part

On = Literal["sample", "mean"]


class Energy:
    """A callable (x_t (B, ...), t) -> energies (B,).  Energies add and scale: a * E1 - E2 / b, sum([E1, E2]).

    Args:
        function: the energy; the source image, if any, is bound when it is made.

    Raises:
        UserError: it is no function, or a weight no finite number (or tensor).
    """

    __array_ufunc__ = None  # of NumPy: its numbers are weights

    @checked
    def __init__(self, function: Callable[[Tensor, Any], Tensor]) -> None:
        self.function = function

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        return self.function(x_t, t)

    def __add__(self, other: Any) -> Energy:
        other = Energy(other)
        return Energy(lambda x, t: self(x, t) + other(x, t))

    def __radd__(self, other: Any) -> Energy:
        return self if other == 0 else Energy(other) + self  # with 0 sum() begins

    def __mul__(self, weight: Any) -> Energy:
        check_value("the weight of an energy", weight, float | Tensor)
        return Energy(lambda x, t: weight * self(x, t))

    __rmul__ = __mul__

    def __neg__(self) -> Energy:
        return -1 * self

    def __sub__(self, other: Any) -> Energy:
        return self + -Energy(other)

    def __truediv__(self, divisor: Any) -> Energy:
        check_value("what an energy is divided by", divisor, float | Tensor)
        return 1 / divisor * self


class Conditioned(Part):
    """A denoiser with a domain (and a conditioning image) bound: (x_t, t) -> E[x | x_t].

    `sfumato.load("FOLDER:DOMAIN")` returns one.

    Args:
        denoiser: the denoiser.
        domain: a domain's name, or None for any.
    """

    denoiser: nn.Module
    domain: str | None = None

    def on(self, image: Tensor) -> Given:
        """The same, conditioned on images (B, C, H, W) in [-1, 1]."""
        return Given(self, image)

    @property
    def process(self) -> Process:
        return self.denoiser.process  # type: ignore[return-value]

    def forward(self, x_t: Tensor, t: Tensor | float, **given: Tensor) -> Tensor:
        domain = {} if self.domain is None else {"domain": self.domain}
        return self.denoiser(x_t, t, **domain, **given)


class Given(nn.Module):
    """A conditional denoiser with its conditioning images bound; see `Conditioned.on`."""

    def __init__(self, denoiser: Conditioned, image: Tensor) -> None:
        super().__init__()
        self.denoiser, self.process, self.image = denoiser, denoiser.process, image

    def forward(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        return self.denoiser(x_t, t, image=self.image)


class Clipped(Traced, nn.Module):
    """Clips E[x | x_t] to [-1, 1].  Breaks invertibility: never for encoding."""

    @checked
    def __init__(self, denoiser: Denoises) -> None:
        super().__init__()
        self.denoiser, self.process = denoiser, process_of(denoiser)

    def forward(self, x_t: Tensor, t: Tensor | float, trace: Trace | None = None) -> Tensor:
        return ask(self.denoiser, x_t, t, trace).clamp(-1, 1)


def sampled(
    f: Denoises, like: Tensor, noise: Noise, *, steps: int, solver: Solver, spacing: Spacing,
    clip: bool = False, **how: Any,
) -> Tensor:  # fmt: skip
    """`sample`, as methods offer it: E[x | x_t] clipped or not, and Euler-Maruyama ends at t_min."""
    f, clean = Clipped(f) if clip else f, solver != "euler_maruyama"
    return sample(solver, f, like, noise, steps, spacing, clean=clean, **how)


class ClassifierFree(Traced, nn.Module):
    """mean + scale (mean - unconditional mean)  (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598).

    Args:
        denoiser: with the condition bound.
        unconditional: without it.
        scale: 0 is no guidance.
    """

    @checked
    def __init__(self, denoiser: Denoises, unconditional: Denoises, scale: float) -> None:
        super().__init__()
        self.denoiser, self.unconditional, self.scale = denoiser, unconditional, scale
        self.process = process_of(denoiser)

    def forward(self, x_t: Tensor, t: Tensor | float, trace: Trace | None = None) -> Tensor:
        mean = ask(self.denoiser, x_t, t, trace)
        if self.scale == 0:
            return mean
        push = self.scale * (mean - self.unconditional(x_t, t))
        if trace is not None:
            trace.nfe += 1  # the second evaluation
            alpha, sigma = self.process.at(t, x_t)
            trace.told["push/classifier_free"] = rms(alpha / sigma * push)
        return mean + push


def away_from_any(f: Denoises, weight: float) -> Denoises:
    """A domain's denoiser, pushed away from that of any domain by `ClassifierFree`; as it is at weight 0.

    Raises:
        UserError: it has no domain, or the weight is below 0.
    """
    if not weight:
        return f
    if not isinstance(f, Conditioned) or f.domain is None:
        raise UserError("classifier_free needs a domain to tell from any: give FOLDER:DOMAIN")
    return ClassifierFree(f, Conditioned(denoiser=f.denoiser), weight)


def away_from_none(f: Conditioned, image: Tensor, none: Conditioned, weight: float) -> Denoises:
    """A denoiser given images (B, C, H, W), pushed away from what it makes of hidden ones, see `none`."""
    hidden = none.on(torch.zeros_like(image))
    return ClassifierFree(f.on(image), hidden, weight) if weight else f.on(image)


def needs_hidden(weight: float, null: float) -> None:
    """Sees that a model that is guided by its conditions was trained with some of them hidden.

    Raises:
        UserError: it was not, or the weight is below 0.
    """
    if weight and not null:
        raise UserError(
            f"classifier_free {weight:g} needs a model that was trained without its condition, too: train "
            f"it with --drop-condition 0.1"
        )


class Guided(Traced, nn.Module):
    """score <- score - grad E: the denoiser of p_t exp(-E).

    Args:
        denoiser: (x_t, t) -> E[x | x_t].
        energy: (x_t, t) -> (B,), differentiable in x_t.
        project: applied to the gradient; keeps guidance in a subspace, see `zero_mean`.
        every: the gradient is taken anew at the level of every so many steps of a run and kept in between,
            which saves as many of the energy's evaluations. A step may ask more than once, at its own level
            and at the next one's. With a time for each image, as dopri5 asks, which chooses its steps
            itself, nothing is kept, nor without a trace.
        on: what the energy is a function of: the "sample" x_t, or the "mean" E[x | x_t], whose
            gradient then stands for that in x_t / sqrt(alpha^2 + sigma^2) (an identity Jacobian, so
            that nothing is differentiated through the denoiser).
        name: name of the energy, for those who watch.
    """

    @checked
    def __init__(
        self,
        denoiser: Denoises,
        energy: Callable[[Tensor, Any], Tensor],
        project: Callable[[Tensor], Tensor] | None = None,
        every: Count = 1,
        on: On = "sample",
        name: str = "energy",
    ) -> None:
        super().__init__()
        self.on, self.denoiser, self.energy, self.process = on, denoiser, energy, process_of(denoiser)
        self.project, self.every, self.name = project, every, name

    def forward(self, x_t: Tensor, t: Tensor | float, trace: Trace | None = None) -> Tensor:
        trace = trace or Trace()
        alpha, sigma = self.process.at(t, x_t)
        mean = ask(self.denoiser, x_t, t, trace)
        if sigma.ndim > 0 or trace.level(t) % self.every == 0:
            energy, gradient = self._lowered(x_t if self.on == "sample" else mean, t)
            size = 1 if self.on == "sample" else norm(alpha, sigma)
            trace.kept[self] = energy, gradient / size
        energy, gradient = trace.kept[self]
        trace.told[f"energy/{self.name}"] = energy
        trace.told[f"push/{self.name}"] = rms(sigma * gradient)
        return mean - sigma**2 / alpha * gradient

    def _lowered(self, x_t: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """The energy (B,), and its gradient in x_t."""
        with torch.enable_grad():
            y = x_t.detach().requires_grad_()
            energy = self.energy(y, t)
            energy = answered(energy, (len(y),), "the energy (one number an image, as by .flatten(1).sum(1))")
            (gradient,) = (
                torch.autograd.grad(energy.sum(), y, allow_unused=True) if energy.requires_grad else (None,)
            )
        if gradient is None:
            raise UserError(
                "the energy does not depend on its first argument, or has lost its gradient: compute it from "
                "that with torch functions, without detach(), no_grad() or item()"
            )
        if self.project is not None:
            gradient = answered(self.project(gradient), tuple(y.shape), "project=")
        return energy.detach(), gradient


def zero_mean(gradient: Tensor) -> Tensor:
    """Gradients (B, N, D) on N points in space without what moves them all: no drift of their centre.

    The projection of EEGSDE (Bao et al. 2023, https://arxiv.org/abs/2209.15408).
    """
    return gradient - gradient.mean(-2, keepdim=True)
