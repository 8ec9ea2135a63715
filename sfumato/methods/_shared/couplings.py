"""Which pictures of two domains belong together, where nothing says it: mini-batch optimal transport."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.terminal import an
from sfumato.diffusion.low_pass import LowPass, eighth
from sfumato.methods._shared.memory import Replay

COSTS = "pixels", "low_pass"
"""What transport keeps near, besides the features of a model."""


def assigned(x: Tensor, y: Tensor) -> Tensor:
    """The permutation p (N,) for which sum_i |x_i - y_{p_i}|^2 is least, of vectors (N, D)."""
    from scipy.optimize import linear_sum_assignment

    gains = (x.double() @ y.double().T).cpu()  # |x - y|^2 but for what no permutation changes
    return torch.as_tensor(linear_sum_assignment(gains.numpy(), maximize=True)[1], device=x.device)


class Transport(nn.Module):
    """Pairs by optimal transport between the last pictures of both domains (Tong et al. 2023).

    Pictures are gathered until the pool is full, and then are assigned all at once; what is drawn is of the
    pool before.  Until there is one, and in evaluation, a batch is assigned by itself.

    Args:
        cost: pixels, low_pass or a model with `embedding`, whose features are compared.
        pool: pictures of each domain that are assigned together.
    """

    def __init__(self, cost: Any, pool: int) -> None:
        super().__init__()
        if isinstance(cost, str) and cost not in COSTS:
            raise UserError(f"cost is a model in Python, not its folder: load({cost!r})")
        if not isinstance(cost, str) and not hasattr(cost, "embedding"):
            raise UserError(
                f"cost must be {', '.join(COSTS)} or a domain_classifier, not {an(type(cost).__name__)}"
            )
        self.cost = (cost,)  # a field of the method, whose module it is
        self.gathered, self.pairs = Replay(pool), Replay(pool)

    def forward(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """As many pairs as are given, of these pictures (B, C, H, W) or of those before."""
        if not self.training:
            return x, self._partners(x, y)
        self.gathered.add(x, y)
        new = self.gathered.of(x)
        assert new is not None
        if len(new) == self.gathered.size:
            a, b = new.float().unbind(1)
            self.pairs.add(a, self._partners(a, b))
            self.gathered.forget(x)
        if self.pairs.of(x) is None:
            return x, self._partners(x, y)
        a, b = self.pairs.draw(x, rng)
        return a, b

    def _partners(self, x: Tensor, y: Tensor) -> Tensor:
        return y[assigned(*(self._seen(images).flatten(1) for images in (x, y)))]

    @torch.no_grad()
    def _seen(self, x: Tensor) -> Tensor:
        """What the cost compares: squared distances of these are it."""
        (cost,) = self.cost
        if cost == "pixels":
            return x
        if cost == "low_pass":
            return LowPass(eighth(*x.shape[2:]))(x)
        found: Tensor = torch.cat([cost.embedding(some, 0.0) for some in torch.split(x, 64)])
        return found
