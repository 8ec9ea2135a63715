"""Networks of score SDEs whose noise variance explodes, as networks that are told log(sigma/alpha)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from sfumato.module import Part


class Score(Part):
    """(y (B,C,H,W), log(sigma/alpha) (B,), labels (B,) or None) -> eps (B,C,H,W), of a network of the score.

    Those of Song et al. 2021 (https://arxiv.org/abs/2011.13456, NCSN++) know images in [0, 1], (x + 1)/2,
    whose noise is half of ours, and answer with the gradient of their log-density:

        eps = -sigma/2 net((x_t + 1)/2, sigma/2),   x_t = sqrt(1 + sigma^2) y

    Args:
        net: (x_t in [0, 1] before the noise, its sigma (B,), labels or None) -> score.
    """

    net: nn.Module

    def __post_init__(self) -> None:
        self.channels = getattr(self.net, "channels", None)

    def forward(
        self, y: Float[Tensor, "b c h w"], log_sigma: Float[Tensor, " b"], label: Tensor | None = None
    ) -> Float[Tensor, "b c h w"]:
        half = log_sigma.float().exp() / 2
        sigma = 2 * half[:, None, None, None]
        x_t = (1 + sigma**2).sqrt() * y
        score = self.net(((x_t + 1) / 2).to(y), half, label)
        return (-sigma / 2 * score).to(y)
