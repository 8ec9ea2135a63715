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
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from sfumato.core.errors import choose
from sfumato.module import Described


def norm(alpha: Tensor, sigma: Tensor) -> Tensor:
    """sqrt(alpha^2 + sigma^2): 1 where the process preserves the variance."""
    return (alpha**2 + sigma**2).sqrt()


@dataclass(frozen=True)
class Process(Described, abc.ABC):
    """t -> (alpha, sigma).  Frozen: a value, not a state.  Arithmetic is float64."""

    @property
    @abc.abstractmethod
    def t_min(self) -> float:
        """The smallest time a solver steps to, apart from t = 0 (clean) itself."""

    @property
    @abc.abstractmethod
    def t_max(self) -> float:
        """The time at which sampling starts: almost pure noise."""

    @abc.abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at the times `t`, float64, of t's shape."""

    @abc.abstractmethod
    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`: the time at which log(alpha^2 / sigma^2) has this value."""

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2) at the times `t`; decreasing in t."""
        alpha, sigma = self(t.double())
        return 2 * (alpha / sigma).log()

    def at(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) in x's type, shaped to broadcast against x of shape (B, ...).

        Times are numbers of the CPU, and so are the levels of a single one: the device is asked nothing,
        and need not know float64.
        """
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        levels = [level.to(x.dtype) for level in self(t)]
        if not t.ndim:
            return levels[0], levels[1]
        alpha, sigma = (v.to(x.device).reshape(-1, *[1] * (x.ndim - 1)) for v in levels)
        return alpha, sigma

    def perturb(
        self, x: Float[Tensor, "b ..."], t: Tensor | float, z: Float[Tensor, "b ..."]
    ) -> Float[Tensor, "b ..."]:
        """x_t = alpha x + sigma z for images x in [-1, 1] and standard normal z of the same shape."""
        alpha, sigma = self.at(t, x)
        return alpha * x + sigma * z

    def preserving(self, x_t: Float[Tensor, "b ..."], t: Tensor | float) -> Float[Tensor, "b ..."]:
        """x_t in variance-preserving coordinates: over sqrt(alpha^2 + sigma^2)."""
        return x_t / norm(*self.at(t, x_t))

    def sde(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(f, g^2) of the forward SDE dx = f x dt + g dw (Song et al. 2021, eq. 5), float64."""
        t = t.double()
        (alpha, sigma), (d_alpha, d_sigma) = torch.func.jvp(self, (t,), (torch.ones_like(t),))  # type: ignore[misc]
        f = d_alpha / alpha
        return f, 2 * sigma * (d_sigma - f * sigma)


@dataclass(frozen=True)
class VP(Process):
    """Variance preserving, linear beta: alpha^2 = exp(-B), B = beta_min t + (beta_max - beta_min) t^2/2.

    The score-SDE of Song et al. 2021, eq. 33, and of the paired translator.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.double()
        B = self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2
        return (-B / 2).exp(), (-torch.expm1(-B)).sqrt()

    def time(self, log_snr: Tensor) -> Tensor:
        B = softplus(-log_snr.double())  # alpha^2 = sigmoid(log_snr) = exp(-B)
        slope = self.beta_max - self.beta_min
        return 2 * B / (self.beta_min + (self.beta_min**2 + 2 * slope * B).sqrt())


@dataclass(frozen=True)
class DDPM(Process):
    """The discrete chain of Ho et al. 2020: level k = 0..T at time k/T, alpha^2 = prod_{i<=k} (1 - beta_i).

    Level 0 is clean, level k uses the first k betas (a network trained on 0-based indices knows
    level k as index k - 1).  Between levels log(alpha) is linear in t.  For T other than 1000 the
    betas are scaled by 1000/T ("improved" schedule, Nichol & Dhariwal 2021).
    """

    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    @property
    def t_min(self) -> float:
        return 1 / self.steps

    @property
    def t_max(self) -> float:
        return 1.0

    def _B(self) -> Tensor:
        """-log(alpha^2) at levels 0..T."""
        scale = 1000 / self.steps
        betas = torch.linspace(
            scale * self.beta_start, scale * self.beta_end, self.steps, dtype=torch.float64
        )
        return torch.cat([torch.zeros(1, dtype=torch.float64), -torch.log1p(-betas).cumsum(0)])

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        level = t.double() * self.steps
        below = level.detach().floor().clamp(0, self.steps - 1).long()
        table = self._B().to(level.device)
        B = table[below] + (level - below) * (table[below + 1] - table[below])
        return (-B / 2).exp(), (-torch.expm1(-B)).sqrt()

    def time(self, log_snr: Tensor) -> Tensor:
        B, table = softplus(-log_snr.double()), self._B().to(log_snr.device)
        below = (torch.searchsorted(table, B.contiguous()) - 1).clamp(0, self.steps - 1)
        return (below + (B - table[below]) / (table[below + 1] - table[below])) / self.steps


@dataclass(frozen=True)
class Cosine(Process):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): uniform in angle.

    sigma/alpha from 0.005 to 40.
    """

    t_min: float = 0.0032
    t_max: float = 0.984

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = t.double() * (math.pi / 2)
        return angle.cos(), angle.sin()

    def time(self, log_snr: Tensor) -> Tensor:
        return (-log_snr.double() / 2).exp().atan() * (2 / math.pi)


@dataclass(frozen=True)
class VE(Process):
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t for t > 0."""

    sigma_min: float = 0.005
    sigma_max: float = 80.0
    t_min: float = 1e-5
    t_max: float = 1.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.double()
        sigma = self.sigma_min * (t * math.log(self.sigma_max / self.sigma_min)).exp()
        return torch.ones_like(t), torch.where(t > 0, sigma, torch.zeros_like(t))

    def time(self, log_snr: Tensor) -> Tensor:
        log_sigma = -log_snr.double() / 2
        return (log_sigma - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class Flow(Process):
    """Rectified flow: alpha = 1 - t, sigma = t, straight lines from image to noise."""

    t_min: float = 0.005
    t_max: float = 0.976

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.double()
        return 1 - t, t

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr.double() / 2)


PROCESSES: dict[str, type[Process]] = {
    "vp": VP, "ddpm": DDPM, "cosine": Cosine, "ve": VE, "flow": Flow,
}  # fmt: skip


def named_process(process: str | Process) -> Process:
    """The process of this name with its defaults; processes are returned as they are."""
    return PROCESSES[choose("process", process, PROCESSES)]() if isinstance(process, str) else process
