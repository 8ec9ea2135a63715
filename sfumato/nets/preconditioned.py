"""Networks preconditioned as Karras et al. 2022 do, as networks that are told log(sigma/alpha)."""

from __future__ import annotations

import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from sfumato.core.ranges import Count
from sfumato.diffusion.process import VP
from sfumato.module import Part

Preconditioning = Literal["edm", "vp", "ve"]


class Preconditioned(Part):
    """(y (B,C,H,W), log(sigma/alpha) (B,), labels (B,) or None) -> (B,C,H,W), what `Denoiser` predicts.

    Of Karras et al. 2022 (https://arxiv.org/abs/2206.00364, table 1), with sigma for sigma/alpha, and y as a
    denoiser gives it, c_in x of variance 1 for edm, x / sqrt(1 + sigma^2) for the others:

        edm:  F(y, log(sigma) / 4)                           edm
        vp:   F(y, (steps - 1) t), t the VP's time of sigma  eps
        ve:  -F(sqrt(1 + sigma^2) y, log(sigma / 2))         eps

    Args:
        net: F, as (input, c_noise (B,), labels or None).
        kind: edm, vp or ve.
        process: whose times vp has.
        steps: of its chain, M.
    """

    net: nn.Module
    kind: Preconditioning = "edm"
    process: VP = VP()
    steps: Count = 1000

    def __post_init__(self) -> None:
        self.channels = getattr(self.net, "channels", None)

    def forward(
        self, y: Float[Tensor, "b c h w"], log_sigma: Float[Tensor, " b"], label: Tensor | None = None
    ) -> Float[Tensor, "b c h w"]:
        log_sigma = log_sigma.float()
        if self.kind == "edm":
            return self.net(y, log_sigma / 4, label)
        if self.kind == "vp":
            t = self.process.time_of(softplus(2 * log_sigma))
            return self.net(y, (self.steps - 1) * t, label)
        size = (1 + (2 * log_sigma).exp()).sqrt()[:, None, None, None].to(y)
        return -self.net(size * y, log_sigma - math.log(2), label)
