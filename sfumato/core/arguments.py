"""What a function may be given: its annotations say it, and one line says what was given instead.

Type checkers see what is written in files, not what is typed into a notebook.
"""

from __future__ import annotations

import functools
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from inspect import get_annotations, signature
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, ParamSpec, Self, TypeVar

import numpy as np

from sfumato.core.errors import ADDRESS, UserError, choose, no_address
from sfumato.core.ranges import Interval, without
from sfumato.core.terminal import an

P = ParamSpec("P")
R = TypeVar("R")
MOST = 10**9
"""The largest whole number that is taken; seeds may be any that a generator takes."""
LARGEST_SEED = 2**63 - 1
Seed = int | Sequence[int | tuple[tuple[int, ...], ...]]
"""Of noise: one for a whole batch, to which each image adds its content; or one, or one for each block of it,
for each image."""
TEXT = str, bytes, bytearray, memoryview
"""What Python takes for sequences, and nobody for lists."""

WORDS: dict[Any, str] = {
    int: "a whole number", float: "a finite number", bool: "true or false", str: "a name",
    types.NoneType: "None", Callable: "a function", Sequence: "a list", Mapping: "a dict",
}  # fmt: skip
"""Types, as they are said; of others their names are."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, which refuses arguments that are not of their annotated types, or out of their ranges.

    Numbers of NumPy become Python's own, which JSON can hold.

    Raises:
        UserError: the first argument that is not; names it, what was given and what is expected.
    """
    names = list(signature(function).parameters)

    @functools.wraps(function)
    def call(*args: P.args, **given: P.kwargs) -> R:
        first = checked_values(function, dict(zip(names, args, strict=False)))
        rest = checked_values(function, given)
        return function(*first.values(), *args[len(names) :], **rest)  # type: ignore[arg-type]

    return call


class Checked:
    """A dataclass whose fields are checked by their annotations before it is made.

    Networks and processes among them are not: who needs them says which, and how to come by one.
    """

    def __new__(cls, *args: Any, **given: Any) -> Self:
        names = [f.name for f in fields(cls) if not f.kw_only]  # type: ignore[arg-type]
        named = zip(names, args, strict=False)
        checked_values(cls, {k: v for k, v in (dict(named) | given).items() if not callable(v)})
        self = super().__new__(cls)
        if hasattr(cls, "said"):  # who wants to know what was left out
            object.__setattr__(self, "said", frozenset(given))
        return self


def checked_values(function: Any, given: Mapping[str, Any], **types: Any) -> dict[str, Any]:
    """Arguments of these names, each of the type that `types` or `function` states; see `checked`."""
    hints = hints_of(function) | types
    values = plain(given)
    for name, value in values.items():
        check_value(name, value, hints.get(name, Any))
    return values


def plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same values; numbers of NumPy, also among others, are Python's own, which JSON can hold."""
    return {k: _plain(v) for k, v in given.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    inside = value.values() if type(value) is dict else value if type(value) in (list, tuple) else ()
    if not any(isinstance(one, np.generic) for one in inside):
        return value  # itself: a caller may look into what it gave
    return plain(value) if type(value) is dict else type(value)(map(_plain, value))


def check_value(name: str, value: Any, hint: Any, most: int = MOST) -> None:
    """Sees that a value is of its type and in its range.

    Raises:
        UserError: it is not.
    """
    most = LARGEST_SEED if name == "seed" else most
    if fits(value, hint, most):
        return
    for member in _members(hint):
        if typing.get_origin(member) is Annotated and fits(value, without(member), most):
            ranges = [str(m) for m in member.__metadata__ if isinstance(m, Interval)]
            raise UserError(f"{name} must be {' and '.join(ranges)}, not {_shown(value)}")
    members = _members(without(hint))
    if Path in members:
        no_address(name, value)
    for member in members:
        kind, args = typing.get_origin(member), typing.get_args(member)
        if kind is typing.Literal and isinstance(value, str) and all(isinstance(a, str) for a in args):
            choose(name, value, args)
        if kind is tuple and args[1:] == (...,):
            kind, args = Sequence, args[:1]
        if kind in (Sequence, Mapping) and isinstance(value, kind) and not isinstance(value, TEXT):
            some = value if isinstance(value, Mapping) else dict(enumerate(value))
            for key, one in some.items():
                if kind is Mapping:
                    check_value(f"a key of {name}", key, args[0])
                check_value(f"{name}[{key!r}]", one, args[-1])
    kinds = " or ".join(_words(members))
    if int in members and isinstance(value, Integral) and not isinstance(value, bool):
        kinds = f"at most {most:,}"
    raise UserError(f"{name} must be {kinds}, not {_shown(value)}")


def fits(value: Any, hint: Any, most: int = MOST) -> bool:
    """Whether a value is of an annotated type; finite, and a whole one at most `most`, if it is a number."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        ranges = [m for m in hint.__metadata__ if isinstance(m, Interval)]
        return fits(value, args[0], most) and all(value in m for m in ranges)
    if origin in (typing.Union, types.UnionType):
        if Path in args and isinstance(value, str) and (not value or "\0" in value):
            return False  # no name of a file
        if Path in args and isinstance(value, str | Path) and ADDRESS.match(str(value)):
            return False
        return any(fits(value, member, most) for member in args)
    if origin is typing.Literal:
        return any(type(value) is type(one) and value == one for one in args)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        each = args[:1] * len(value) if args[1:] == (...,) else args
        return len(each) == len(value) and all(fits(v, e, most) for v, e in zip(value, each, strict=True))
    if origin in (Sequence, Mapping):
        if not isinstance(value, origin) or isinstance(value, TEXT):
            return False
        if isinstance(value, Mapping) and not all(fits(k, args[0]) for k in value):
            return False
        parts: Iterable[Any] = value.values() if isinstance(value, Mapping) else value
        return all(fits(v, args[-1], most) for v in parts)
    if hint is float:
        number = isinstance(value, Real) and not isinstance(value, bool)
        return number and -math.inf < value < math.inf and abs(value) <= sys.float_info.max  # no nan
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) <= most
    try:
        return isinstance(value, origin or hint)
    except TypeError:  # a protocol, or anything else that only type checkers can tell
        return True


def hints_of(annotated: Any) -> dict[str, Any]:
    """The types of a function's arguments or a class' fields, as far as they can be told."""
    try:
        return _hints_of(getattr(annotated, "__func__", annotated))
    except (NameError, TypeError):  # of another package, by names that are for type checkers
        return {}


@functools.cache
def _hints_of(annotated: Any) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for one in reversed(getattr(annotated, "__mro__", (annotated,))):
        hints |= get_annotations(one, eval_str=True)
    return hints


def _members(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _words(members: Sequence[Any]) -> list[str]:
    """The kinds, each said once: a name or a `Path` is a path."""
    words = []
    for member in members:
        kind = typing.get_origin(member) or member
        if kind is typing.Literal:
            words.append(f"one of {', '.join(map(str, typing.get_args(member)))}")
        elif Path in members and member in (str, Path):
            words.append("a path such as 'folder/name'")
        else:
            of = " of paths" if Path in typing.get_args((typing.get_args(member) or ("",))[-1]) else ""
            words.append(WORDS.get(kind, an(getattr(kind, "__name__", str(kind)))) + of)
    return list(dict.fromkeys(words))


def _shown(value: Any) -> str:
    """A short value itself, and of any other its type."""
    plain = (str, bytes, Real, Path)
    each = value if isinstance(value, tuple) else (value,)
    short = value is None or all(isinstance(one, plain) for one in each)
    return repr(value) if short and len(repr(value)) <= 100 else described(value)


def described(value: Any) -> str:
    """What a value is, in a few words, such as "an ndarray of shape (4, 4)"."""
    shape = getattr(value, "shape", None)
    return an(type(value).__name__) + (f" of shape {tuple(shape)}" if isinstance(shape, tuple) else "")
