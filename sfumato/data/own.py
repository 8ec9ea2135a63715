"""Pictures that are held in Python, in the place of folders of files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from torch import Tensor

from sfumato.core.arguments import TEXT, check_value, described
from sfumato.core.errors import UserError
from sfumato.data.image_folder import ImageFolder
from sfumato.data.items import LABELLED, Items
from sfumato.data.preparation import Preparation
from sfumato.data.read import Unfiled

GIVEN = "given in Python"
"""How run.json names pictures that lie in no folder."""
LOOKED = 4
"""Items that are read once more at the beginning, to see whether they stay the same."""
EXPECTED = {
    "domains": LABELLED,
    "pairs": "[sources, targets], in the same order, or one collection of (source, target)",
    "unpaired": "[sources, targets]",
}


class Own(NamedTuple):
    """Pictures of some items; of pairs those of one side."""

    items: Items
    at: Sequence[int]
    side: int = 0

    def __str__(self) -> str:
        return self.items.name

    def raw(self, channels: int) -> Iterator[Unfiled]:
        """The pictures with their values as they are, to be measured."""
        return (self.items.read(i, self.side, channels, ranged=True) for i in self.at)


class OwnPictures(ImageFolder):
    """Pictures that are held in Python, by index; they are called by their places in what was given."""

    each = (*ImageFolder.each, "at")
    threads = 1  # items are read one after the other: who made them may not have thought of threads

    def __init__(self, own: Own, preparation: Preparation) -> None:
        self.preparation, self.own, self.at = preparation, own, list(own.at)
        self.skipped, self.left_out, self.partial = {}, {}, {}
        self.names = [str(i) for i in self.at]
        self.file_names = list(self.names)
        self.paths = [Path(f"{own}[{i}]") for i in self.at]
        self.roots = [Path(str(own))] * len(self.at)
        for i in range(min(LOOKED, len(self))):
            self.picture(i)

    def decoded(self, strict: bool = False) -> Self:
        """As of a folder; items that are no pictures are mistakes, whatever `strict` says."""
        found = super().decoded(strict)
        if self.own.items.lowest.get(self.own.side, -1.0) >= 0 and self.preparation.range is None:
            raise UserError(
                f"item {self.at[0]} of {self.own} has values in [0, 1], as all have: expected [-1, 1]; say "
                f"range=(0, 1), or range=(-1, 1) if all pictures are this bright"
            )
        return found

    def picture(self, index: int) -> Unfiled:
        how = self.preparation
        return self.own.items.read(self.at[index], self.own.side, how.channels, how.range is not None)

    def _hash(self, index: int) -> str:
        place = self.at[index], self.own.side
        return self.own.items.contents.get(place) or self.picture(index).sha


def in_python(data: Any) -> bool:
    """Whether something else than folders is among what was given."""
    return not all(isinstance(one, (str, Path)) for one in _each(data))


def check_data(name: str, data: Any) -> None:
    """Sees that data are folders, or may be pictures, before anything of them is read.

    Raises:
        UserError: they are neither, or a folder is an address or has no name.
    """
    for one in _each(data):
        if isinstance(one, (str, Path)):
            check_value(name, one, str | Path)
    kinds = hasattr(data, "__iter__") or hasattr(data, "__getitem__") or isinstance(data, (str, Path))
    if isinstance(data, TEXT[1:]) or not kinds:
        raise UserError(f"{name} must be folders or collections of pictures, not {described(data)}")


def parts_of(
    data: Any, kind: str, side_by_side: bool = False, whose: str = "data"
) -> dict[str, str | Path | Own]:
    """Folders and collections by their names.

    Args:
        data: see `EXPECTED`; a folder may take the place of a collection.
        kind: "domains", "pairs" or "unpaired".
        side_by_side: one collection, whose pictures hold a source and its target.
        whose: what errors call the data.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(data, Mapping) and hasattr(data, "column_names"):
        raise UserError(
            f"{whose} has the splits {', '.join(data)}: choose one, as {whose}[{next(iter(data))!r}]"
        )
    both = isinstance(data, (list, tuple)) and len(data) == 2 and kind != "domains" and not side_by_side
    if both and not (kind == "pairs" and all(isinstance(one, (tuple, Mapping)) for one in data)):
        data = dict(zip(("source", "target"), data, strict=True))
    if isinstance(data, Mapping):
        parts = {name: _part(one, str(name)) for name, one in data.items()}
        counts = [len(one.at) for one in parts.values() if isinstance(one, Own)]
        if kind == "pairs" and len(parts) == 2 and (len(counts) == 1 or len({*counts}) > 1):
            said = f"{counts[0]} and {counts[1]} pictures" if len(counts) > 1 else "a folder and a collection"
            raise UserError(f"pairs of {said}: expected {EXPECTED['pairs']}")
        return parts
    if kind == "unpaired" and not side_by_side:
        raise UserError(f"{whose} must be folders, or {EXPECTED[kind]}, not {described(data)}")
    several(data, whose)
    items = Items(data, whose, pairs=kind == "pairs" and not side_by_side)
    if kind == "domains":
        return {name: Own(items, at) for name, at in items.by_label().items()}
    sides = range(2) if items.pairs else range(1)
    return {("source", "target")[side]: Own(items, range(len(items)), side) for side in sides}


def folders_of(data: Any) -> list[Path]:
    """The folders among what was given."""
    return [Path(one) for one in _each(data) if isinstance(one, (str, Path))]


def _each(data: Any) -> Iterable[Any]:
    return data.values() if isinstance(data, Mapping) else data if isinstance(data, (list, tuple)) else [data]


def _part(one: Any, name: str) -> str | Path | Own:
    if isinstance(one, (str, Path)):
        return one
    several(one, name)
    items = Items(one, name)
    return Own(items, range(len(items)))


def several(pictures: Any, name: str) -> None:
    """Sees that these are pictures, not one, whose rows or channels would be taken for pictures.

    Raises:
        UserError: it may be one: an array (H, W, C), or a tensor (C, H, W), of 3 or 4 channels.
    """
    if not isinstance(pictures, (np.ndarray, Tensor)) or len(shape := tuple(pictures.shape)) != 3:
        return
    channels, each = (shape[0], "x[:, None]") if isinstance(pictures, Tensor) else (shape[2], "x[..., None]")
    if channels in (3, 4):
        raise UserError(
            f"{name} of shape {shape} may be one picture or {shape[0]} gray ones: type x[None] for one, "
            f"{each} for {shape[0]}"
        )
