"""Does the spread of a stochastic translator cover its error?

Of K samples y_1..y_K for one source, the truth y is one more draw if the translator is right: K + 1
exchangeable values, among which the truth's rank is uniform.  Between the j-th smallest and the
(K+1-j)-th smallest sample it therefore lies with probability

    (K + 1 - 2 j) / (K + 1),   j = 1 .. K // 2,

exactly, whatever the law and for any K.  Equal values are ranked at random, which keeps this exact for
8-bit pictures with their many black pixels (rank histograms: Hamill 2001, "Interpretation of Rank
Histograms for Verifying Ensemble Forecasts", Monthly Weather Review 129).  Truth and samples must
have met the same rounding: compare pictures with pictures, not with unrounded results.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core.errors import UserError, check_numbers
from sfumato.core.terminal import count
from sfumato.data.pictures import ImageSet, chunks
from sfumato.evaluation.intervals import Interval, bootstrap_mean, bootstrap_sums


@dataclass(frozen=True)
class Calibration:
    """Nominal against actual coverage, and spread against error.

    Attributes:
        nominal: (L,) rising probabilities of the central intervals, in (0,1); L = K // 2.
        covered: (L,) share of pixel values in them.
        low: (L,) lower end of its interval over images.
        high: (L,) upper end.
        spread: sqrt((K+1)/K * mean variance of the samples), in units of [-1,1].
        error: RMSE of the samples' mean against the truth, in the same units.
        ratio: spread / error, with its interval over images: 1 when right, below 1 when
            overconfident, nan if both are 0.  The factor (K+1)/K makes it so for finite K (Fortin
            et al. 2014, "Why Should Ensemble Spread Match the RMSE of the Ensemble Mean?", Journal
            of Hydrometeorology 15, 1708-1713).
    """

    nominal: NDArray[np.float64]
    covered: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    spread: float
    error: float
    ratio: Interval


def calibration(
    samples: Tensor | Sequence[Tensor | ImageSet],
    truth: Tensor | ImageSet,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    batch: int = 16,
) -> Calibration:
    """The calibration curve of K samples an image, pooled over pixels and channels.

    Args:
        samples: (K,B,C,H,W) in [-1,1], or K sets of B images in one order (the same sources
            under K seeds), read `batch` at a time.
        truth: B images (B,C,H,W), tensor or set, in the same order.
        groups: B labels; images of one label are resampled together.
        seed: seed of the order among equal values, and of the resampling.
        resamples: resamples of the bootstrap over images.
        level: level of its intervals.
        batch: images at a time.

    Raises:
        UserError: K below 2, counts or shapes that differ, or values that are not numbers.
    """
    k, n = len(samples), len(truth)
    if k < 2:
        raise UserError(f"{k} sample an image has no spread: translate with at least 2 seeds")
    if other := {len(s) for s in samples} - {n}:
        raise UserError(f"samples of {sorted(other)} images for {count(n, 'truth')}: expected one for each")
    if groups is not None and len(groups) != n:
        raise UserError(f"{count(len(groups), 'group')} for {count(n, 'image')}: expected one for each")
    first = np.arange(1, k // 2 + 1)[::-1]  # j of the narrowest interval to that of the widest
    rng = np.random.default_rng(seed)
    inside, variance, error = np.empty((n, len(first))), np.empty(n), np.empty(n)
    for rows in chunks(n, batch):
        y, ys = _take(truth, rows), torch.stack([_take(s, rows) for s in samples])
        if ys.shape[1:] != y.shape:
            raise UserError(f"samples {tuple(ys.shape[2:])} of truth {tuple(y.shape[1:])}")
        check_numbers({"samples": ys, "truth": y}, f", of images {rows[0]} to {rows[-1]}")
        variance[rows] = ys.var(0).flatten(1).mean(1)
        error[rows] = (ys.mean(0) - y).square().flatten(1).mean(1)
        below, equal = (ys < y).sum(0).numpy(), (ys == y).sum(0).numpy()
        rank = below + np.floor(rng.random(y.shape) * (equal + 1)).astype(np.int64)
        counts = np.stack([np.bincount(r.ravel(), minlength=k + 1) for r in rank]) / rank[0].size
        total = np.cumsum(np.pad(counts, ((0, 0), (1, 0))), axis=1)  # total[r]: rank below r
        inside[rows] = total[:, k + 1 - first] - total[:, first]
    how: dict[str, Any] = {"groups": groups, "resamples": resamples, "seed": seed, "level": level}
    curve = [bootstrap_mean(torch.from_numpy(c), **how) for c in inside.T]
    covered, low, high = np.array(curve).T
    squares = np.stack([variance * (k + 1) / k, error], 1)
    spread, wrong = np.sqrt(squares.mean(0))
    ratio = bootstrap_sums(torch.from_numpy(squares), lambda s: (s[..., 0] / s[..., 1]).sqrt(), **how)
    nominal = (k + 1 - 2 * first) / (k + 1)
    return Calibration(nominal, covered, low, high, float(spread), float(wrong), ratio)


def _take(images: Tensor | ImageSet, rows: range) -> Tensor:
    picked = images[rows.start : rows.stop] if isinstance(images, Tensor) else images.get(rows)
    return picked.detach().float().cpu()
