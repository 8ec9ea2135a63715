"""Pieces of large pictures: what a training on their own scale sees."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfumato.data.resize import fit_image, to_float


class Cut(NamedTuple):
    """Where a piece lies, as shares of the room that there is, and its scale; by default in the middle."""

    top: float = 0.5
    left: float = 0.5
    scale: float = 1.0
    """Of the piece beside the picture, at most 1."""


def piece(samples: NDArray[Any], size: tuple[int, int], cut: Cut = Cut()) -> NDArray[np.float32]:  # noqa: B008
    """A piece (C, h, w) in [-1, 1] of a picture's samples (C, H, W), which are no smaller.

    Args:
        samples: of the picture.
        size: (h, w).
        cut: where it lies; its scale is raised to what the picture allows.
    """
    sides = samples.shape[1], samples.shape[2]
    scale = max(cut.scale, *(n / side for n, side in zip(size, sides, strict=True)))
    h, w = (min(side, round(n / scale)) for n, side in zip(size, sides, strict=True))
    top, left = int(cut.top * (sides[0] - h + 1)), int(cut.left * (sides[1] - w + 1))
    return fit_image(to_float(samples[:, top : top + h, left : left + w]), size, "stretch")


def cuts(seed: int, number: int, count: int, least: float) -> list[list[Cut]]:
    """Cuts of the two halves of batch `number`, a function of these numbers alone.

    Scales are log-uniform from `least` to 1.
    """
    draws = np.random.default_rng([seed, 3, 0, number]).random((2, count, 3))
    return [[Cut(top, left, least ** (1 - u)) for top, left, u in half] for half in draws.tolist()]
