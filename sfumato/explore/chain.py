"""Chains of operations, written as a text: "rotate angle=60, blur sigma=2"."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from torch import Tensor

from sfumato.core.arguments import check_value
from sfumato.core.errors import UserError, choose
from sfumato.core.ranges import without
from sfumato.explore.latents import Latents
from sfumato.explore.normality import summary
from sfumato.explore.operations import OPERATIONS, Given

LARGEST = 1_000_000
"""Size of a number that an operation takes."""


class Operation(NamedTuple):
    """An operation's name and parameters; latents among them are tensors, or names of files."""

    name: str
    parameters: dict[str, Any]

    def __str__(self) -> str:
        shown = {k: "latents" if isinstance(v, Tensor) else v for k, v in self.parameters.items()}
        return " ".join([self.name, *(f"{k}={v}" for k, v in shown.items())])


def parse(chain: str) -> list[Operation]:
    """The operations of a text as "rotate angle=60, blur sigma=2"; what is not said has its default.

    Raises:
        UserError: for names and values that are not known, or values that are missing.
    """
    words = shlex.shlex(chain, posix=True, punctuation_chars=",")
    words.whitespace_split, words.commenters = True, ""
    groups: list[list[str]] = [[]]
    for word in words:
        if set(word) == {","}:
            groups += [[] for _ in word]
        else:
            groups[-1].append(word)
    if [] in groups:
        which = f"no operation beside a comma of {chain!r}" if groups[1:] else "no operation given"
        raise UserError(f"{which}: expected some of {', '.join(OPERATIONS)}")
    operations = []
    for name, *pairs in groups:
        known = parameters(name)
        given: dict[str, Any] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if pair in OPERATIONS:
                raise UserError(f"a comma lacks before {pair}: operations are parted by commas")
            choose(f"parameter of {name}", key, known)
            if not equals or key in given:
                raise UserError(f"{name}: {pair!r}: expected {key}=VALUE, once")
            given[key] = _value(f"{name} {key}", value, known[key][0])
        operations.append(Operation(name, given))
    return operations


def parameters(name: str) -> dict[str, tuple[Any, Any]]:
    """An operation's parameters: type and default, Parameter.empty where there is none."""
    operation = OPERATIONS[choose("operation", name, OPERATIONS)]
    own = list(signature(operation, eval_str=True).parameters.values())[2:]
    return {p.name: (p.annotation, p.default) for p in own}


def apply(
    chain: str | Sequence[Operation], latents: Tensor, images: Tensor | None = None, seed: int = 0
) -> tuple[Tensor, list[dict[str, Any]]]:
    """One operation after the other.

    Args:
        chain: a text, see `parse`, or operations.
        latents: (N, C, H, W); or images, for the operations that ask for no others.
        images: (N, C, H, W) in [-1, 1] that the latents are of, for blend and checkerboard.
        seed: seed of the fixed noise.

    Returns:
        Latents, and for each operation its text, and statistics before and after it.

    Raises:
        UserError: for parameters out of range, or that are missing, or that leave nothing of a latent.
    """
    given, log = Given(images, seed), []
    for operation in parse(chain) if isinstance(chain, str) else chain:
        values = dict(operation.parameters)
        for key, (kind, default) in parameters(operation.name).items():
            if kind is Tensor and isinstance(values.get(key), (str, Path)):
                values[key] = Latents.load(values[key]).latents
            elif key not in values and default is Parameter.empty:
                raise UserError(f"{operation.name} needs {key}=FILE, a file of latents")
        before = latents
        latents = OPERATIONS[operation.name](latents, given, **values)
        if (_constant(latents) & ~_constant(before)).any():
            h, w = latents.shape[-2:]
            raise UserError(
                f"{operation} leaves nothing of latents of {w}x{h} pixels but one value: give it other "
                f"numbers"
            )
        log.append({"operation": str(operation), "seed": seed,
                    "before": summary(before), "after": summary(latents)})  # fmt: skip
    return latents, log


def _constant(latents: Tensor) -> Tensor:
    """Which of the latents have one value everywhere."""
    return latents.amax((1, 2, 3)) == latents.amin((1, 2, 3))


def outline() -> str:
    """Every operation with its parameters and what it does, a paragraph each."""
    lines = []
    for name, function in OPERATIONS.items():
        shown = []
        for key, (kind, default) in parameters(name).items():
            value = "FILE" if kind is Tensor else str(default)
            choices = "|".join(map(str, get_args(kind))) if get_origin(kind) is Literal else value
            shown.append(f"{key}={choices}")
        text = cleandoc(function.__doc__ or "").split("\n\n")[0]
        lines.append(f"{' '.join([name, *shown])}: {' '.join(text.split())}")
    return "\n\n".join(lines)


def _value(what: str, text: str, hint: Any) -> Any:
    """A parameter's value of its type and in its range."""
    kind = without(hint)
    if get_origin(kind) is Literal:
        return choose(what, text, get_args(kind))
    if kind is Tensor:
        return text
    if kind is bool:
        return choose(what, text.lower(), ("true", "false")) == "true"
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:
        what_kind = f"a {'whole ' if kind is int else ''}number of at most {LARGEST:,} in size"
        raise UserError(f"{what}={text}: expected {what_kind}") from None
    check_value(what, value, hint)
    return value
