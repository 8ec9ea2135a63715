"""The numbers of a training: how methods are trained that do not say otherwise, and what may be said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from sfumato.core.errors import UserError, choose
from sfumato.methods.registry import info
from sfumato.module import Part

DEFAULTS: dict[str, Any] = {
    "steps": 5000, "batch": 32, "lr": 1e-3, "schedule": "cosine", "hold": 0.0, "warmup": 100,
    "optimiser": "adamw", "beta1": 0.9, "clip": 1.0, "ema": 0.999,
}  # fmt: skip
"""How methods are trained that do not say otherwise by their `settings`."""

WHOLE = {
    "size": (1, 65_535), "steps": (1, 10**9), "batch": (1, 10**6), "accumulate": (1, 10**6),
    "save_every": (1, 10**9), "preview_every": (0, 10**9), "warmup": (0, 10**9), "seed": (0, 2**63 - 1),
}  # fmt: skip
"""Whole numbers, each with the least and the most it may be."""

SWITCHES = "upscale", "side_by_side", "strict", "flip", "resume", "quiet"
"""True or False."""

SHARES = "held_out", "hold", "ema", "beta1"
"""Numbers in [0, 1)."""

POSITIVE = "lr", "minutes"
"""Finite numbers above 0."""

SIZES = {"weight_decay": math.inf, "clip": math.inf, "jitter": 1.0,
         "save_minutes": math.inf}  # fmt: skip
"""Finite numbers from 0 on, each with the most it may be."""

CHOICES = {
    "schedule": ("cosine", "linear", "constant"), "optimiser": ("adamw", "adam"),
    "precision": ("no", "bf16"), "device": ("auto", "cpu"), "resize": ("crop", "stretch", "none"),
}  # fmt: skip


def defaults(method: type[Part]) -> dict[str, Any]:
    """The method's own batch, learning rate and so on: what `train` does if it is not told."""
    return DEFAULTS | dict(info(method).settings)


def check(settings: Mapping[str, Any]) -> None:
    """Every number lies where it may: the only place that says where.

    Raises:
        UserError: for the first that does not, NaN and infinity among them.
    """
    for name, value in settings.items():
        if name in CHOICES:
            choose(name, value, CHOICES[name])
        if name in SWITCHES and not isinstance(value, bool):
            raise UserError(f"{name} must be True or False, not {value!r}")
        if name in (*WHOLE, *SHARES, *SIZES, *POSITIVE):
            if not isinstance(value, Real) or isinstance(value, bool):
                raise UserError(f"{name} must be a number, not {value!r}")
        if name in WHOLE:
            least, top = WHOLE[name]
            if not isinstance(value, Integral) or int(value) < least:
                raise UserError(f"{name} must be at least {least} and whole, not {value}")
            if int(value) > top:
                raise UserError(f"{name} must be at most {top:,}, not {int(value):,}")
        if name in SHARES and not 0 <= value < 1:
            raise UserError(f"{name} must lie in [0, 1), not {value}")
        if name in POSITIVE and not 0 < value < math.inf:
            raise UserError(f"{name} must be above 0 and finite, not {value}")
        if name in SIZES and not (0 <= value <= SIZES[name] and math.isfinite(value)):
            most = f"at most {SIZES[name]:g}" if SIZES[name] < math.inf else "finite"
            raise UserError(f"{name} must be 0 or more and {most}, not {value}")


def check_options(options: Mapping[str, Any]) -> None:
    """No option of a method is NaN or infinite.

    Raises:
        UserError: for the first that is.
    """
    for name, value in options.items():
        for v in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(v, Real) and not math.isfinite(v):
                raise UserError(f"{name} must be finite, not {value}")
