"""Options of a call as one value: stated once, with their types, defaults, ranges and help."""

from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import Callable
from inspect import Signature, cleandoc, signature
from typing import ParamSpec, TypeVar

from sfumato.core.errors import UserError, choose

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


def args_of(doc: str) -> dict[str, str]:
    """The `Args:` of a Google docstring: {name: text in one line}."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", cleandoc(doc), re.M | re.S)
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", section[1] if section else "", re.M | re.S)
    return {name: " ".join(text.split()) for name, text in entries}


def told_by(options: Callable[P, T]) -> Callable[[Callable[[T], R]], Callable[P, R]]:
    """Makes of a function of options one of all that they are made of, with their signature and help."""
    from sfumato.core.arguments import hints_of, plain  # and with them numpy, which no help needs

    hints, parameters = hints_of(options), signature(options).parameters
    helps: dict[str, str] = {}
    for cls in options.__mro__:  # type: ignore[attr-defined]
        helps |= args_of(cls.__doc__ or "")
    lines = [f"    {name}: {helps.get(name, '')}" for name in parameters]
    said = "\n".join(textwrap.fill(s, 100, subsequent_indent=" " * 8) for s in lines)

    def decorate(function: Callable[[T], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **given: P.kwargs) -> R:
            if unknown := sorted(given.keys() - parameters.keys()):
                more = f"; a method's own go into options={{{unknown[0]!r}: ...}}" * ("options" in parameters)
                choose(f"argument of {function.__name__}", unknown[0], parameters, more)
            try:
                made = options(*args, **plain(given))  # values are checked before it is seen that some lack
            except TypeError:
                known = signature(options).bind_partial(*args, **given).arguments
                lacks = [n for n, p in parameters.items() if p.default is p.empty and n not in known]
                if not lacks:
                    raise
                name = function.__name__
                raise UserError(f"{name} needs {', '.join(lacks)}, too: see help({name})") from None
            return function(made)

        head, raises, rest = cleandoc(function.__doc__ or "").partition("\n\nRaises:")
        call.__doc__ = f"{head}\n\nArgs:\n{said}{raises}{rest}"
        call.__annotations__ = hints | {"return": hints_of(function)["return"]}
        typed = [p.replace(annotation=hints[name]) for name, p in parameters.items()]
        call.__signature__ = Signature(typed, return_annotation=call.__annotations__["return"])  # type: ignore[attr-defined]
        return call

    return decorate
