"""What a method is, and how methods are found.

A method is one file in `sfumato/methods/` with one `Part` of the file's name (ignoring case and
underscores).  It has one or both of

    translate(source, *, seed=0, watch=None, <options>) -> target       images (B, C, H, W) in [-1, 1]
    objectives(batches, rng) -> yields (player, loss)                   see `sfumato.training.fit`

Its fields are the flags of `sfumato train METHOD`, the options of `translate` those of
`sfumato translate --method METHOD`; both take their help from the docstrings.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from sfumato.core.errors import UserError, choose
from sfumato.core.terminal import an
from sfumato.diffusion.latents import InLatents
from sfumato.methods.outline import ROLES, Outline, names, summary
from sfumato.module import Part, fields

Direction = Literal["source-to-target", "target-to-source"]
"""Which way a method of two domains translates."""


def end(direction: str) -> str:
    """The domain, target or source, that a direction leads to.

    Raises:
        UserError: for what is no direction.
    """
    ends = {"source-to-target": "target", "target-to-source": "source"}
    if direction not in ends:
        raise UserError(f"direction must be {' or '.join(ends)}, not {direction!r}")
    return ends[direction]


@runtime_checkable
class Trainable(Protocol):
    """Can be trained by `fit`; `data` is what `MethodInfo` calls `trains_on`.

    A `begin_step()`, if it has one, is called before a step's first micro-batch.
    """

    data: str

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        """Yields (player, loss) once per player and step; a player is a sub-module's name.

        `fit` minimises each loss over that player's parameters only, before it resumes the
        generator. Never reuse a graph across a yield. All randomness comes from `rng`.
        """


@dataclass(frozen=True)
class MethodInfo(Outline):
    """What a method's class says about it, in class variables.

    Attributes:
        settings: its own defaults of the training.
        steady: does a lower held-out loss mean a better model?  Not if its players play against each
            other, or learn from what they make.
        phases: the names of fields that say how many batches each phase before the last takes, if steps of
            one phase take longer than those of another: its buffer `seen` then counts the batches.
    """

    settings: Mapping[str, Any]
    steady: bool
    phases: tuple[str, ...]


def info(method: str | Part | type[Part]) -> MethodInfo:
    """What a method is, of its name, its class or one of its models: nobody else asks a class.

    Raises:
        UserError: for unknown names, with the nearest one.
    """
    cls: Any = find(method) if isinstance(method, str) else inner(method)
    return _info(cls if isinstance(cls, type) else type(cls))


@functools.cache
def _info(cls: Any) -> MethodInfo:
    return MethodInfo(
        summary=summary(sys.modules[cls.__module__].__doc__),
        trains_on=getattr(cls, "data", None) if hasattr(cls, "objectives") else None,
        translates=hasattr(cls, "translate"),
        needs={f.name: f.default is MISSING for f in fields(cls) if f.name in ROLES},
        settings=getattr(cls, "settings", {}),
        steady=getattr(cls, "steady", True),
        phases=getattr(cls, "phases", ()),
    )


class Diverged(UserError):
    """A loss, gradient or made image is NaN or infinite; the weights have not been touched by it."""


def inner(method: Any) -> Any:
    """The method itself of one that works in latents; any other as it is."""
    return method.method if isinstance(method, InLatents) else method


def said(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The description of the method itself, in that of a model."""
    latent = isinstance(model, Mapping) and model.get("is") == InLatents.__name__
    own: Mapping[str, Any] = model["method"] if latent else model
    return own


def find(name: str) -> type[Part]:
    """The method of this name.

    Raises:
        UserError: for unknown names, with the nearest one.
    """
    choose("method", name, names())
    module = importlib.import_module(f"sfumato.methods.{name}")
    for key, value in vars(module).items():
        if key.lower() == name.replace("_", "") and isinstance(value, type):
            return value
    raise AssertionError(f"sfumato/methods/{name}.py has no class of its own name")


def named(kind: str) -> str:
    """The name of the method that a description calls `kind`.

    Raises:
        UserError: there is none.
    """
    for name in names():
        if name.replace("_", "") == kind.lower():
            return name
    raise UserError(f"{an(kind)} is not a method; there are {', '.join(names())}")


def name_of(method: str | Part | type[Part]) -> str:
    """The method's name: that of its file."""
    if isinstance(method, str):
        return method
    cls = method if isinstance(method, type) else type(inner(method))
    return cls.__module__.rsplit(".", 1)[-1]


def cite(name: str) -> str:
    """BibTeX of the method's paper, from the end of its module's docstring."""
    find(name)
    doc = inspect.getdoc(importlib.import_module(f"sfumato.methods.{name}")) or ""
    start = doc.find("@")
    assert start >= 0, f"sfumato/methods/{name}.py has no BibTeX in its docstring"
    return doc[start:].strip()
