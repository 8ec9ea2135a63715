"""Pictures that hold two side by side."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from sfumato.core.errors import UserError


def half_of(samples: NDArray[Any], side: str, name: object) -> NDArray[Any]:
    """The left or right half of samples (C, H, W), or the whole.

    Raises:
        UserError: they are not of two pictures side by side.
    """
    if side == "whole":
        return samples
    half = half_width(samples.shape[1], samples.shape[2], name)
    return samples[..., :half] if side == "left" else samples[..., -half:]


def half_width(h: int, w: int, name: object) -> int:
    """Pixels across of each of two pictures side by side.

    Raises:
        UserError: it is one picture.
    """
    if w < 2 or w <= h:
        raise UserError(
            f"{name} is {w}x{h} pixels, not two pictures side by side: sfumato translate takes it whole "
            f"by --side whole, sfumato train without --side-by-side"
        )
    return w // 2
