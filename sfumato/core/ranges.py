"""Ranges and names of parameters, stated once, in annotations: `steps: Count`, `solver: OdeSolver`.

The check of arguments (`sfumato.core.arguments`), the help of flags and the studio read them there.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Interval:
    """The numbers from `low` to `high`, in words "in [0, 1)" or "at least 1".

    Args:
        low: the lower end.
        high: the upper end.
        ends: "[" or "(", "]" or ")": whether the ends belong to it, as in mathematics.
    """

    low: float = -math.inf
    high: float = math.inf
    ends: str = "[]"

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        return above and (value <= self.high if self.ends[1] == "]" else value < self.high)

    def __str__(self) -> str:
        low, high = (str(n) if isinstance(n, int) else f"{n:g}" for n in (self.low, self.high))
        if self.high == math.inf:
            return f"{'at least' if self.ends[0] == '[' else 'above'} {low}"
        if self.low == -math.inf:
            return f"{'at most' if self.ends[1] == ']' else 'below'} {high}"
        return f"in {self.ends[0]}{low}, {high}{self.ends[1]}"


@dataclass(frozen=True)
class OneOf:
    """Names that a parameter takes, in words "one of a, b"; with `others` beside them "for instance a, b"."""

    names: tuple[str, ...]
    others: bool = False

    def __str__(self) -> str:
        return f"{'for instance' if self.others else 'one of'} {', '.join(self.names)}"


Share = Annotated[float, Interval(0, 1)]
Strength = Annotated[float, Interval(0, 1, "(]")]
Time = Strength
"""Of noising processes, of which 0 is clean."""
BelowOne = Annotated[float, Interval(0, 1, "[)")]
Positive = Annotated[float, Interval(0, ends="(]")]
NotNegative = Annotated[float, Interval(0)]
Whole = Annotated[int, Interval(0)]
Count = Annotated[int, Interval(1)]
Steps = Annotated[int, Interval(1, 1_000_000)]
"""Of a solver; more than anybody waits for, and than is good for a table of them."""
PictureSide = Annotated[int, Interval(8)]
TrainingSide = Annotated[int, Interval(1, 65_535)]
AttentionOrder = Literal["new", "old"]
"""Of published U-Nets, see `sfumato.nets.adm`."""
Schedule = Literal["linear", "cosine"]
"""Of the betas of published chains."""
Beta = Annotated[float, Interval(0, 1, "()")]
"""Of a chain: the share of the variance that becomes noise in one of its steps."""
Several = Annotated[int, Interval(2)]


def with_range(text: str, hint: Any) -> str:
    """A parameter's help, and after it the interval or the names that its annotation states."""
    said = str(interval_of(hint) or next(_stated(hint, OneOf), ""))
    return f"{text} {said[:1].upper()}{said[1:]}." if said else text


def interval_of(hint: Any) -> Interval | None:
    """The interval that an annotation states, for the number itself or for each in a list of them."""
    return next(_stated(hint, Interval), None)


def names_of(hint: Any) -> tuple[str, ...]:
    """The names that an annotation states, or none."""
    return next((stated.names for stated in _stated(hint, OneOf)), ())


def without(hint: Any) -> Any:
    """The same type without what else its annotation says: `int | None` for `Count | None`."""
    if typing.get_origin(hint) is Annotated:
        return typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(without, typing.get_args(hint)))]  # noqa: UP007
    return hint


def _stated(hint: Any, kind: type[T]) -> Iterator[T]:
    if typing.get_origin(hint) is Annotated:
        yield from (m for m in hint.__metadata__ if isinstance(m, kind))
    for inner in typing.get_args(hint):
        yield from _stated(inner, kind)
