"""Nearest neighbours of many vectors, in little memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.data.pictures import chunks

BYTES, CHUNK = 128 * 2**20, 256
"""Memory of outputs and distances, and training pictures, held at a time."""


@dataclass(frozen=True)
class Nearest:
    """N pictures' nearest training pictures: index (N,), distance (N,) and ratio (N,) in [0,1]."""

    index: NDArray[np.int64]
    distance: NDArray[np.float64]
    ratio: NDArray[np.float64]


@dataclass(frozen=True)
class Vectors:
    """`count` vectors, read in parts: `get(indices)` gives (b,D)."""

    count: int
    get: Callable[[Sequence[int]], Tensor]


def nearest(queries: Vectors, train: Vectors, k: int = 50, device: torch.device | None = None) -> Nearest:
    """Nearest training vectors by L2, in blocks: every training vector is read once per block.

    Args:
        queries: N vectors of D numbers.
        train: M of the same D.
        k: neighbours in the ratio; all, if there are fewer.
        device: where they are compared; None: where they are.
    """
    k = min(k, train.count)
    size = max(1, BYTES // 4 // (queries.get(range(1)).shape[1] + 3 * (k + CHUNK)))
    parts = [_block(queries.get(rows).to(device), train, k) for rows in chunks(queries.count, size)]
    index, distance, mean = (torch.cat(x).numpy() for x in zip(*parts, strict=True))
    ratio = np.divide(distance, mean, out=np.ones_like(distance), where=mean > 0)
    return Nearest(index, distance, ratio.clip(0, 1))


def _block(q: Tensor, train: Vectors, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index and distance of the nearest, and mean distance of the k nearest, of queries (b,D)."""
    best = q.new_full((len(q), k), torch.inf)
    where = torch.zeros(len(q), k, dtype=torch.long, device=q.device)
    norm = q.square().sum(1, keepdim=True)
    for rows in chunks(train.count, CHUNK):
        x = train.get(rows).to(q)
        if x.shape[1] != q.shape[1]:
            raise UserError("results, training and held-out pictures are not of one size")
        squares = torch.addmm(norm + x.square().sum(1), q, x.T, alpha=-2)  # |q - x|^2
        seen = torch.arange(rows.start, rows.stop, device=q.device).expand(len(q), -1)
        best, at = torch.cat([best, squares], 1).topk(k, dim=1, largest=False)
        where = torch.cat([where, seen], 1).gather(1, at)
    first, mean = where[:, 0].cpu(), best.clamp(min=0).sqrt().mean(1).cpu().double()
    exact = [  # |q|^2 - 2 q x + |x|^2 cancels near 0
        (some - train.get(index.tolist()).to(q)).norm(dim=1)
        for some, index in zip(torch.split(q, CHUNK), torch.split(first, CHUNK), strict=True)
    ]
    return first, torch.cat(exact).cpu().double(), mean
