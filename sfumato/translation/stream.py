"""Pictures that are held in Python, translated as they come, in the memory of one batch."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfumato.core.arguments import TEXT, checked, described
from sfumato.core.devices import device_of, with_torch_defaults
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count
from sfumato.data.header import said_lost
from sfumato.data.images import picture as to_picture
from sfumato.data.in_memory import arranged
from sfumato.data.items import as_files_have, broken, is_indexed, row_of, samples_from
from sfumato.data.masks import check_mask, mask_for
from sfumato.data.preparation import Preparation, Prepared, Side
from sfumato.data.read import Unfiled
from sfumato.data.resize import Resize, to_samples
from sfumato.data.value_range import from_unit, type_for
from sfumato.diffusion.watch import Watch
from sfumato.translation.translator import assembled, options_of, run_translator
from sfumato.windows import WHOLE, networks, trained_side, windowed

NAME = "pictures"


@checked
def stream(
    pictures: Any,
    *,
    method: str | None = None,
    model: str | Path | None = None,
    source: str | Path | None = None,
    target: str | Path | None = None,
    classifier: str | Path | None = None,
    seed: int = 0,
    batch: Count | None = None,
    size: str | Count | None = None,
    resize: Resize | None = None,
    upscale: bool = False,
    side: Side | None = None,
    windows: bool | None = None,
    alpha: str | None = None,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> Iterator[Any]:
    """Translates pictures as they come, and hands out their results in order, a batch at a time.

    Results are those of `translate` for files of the same pictures, and of the kind that was given: pictures
    of Pillow (8 bits), arrays or tensors.  Pictures may have no end.

    Args:
        pictures: of Pillow, arrays or tensors: a list, an array, a torch Dataset, a generator; an item may
            be a tuple that begins with its picture, or a dict that holds one.
        method: the method to translate by, see `sfumato methods`; not needed with model.
        model: folder of a trained translator.
        source: model of the source domain, FOLDER:DOMAIN.
        target: model of the target domain, FOLDER:DOMAIN.
        classifier: folder of a domain classifier, for methods that are guided by one.
        seed: seed of the noise; a picture's result depends on the seed and the picture alone.
        batch: pictures translated at a time; by default as many of the first one's size as should fit into
            memory.
        size: short side of the pictures in pixels, or WIDTHxHEIGHT; by default as in the model's training,
            which also decides the next three.
        resize: how pictures get that size: short, crop, stretch, or none, which without a size takes each
            at its own.
        upscale: enlarge pictures that are smaller than size, instead of refusing them.
        side: which half of a picture is read: left, right, or whole (it is one picture).
        windows: whether networks see overlapping windows of the training's size; by default where a picture
            is more than twice as large.
        alpha: the colour that transparent pictures are laid on; by default the training's, which is white.
        device: auto (a GPU if there is one), cpu, cuda, cuda:N or mps.
        options: the method's own options.
        watch: called for each step of each batch, see `integrate`; what it raises ends the run.

    Raises:
        UserError: for anything wrong with the models or options at once, with a picture when its turn comes.
    """
    if isinstance(pictures, (*TEXT, Path)) or not (is_indexed(pictures) or hasattr(pictures, "__iter__")):
        raise UserError(
            f"pictures must be a collection of pictures, not {described(pictures)}: files and folders are "
            f"for sfumato.translate(paths, out, ...)"
        )
    made, where = assembled(method, model, source, target, classifier), device_of(device)
    part, chosen = made.part.to(where), options_of(made.part, options or {})
    prepare, notes = made.preparation(
        size=size, resize=resize, upscale=upscale, side=side, alpha=alpha,
        direction=chosen.get("direction"), whole=True,
    )  # fmt: skip
    for text in notes + made.foggy:
        warnings.warn(text, stacklevel=3)
    if mask := chosen.get("mask"):
        check_mask(Path(mask))
    return _Stream(part, prepare, chosen, where, seed, windows, watch).results(pictures, batch)


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
        known, self.by_windows, self.whole_to = trained_side(self.part) or 0, None, math.inf
        if self.windows or (self.windows is None and networks(self.part) and known):
            self.whole_to = known * (1 if self.windows else WHOLE)
            self.by_windows = windowed(self.part, whole=self.whole_to or None)

    def results(self, pictures: Any, batch: int | None) -> Iterator[Any]:
        items = enumerate(_items(pictures))
        while chunk := [self._read(*one) for one in islice(items, batch or 1)]:
            if batch is None:  # as for files: 64 of 64x64 pixels should fit into memory
                batch = max(1, min(64, 2**18 // math.prod(chunk[0][0].image.shape[1:])))
                chunk += [self._read(*one) for one in islice(items, batch - 1)]
            groups: dict[torch.Size, list[int]] = defaultdict(list)
            for i, (one, _) in enumerate(chunk):
                groups[one.image.shape].append(i)
            made = dict[int, Tensor]()
            for rows in groups.values():
                made |= zip(rows, self._translate([chunk[i][0] for i in rows]), strict=True)
            for i, (_, back) in enumerate(chunk):
                yield back(made[i])

    @with_torch_defaults
    def _translate(self, read: list[Prepared]) -> Tensor:
        x, options = torch.stack([one.image for one in read]).to(self.device), dict(self.options)
        if mask := options.get("mask"):
            options["mask"] = torch.cat([mask_for(Path(mask), one, self.prepare) for one in read])
        large = self.by_windows is not None and max(x.shape[-2:]) > self.whole_to
        part = self.by_windows if large else self.part
        return run_translator(part, x, seed=self.seed, options=options, watch=self.watch)[0].float().cpu()

    def _read(self, i: int, item: Any) -> tuple[Prepared, Callable[[Tensor], Any]]:
        """A picture, prepared, and the way of its result back to its kind."""
        how, given = self.prepare, row_of(item, i, NAME).pictures[0]
        try:
            samples = as_files_have(samples_from(given, how.channels), how.range is not None)
            back = self._back(given)
            self._check_signs(samples)
        except UserError as error:
            raise UserError(f"item {i} of {NAME}: {error}") from None
        read = how.read(Unfiled(f"{NAME}[{i}]", samples))
        for line in said_lost(f"{NAME}[{i}]", read.lost):
            warnings.warn(line, stacklevel=3)
        return read, back

    def _check_signs(self, samples: NDArray[Any]) -> None:
        """Floats in [0, 1] are bright pictures only among others of [-1, 1]."""
        if samples.dtype.kind == "f" and self.prepare.range is None:
            self.signed = self.signed or bool(samples.min() < 0)
            if not self.signed:
                raise UserError("values in [0, 1]: expected [-1, 1]; type 2 * x - 1")

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
