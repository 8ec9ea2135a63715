"""What people hold in Python, item by item: a list, an array, a torch Dataset, a generator that ends.

An item is a picture (of Pillow, an array or a tensor), or a tuple or dict that holds one, one and its label,
or a pair.  What has a length is read by its index whenever it is needed, and must be the same each time:
batches are functions of their number.  Everything else is read once, to its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from sfumato.core.arguments import TEXT, described
from sfumato.core.errors import UserError, check_numbers
from sfumato.core.terminal import count
from sfumato.data.decode import samples_of
from sfumato.data.header import Refused
from sfumato.data.in_memory import SLACK, arranged, check_type, top_of
from sfumato.data.listing import natural
from sfumato.data.read import Unfiled, bands_of
from sfumato.data.value_range import meant

MOST = 10**6
"""Pictures that are read out of what has no length, at most."""
LABELLED = "{name: pictures or folder}, or one collection of (picture, label)"
"""What domains are given as."""


class Row(NamedTuple):
    """What an item holds."""

    pictures: Sequence[Any]
    label: Any = None


class Items:
    """What was given, item by item.

    Args:
        given: a list, an array, anything that is read by an index or iterated over.
        name: what errors call it.
        pairs: whether an item holds two pictures, source and target.

    Raises:
        UserError: it is empty or has no end, or cannot be read.
    """

    def __init__(self, given: Any, name: str, pairs: bool = False) -> None:
        self.name, self.pairs, self.classes = name, pairs, _classes(given)
        self.contents: dict[tuple[int, int], str] = {}
        self.floats: dict[int, bool] = {}
        self.lowest: dict[int, float] = {}
        try:
            if isinstance(given, TEXT) or is_table(given):
                raise TypeError
            items = range(len(given)) if is_indexed(given) else iter(given)
        except (TypeError, ValueError):  # or a length below 0
            raise UserError(f"{name} must be a collection of pictures, not {described(given)}") from None
        self.given: Sequence[Any] = given if isinstance(items, range) else self._to_the_end(items)
        if not len(self.given):
            raise UserError(f"{name} is empty: expected pictures")

    def __len__(self) -> int:
        return len(self.given)

    def row(self, i: int) -> Row:
        """What an item holds.

        Raises:
            UserError: it cannot be read, or holds more or fewer pictures.
        """
        try:
            item = self.given[i]
        except Exception as error:
            raise broken(i, self.name, error) from error
        return item if isinstance(item, Row) else row_of(item, i, self.name, self.pairs)

    def read(self, i: int, side: int, channels: int, ranged: bool) -> Unfiled:
        """A picture of an item.

        Args:
            i: the item.
            side: 0, or 1 for the targets of pairs.
            channels: 3, 1, or as many as the picture has.
            ranged: whether the range of its values is stated; if not, whole numbers are samples, and
                floats lie in [-1, 1].

        Raises:
            UserError: it is no such picture, or another than it was.
        """
        picture = self.row(i).pictures[side]
        try:
            raw = samples_from(picture, channels)
            samples = self._checked(raw, side, ranged)
        except UserError as error:
            raise UserError(f"item {i} of {self.name}: {error}") from None
        head = f"{raw.dtype}{raw.shape}".encode()
        content = hashlib.sha256(head + raw.tobytes()).hexdigest()
        if self.contents.setdefault((i, side), content) != content:
            raise UserError(
                f"item {i} of {self.name} is another picture each time it is read: leave out transforms that "
                f"are random, as flip= and jitter= are there, or read each once, by list(...)"
            )
        return Unfiled(f"{self.name}[{i}]", samples, content, lost_of(picture))

    def by_label(self) -> dict[str, list[int]]:
        """The items of each label, {name: numbers}: in the order of the classes, or of the names.

        Raises:
            UserError: an item has no label, or none of the classes.
        """
        found: dict[str, list[int]] = {}
        for i in range(len(self)):
            label = self.row(i).label
            label = label.item() if getattr(label, "ndim", None) == 0 else label
            if not isinstance(label, (str, int)):
                raise UserError(f"item {i} of {self.name} has no label: expected {LABELLED}")
            if self.classes and not isinstance(label, str):
                if not 0 <= label < len(self.classes):
                    most = len(self.classes) - 1
                    raise UserError(f"item {i} of {self.name} has the label {label}: expected 0 to {most}")
                label = self.classes[label]
            found.setdefault(str(label), []).append(i)
        order = {name: k for k, name in enumerate(self.classes)}
        return {n: found[n] for n in sorted(found, key=lambda n: (order.get(n, len(order)), natural(n)))}

    def _checked(self, samples: NDArray[Any], side: int, ranged: bool) -> NDArray[Any]:
        floats = samples.dtype.kind == "f"
        if self.floats.setdefault(side, floats) != floats:
            kinds = ("floats", "whole numbers")[:: 1 if floats else -1]
            raise UserError(f"{kinds[0]}, where others have {kinds[1]}: expected one kind")
        checked = as_files_have(samples, ranged)
        if floats and not ranged:
            self.lowest[side] = min(float(checked.min()), self.lowest.get(side, 1.0))
        return checked

    def _to_the_end(self, given: Iterator[Any]) -> list[Row]:
        """All items, as long as half of the free memory holds their pictures."""
        import psutil

        rows, held, most = list[Row](), 0, psutil.virtual_memory().available // 2
        while True:
            try:
                item = next(given)
            except StopIteration:
                return rows
            except Exception as error:
                raise broken(len(rows), self.name, error) from error
            row = row_of(item, len(rows), self.name, self.pairs)
            try:
                rows.append(Row([_copy(picture) for picture in row.pictures], row.label))
            except UserError as error:
                raise UserError(f"item {len(rows)} of {self.name}: {error}") from None
            held += sum(map(_bytes, rows[-1].pictures))
            if held > most or len(rows) > MOST:
                raise UserError(
                    f"{self.name} has not ended after {len(rows):,} pictures of {held / 1e9:.2g} GB: give "
                    f"what has a length and is read by an index, or fewer pictures"
                )


def broken(i: int, name: str, error: Exception) -> UserError:
    """What to say of an item that raises."""
    return UserError(f"item {i} of {name} cannot be read: {type(error).__name__}: {error}")


def is_indexed(given: Any) -> bool:
    """Whether items are read by an index."""
    both = hasattr(given, "__getitem__") and hasattr(given, "__len__")
    return both and not isinstance(given, IterableDataset)


def is_table(given: Any) -> bool:
    """Whether items have names and no numbers: a dict, or a data frame, of which a column is meant."""
    return isinstance(given, Mapping) or (hasattr(given, "iloc") and hasattr(given, "columns"))


def row_of(item: Any, i: int, name: str, pairs: bool = False) -> Row:
    """The pictures that an item holds, and its label.

    Raises:
        UserError: it does not hold as many as there should be.
    """
    pictures, labels = [item], []
    if isinstance(item, Mapping):
        shown = {key: value for key, value in item.items() if _is_picture(value)}
        names = ("source", "target") if pairs else ("image",)
        shown = {one: shown[one] for one in names} if shown.keys() >= {*names} else shown
        pictures = list(shown.values())
        labels = [item["label"]] if "label" in item else [v for v in item.values() if _is_label(v)]
    elif isinstance(item, tuple):
        pictures, labels = list(item[: 1 + pairs]), list(item[1:2])
    wanted = "a source and its target" if pairs else "one picture"
    if len(pictures) != 1 + pairs:
        of = f" ({', '.join(map(str, item))})" if isinstance(item, Mapping) else ""
        has = f"{count(len(pictures), 'picture')}{of}"
        raise UserError(f"item {i} of {name} holds {has}: expected {wanted}")
    for picture in pictures:
        if not _is_picture(picture):
            path = isinstance(picture, (str, Path))
            more = "; open it by PIL.Image.open, or name its folder" if path else ""
            raise UserError(
                f"item {i} of {name} is {described(picture)}: expected {wanted}, of Pillow, an array or a "
                f"tensor{more}"
            )
    return Row(pictures, labels[0] if len(labels) == 1 else None)


def as_files_have(samples: NDArray[Any], ranged: bool) -> NDArray[Any]:
    """Samples as files have them: uint8, uint16, or float32 in [-1, 1]; of a stated range as they are.

    Raises:
        UserError: they lie beyond these.
    """
    low, high = float(samples.min()), float(samples.max())
    check_numbers({"the picture": np.array([low, high])})
    if ranged:
        return samples
    if samples.dtype.kind != "f":
        deep = samples.dtype == np.uint16
        return samples.astype(np.uint16 if top_of(deep, low, high) > 255 else np.uint8, copy=False)
    if max(-low, high) > 1 + SLACK:
        a, b = meant(low, high)
        raise UserError(
            f"values in [{low:.6g}, {high:.6g}]: expected [-1, 1], or their range, such as "
            f"range=({a:.6g}, {b:.6g})"
        )
    return samples.clip(-1, 1).astype(np.float32)


def samples_from(picture: Any, channels: int) -> NDArray[Any]:
    """Samples (H, W, C) of a picture of Pillow, an array (H, W), (H, W, C) or (C, H, W), or a tensor.

    Raises:
        UserError: it is of another shape or type, or broken.
    """
    if isinstance(picture, Unfiled):
        samples = picture.samples
    elif isinstance(picture, Image.Image):
        samples = _decoded(picture)
    else:
        flat = isinstance(picture, Tensor) and picture.ndim == 2
        x, _ = arranged(picture[None] if flat else picture, channels)
        if len(x) != 1 or not x.numel():
            raise UserError(f"an array of shape {tuple(picture.shape)}: expected one picture")
        check_type(x.dtype)
        one = x[0].detach().cpu().permute(1, 2, 0)
        samples = (one if one.dtype != torch.bfloat16 else one.float()).numpy()
    if bands_of(channels) and samples.shape[2] != channels:
        raise UserError(f"a picture of {samples.shape[2]} channels: expected {channels}")
    return np.ascontiguousarray(samples)


def lost_of(picture: Any) -> Mapping[str, str]:
    """What of a picture of Pillow is not read: its further frames or pages."""
    if isinstance(picture, Unfiled):
        return picture.lost
    more = getattr(picture, "n_frames", 1) if isinstance(picture, Image.Image) else 1
    kind = "beside" if getattr(picture, "format", "") in ("MPO", "JPEG") else "pages"
    return {kind: f"{more} pictures"} if more > 1 else {}


def _decoded(picture: Image.Image) -> NDArray[Any]:
    if picture.mode in ("I", "F"):  # of a range that is stated
        return np.asarray(picture)[..., None]
    try:
        return samples_of(picture)[0]
    except Refused as error:
        raise UserError(f"the picture {error}") from None


def _copy(picture: Any) -> Any:
    """A picture that who made it may overwrite or close."""
    if isinstance(picture, Image.Image):
        return Unfiled("", _decoded(picture), lost=lost_of(picture))
    return picture.detach().clone() if isinstance(picture, Tensor) else np.array(picture)


def _bytes(picture: Any) -> int:
    return int((picture.samples if isinstance(picture, Unfiled) else picture).nbytes)


def _classes(given: Any) -> tuple[str, ...]:
    """What the whole numbers of labels are called, if that is known."""
    classes, features = getattr(given, "classes", None), getattr(given, "features", None)
    if isinstance(classes, (list, tuple)):
        return tuple(map(str, classes))
    if isinstance(features, Mapping):
        return next((tuple(f.names) for f in features.values() if getattr(f, "names", None)), ())
    return _classes(given.dataset) if hasattr(given, "dataset") else ()  # of a part of it


def _is_picture(value: Any) -> bool:
    return isinstance(value, Image.Image) or (isinstance(value, (np.ndarray, Tensor)) and value.ndim > 1)


def _is_label(value: Any) -> bool:
    return isinstance(value, (str, int)) or getattr(value, "ndim", None) == 0
