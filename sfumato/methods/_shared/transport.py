"""What the optimal-transport methods have in common: two players that take turns, and the potential.

    max_f min_T  E C(x, T(x)) - E f(T(x)) + E f(y)

T makes k steps for each one of f.  A step of `fit` is one step of one of them, on a batch of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SETTINGS: dict[str, Any] = {
    "batch": 64, "lr": 1e-4, "schedule": "constant", "warmup": 0, "optimiser": "adam", "clip": 0.0,
}  # fmt: skip
"""The papers' training."""


class Turns(nn.Module):
    """Whose step it is: k of the inner player's, then one of the outer's.

    Args:
        inner: the player that minimises.
        outer: the player that maximises.
        k: steps of the inner one for each of the outer one.
    """

    def __init__(self, inner: str, outer: str, k: int) -> None:
        super().__init__()
        self.inner, self.outer, self.k = inner, outer, k
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.seen: Tensor
        """Steps begun; saved with the model, for what depends on it."""

    def players(self) -> tuple[str, ...]:
        """The player whose step it is; in evaluation both."""
        if not self.training:
            return self.inner, self.outer
        return (self.outer,) if int(self.seen) % (self.k + 1) == 0 else (self.inner,)

    def ramp(self, warmup: int) -> float:
        """From 1/warmup to 1 over so many rounds of k + 1 steps; 1 without a warm-up."""
        rounds = max(0, int(self.seen) - 1) // (self.k + 1)
        return min(1.0, (1 + rounds) / warmup) if warmup else 1.0


def potential_loss(f: nn.Module, made: Tensor, real: Tensor, reach: float = 0) -> Tensor:
    """E f(T(x)) - E f(y): the potential shall be high on real images, and no steeper than `reach`."""
    loss = f(made).mean() - f(real).mean()
    return loss + beyond(f, torch.cat([made[::2], real[::2]]), reach) if reach else loss


def beyond(f: nn.Module, y: Tensor, reach: float) -> Tensor:
    """E max(0, s - reach)^2 of the distances s that f says its images have come; a mean.

    T(x) is the y with the least |x - y|^2 / D - f(y), D the numbers of an image, so that there
    grad f(y) = 2 (y - x) / D, and s = sqrt(D) |grad f(y)| / 2 is the root mean square of y - x: at
    most 2 for images in [-1, 1].
    """
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(f(y).sum(), y, create_graph=True)
        s = slope.flatten(1).norm(dim=1) * y[0].numel() ** 0.5 / 2
        return F.relu(s - reach).square().mean()
