"""Functions that are called for each step, as watch(t, x_t, E[x | x_t], extras); see `integrate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec

from torch import Tensor

P = ParamSpec("P")
Watch = Callable[[float, Tensor, Tensor, dict[str, Any]], None]


class Evaluations:
    """A `watch` that adds up the network evaluations of all steps in `nfe`, and passes on what it sees."""

    def __init__(self, watch: Watch | None = None) -> None:
        self.nfe, self.watch = 0, watch

    def __call__(self, t: float, x_t: Tensor, mean: Tensor, extras: dict[str, Any]) -> None:
        self.nfe += extras["nfe"]
        if self.watch is not None:
            self.watch(t, x_t, mean, extras)


def as_shown(x_t: Tensor, mean: Tensor, extras: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """A step's x_t and E[x | x_t] as they are shown: of latents squares, and the picture."""
    return extras["show"](x_t, mean) if "show" in extras else (x_t, mean)


class Ended(Exception):
    """What a `watch` raised, which ends the run."""


def end(*_: Any) -> None:
    """A `watch` that ends the run at its first step."""
    raise Ended


def ending(watch: Callable[P, Any] | None) -> Callable[P, None] | None:
    """A `watch` whose exceptions are told from those of what it watches."""

    def watched(*args: P.args, **given: P.kwargs) -> None:
        try:
            watch(*args, **given)  # type: ignore[misc]
        except BaseException as error:  # sys.exit(), too
            raise Ended from error

    return watched if watch else None
