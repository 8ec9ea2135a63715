"""Chains of betas that others trained on, besides those of `sfumato.diffusion.process`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.ranges import Beta
from sfumato.diffusion.process import Chain


@dataclass(frozen=True)
class ScaledLinear(Chain):
    """The chain of latent diffusion (Rombach et al. 2022, https://arxiv.org/abs/2112.10752).

    Square roots of betas grow linearly.
    """

    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012

    def betas(self) -> Tensor:
        ends = self.beta_start**0.5, self.beta_end**0.5
        return torch.linspace(*ends, self.steps, dtype=torch.float64, device="cpu").square()


@dataclass(frozen=True)
class Betas(Chain):
    """A chain of betas that are given: as many `values` as `steps`."""

    values: tuple[Beta, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.values) != self.steps:
            raise UserError(f"a chain of {self.steps} steps has as many betas, not {len(self.values)}")

    def betas(self) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64, device="cpu")
