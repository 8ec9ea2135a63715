"""Ranges of values, stated or measured: how 12-bit, signed and float samples become [-1, 1], and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfumato.core.errors import UserError, check_numbers

ValueRange = tuple[float, float]
"""What becomes -1, and what becomes 1."""
UNIT: ValueRange = (-1.0, 1.0)
"""That of images."""
Stated = str | Sequence[str | float]
"""A range as people state it: its two ends, auto, or percentile and two shares of 100."""
SAMPLED, IN_ALL = 2**16, 2**24
"""Values that percentiles are taken of, at most: of a picture, and of all."""
HELD = "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"
"""Types of samples that results may have."""


class Rule(NamedTuple):
    """A range as it is stated."""

    ends: ValueRange | None = None
    percentiles: tuple[float, float] = (0.0, 100.0)
    """Shares of the values that lie below each end, where the ends are measured."""


def rule_of(stated: Stated, name: str = "range") -> Rule:
    """What is stated.

    Raises:
        UserError: it is not a range.
    """
    words = stated.split() if isinstance(stated, str) else [*stated]
    try:
        if words == ["auto"]:
            return Rule()
        if len(words) == 3 and words[0] == "percentile":
            low, high = float(words[1]), float(words[2])
            if 0 <= low < high <= 100:
                return Rule(percentiles=(low, high))
        if len(words) == 2:
            low, high = float(words[0]), float(words[1])
            if low < high and max(-low, high) <= np.finfo(np.float32).max:
                return Rule((low, high))
    except (TypeError, ValueError):
        pass
    raise UserError(
        f"{name} {' '.join(map(str, words))}: expected its two ends such as -1000 3000, auto, or "
        f"percentile 0.1 99.9; folders come before it"
    )


def two_ends(stated: Stated | None, name: str, of: str) -> ValueRange | None:
    """The ends of a range of what is not there yet; None if none is stated.

    Raises:
        UserError: it is not a range, or one that is measured.
    """
    if stated is None or (ends := rule_of(stated, name).ends) is not None:
        return None if stated is None else ends
    words = stated if isinstance(stated, str) else " ".join(map(str, stated))
    raise UserError(
        f"--{name.replace('_', '-')} {words}: {of} cannot be measured: expected two ends, such as 0 4095"
    )


def meant(low: float, high: float) -> ValueRange:
    """The range that floats from low to high are most likely of, a little beyond which they may lie."""
    if low >= -0.1 and high <= 2:
        return 0.0, 1.0
    if max(-low, high) <= 2:
        return UNIT
    least = {255.0: 2, 65_535.0: 2**14}  # 12 bits are of no range that is known
    tops = (top for top, n in least.items() if low >= -0.1 * high and n < high <= 1.1 * top)
    return next(((0.0, top) for top in tops), (low, high))


def to_type(low: float, high: float) -> str:
    """What brings floats from low to high into [-1, 1], as it is typed for an array or tensor x."""
    a, b = meant(low, high)
    x = "x" if a <= low and high <= b else f"x.clip({a:g}, {b:g})"
    if (a, b) == UNIT:
        return x
    if (a, b) == (0, 1):
        return f"2 * {x} - 1" + ("" if x == "x" else ", or x.clip(-1, 1) if black is -1")
    if a == 0 and b in (255, 65_535):
        return f"{x} / {b / 2:.6g} - 1"
    middle, half = (a + b) / 2, (b - a) / 2
    scaled = f"(x {'+' if middle < 0 else '-'} {abs(middle):.6g}) / {half:.6g}"
    return f"x.clip(-1, 1) to cut them, or {scaled} if these are the ends of their range"


def measured(rule: Rule, pictures: Iterable[NDArray[Any]], what: str) -> ValueRange:
    """The range of these pictures' samples by a rule.

    Percentiles are those of some values of each picture, evenly taken.

    Args:
        rule: what is stated.
        pictures: samples of any shape.
        what: what an error calls them.

    Raises:
        UserError: all values are the same.
    """
    if rule.ends is not None:
        return rule.ends
    low, high = rule.percentiles
    if (low, high) == (0, 100):
        ends = [(float(x.min()), float(x.max())) for x in pictures]
        a, b = min((a for a, _ in ends), default=0.0), max((b for _, b in ends), default=0.0)
    else:
        a, b = (float(n) for n in np.percentile(_some(pictures), [low, high]))
    if not a < b:
        raise UserError(f"the values of {what} go from {a:g} to {b:g}: state a range by its two ends")
    return a, b


def _some(pictures: Iterable[NDArray[Any]]) -> NDArray[np.float64]:
    """Values of all pictures, evenly taken, and fewer of each where there are many."""
    some, each, held = list[NDArray[np.float64]](), 1, 0
    for x in pictures:
        some.append(x.reshape(-1)[:: -(-x.size // SAMPLED) * each].astype(np.float64))
        if (held := held + len(some[-1])) > IN_ALL:
            some, each = [values[::2] for values in some], 2 * each
            held = sum(map(len, some))
    return np.concatenate(some or [np.zeros(1)])


def to_unit(samples: NDArray[Any], ends: ValueRange) -> tuple[NDArray[np.float32], str]:
    """Samples as float32 in [-1, 1], and how many lay outside of the range, in words, or nothing.

    Raises:
        UserError: a value is not a number.
    """
    check_numbers({"the picture": samples}, ": fill these pixels, or leave the picture out")
    low, high = ends
    below, above = (samples < low).mean(), (samples > high).mean()
    said = [
        f"{share:.2%} {where}"
        for share, where in ((below, f"below {low:g}"), (above, f"above {high:g}"))
        if share
    ]
    unit = ((samples.astype(np.float64) - low) * (2 / (high - low)) - 1).clip(-1, 1)
    return unit.astype(np.float32), ", ".join(said)


def from_unit(values: NDArray[np.float32], ends: ValueRange, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values in [-1, 1] as samples of this type; whole numbers are rounded.

    Raises:
        UserError: a value is not a number.
    """
    check_numbers({"the image": values}, ": the model diverged; lower --lr")
    low, high = ends
    samples = low + (values.astype(np.float64).clip(-1, 1) + 1) * ((high - low) / 2)
    return (samples if dtype.kind == "f" else np.floor(samples + 0.5)).astype(dtype)


def type_for(ends: ValueRange, given: str, depth: int | None) -> np.dtype[Any]:
    """The type of results in a range: that of the sources, or the next one that holds the range finely.

    Args:
        ends: the range.
        given: type of the source's samples.
        depth: bits, if they are asked for; else whole numbers are taken only where they are fine enough.

    Raises:
        UserError: no type of this depth holds the range, or only a few of its values.
    """
    if depth in (8, 16) and (whole := math.floor(ends[1]) - math.ceil(ends[0]) + 1) < LEVELS:
        raise UserError(
            f"--depth {depth} writes whole numbers, and from {ends[0]:g} to {ends[1]:g} lie {whole}: "
            f"leave it "
            f"out, or type --depth 32 --format tiff"
        )
    kinds = [given if given in HELD else "float32", "uint16", "int16", "float32"]
    if depth is not None:
        bits = {kind: 8 * np.dtype(kind).itemsize for kind in HELD if kind != "float32"}
        kinds = ["float32"] if depth == 32 else [kind for kind, own in bits.items() if own == depth]
    elif ends[1] - ends[0] < FINE:
        kinds = ["float32"]
    for kind in map(np.dtype, kinds):
        if kind.kind == "f" or (np.iinfo(kind).min <= ends[0] and ends[1] <= np.iinfo(kind).max):
            return kind
    raise UserError(f"--depth {depth} does not hold values from {ends[0]:g} to {ends[1]:g}: --depth 32 does")


FINE = 255
"""Steps that a picture of 8 bits has."""
LEVELS = 16
"""Fewest whole numbers in a range that are a picture's levels, where a depth asks for such."""
