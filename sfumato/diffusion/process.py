"""Noising processes: x_t = alpha(t) x + sigma(t) z,  z ~ N(0, I),  t in [0, 1].

t = 0 is clean (alpha = 1, sigma = 0); noise grows with t.  sigma is a standard deviation, always.
The signal-to-noise ratio is alpha^2 / sigma^2, and `log_snr` is its natural logarithm.
As an SDE the same process reads  dx = f(t) x dt + g(t) dw  with (`Process.sde`)

    f = d log(alpha) / dt,        g^2 = d(sigma^2) / dt - 2 f sigma^2.

Every process names the times [t_min, t_max] between which a denoiser is trained and solvers step.
References: Song et al. 2021 (https://arxiv.org/abs/2011.13456), Ho et al. 2020
(https://arxiv.org/abs/2006.11239), Liu et al. 2022 (https://arxiv.org/abs/2209.03003).
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from sfumato.core.arguments import check_value, described
from sfumato.core.errors import UserError, choose
from sfumato.core.ranges import BelowOne, Count, NotNegative, Positive, Time
from sfumato.diffusion.checks import as_times, floats, numbers
from sfumato.module import Described


def norm(alpha: Tensor, sigma: Tensor) -> Tensor:
    """sqrt(alpha^2 + sigma^2): 1 where the process preserves the variance."""
    return (alpha**2 + sigma**2).sqrt()


def spread(levels: Callable[[Tensor], tuple[Tensor, ...]], t: Tensor | float, x: Tensor) -> list[Tensor]:
    """Levels at the times `t` in x's type, shaped to broadcast against x of shape (B, ...).

    Times are numbers of the CPU, and so are the levels of a single one: the device is asked nothing,
    and need not know float64.

    Raises:
        UserError: x is no batch of floats, or `t` neither a time in [0, 1] nor one for each image.
    """
    if not (isinstance(x, Tensor) and x.is_floating_point() and x.ndim):
        kind = f" of {x.dtype}" if isinstance(x, Tensor) else ""
        raise UserError(f"expected a tensor (B, ...) of floats, not {described(x)}{kind}: x.float()?")
    t = as_times(t, "cpu")
    if t.numel() not in (1, len(x)):
        raise UserError(f"times must be one, or one for each of {len(x)}, not {t.numel()}")
    found = [level.to(x.dtype) for level in levels(t)]
    return [v.to(x.device).reshape(-1, *[1] * (x.ndim - 1)) for v in found] if t.ndim else found


@dataclass(frozen=True)
class Process(Described, abc.ABC):
    """t -> (alpha, sigma).  Frozen: a value, not a state.  Arithmetic is float64.

    Raises:
        UserError: made with numbers by which noise does not grow; asked at times outside [0, 1].
    """

    def __post_init__(self) -> None:
        if self.t_min >= self.t_max:
            raise UserError(f"t_min must be below t_max, not {self.t_min:g} and {self.t_max:g}")

    @property
    @abc.abstractmethod
    def t_min(self) -> float:
        """The smallest time a solver steps to, apart from t = 0 (clean) itself."""

    @property
    @abc.abstractmethod
    def t_max(self) -> float:
        """The time at which sampling starts: almost pure noise."""

    @abc.abstractmethod
    def __call__(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at the times `t` in [0, 1], float64, of t's shape."""

    @abc.abstractmethod
    def time(self, log_snr: Tensor | float) -> Tensor:
        """The inverse of `log_snr`: the time at which log(alpha^2 / sigma^2) has this value."""

    def log_snr(self, t: Tensor | float) -> Tensor:
        """log(alpha^2 / sigma^2) at the times `t`; decreasing in t."""
        alpha, sigma = self(t)
        return 2 * (alpha / sigma).log()

    def at(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) in x's type, shaped to broadcast against x of shape (B, ...); see `spread`."""
        alpha, sigma = spread(self, t, x)
        return alpha, sigma

    def seen(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor]:
        """`at` of what a network is asked, which knows times in [t_min, t_max]: at the nearest one."""
        return self.at(as_times(t, "cpu").clamp(self.t_min, self.t_max), x)

    def perturb(self, x: Float[Tensor, "b ..."], t: Tensor | float, z: Tensor) -> Float[Tensor, "b ..."]:
        """x_t = alpha x + sigma z for images x in [-1, 1] and standard normal z of the same shape."""
        alpha, sigma = self.at(t, x)
        return alpha * x + sigma * floats(z, x.shape, "z, the noise of x, is")

    def preserving(self, x_t: Float[Tensor, "b ..."], t: Tensor | float) -> Float[Tensor, "b ..."]:
        """x_t in variance-preserving coordinates: over sqrt(alpha^2 + sigma^2)."""
        return x_t / norm(*self.at(t, x_t))

    def sde(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(f, g^2) of the forward SDE dx = f x dt + g dw (Song et al. 2021, eq. 5), float64."""
        with torch.inference_mode(False), torch.enable_grad():  # a process is elementwise: backward is d/dt
            t = as_times(t).detach().clone().requires_grad_()
            alpha, sigma = self(t)
            d_alpha, d_sigma = (  # one of them may be constant
                torch.autograd.grad((v + 0 * t).sum(), t, retain_graph=True)[0] for v in (alpha, sigma)
            )
        alpha, sigma = alpha.detach(), sigma.detach()
        f = d_alpha / alpha
        return f, 2 * sigma * (d_sigma - f * sigma)


@dataclass(frozen=True)
class VP(Process):
    """Variance preserving, linear beta: alpha^2 = exp(-B), B = beta_min t + (beta_max - beta_min) t^2/2.

    The score-SDE of Song et al. 2021, eq. 33, and of the paired translator.
    """

    beta_min: NotNegative = 0.1
    beta_max: Positive = 20.0
    t_min: Time = 1e-3
    t_max: Time = 1.0

    def __call__(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = as_times(t)
        B = self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2
        return (-B / 2).exp(), (-torch.expm1(-B)).sqrt()

    def time(self, log_snr: Tensor | float) -> Tensor:
        return self.time_of(softplus(-numbers(log_snr)))  # alpha^2 = sigmoid(log_snr) = exp(-B)

    def time_of(self, B: Tensor) -> Tensor:
        """The times at which -log(alpha^2) is B."""
        slope = self.beta_max - self.beta_min
        return 2 * B / (self.beta_min + (self.beta_min**2 + 2 * slope * B).sqrt())


@dataclass(frozen=True)
class Chain(Process):
    """A discrete chain: level k = 0..T at time k/T, alpha^2 = prod_{i<=k} (1 - beta_i).

    Level 0 is clean, level k uses the first k betas (a network trained on 0-based indices knows
    level k as index k - 1).  Between levels log(alpha) is linear in t.
    """

    steps: Count = 1000

    @property
    def t_min(self) -> float:
        return 1 / self.steps

    @property
    def t_max(self) -> float:
        return 1.0

    @abc.abstractmethod
    def betas(self) -> Tensor:
        """beta_1 .. beta_T, float64 on the CPU."""

    @functools.lru_cache(maxsize=32)  # noqa: B019  # a chain is a value, and asked at every step
    @torch.inference_mode(False)  # so that any later step can be differentiated
    def exponents(self) -> Tensor:
        """B = -log(alpha^2) at levels 0..T, float64 on the CPU."""
        clean = torch.zeros(1, dtype=torch.float64, device="cpu")
        return torch.cat([clean, -torch.log1p(-self.betas()).cumsum(0)])

    def __call__(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        level = as_times(t) * self.steps
        below = level.detach().floor().clamp(0, self.steps - 1).long()
        table = self.exponents().to(level.device)
        B = table[below] + (level - below) * (table[below + 1] - table[below])
        return (-B / 2).exp(), (-torch.expm1(-B)).sqrt()

    def time(self, log_snr: Tensor | float) -> Tensor:
        B = softplus(-numbers(log_snr))
        return level_of(B, self.exponents().to(B.device)) / self.steps


def level_of(B: Tensor, table: Tensor) -> Tensor:
    """The levels of a chain, with fractions, at which -log(alpha^2) is B, by its table of them."""
    below = (torch.searchsorted(table, B.contiguous()) - 1).clamp(0, len(table) - 2)
    return below + (B - table[below]) / (table[below + 1] - table[below])


@dataclass(frozen=True)
class DDPM(Chain):
    """The chain of Ho et al. 2020: betas grow linearly.

    For T other than 1000 they are scaled by 1000/T (Nichol & Dhariwal 2021).
    """

    beta_start: Positive = 1e-4
    beta_end: Positive = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if (largest := max(self.beta_start, self.beta_end) * 1000 / self.steps) >= 1:
            raise UserError(
                f"the betas of a chain of {self.steps} reach {largest:g}, scaled by 1000/steps: expected "
                f"below 1, as by a smaller beta_end; for a solver of few steps grid(DDPM(), {self.steps})"
            )

    def betas(self) -> Tensor:
        scale = 1000 / self.steps
        return torch.linspace(
            scale * self.beta_start, scale * self.beta_end, self.steps, dtype=torch.float64, device="cpu"
        )


@dataclass(frozen=True)
class IDDPM(Chain):
    """The cosine chain of Nichol & Dhariwal 2021 (https://arxiv.org/abs/2102.09672, eq. 17).

    alpha^2 is cos(pi/2 (t + 0.008) / 1.008)^2 over its value at 0, with betas up to 0.999.  At t_max
    sigma/alpha is 164, about as at `DDPM`'s end: beyond, a prediction of the noise says nothing of the image.
    """

    t_max: Time = 255 / 256

    def betas(self) -> Tensor:
        t = torch.arange(self.steps + 1, dtype=torch.float64, device="cpu") / self.steps
        squares = ((t + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        return (1 - squares[1:] / squares[:-1]).clamp(max=0.999)


@dataclass(frozen=True)
class Cosine(Process):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): uniform in angle.

    sigma/alpha from 0.005 to 40.
    """

    t_min: Time = 0.0032
    t_max: Time = 0.984

    def __call__(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        angle = as_times(t) * (math.pi / 2)
        return angle.cos(), angle.sin()

    def time(self, log_snr: Tensor | float) -> Tensor:
        return (-numbers(log_snr) / 2).exp().atan() * (2 / math.pi)


@dataclass(frozen=True)
class VE(Process):
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t for t > 0."""

    sigma_min: Positive = 0.005
    sigma_max: Positive = 80.0
    t_min: Time = 1e-5
    t_max: Time = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min >= self.sigma_max:
            raise UserError(f"sigma_min must be below sigma_max, not {self.sigma_min:g}")

    def __call__(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = as_times(t)
        sigma = self.sigma_min * (t * math.log(self.sigma_max / self.sigma_min)).exp()
        return torch.ones_like(t), torch.where(t > 0, sigma, torch.zeros_like(t))

    def time(self, log_snr: Tensor | float) -> Tensor:
        log_sigma = -numbers(log_snr) / 2
        return (log_sigma - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class Flow(Process):
    """Rectified flow: alpha = 1 - t, sigma = t, straight lines from image to noise."""

    t_min: Time = 0.005
    t_max: BelowOne = 0.976

    def __call__(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = as_times(t)
        return 1 - t, t

    def time(self, log_snr: Tensor | float) -> Tensor:
        return torch.sigmoid(-numbers(log_snr) / 2)


PROCESSES: dict[str, type[Process]] = {
    "vp": VP, "ddpm": DDPM, "iddpm": IDDPM, "cosine": Cosine, "ve": VE, "flow": Flow,
}  # fmt: skip


def named_process(process: Any) -> Process:
    """The process of this name with its defaults; processes are returned as they are.

    Raises:
        UserError: it is neither.
    """
    if isinstance(process, str):
        return PROCESSES[choose("process", process, PROCESSES)]()
    if isinstance(process, type):
        raise UserError(f"process must be a process, not its class: type {process.__name__}()")
    check_value("process", process, Process)
    return process
