"""Denoisers: a network made into E[x | x_t], the common currency of every method.

With y = x_t / sqrt(alpha^2 + sigma^2), c = alpha / sqrt(...), s = sigma / sqrt(...), so that
y = c x + s z on the unit circle c^2 + s^2 = 1, the network predicts one of

    eps:  z              x0:  x              v:  c z - s x   (Salimans & Ho 2022)
    edm:  (x - c_skip x_t/alpha) / c_out     (Karras et al. 2022, table 1)

and sees y (edm: c_in x_t/alpha) and log(sigma/alpha) only.  It therefore never knows which process it
serves, and the process may be changed after training.  Conversions between the mean E[x | x_t], eps,
score and v stand in this file and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.ranges import Positive
from sfumato.diffusion.checks import floats
from sfumato.diffusion.domains import checked_labels, distinct, domain_index
from sfumato.diffusion.process import DDPM, Cosine, Process, named_process, norm
from sfumato.module import Part

Prediction = Literal["eps", "x0", "v", "edm"]
TimeLaw = Literal["uniform", "lognormal", "wide", "log_uniform", "palette"]
PALETTE = DDPM(steps=2000, beta_start=2e-6, beta_end=0.02)
"""The chain of Palette (Saharia et al. 2022, https://arxiv.org/abs/2111.05826): beta 1e-6 to 0.01."""


def eps_of(mean: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[z | x_t] = (x_t - alpha E[x | x_t]) / sigma."""
    return (x_t - alpha * mean) / sigma


def mean_of_eps(eps: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x | x_t] = (x_t - sigma eps) / alpha."""
    return (x_t - sigma * eps) / alpha


def score_of(mean: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """grad log p_t(x_t) = (alpha E[x | x_t] - x_t) / sigma^2  (Tweedie's formula)."""
    return (alpha * mean - x_t) / sigma**2


def mean_of_v(v: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x | x_t] = (alpha x_t - sigma v) / (alpha^2 + sigma^2)."""
    return (alpha * x_t - sigma * v) / (alpha**2 + sigma**2)


def answered(value: Any, shape: tuple[int | None, ...], who: str) -> Tensor:
    """What a function of the user's answered: floats of this shape, in which None is any size.

    Raises:
        UserError: it is anything else.
    """
    return floats(value, shape, f"{who} answered")


@runtime_checkable
class Denoises(Protocol):
    """Anything that answers (x_t, t) -> E[x | x_t] and names its process: all that solvers ask for."""

    @property
    def process(self) -> Process:
        """The noising process whose x_t it denoises."""

    def __call__(self, x_t: Tensor, t: Tensor | float, /) -> Tensor:
        """E[x | x_t]."""


def process_of(denoiser: Denoises) -> Process:
    """Its process.

    Raises:
        UserError: it has none, as a model of several domains, which is not a denoiser itself.
    """
    if not isinstance(denoiser.process, Process):
        raise UserError(
            f"a denoiser whose process is {denoiser.process!r}: a model of several domains is bound to "
            f"one by load('FOLDER:DOMAIN')"
        )
    return denoiser.process


@dataclass(eq=False)
class Trace:
    """What one run of a solver hands to its denoiser, and reads after each answer; see `ask`.

    Attributes:
        told: of the last answer, by name (B,): energy/NAME and push/NAME, see `integrate`.
        nfe: network evaluations so far.
        levels: the times that were asked, and how many others came before each.
        kept: what a wrapper keeps from one level to the next, by wrapper.
    """

    told: dict[str, Tensor] = field(default_factory=dict)
    nfe: int = 0
    levels: dict[float, int] = field(default_factory=dict)
    kept: dict[object, Any] = field(default_factory=dict)

    def level(self, t: Tensor | float) -> int:
        """The step that begins at t, from 0: a solver may ask at a level when it comes and when it goes."""
        return self.levels.setdefault(float(t), len(self.levels))


class Traced:
    """A wrapper, or a function after steps, that takes a `trace=` besides (x_t, t)."""


def ask(
    f: Callable[..., Any], x_t: Tensor, t: Tensor | float, trace: Trace | None,
    who: str = "the denoiser",
) -> Tensor:  # fmt: skip
    """f(x_t, t); whatever f is, and whatever it wraps, tells the trace about it.

    Raises:
        UserError: it answers no tensor like x_t.
    """
    answer = f(x_t, t, trace=trace) if isinstance(f, Traced) else f(x_t, t)
    return answered(answer, x_t.shape, who)


WIDE = -1.0, 2.0
"""Mean and standard deviation of log(sigma/alpha) where times are wide."""
LEARNING = "times", "lognormal_mean", "lognormal_std", "any_domain"
"""Fields of a denoiser that say how it learns, not what its network is."""


def drawn_times(
    law: TimeLaw, process: Process, n: int, rng: torch.Generator, mean: float = 0.0, std: float = 1.2
) -> Float[Tensor, " n"]:
    """n training times, one in each n-th of their law's mass, in any order; float64.

    Args:
        law: see `Denoiser`.
        process: whose times they are.
        n: how many.
        rng: draws them.
        mean: of log(sigma/alpha) where the law is lognormal.
        std: its standard deviation.
    """
    order = torch.randperm(n, generator=rng)  # batches hold the domains in turn
    u = (torch.rand(n, generator=rng, dtype=torch.float64) + order) / n
    lo, hi = process.t_min, process.t_max
    if law == "uniform":
        return lo + (hi - lo) * u
    if law == "log_uniform":
        ends = process.log_snr(torch.tensor([lo, hi], dtype=torch.float64))
        return process.time(ends[0] + (ends[1] - ends[0]) * u).clamp(lo, hi)
    if law == "palette":
        level = 1 + u * (PALETTE.steps - 1)
        ends = torch.stack([PALETTE(at / PALETTE.steps)[0] ** 2 for at in (level.floor(), level.ceil())])
        gamma = ends[0].lerp(ends[1], level.frac())
        return process.time(gamma.logit()).clamp(lo, hi)
    mean, std = WIDE if law == "wide" else (mean, std)
    log_sigma = mean + std * math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-1 + 1e-12, 1 - 1e-12))
    return process.time(-2 * log_sigma).clamp(lo, hi)


def predicted(net: nn.Module, x: Tensor, sig: Tensor, label: Tensor | None, image: Tensor | None) -> Tensor:
    """What a network says of its input x (B, ...), the noise sig = sigma/alpha, and an image beside x.

    Raises:
        UserError: they do not have the network's channels, or lie on another device.
    """
    given = {"channels": x} | ({} if image is None else {"conditioning": image})
    for name, one in given.items():
        wanted = getattr(net, name, None)
        if wanted is not None and (one.ndim != 4 or one.shape[1] != wanted):
            raise UserError(
                f"this network takes a batch (B, {wanted}, H, W), not a tensor of shape {tuple(one.shape)}"
            )
    if image is not None:
        x = torch.cat([x, image], dim=1)  # the one order: noisy first, then conditioning
    weight = next(net.parameters(), x)
    if weight.device != x.device and not getattr(net, "anywhere", False):
        raise UserError(f"the network is on {weight.device}, x_t on {x.device}: move one by .to('cpu')")
    own = weight.dtype  # a network may have another type than the state
    noise = sig.log().flatten()
    if len(noise) == 1:  # a number of the CPU: filling does not wait for the device
        noise = x.new_full((len(x),), noise.item())
    answer: Tensor = net(x.to(own), noise, label)
    return answer.to(x.dtype)


class Denoiser(Part):
    """(x_t, t, domain=, image=) -> E[x | x_t].

    Args:
        net: maps (input, log(sigma/alpha), label) to a prediction of the image's shape. With a
            conditioning image the input's channels are cat(noisy, conditioning), in this order.
        process: the noising process.
        prediction: what the network predicts: eps, x0, v or edm.
        times: law of t in [t_min, t_max] in training: uniform, lognormal in sigma/alpha, wide: lognormal
            with mean and deviation of `WIDE`, so that little noise is learned, too,
            log_uniform: log(sigma/alpha) uniform, which spends most on little noise; or palette:
            gamma = alpha^2 uniform between neighbouring levels of Palette's chain, all levels alike.
        lognormal_mean: mean of log(sigma/alpha) when times is lognormal.
        lognormal_std: its standard deviation.
        sigma_data: standard deviation of the data, used by edm only.
        domains: names of the domains the network knows by label; empty for a model without labels.
        any_domain: whether the network has seen pictures whose domain was hidden, and so knows "any domain".
    """

    generators_at: ClassVar[tuple[str, ...]] = ("net",)

    net: nn.Module
    process: Process = Cosine()
    prediction: Prediction = "v"
    times: TimeLaw = "lognormal"
    lognormal_mean: float = 0.0
    lognormal_std: Positive = 1.2
    sigma_data: Positive = 0.5
    domains: tuple[str, ...] = ()
    any_domain: bool = True

    def __post_init__(self) -> None:
        self.process, self.domains = named_process(self.process), distinct(self.domains)

    def forward(
        self,
        x_t: Float[Tensor, "b ..."],
        t: Tensor | float,
        domain: str | Tensor | None = None,
        image: Float[Tensor, "b ..."] | None = None,
    ) -> Float[Tensor, "b ..."]:
        """E[x | x_t] for noisy images x_t (B, ...) at time t (a number or (B,)).

        Args:
            x_t: noisy images.
            t: time in [0, 1]; outside the process's [t_min, t_max] the answer is that at the nearest end.
            domain: a domain's name, labels (B,) that index `domains`, or None for any domain.
            image: conditioning images in [-1, 1], spatially of x_t's size.

        Raises:
            UserError: one of them is of another kind, shape or range, or the domain is not known.
        """
        alpha, sigma = self.process.seen(t, x_t)
        out = self._predict(x_t, alpha, sigma, self._label(domain, x_t), image)
        if self.prediction == "edm":
            c_skip, c_out, _ = self._edm(sigma / alpha)
            return c_skip * x_t / alpha + c_out * out
        size = norm(alpha, sigma)
        y, c, s = x_t / size, alpha / size, sigma / size
        if self.prediction == "eps":
            return mean_of_eps(out, y, c, s)
        return out if self.prediction == "x0" else mean_of_v(out, y, c, s)

    def loss(
        self,
        x: Float[Tensor, "b ..."],
        t: Float[Tensor, " b"],
        z: Float[Tensor, "b ..."],
        domain: str | Tensor | None = None,
        image: Float[Tensor, "b ..."] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean squared error of the network's prediction on x_t = alpha x + sigma z.

        For eps this is the score-matching loss with lambda(t) = sigma^2: mean |sigma score + z|^2.
        """
        alpha, sigma = self.process.seen(t, x)
        z = floats(z, x.shape, "z, the noise of x, is")
        out = self._predict(alpha * x + sigma * z, alpha, sigma, self._label(domain, x), image)
        if self.prediction == "edm":
            c_skip, c_out, _ = self._edm(sigma / alpha)
            target = (x - c_skip * (x + sigma / alpha * z)) / c_out
        else:
            v = (alpha * z - sigma * x) / norm(alpha, sigma)
            target = {"eps": z, "x0": x, "v": v}[self.prediction]
        return (out - target).square().mean()

    def draw_times(self, n: int, rng: torch.Generator) -> Float[Tensor, " n"]:
        """n training times, see `drawn_times`."""
        return drawn_times(self.times, self.process, n, rng, self.lognormal_mean, self.lognormal_std)

    def _predict(
        self, x_t: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None, image: Tensor | None
    ) -> Tensor:
        if self.prediction == "edm":
            x = self._edm(sigma / alpha)[2] * x_t / alpha
        else:
            x = x_t / norm(alpha, sigma)
        return predicted(self.net, x, sigma / alpha, label, image)

    def _edm(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in) of Karras et al. 2022, for sigma relative to alpha = 1."""
        total = (sigma**2 + self.sigma_data**2).sqrt()
        return self.sigma_data**2 / total**2, sigma * self.sigma_data / total, 1 / total

    def _label(self, domain: str | Tensor | None, x: Tensor) -> Tensor | None:
        """Labels (B,); the label after the last domain means "any domain"."""
        if not self.domains:
            if isinstance(domain, str):
                raise UserError(f"the model has no domains, {domain!r} was asked for")
            return None
        if isinstance(domain, Tensor):
            return checked_labels(domain, len(x), len(self.domains)).to(x.device)
        if domain is None and not self.any_domain:
            raise UserError(
                "the model does not know any domain, only each: train it with --any-domain 0.1, or ask for "
                "a domain (classifier_free 0, prior domain)"
            )
        index = len(self.domains) if domain is None else domain_index(domain, self.domains)
        return torch.full((len(x),), index, device=x.device)
