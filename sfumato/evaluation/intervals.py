"""How far a number would move with other pictures: bootstrap intervals.

Whole groups are drawn with replacement (Davison and Hinkley, 1997, section 3.8): copies of one
source, or overlapping tiles, are not independent, and counting them as such makes intervals too
narrow.  Without groups every image is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from math import isfinite, nan
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.errors import UserError, check_numbers
from sfumato.core.terminal import count
from sfumato.evaluation.set_distances import check_sets, frechet, frechet_of, mean_and_root, weighted_kid

Groups = Sequence[Hashable] | None
DRAWS = 100
"""Draws that are summed at a time, for memory."""


class Interval(NamedTuple):
    """A number with the bounds of its interval; the bounds are nan if there is only one group."""

    value: float
    low: float
    high: float

    def to_json(self) -> list[float | None]:
        """The three numbers; JSON knows no nan."""
        return [x if isfinite(x) else None for x in self]

    @classmethod
    def from_json(cls, saved: Sequence[float | None]) -> Self:
        if not all(x is None or type(x) in (int, float) for x in saved):
            raise TypeError
        return cls(*(nan if x is None else float(x) for x in saved))


def bootstrap_mean(
    values: Float[Tensor, " n"], groups: Groups = None, resamples: int = 1000, seed: int = 0,
    level: float = 0.95,
) -> Interval:  # fmt: skip
    """The mean over images, with its interval.

    Args:
        values: One number an image.
        groups: N hashables; images of equal ones are drawn together.
        resamples: Draws.
        seed: Of the draws.
        level: Share of such intervals that cover the truth.

    Raises:
        UserError: no values, values that are not numbers, or another number of groups than values.
    """
    values = torch.as_tensor(values, dtype=torch.float64)
    if not len(values):
        raise UserError("a mean of 0 values: expected one number an image")
    check_numbers({"what is averaged": values})
    parts = torch.stack([values, torch.ones_like(values)], 1)
    return bootstrap_sums(parts, lambda s: s[..., 0] / s[..., 1], groups, resamples, seed, level)


def bootstrap_sums(
    parts: Float[Tensor, "n ..."], statistic: Callable[[Tensor], Tensor], groups: Groups = None,
    resamples: int = 1000, seed: int = 0, level: float = 0.95,
) -> Interval:  # fmt: skip
    """A statistic of sums over images, with its interval: a mean, or a pooled `metrics.mean_iou`.

    What is summed for each image are `parts`, such as `metrics.label_parts`; `statistic` takes sums (R,*k)
    to numbers (R).  The rest is as in `bootstrap_mean`.
    """
    parts = parts.double()
    weights = draws(len(parts), groups, resamples, seed)
    sums = [torch.tensordot(some.double(), parts, 1) for some in torch.split(weights, DRAWS)]
    resampled = statistic(torch.cat(sums)) if sums else parts.new_zeros(0)
    value = statistic(parts.sum(0, keepdim=True)).item()
    return interval(value, resampled, level, centred=False)


def bootstrap_frechet(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], groups_x: Groups = None, groups_y: Groups = None,
    resamples: int = 200,
) -> Interval:  # fmt: skip
    """`metrics.frechet` with its interval; both sets are drawn.

    A drawn set holds fewer different images, which pushes the distance up, as few images do in the
    first place: the interval is the value plus the draws' quantiles less their mean.  It tells how
    the number scatters, not how far it is above that of infinitely many images.  It errs on the
    wide side, up to threefold, for sets that are alike or hardly larger than d.

    A draw costs N d^2 and the singular values of a matrix of the smaller of N and d: ask for fewer
    `resamples`, such as 50, at Inception's d = 2,048.
    """
    check_sets(x, y)
    pairs = zip(*draws_of_two((len(x), len(y)), (groups_x, groups_y), resamples), strict=True)
    resampled = torch.tensor([frechet_of(mean_and_root(x, i), mean_and_root(y, j)) for i, j in pairs])
    return interval(frechet(x, y), resampled)


def bootstrap_kid(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], groups_x: Groups = None, groups_y: Groups = None,
    resamples: int = 1000,
) -> Interval:  # fmt: skip
    """`metrics.kid` with its interval; both sets are drawn.

    An image drawn twice is not compared with itself.  The interval is the value plus the draws'
    quantiles less their mean.  For sets that are alike it is too wide, up to twofold.
    """
    check_sets(x, y)
    drawn = draws_of_two((len(x), len(y)), (groups_x, groups_y), resamples)
    # first the sets themselves
    w, v = (torch.cat([u.new_ones(1, u.shape[1]), u]) for u in drawn)
    found = weighted_kid(x, y, w, v)
    return interval(found[0].item(), found[1:])


def draws_of_two(
    counts: tuple[int, int], groups: tuple[Groups, Groups], resamples: int
) -> tuple[Tensor, Tensor]:
    """`draws` of two sets, as many of each: none if one of them has a single group."""
    w, v = (draws(n, g, resamples, [0, k]) for k, (n, g) in enumerate(zip(counts, groups, strict=True)))
    r = min(len(w), len(v))
    return w[:r], v[:r]


def draws(n: int, groups: Groups, resamples: int, seed: int | Sequence[int]) -> Tensor:
    """How often each of n images is drawn (R,n), images of a group alike; R is 0 for one group.

    The table is kept for the next measure of the same pictures: read it, do not write to it.
    """
    seed = tuple(seed) if isinstance(seed, Sequence) else seed
    return _table(n, None if groups is None else tuple(groups), resamples, seed)


@lru_cache(maxsize=6)  # means, both sets of KID, both of the Frechet distance: 4 bytes a draw and image
def _table(
    n: int, groups: tuple[Hashable, ...] | None, resamples: int, seed: int | tuple[int, ...]
) -> Tensor:
    names: dict[Hashable, int] = {}
    index = [names.setdefault(g, len(names)) for g in (range(n) if groups is None else groups)]
    if len(index) != n:
        raise UserError(f"{count(len(index), 'group')} for {count(n, 'image')}: expected one for each")
    resamples = resamples if len(names) > 1 else 0
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    counts = counts.astype(np.float32)  # exact, and a quarter of the memory of what follows
    return torch.from_numpy(counts if len(names) == n else counts[:, index])


def interval(value: float, resampled: Tensor, level: float = 0.95, centred: bool = True) -> Interval:
    """Quantiles of the resampled, moved so that their mean is the value if `centred`."""
    resampled = resampled[resampled.isfinite()]  # a tiny set may be drawn as one image only
    if not len(resampled):
        return Interval(value, nan, nan)
    shift = value - resampled.mean().item() if centred else 0.0
    low, high = np.quantile(resampled.numpy(), [(1 - level) / 2, (1 + level) / 2]) + shift
    return Interval(value, float(low), float(high))
