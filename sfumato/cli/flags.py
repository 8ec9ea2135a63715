"""What functions and methods say of themselves, as command-line flags.

Types and ranges come from the annotations, help from the docstrings.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from inspect import Parameter, Signature, signature
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import cyclopts

from sfumato.core.errors import UserError, no_address
from sfumato.core.options import args_of
from sfumato.core.ranges import with_range, without

SPELLED = {"source_folder": "--from", "start": "--from", "score_key": "--score"}
"""Flags that are no Python names."""
RANGES = "range", "to_range"
"""Flags of several words."""


def flags(
    function: Callable[..., Any],
    skip: Sequence[str] = (),
    keyword: Sequence[str] = (),
    kinds: Mapping[str, tuple[Any, str]] | None = None,
) -> list[Parameter]:
    """A function's or constructor's parameters as flags, with the help of the Google docstring.

    Args:
        function: or class, whose parameters; those that cannot be typed on a command line are left out.
        skip: names to leave out.
        keyword: positional ones that become flags.
        kinds: other types and help texts.
    """
    from sfumato.core.arguments import hints_of

    helps, out = args_of(function.__doc__ or ""), []
    made = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    hints = hints_of(function)
    for p in signature(made).parameters.values():
        hint, text = (kinds or {}).get(p.name, (hints.get(p.name), helps.get(p.name, "")))
        hint = list[str] | None if p.name in (*RANGES, "beside") else hint
        text = with_range(text, hint)
        if p.name in skip or (hint := _typed(without(hint))) is None:
            continue
        kind = Parameter.KEYWORD_ONLY if p.name in keyword else p.kind
        out.append(flag(p.name, hint, kind, text, p.default))
    return out


def method_flags(
    words: Sequence[str], shown: str, kinds: Mapping[str, tuple[Any, str]] | None = None
) -> tuple[list[Parameter], str]:
    """Flags of the method that a command's words name, by --method or --model, and a sentence for its help.

    Args:
        words: words of the command line.
        shown: the command, for the sentence.
        kinds: see `flags`.
    """
    from sfumato.checkpoints.hub import spelled
    from sfumato.checkpoints.model_folder import resolve
    from sfumato.methods.registry import find, info
    from sfumato.translation.translator import method_in, used_by_others

    method, model = value_of(words, "--method"), value_of(words, "--model")
    folder = resolve(model)[0] if model and not method else None
    if method := method_in(folder) if folder else method:
        if not info(method).translates:
            raise used_by_others(method, spelled(folder) if folder else None)
        cls: Any = find(method)
        own = flags(cls.translate, skip=("self", "source", "seed", "watch"), kinds=kinds)
        return own, f" Options of {method} are among the parameters."
    return [], f" `sfumato {shown} --method METHOD --help` has the method's options, too."


def at_home(word: str) -> str:
    """A word of the command line with ~/ as the home folder, also after the = of --out=~/x and a=~/x.

    Shells do so at the beginning of a word alone, or after some of these signs.
    """
    return re.sub(r"(^|=)~(?=/)", lambda found: found[1] + str(Path.home()), word)


def value_of(words: Sequence[str], flag: str) -> str | None:
    """What follows a flag on the command line."""
    for word, following in pairwise(words):
        if word == flag:
            return following or None
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _typed(hint: Any) -> Any:
    """The part of a type that can be typed on a command line, or None."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        members = [m for m in typing.get_args(hint) if _typed(m) is not None]
        members = members if str not in members else [m for m in members if m is not Path]
        return typing.Union[tuple(members)] if set(members) - {type(None)} else None  # noqa: UP007
    plain = hint in (str, int, float, bool, Path, type(None))
    return hint if plain or origin in (typing.Literal, tuple, list) else None


def flag(name: str, hint: Any, kind: Any, text: str, default: Any = Parameter.empty) -> Parameter:
    """One flag (or place) of a command."""
    spelled = SPELLED.get(name)
    said = partial(convert, what=name, expected=text.partition(";")[0].rstrip("."))
    unsaid = default is None and bool in typing.get_args(hint)
    negative = None if unsaid or default is True else ()
    shown = cyclopts.Parameter(
        spelled, help=text, converter=said, negative=negative, consume_multiple=name in RANGES
    )
    return Parameter(name, kind, default=default, annotation=Annotated[hint, shown])


def command(function: Callable[..., Any], doc: str, parameters: list[Parameter]) -> Any:
    """`function` under other parameters, for cyclopts to read."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    first = [p for p in parameters if p.kind != Parameter.KEYWORD_ONLY]
    rest = [p for p in parameters if p.kind == Parameter.KEYWORD_ONLY]
    run.__doc__ = doc.split("Args:")[0].strip()
    run.__signature__ = Signature([*first, *rest])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def convert(hint: Any, tokens: Sequence[cyclopts.Token], what: str = "name", expected: str = "a name") -> Any:
    """What was typed, as a value of this type; cyclopts alone would round 1.5 to the whole number 2."""
    for token in tokens:
        if not token.value and token.keyword:
            raise cyclopts.CoercionError(msg=f"{token.keyword} is empty: type its value after it.")
        if not token.value:
            raise cyclopts.CoercionError(msg=f"an empty text was given for {what}: expected {expected}.")
        try:
            if "https://" not in expected:  # sites, such as this one
                no_address(token.keyword or what, token.value)
        except UserError as error:
            raise cyclopts.CoercionError(msg=str(error)) from None
    for token in tokens if int in (typing.get_args(hint) or (hint,)) else ():
        with suppress(ValueError):  # of another type, or for cyclopts to refuse
            if not float(token.value).is_integer():
                wrong = f"{token.keyword or 'this'} takes a whole number, not {token.value}."
                raise cyclopts.CoercionError(msg=wrong)
    return cyclopts.convert(hint, tokens)
