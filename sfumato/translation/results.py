"""How the results of a translation are written: format, depth, transparency, and what is carried over."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.data.carried import DETAILS, NODATA, PLACE
from sfumato.data.decode import LUMA
from sfumato.data.listing import bare
from sfumato.data.preparation import Preparation, Prepared
from sfumato.data.read import bands_of, carried_of, header_of
from sfumato.data.resize import fit_image, placed, to_samples
from sfumato.data.value_range import HELD, from_unit, type_for
from sfumato.data.write import FORMATS, Format, write_samples

Depth = Literal[8, 16, 32]
"""Bits of a sample; 32 are floats."""
Made = tuple[Prepared, Tensor]
TYPES: dict[Depth, str] = {8: "uint8", 16: "uint16", 32: "float32"}


@dataclass(frozen=True)
class Results:
    """How results are written.

    Args:
        format: png, tiff, jpeg or webp.
        depth: bits of their samples; None for those of the sources.
        alpha: whether they take over the sources' transparency.
        resize_back: whether they are brought to the sources' size.

    Raises:
        UserError: the format does not hold what is asked for.
    """

    format: Format = "png"
    depth: Depth | None = None
    alpha: bool = False
    resize_back: bool = False

    def __post_init__(self) -> None:
        holds = FORMATS[self.format]
        if self.alpha and not holds.alpha:
            raise UserError(f"--alpha keep: {self.format} holds no transparency: choose --format png")
        if self.depth is not None and TYPES[self.depth] not in holds.dtypes:
            raise UserError(f"--depth {self.depth}: {self.format} holds no {self.depth} bits: --format tiff")

    def check(self, how: Preparation) -> None:
        """Sees that results of pictures that are prepared so can be written so.

        Raises:
            UserError: they cannot.
        """
        if self.resize_back and how.size and how.resize == "crop":
            raise UserError(
                f"--resize-back is for whole pictures, not cut ones: leave out --resize crop, or type "
                f"--resize stretch, or --size {min(how.size)}"
            )
        if self.alpha and bands_of(how.layers[0].channels):
            raise UserError(
                f"--alpha keep: the model takes all {how.channels} bands as they are: leave it out"
            )
        if how.page is not None and self.format != "tiff":
            raise UserError(f"--pages all: {self.format} holds one picture: choose --format tiff")
        if self.depth == 32 and not how.to_range:
            raise UserError("--depth 32 takes the range of the results, too, such as --to-range 0 1")
        if ends := how.to_range:
            types = {type_for(ends, given, self.depth).name for given in HELD}
            if types.isdisjoint(FORMATS[self.format].dtypes):
                raise UserError(
                    f"{self.format} holds no values from {ends[0]:g} to {ends[1]:g}, or too coarsely: choose "
                    f"--format tiff"
                )

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        return asdict(self)

    def place(self, out: Path, name: str) -> Path:
        """The file that a picture of this name becomes."""
        return out / f"{bare(name)}{FORMATS[self.format].endings[0]}"

    def write(self, result: Path, made: Sequence[Made], source: Path, how: Preparation) -> None:
        """Writes what was made of a file.

        Args:
            result: the file.
            made: of each of its pages what was read, and the image (C, H, W) in [-1, 1] of it.
            source: its file.
            how: it was prepared.

        Raises:
            UserError: an image has values that are not numbers, or is too large for the format.
            OSError: it cannot be written.
        """
        pages = [how] if len(made) == 1 else [replace(how, page=k) for k in range(len(made))]
        images = [self._sized(image, read.size) for read, image in made]
        found = [self._samples(image, source, page) for image, page in zip(images, pages, strict=True)]
        carried = carried_of(source)
        if carried.geo and (self.format != "tiff" or how.side != "whole"):
            why = f"{self.format} holds none: --format tiff keeps it" if self.format != "tiff" else (
                "half of a picture has none of its own: --side whole keeps it"
            )  # fmt: skip
            warnings.warn(f"results of GeoTIFFs lose their place on Earth, as {why}", stacklevel=2)
            carried = carried._replace(geo={})
        if NODATA in carried.geo:
            warnings.warn(
                "results have no pixels without data: those of their GeoTIFFs become values", stacklevel=2
            )
            carried = carried._replace(geo={k: v for k, v in carried.geo.items() if k != NODATA})
        if carried.odd:
            warnings.warn(
                f"{source} has tags of GeoTIFF that say no place on Earth, or is turned: its result has none",
                stacklevel=2,
            )
        if self.format == "tiff" and {DETAILS, PLACE} & carried.exif.keys():
            warnings.warn(
                "results as TIFF keep EXIF as texts, without settings and GPS: --format png keeps them",
                stacklevel=2,
            )
        read = made[0][0]
        (a, b), (h, w) = read.image.shape[-2:], images[0].shape[-2:]
        moved = carried.moved(placed(read.size, (a, b), how.resize, (h, w)))
        write_samples(result, [samples for samples, _ in found], moved, alpha=[clear for _, clear in found])

    def _sized(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        if not self.resize_back:
            return image
        return torch.from_numpy(fit_image(image.numpy(), size, "stretch", upscale=True))

    def _samples(self, image: Tensor, source: Path, how: Preparation) -> tuple[NDArray[Any], bool]:
        """Samples (C, H, W) of an image, and whether the last channel is alpha."""
        own = header_of(source, how.page or 0).dtype
        dtype = np.dtype(TYPES[self.depth] if self.depth else own)
        if ends := how.to_range:
            dtype = type_for(ends, own, self.depth)
        elif dtype.name not in FORMATS[self.format].dtypes:
            warnings.warn(
                f"results of {8 * dtype.itemsize}-bit pictures have 8 bits, as {self.format} holds no more: "
                f"--format png and tiff keep them",
                stacklevel=2,
            )
            dtype = np.dtype(np.uint8)
        opacity, a = how.opacity(source) if self.alpha else None, None
        if opacity is not None:
            h, w = image.shape[-2:]
            a = torch.from_numpy(fit_image(opacity, (h, w), "stretch", upscale=True))
            image = _seen_through(image, a / 2 + 0.5, how.colour)
        samples = from_unit(image.float().cpu().numpy(), ends, dtype) if ends else to_samples(image, dtype)
        if a is not None:
            full = (0.0, 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max))
            samples = np.concatenate([samples, from_unit(a.numpy(), full, dtype)])
        return samples, a is not None


def _seen_through(image: Tensor, opacity: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """What shows as `image`, (C, H, W) in [-1, 1], where it is laid on the colour that sources were laid on.

    Its edges have that colour mixed in, which would be seen on any other.
    """
    on = torch.tensor(colour).float()[:, None, None] / 127.5 - 1
    on = on if len(image) == 3 else (on * torch.from_numpy(LUMA)[:, None, None]).sum(0, keepdim=True)
    return torch.where(opacity > 0, on + (image - on) / opacity.clamp(min=1 / 255), image)
