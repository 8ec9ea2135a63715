"""Pictures that are held in Python, translated as they come, in the memory of one batch."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfumato.core.arguments import TEXT, described
from sfumato.core.devices import device_of, with_torch_defaults
from sfumato.core.errors import UserError
from sfumato.core.options import told_by
from sfumato.data.header import said_lost
from sfumato.data.images import picture as to_picture
from sfumato.data.in_memory import arranged
from sfumato.data.items import as_files_have, broken, is_indexed, is_table, lost_of, row_of, samples_from
from sfumato.data.masks import check_mask, mask_for
from sfumato.data.own import several
from sfumato.data.preparation import Preparation, Prepared
from sfumato.data.read import Unfiled
from sfumato.data.resize import to_samples
from sfumato.data.value_range import from_unit, to_type, two_ends, type_for
from sfumato.diffusion.watch import Watch
from sfumato.translation.options import StreamOptions
from sfumato.translation.translator import assembled, options_of, run_translator
from sfumato.windows import by_windows, placed, seen_whole

NAME = "pictures"


@told_by(StreamOptions)
def stream(asked: StreamOptions) -> Iterator[Any]:
    """Translates pictures as they come, and hands out their results in order, a batch at a time.

    Results are those of `translate` for files of the same pictures, and of the kind that was given: pictures
    of Pillow (8 bits), arrays or tensors.  Pictures may have no end.

    Raises:
        UserError: for anything wrong with the models or options at once, with a picture when its turn comes.
    """
    pictures = asked.pictures
    known = is_indexed(pictures) or hasattr(pictures, "__iter__")
    if isinstance(pictures, (*TEXT, Path)) or is_table(pictures) or not known:
        raise UserError(
            f"pictures must be a collection of pictures, not {described(pictures)}: files and folders are "
            f"for sfumato.translate(paths, out, ...)"
        )
    several(pictures, "pictures")
    made, where = assembled(**asked.roles), device_of(asked.device)
    chosen = options_of(made.part, asked.options or {})
    own = two_ends(asked.range, "range", "pictures that are to come")
    prepare, notes = made.preparation(
        size=asked.size, resize=asked.resize, upscale=asked.upscale, side=asked.side, alpha=asked.alpha,
        direction=chosen.get("direction"), whole=True, beside=None,
    )  # fmt: skip
    if own:
        beside = tuple(layer._replace(range=own) for layer in prepare.beside)
        prepare = replace(prepare, range=own, beside=beside, to_range=prepare.to_range or own)
    for text in notes + made.notes(chosen) + made.foggy:
        warnings.warn(text, stacklevel=3)
    if mask := chosen.get("mask"):
        check_mask(Path(mask))
    told = made.part, prepare, chosen, where, asked.seed, asked.windows, asked.watch
    return _Stream(*told).results(pictures, asked.batch)


@dataclass
class _Stream:
    part: Any
    prepare: Preparation
    options: dict[str, Any]
    device: torch.device
    seed: int
    windows: bool | None
    watch: Watch | None
    signed: bool = False
    """Has a picture had values below 0?"""

    def __post_init__(self) -> None:
        self.whole_to = seen_whole(self.part, self.windows)
        large = by_windows(self.part, self.whole_to) if self.whole_to < math.inf else self.part
        self.large, self.home = placed(large, self.device)
        self.part.to(self.device)

    def results(self, pictures: Any, batch: int | None) -> Iterator[Any]:
        items, failed = map(self._read, count(), _items(pictures)), list[UserError]()

        def some(n: int) -> Iterator[tuple[Prepared, Callable[[Tensor], Any]]]:
            try:
                yield from islice(items, n)
            except UserError as error:  # after the results of those before it
                failed.append(error)

        while chunk := [*some(batch or 1)]:
            if batch is None:  # as for files: 64 of 64x64 pixels should fit into memory
                batch = max(1, min(64, 2**18 // math.prod(chunk[0][0].image.shape[1:])))
                chunk += some(batch - 1)
            groups: dict[torch.Size, list[int]] = defaultdict(list)
            for i, (one, _) in enumerate(chunk):
                groups[one.image.shape].append(i)
            made = dict[int, Tensor]()
            for rows in groups.values():
                made |= zip(rows, self._translate([chunk[i][0] for i in rows]), strict=True)
            for i, (_, back) in enumerate(chunk):
                yield back(made[i])
            if failed:
                break
        if failed:
            raise failed[0]

    @with_torch_defaults
    def _translate(self, read: list[Prepared]) -> Tensor:
        x, options = torch.stack([one.image for one in read]), dict(self.options)
        if mask := options.get("mask"):
            options["mask"] = torch.cat([mask_for(Path(mask), one, self.prepare) for one in read])
        large = max(x.shape[-2:]) > self.whole_to
        part, home = (self.large, self.home) if large else (self.part, self.device)
        y, _ = run_translator(part, x.to(home), seed=self.seed, options=options, watch=self.watch)
        return y.float().cpu()

    def _read(self, i: int, item: Any) -> tuple[Prepared, Callable[[Tensor], Any]]:
        """A picture, prepared, and the way of its result back to its kind."""
        how, given = self.prepare, row_of(item, i, NAME).pictures[0]
        try:
            samples = as_files_have(samples_from(given, how.channels), how.range is not None)
            back = self._back(given)
            self._check_signs(samples)
        except UserError as error:
            raise UserError(f"item {i} of {NAME}: {error}") from None
        read = how.read(Unfiled(f"{NAME}[{i}]", samples, lost=lost_of(given)))
        for line in said_lost(f"{NAME}[{i}]", read.lost):
            warnings.warn(line, stacklevel=3)
        return read, back

    def _check_signs(self, samples: NDArray[Any]) -> None:
        """Floats in [0, 1] are bright pictures only among others of [-1, 1]."""
        if samples.dtype.kind == "f" and self.prepare.range is None:
            self.signed = self.signed or bool(samples.min() < 0)
            if not self.signed:
                what = f"type {to_type(0, 1)}, or range=(-1, 1)"
                raise UserError(f"values in [0, 1]: expected [-1, 1]; {what}")

    def _back(self, given: Any) -> Callable[[Tensor], Any]:
        if isinstance(given, Image.Image):
            return to_picture
        flat = isinstance(given, Tensor) and given.ndim == 2
        x, arrange = arranged(given[None] if flat else given, self.prepare.channels)
        ends = self.prepare.to_range

        def back(y: Tensor) -> Any:
            name = str(x.dtype).removeprefix("torch.")
            if ends:
                made = torch.from_numpy(from_unit(y.numpy(), ends, type_for(ends, name, None)))
                return arrange(made[None].to(x.device, x.dtype if x.is_floating_point() else made.dtype))
            kind = "float32" if x.is_floating_point() else "uint16" if name == "uint16" else "uint8"
            return arrange(torch.from_numpy(to_samples(y, np.dtype(kind)))[None].to(x.device, x.dtype))

        return back


def _items(pictures: Any) -> Iterable[Any]:
    i, given = (
        0,
        iter(pictures) if not is_indexed(pictures) else map(pictures.__getitem__, range(len(pictures))),
    )
    while True:
        try:
            item = next(given)
        except StopIteration:
            return
        except Exception as error:
            raise broken(i, NAME, error) from error
        yield item
        i += 1
