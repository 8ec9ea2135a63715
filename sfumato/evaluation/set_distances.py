"""How far apart two sets of features are: the Frechet distance and KID."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.errors import UserError, check_numbers
from sfumato.core.terminal import count


def frechet(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets; right for n < d too.

    Heusel et al., 2017 (https://arxiv.org/abs/1706.08500): |mu_x - mu_y|^2 + tr(C_x + C_y -
    2 (C_x C_y)^(1/2)).  With roots C = R^T R the trace of the last term is the sum of the singular
    values of R_x R_y^T, without the square root of a matrix.

    Raises:
        UserError: fewer than two images in a set, or features that do not match.
    """
    check_sets(x, y)
    return frechet_of(mean_and_root(x), mean_and_root(y))


def kid(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], block: int = 512) -> float:
    """Unbiased squared maximum mean discrepancy of the kernel (x.y / d + 1)^3.

    Binkowski et al., 2018 (https://arxiv.org/abs/1801.01401), over all images instead of subsets;
    below 0 by chance when the sets are alike.

    Raises:
        UserError: fewer than two images in a set, or features that do not match.
    """
    check_sets(x, y)
    ones = (torch.ones(1, len(x), dtype=torch.float64), torch.ones(1, len(y), dtype=torch.float64))
    return weighted_kid(x, y, *ones, block=block).item()


MeanAndRoot = tuple[Tensor, Tensor]  # mean (d), root R (r,d) of the covariance R^T R


def mean_and_root(x: Float[Tensor, "n d"], weights: Float[Tensor, " n"] | None = None) -> MeanAndRoot:
    """The Gaussian of features that count `weights` times (once)."""
    x = x.double()
    weights = x.new_ones(len(x)) if weights is None else weights.to(x)
    x, weights = x[weights > 0], weights[weights > 0]
    mean = weights @ x / weights.sum()
    root = (weights / (weights.sum() - 1)).sqrt()[:, None] * (x - mean)
    return mean, torch.linalg.qr(root, "r").R if len(root) > root.shape[1] else root


def frechet_of(a: MeanAndRoot, b: MeanAndRoot) -> float:
    """Squared Frechet distance of two fitted Gaussians."""
    (mean_a, root_a), (mean_b, root_b) = a, b
    means = (mean_a - mean_b).square().sum()
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    traces = root_a.square().sum() + root_b.square().sum()
    return (means + (traces - 2 * cross).clamp(min=0)).item()


def weighted_kid(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    w: Float[Tensor, "r n"],
    v: Float[Tensor, "r m"],
    block: int = 512,
) -> Float[Tensor, " r"]:
    """KID (r) of features that count w and v times; pairs of an image with itself are left out."""

    def mean(x: Tensor, y: Tensor, w: Tensor, v: Tensor, same: bool) -> Tensor:
        total, pairs = torch.zeros(len(w)).double(), w.sum(1).double() * v.sum(1).double()
        pairs = pairs - (w * v).sum(1) if same else pairs
        v, group = torch.unique(v, dim=1, return_inverse=True)  # what counts alike costs as one
        group, order = group.sort(stable=True)
        y = y[order]
        x, w = (y, w[:, order]) if same else (x, w)
        for start in range(0, len(x), block):
            part, rest = slice(start, start + block), slice(start if same else 0, None)
            k = torch.addmm(x.new_ones(()), y[rest], x[part].T, alpha=1 / x.shape[1]).pow_(3)
            if same:
                k.fill_diagonal_(0)[block:] *= 2  # the pairs (i, j) and (j, i)
            g = group[rest] - group[rest][0]
            k = k.new_zeros(int(g[-1]) + 1, k.shape[1]).index_add_(0, g, k)
            for some in range(0, len(w), 100):  # draws at a time, for memory
                rows = slice(some, some + 100)
                total[rows] += (w[rows, part].double() * (v[rows, -len(k) :].double() @ k)).sum(1)
        return total / pairs

    x, y = x.double(), y.double()
    return mean(x, x, w, w, True) + mean(y, y, v, v, True) - 2 * mean(x, y, w, v, False)


def check_sets(x: Tensor, y: Tensor) -> None:
    """Two sets of features that can be compared.

    Raises:
        UserError: they cannot.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise UserError(f"features {shapes}: expected (N,d) and (M,d) of one network")
    if min(len(x), len(y)) < 2:
        raise UserError(f"{len(x)} and {count(len(y), 'image')}: a distance of sets needs two or more each")
    check_numbers({"features": x, "the others'": y}, ": look at the images")
