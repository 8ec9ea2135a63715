"""Energies: what guidance lowers.  Each is a function of the sample y, the noised source x and t -> (B,).

`against` binds the source and makes an `Energy` of it, of which sums and multiples are energies again:

    2 * against(low_pass_distance(LowPass(4)), reference) + 500 * against(similarity(f), reference)

One's own is any such function that is differentiable in y, as `edges` makes; in `ENERGIES` it has a name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution
from torch.nn import functional as F

from sfumato.core.errors import UserError, choose
from sfumato.core.ranges import OneOf
from sfumato.core.terminal import an
from sfumato.diffusion.denoiser import Denoises, Trace, Traced, answered
from sfumato.diffusion.guidance import Energy, Guided, On
from sfumato.diffusion.integrate import Draw
from sfumato.diffusion.low_pass import LowPass
from sfumato.diffusion.process import Process
from sfumato.diffusion.stability import spent, stable_weight, warn_unstable

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

    Within an adaptive step, which asks with a time for each image, the draw stays.

    Args:
        process: the noising process.
        source: images (B, ...).
        draw: of the noise, anew for each level; see `shared`.
    """

    def __init__(self, process: Process, source: Tensor, draw: Draw) -> None:
        self.process, self.source, self.draw = process, source, draw
        self._now: tuple[float, Tensor] | None = None

    def shared(self, draw: Draw) -> Draw:
        """The same draw; each time it is asked, its z becomes the noise of every level."""

        def tell(like: Tensor) -> Tensor:
            z = draw(like)
            self.draw, self._now = (lambda like: z), None
            return z

        return tell

    def noise(self, t: Tensor | float) -> Tensor:
        """z of x_t = alpha x_0 + sigma z; the terms of one step see the same one."""
        level = torch.as_tensor(t)
        if self._now is None or (level.ndim == 0 and self._now[0] != float(level)):
            self._now = float(level.max()), self.draw(self.source)
        return self._now[1]

    def __call__(self, t: Tensor | float) -> Tensor:
        """x_t for a time t, or one for each image (B,)."""
        return self.process.perturb(self.source, t, self.noise(t))


def against(function: Compares, reference: Reference) -> Energy:
    """The energy y -> function(y, x_t, t) with x_t the noised source."""
    return Energy(lambda y, t: function(y, reference(t), t))


def low_pass_distance(phi: LowPass, process: Process) -> Compares:
    """|phi(y) - phi(x)|^2, summed over channels and pixels (EGSDE's -S_i, domain-independent).

    y and x are taken in variance-preserving coordinates, those of the paper, whatever the process.
    """
    return lambda y, x, t: phi(process.preserving(y - x, t)).square().flatten(1).sum(1)


def high_pass_distance(phi: LowPass, process: Process) -> Compares:
    """|(1 - phi)(y - x)|^2, summed over channels and pixels: keeps what the low-pass leaves out."""

    def distance(y: Tensor, x: Tensor, t: Tensor) -> Float[Tensor, " b"]:
        d = process.preserving(y - x, t)
        return (d - phi(d)).square().flatten(1).sum(1)

    return distance


def similarity(features: Callable[[Tensor, Tensor], Tensor]) -> Compares:
    """Cosine of y's and x's features at each position, mean over positions (EGSDE's S_s).

    For features of a classifier it says how much they look of one domain. With unit vectors
    u and v the cosine is 1 - |u - v|^2 / 2, whose gradient is zero to the bit where u = v.

    Args:
        features: (x_t, t) -> (B, C, h, w).
    """

    def cosine(y: Tensor, x: Tensor, t: Tensor) -> Float[Tensor, " b"]:
        maps = [answered(features(z, t), (len(z), None, None, None), "features") for z in (y, x.detach())]
        u, v = (F.normalize(m, dim=1, eps=1e-10) for m in maps)
        return 1 - (u - v.detach()).square().sum(1).flatten(1).mean(1) / 2

    return cosine


def surprise(model: Callable[[Tensor, Tensor], Distribution], y: Tensor) -> Energy:
    """-log p_t(y | x_t), so that guidance by it samples x given y (Song et al. 2021, eq. 14).

    Args:
        model: (x_t, t) -> the distribution of y given x_t: a `Categorical` of classes, a
            `Normal` about a regression, or any other with batch first.
        y: what was observed, (B, ...).
    """
    return Energy(lambda x_t, t: -model(x_t, t).log_prob(y.to(x_t.device)).reshape(len(x_t), -1).sum(1))


def domain_surprise(classifier: Classifies, domain: int) -> Energy:
    """-log p_t(domain | x_t): classifier guidance (Dhariwal & Nichol 2021)."""
    return surprise(
        lambda x, t: Categorical(logits=logits_of(classifier, x, t), validate_args=False),
        torch.tensor(domain),
    )


def logits_of(classifier: Classifies, x_t: Tensor, t: Tensor | float) -> Tensor:
    """The classifier's logits (B, N), one for each of its domains."""
    return answered(classifier(x_t, t), (len(x_t), len(classifier.domains)), "the classifier")


def by_variance(energy: Energy, process: Process, times: Tensor) -> Energy:
    """The energy, so that an ancestral step adds its variance times the gradient.

    It adds alpha_s (1 - k) sigma_t^2 / alpha_t of it, with the variance sigma_s^2 (1 - k): hence the
    factor sigma_s^2 alpha_t / (alpha_s sigma_t^2), 0 in the step to clean (Dhariwal & Nichol 2021,
    algorithm 1). Each time's factor is that of the step from it: for the solver ancestral only.
    """
    half = process.log_snr(times) / 2  # log alpha / sigma
    _, sigma = process(times)
    factors = (half[:-1] - half[1:]).exp() * sigma[1:] / sigma[:-1]
    known = dict(zip(times[:-1].tolist(), factors.tolist(), strict=True))
    return Energy(lambda x, t: known[float(t)] * energy(x, t))


def edges(process: Process) -> Compares:
    """Distance of neighbouring pixels' differences: keeps where the source changes, not its colours."""

    def gradient(z: Tensor, t: Tensor) -> Tensor:
        z = process.preserving(z, t)
        right, down = z.diff(dim=-1), z.diff(dim=-2)
        return torch.cat([right.flatten(1), down.flatten(1)], dim=1)

    return lambda y, x, t: (gradient(y, t) - gradient(x, t)).square().sum(1)


ENERGIES: dict[str, Callable[[LowPass, Process], Compares]] = {
    "edges": lambda phi, process: edges(process),
    "high_pass": high_pass_distance,
}
"""Energies by name, of a low-pass and a process."""
EnergyName = Annotated[str, OneOf(tuple(ENERGIES))]


def named(energy: EnergyName | Compares, phi: LowPass, process: Process) -> Compares:
    """An energy by its name; one's own as it is."""
    if not isinstance(energy, str):
        return energy
    return ENERGIES[choose("energy", energy, ENERGIES)](phi, process)


STEEPEST = {"edges": 8.0, "high_pass": 1.0}
"""Of the energies by name, |A (y - x)|^2 in variance-preserving coordinates, the norm of A^T A."""


def weighed(energy: EnergyName | Compares, weight: float | None, process: Process, times: Tensor) -> float:
    """The weight of an energy; warns of one that is too large for the steps of an energy of `ENERGIES`.

    None is half of what is stable there, at which differences that change most from pixel to pixel end
    in the largest step and nothing overshoots, and at most 1; of one's own energy it is 1.
    """
    if not isinstance(energy, str):
        return 1.0 if weight is None else weight
    most = stable_weight(process, times) / STEEPEST[energy]
    if weight is None:
        return min(1.0, most / 2)
    warn_unstable(f"the weight {weight:g} of {energy}", weight, most, times, "a smaller one")
    return weight


def masked(function: Compares, mask: Tensor) -> Compares:
    """`function` of what the mask (1 inside, 0 outside; broadcasts against images) lets through."""
    return lambda y, x, t: function(y * mask.to(y), x * mask.to(x), t)


def pushed(phi: LowPass, weight: float, reference: Reference, times: Tensor) -> Energy:
    """weight * `low_pass_distance`, as a gradient; warns of a weight that is too large for the steps."""
    most = stable_weight(reference.process, times)
    warn_unstable(f"faithful {weight:g}", weight, most, times, "low_pass exponential")
    return weight * against(low_pass_distance(phi, reference.process), reference)


class Pulled(Traced):
    """What weight * `low_pass_distance` does to y between two times, exactly; for `integrate`'s after.

    With B(t) = `spent`, d = y - x_s flows by dd = -2 weight phi^2 d dB: stable at any weight.
    """

    def __init__(self, phi: LowPass, weight: float, reference: Reference, times: Tensor) -> None:
        levels = -spent(reference.process, times).diff()
        self.levels = dict(zip(times[1:].tolist(), levels, strict=True))
        self.phi, self.weight, self.reference = phi, weight, reference
        self.energy = weight * against(low_pass_distance(phi, reference.process), reference)

    def __call__(self, y: Tensor, s: Tensor, trace: Trace | None = None) -> Tensor:
        rate = 2 * self.weight * float(self.levels.get(s.item(), 0.0))  # 0 at the start
        if not rate:
            return y
        if trace is not None:
            trace.told["energy/faithful"] = self.energy(y, s)
        return y - self.phi.relax(y - self.reference(s), rate)


def strong_weight(
    energy: Energy, denoiser: Denoises, x_t: Tensor, t: Tensor | float, on: On = "sample"
) -> float:
    """The weight at which the energy moves eps at x_t by 1 (root mean square), as much as eps is."""
    Guided(denoiser, energy, on=on)(x_t, t, trace := Trace())
    push = float(trace.told["push/energy"].square().mean().sqrt())
    return 1 / push if push > 0 else float("inf")


class Terms(dict[str, tuple[float, float, Energy, On]]):
    """Weighted energies: by each option's name its value, the weight that it means, energy and `on`."""

    def guide(self, denoiser: Denoises, every: int) -> Denoises:
        """The denoiser, guided by each in turn."""
        for name, (_, weight, energy, on) in self.items():
            denoiser = Guided(denoiser, weight * energy, every=every, on=on, name=name)
        return denoiser

    def bounds(self, denoiser: Denoises, x_t: Tensor, t: Tensor) -> dict[str, tuple[float, float]]:
        """Of each option its value, and that which is a `strong_weight` at x_t."""
        return {
            name: (value, value / weight * strong_weight(energy, denoiser, x_t, t, on))
            for name, (value, weight, energy, on) in self.items()
        }


def check_classifier(classifier: object, target: Denoises) -> Classifies:
    """The classifier, if it can guide the target's denoiser.

    Raises:
        UserError: if it is none, of another process, or does not know the target's domain.
    """
    if not isinstance(classifier, Classifies):
        raise UserError(
            f"{an(type(classifier).__name__)} does not classify noisy images; make a classifier by "
            f"`sfumato train domain_classifier`"
        )
    if classifier.process != target.process:
        raise UserError(
            f"the classifier was trained with {classifier.process}, the target with "
            f"{target.process}; train it with --process {type(target.process).__name__.lower()}"
        )
    domain = getattr(target, "domain", None)
    if domain is not None and domain not in classifier.domains:
        raise UserError(
            f"the classifier knows {', '.join(classifier.domains)}, not the target's domain "
            f"{domain!r}; train it on folders of the same names"
        )
    return classifier
