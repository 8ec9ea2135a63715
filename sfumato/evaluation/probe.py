"""Which domain does a picture belong to?  A linear probe on features, cross-fitted."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus


def logistic(a: Tensor, b: Tensor, decay: float = 1e-2) -> Tensor:
    """Weights (d + 1,) of the logistic regression that tells a (N, d) from b (M, d), the last the bias.

    Both sides weigh the same; features should be of unit scale.  decay: of the squared weights.
    """
    w = torch.zeros(a.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = softplus(logit(w, a)).mean() + softplus(-logit(w, b)).mean() + decay * w[:-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return w.detach()


def logit(w: Tensor, x: Tensor) -> Tensor:
    """Log odds (N,) that x (N, d) belongs to the second side."""
    return x.double() @ w[:-1] + w[-1]


def crossed(
    a: Tensor, b: Tensor, y: Tensor, groups: Sequence[Hashable] | None = None, seed: int = 0
) -> Tensor:
    """1. where y, results made of the pictures a, look like domain b to a probe; else 0.

    Two folds: the results of one half of the sources are judged by the probe that was fitted to the
    other half, so that no probe has seen a result's own source.

    Args:
        a: features (N, d) of the source pictures.
        b: features (M, d) of target pictures.
        y: features (N, d) of the results, in the order of a.
        groups: groups of the sources; a group is never divided.
        seed: seed of the division.
    """
    mean, std = torch.cat([a, b]).mean(0), torch.cat([a, b]).std(0).clamp(min=1e-6)
    a, b, y = ((x - mean) / std for x in (a, b, y))
    dice = torch.Generator().manual_seed(seed)
    kinds = list(dict.fromkeys(groups if groups is not None else range(len(a))))
    side = dict(zip(kinds, (torch.randperm(len(kinds), generator=dice) % 2).tolist(), strict=True))
    fold = torch.tensor([side[g] for g in (groups if groups is not None else range(len(a)))])
    fold_b = torch.randperm(len(b), generator=dice) % 2
    out = torch.zeros(len(y))
    for k in (0, 1):
        if (fold != k).any() and (fold == k).any():
            w = logistic(a[fold != k], b[fold_b != k])
            out[fold == k] = (logit(w, y[fold == k]) > 0).float()
    return out
