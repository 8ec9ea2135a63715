"""Realism at equal faithfulness: a method against the curve of another one that was swept.

A method that changes less looks less real, so that two methods compare at equal distance to the source
only.  The curve's Frechet distance there is read off between its points, its logarithm linearly in L2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sfumato.evaluation.intervals import Interval, draws_of_two, interval
from sfumato.evaluation.judge import Judge
from sfumato.evaluation.scores import Scores
from sfumato.evaluation.set_distances import frechet_of, mean_and_root

KEY = "source/l2"


class Track(NamedTuple):
    """A row's L2 and log FD: on all pictures first, then on each draw of them, (R + 1,) each."""

    l2: Tensor
    log_fd: Tensor


def at_equal_l2(rows: Sequence[Scores], judge: Judge) -> dict[str, dict[str, Interval]]:
    """FD of each method over that of each swept family at the method's own L2 to the source.

    Sources and reference pictures are drawn together for both sides, by groups; the interval is of the
    ratio's logarithm, moved so that the mean of its draws is the value (`bootstrap_frechet` says why).

    Returns:
        By row's label and family: below 1 the method is the more real of the two.  Only where the L2
        lies within the curve's, on all pictures and on 9 of 10 draws.
    """
    methods = [r for r in rows if r.kind == "method" and KEY in r.images and r.results]
    families = {r.family: [o for o in methods if o.family == r.family] for r in methods}
    curves = {name: members for name, members in families.items() if len(members) > 1}
    if not any(r.family != name for r in methods for name in curves):
        return {}
    tracks = _tracks(methods, judge)
    found: dict[str, dict[str, Interval]] = {}
    for row in methods:
        for name, members in curves.items():
            if name != row.family and (
                ratio := _ratio(tracks[row.label], [tracks[m.label] for m in members])
            ):
                found.setdefault(row.label, {})[name] = ratio
    return found


def _tracks(rows: Sequence[Scores], judge: Judge) -> dict[str, Track]:
    """Every row's L2 and log FD on the same draws; the FD is the mean over seeds."""
    y = judge.embed(judge.target, judge.features)
    count = judge.resamples // (5 if y.shape[1] < 500 else 50)
    groups = judge.groups, judge.target_groups
    drawn = draws_of_two((len(judge.source), len(y)), groups, count)
    w, v = (torch.cat([torch.ones(1, z.shape[1]), z]) for z in drawn)
    real = [mean_and_root(y, j) for j in v]
    out = {}
    for row in rows:
        seeds = [judge.embed(s, judge.features) for s in row.results]
        fd = [[frechet_of(mean_and_root(x, i), b) for i, b in zip(w, real, strict=True)] for x in seeds]
        l2 = w.double() @ torch.tensor(row.images[KEY], dtype=torch.float64) / w.double().sum(1)
        out[row.label] = Track(l2, torch.tensor(fd, dtype=torch.float64).mean(0).log())
    return out


def _ratio(one: Track, curve: Sequence[Track]) -> Interval | None:
    l2, log_fd = (torch.stack(z).numpy() for z in zip(*curve, strict=True))  # (points, R + 1)
    there = [
        np.interp(at, x[order := x.argsort()], f[order], left=math.nan, right=math.nan)
        for at, x, f in zip(one.l2.numpy(), l2.T, log_fd.T, strict=True)
    ]
    logs = one.log_fd - torch.tensor(there, dtype=torch.float64)
    if not logs[0].isfinite() or logs.isfinite().double().mean() < 0.9:
        return None
    return Interval(*(math.exp(z) for z in interval(logs[0].item(), logs[1:])))
