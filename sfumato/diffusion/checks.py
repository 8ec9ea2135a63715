"""What processes and denoisers are given: numbers, times, tensors of a shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sfumato.core.arguments import described
from sfumato.core.errors import UserError


def numbers(t: Any, device: str | None = None) -> Tensor:
    """A number, or many, float64 and on this device.

    Raises:
        UserError: they are none.
    """
    try:
        found = torch.as_tensor(t, dtype=torch.float64, device=device)
    except (TypeError, ValueError, NotImplementedError):  # the last of tensors without values
        raise UserError(f"times must be numbers, one or a tensor of them, not {described(t)}") from None
    return found


def as_times(t: Any, device: str | None = None) -> Tensor:
    """Times in [0, 1], float64; what is outside by the rounding of float32 only is brought inside.

    Raises:
        UserError: they are none.
    """
    t = numbers(t, device)
    within = t.clamp(0, 1)
    if not (good := (t - within).abs() <= 1e-6).all():
        raise UserError(f"times must be in [0, 1], 0 clean and 1 noise, not {t[~good][0]:g}")
    return within


def floats(value: Any, wanted: tuple[int | None, ...], told: str) -> Tensor:
    """The value, if it is a tensor of floats of this shape, in which None is any size.

    Raises:
        UserError: it is anything else; begins with what is `told` of it, as "z is".
    """
    if isinstance(value, Tensor) and value.is_floating_point() and len(value.shape) == len(wanted):
        if all(want in (None, n) for n, want in zip(value.shape, wanted, strict=True)):
            return value
    shape = ", ".join("any" if n is None else str(n) for n in wanted)
    kind = f" of {value.dtype}" if isinstance(value, Tensor) else ""
    raise UserError(f"{told} {described(value)}{kind}: expected a tensor of floats of shape ({shape})")
