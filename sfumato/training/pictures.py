"""The pictures of a training: those it learns from, and those it is scored on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from sfumato.core.errors import UserError
from sfumato.core.terminal import verb
from sfumato.data import sets
from sfumato.data.image_folder import ImageFolder
from sfumato.data.open_data import open_data
from sfumato.data.own import in_python
from sfumato.data.without import leave_out
from sfumato.methods.registry import find, info, inner
from sfumato.module import Part
from sfumato.training.options import TrainOptions

HOW = ("resize", "upscale", "strict", "side_by_side", "channels", "to_channels", "alpha", "range", "to_range",
       "pages")  # fmt: skip
"""Options that say how pictures are read."""


class Pictures(NamedTuple):
    """All pictures, those a training learns from, and those it is scored on, if any."""

    everything: sets.Dataset
    training: sets.Dataset
    held_out: sets.Dataset | None

    @property
    def sources(self) -> list[ImageFolder]:
        """The pictures that what is trained will be given: those of all domains, or of the first folder."""
        parts = [*self.training.parts.values()]
        return parts[:1] if isinstance(self.training, sets.Unpaired) else parts

    def names(self) -> dict[str, Any]:
        """For split.json."""
        rest = self.held_out
        return {"training": self.training.names(), "held_out": rest.names() if rest else {}}

    def grouped(self) -> Pictures:
        """The same; of a training in buckets, what is wrong with a picture in its bucket is said now."""
        for data in filter(None, (self.training, self.held_out)):
            _ = data.groups
        return self


def read_pictures(asked: TrainOptions) -> Pictures:
    """Reads the pictures of a training, leaves some out, and holds some out."""
    if asked.scale != 1 and asked.resize != "pieces":
        raise UserError(f"--scale {asked.scale:g} is of pieces: add --resize pieces")
    kind, part = trains_on(asked.method, asked.options), asked.method
    how = {k: getattr(asked, k) for k in HOW} | {"size": asked.sides}
    if asked.further:
        how |= {"beside": asked.further, "channels": asked.stated_channels}
        if asked.validation is not None:
            raise UserError(
                "--validation has no folders --beside: leave it out, and hold some out by --held-out"
            )
    early = None if in_python(asked.data) else asked.without
    everything = open_data(kind, asked.data, **how, without=early)
    if isinstance(part, Part):
        everything = in_order(everything, getattr(part, "domains", ()), "the model")
    if asked.without is not None and early is None:
        pairs = isinstance(everything, sets.Pairs)
        everything = everything.with_parts(leave_out(everything.parts, asked.without, pairs))
    if asked.validation is not None:
        if asked.held_out:
            raise UserError(f"say --held-out {asked.held_out:g} or --validation, not both")
        first = everything.preparation  # of ranges that were measured
        how |= {"range": first.range} | ({} if kind == "domains" else {"to_range": first.to_range})
        rest = open_data(kind, asked.validation, whose="validation", **how)
        rest = in_order(rest, everything.parts, "the training", "--validation ")
        _others(everything, rest)
        rest.like = everything
        return Pictures(everything, everything, rest).grouped()
    if asked.held_out:
        return Pictures(everything, *everything.split(asked.held_out, asked.seed)).grouped()
    return Pictures(everything, everything, None).grouped()


def trains_on(method: str | Part, options: Mapping[str, Any] | None = None) -> str:
    """What its batches are with these options: some methods learn from pairs, too, if they are told."""
    cls: Any = find(method) if isinstance(method, str) else inner(method)
    name, value = getattr(cls, "pairs_with", ("", None))
    told = (options or {}).get(name) if isinstance(method, str) else getattr(cls, name, None)
    return "pairs" if name and told == value else info(method).trains_on or ""


def with_channels(asked: TrainOptions, pictures: Pictures) -> TrainOptions:
    """The same; channels that are not stated are those of all folders of the sources."""
    if not asked.further or isinstance(asked.method, Part):
        return asked
    channels = pictures.everything.preparation.channels
    return replace(asked, options={"channels": channels} | dict(asked.options or {}))


def in_order(data: sets.Dataset, names: Iterable[str], whose: str, flag: str = "") -> sets.Dataset:
    """The domains of `data` in this order; pairs and unpaired folders as they are.

    Args:
        data: what is ordered.
        names: the order.
        whose: who has these domains.
        flag: before each folder, as it is typed.

    Raises:
        UserError: if they are others.
    """
    if not isinstance(data, sets.Domains) or not (names := list(names)):
        return data
    if set(names) != set(data.parts):
        raise UserError(
            f"{whose} has the domains {', '.join(names)}, and the folders are {', '.join(data.parts)}: "
            f"name every domain's folder: {' '.join(f'{flag}{name}=FOLDER' for name in names)}"
        )
    return data.with_parts({name: data.parts[name] for name in names})


def _others(training: sets.Dataset, rest: sets.Dataset) -> None:
    """Says how many held-out pictures are the training's own, whatever they are called."""
    known, held = set(_contents(training).values()), _contents(rest)
    if own := [name for name, content in held.items() if content in known]:
        warnings.warn(
            f"{len(own):,} of {len(held):,} pictures of --validation {verb(len(own), 'are')} the "
            f"training's own, as {own[0]}: "
            f"their loss does not tell whether it memorises them",
            stacklevel=4,
        )


def _contents(data: sets.Dataset) -> dict[str, tuple[str, ...]]:
    """{file: sha256}; of pairs, whose halves may be alike in many, {file: sha256 of both}."""
    folders = data.parts.values()
    if isinstance(data, sets.Pairs):
        files = zip(*(part.paths for part in folders), *(part.hashes for part in folders), strict=True)
        return {str(file): tuple(hashes) for file, _, *hashes in files}
    return {str(file): (sha,) for part in folders for file, sha in zip(part.paths, part.hashes, strict=True)}
