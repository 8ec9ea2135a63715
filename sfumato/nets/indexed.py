"""Networks that were told the number of a chain's level, as networks that are told log(sigma/alpha)."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from sfumato.diffusion.process import DDPM, Chain, level_of
from sfumato.module import Part

NEAR = 0.01
"""Numbers this close to a whole one are that one: float32 does not know log(sigma/alpha) any better."""


@runtime_checkable
class Pools(Protocol):
    """An encoder that has its own way to make a vector of its features, or None."""

    def pooling(self) -> nn.Module | None:
        """(B, C, h, w) -> (B, C)."""


class Indexed(Part):
    """(x (B,C,H,W), log(sigma/alpha) (B,), labels (B,) or None) -> (B,C,H,W), or what the network answers.

    Level k + 1 of a chain is number k = 0..T-1 to a network that was trained on it.  Between levels numbers
    have fractions, beyond the ends they are those of the ends.

    Args:
        net: (x, numbers (B,), labels or None) -> prediction.
        chain: whose levels it was trained on.
        rescaled: it was told k 1000/T, as Nichol & Dhariwal 2021 do for T other than 1000.
    """

    net: nn.Module
    chain: Chain = DDPM()
    rescaled: bool = False

    def __post_init__(self) -> None:
        self.channels, self.features = (getattr(self.net, n, None) for n in ("channels", "features"))
        self._exponents = self.chain.exponents().float()

    def forward(
        self, x: Float[Tensor, "b c h w"], log_sigma: Float[Tensor, " b"], label: Tensor | None = None
    ) -> Float[Tensor, "b features height width"]:
        return self.net(x, self.numbers(log_sigma), label)

    def pooling(self) -> nn.Module | None:
        """What makes a vector of its features, if the network has its own."""
        return self.net.pooling() if isinstance(self.net, Pools) else None

    def numbers(self, log_sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """What the network is told at this log(sigma/alpha), float32."""
        B = softplus(2 * log_sigma.float())  # alpha^2 = exp(-B)
        k = (level_of(B, self._exponents.to(B.device)) - 1).clamp(0, self.chain.steps - 1)
        near = k.round()
        k = torch.where((k - near).abs() < NEAR, near, k)
        return k * (1000 / self.chain.steps) if self.rescaled else k
