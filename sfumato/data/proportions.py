"""Buckets: the few sizes of about one area at which pictures of all proportions are learnt from whole.

A picture is of the bucket whose proportions, in the logarithm, are the nearest to its own.  It is scaled
until it just covers the bucket: of a photograph in the usual proportions little then stands over.
"""

import math
from collections.abc import Iterable
from functools import lru_cache

from sfumato.core.errors import UserError

Size = tuple[int, int]
"""(height, width) in pixels."""
USUAL = 4 / 3, 3 / 2, 16 / 9
"""Those of cameras and screens, upright and lying; squares besides."""


@lru_cache
def buckets(size: Size) -> tuple[Size, ...]:
    """All buckets of the area of this square, from the highest to the widest.

    Sides are multiples of 8, which all networks halve; of 4 below 64 pixels, of 2 below 32, for proportions
    would be coarse.

    Raises:
        UserError: it is no square.
    """
    side = size[0]
    if size[1] != side:
        raise UserError(
            f"size {size[1]}x{side}: buckets have the area of a square, and proportions of their own: "
            f"expected one side, such as {round(math.sqrt(math.prod(size)))}"
        )
    step = min(8, 2 ** max(0, side.bit_length() - 4))
    heights = [step * max(1, round(side / math.sqrt(p) / step)) for p in USUAL]
    wide = [(h, step * round(h * p / step)) for h, p in zip(heights, USUAL, strict=True)]
    return tuple(dict.fromkeys([*((w, h) for h, w in reversed(wide)), size, *wide]))


def far(size: Size, bucket: Size) -> float:
    """How far the proportions of two sizes are apart, in the logarithm."""
    return math.log(size[0] * bucket[1] / (size[1] * bucket[0]))


def nearest(size: Size, among: Iterable[Size]) -> Size:
    """The bucket that a picture of this size is of; of two as near the first."""
    return min(among, key=lambda bucket: abs(far(size, bucket)))


def cut_off(size: Size, bucket: Size) -> float:
    """The share of a picture that stands over its bucket."""
    return 1 - math.exp(-abs(far(size, bucket)))
