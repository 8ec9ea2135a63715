"""How pictures are brought to a network: one value, saved with every model and every folder of results.

Training makes it; whatever reads pictures for that model afterwards (translating, evaluating,
exploring, the studio, masks, truths, partners) takes it from there.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core.arguments import checked_values
from sfumato.core.errors import UserError, check_numbers, choose
from sfumato.core.ranges import Whole
from sfumato.data.carried import NODATA
from sfumato.data.halves import half_of, half_width
from sfumato.data.header import LIMITS
from sfumato.data.joined import Layer, layers_said, read_joined
from sfumato.data.kept import KEPT, Sample
from sfumato.data.read import (
    Joined,
    Readable,
    Unfiled,
    bands_of,
    carried_of,
    colour_of,
    file_in,
    header_of,
    opacity_of,
    read_file,
    read_samples,
    version_in,
)
from sfumato.data.resize import (
    Learnt,
    Resize,
    centre,
    covered,
    fit_image,
    said_size,
    sides_of,
    to_float,
    to_samples,
)
from sfumato.data.value_range import ValueRange, rule_of

Side = Literal["left", "right", "whole"]
SAID = {
    "crop": "cropped to", "short": "scaled to cover", "stretch": "stretched to", "none": "as they are,",
    "pieces": "in pieces of", "buckets": "whole, with the area of",
}  # fmt: skip
ALWAYS = {"orientation": "upright", "colour": "sRGB", "transparency": "on white"}
"""What every preparation does; recorded, so that it cannot change unnoticed."""


class Prepared(NamedTuple):
    """A picture for a network, and what it was."""

    image: Tensor
    """(C, H, W), float32 in [-1, 1]."""
    size: tuple[int, int]
    """(height, width) of the upright picture, or of the half that is read."""
    lost: dict[str, str]
    """What of the file is not in it, see `sfumato.data.header.LOST`."""


@dataclass(frozen=True)
class Preparation:
    """How pictures are brought to a network.

    Args:
        size: (height, width) in pixels; None takes every picture at its own size.
        resize: crop (scale until the size is just covered, cut the middle), short (do not cut), buckets
            (the same with the bucket of this area that a picture is of, see `sfumato.data.proportions`),
            stretch (proportions are lost), none (pictures have that size already), or pieces (of that
            size are cut out by who reads them: see `sfumato.data.pieces`).
        upscale: whether pictures smaller than `size` are enlarged, or refused.
        channels: 3 (gray is repeated), 1 (the luma of colours), or as many as the files have bands.
        side: left or right of pictures that hold two side by side, or the whole.
        alpha: the colour that transparent pictures are laid on: a name, or as #ff8800.
        range: the values that become -1 and 1; by default 0 and the largest of 8 or 16 bits.
        to_range: the same of the results' values, or of the partners of these pictures.
        to_channels: channels of these; by default as many.
        beside: what the pictures of further folders give of the channels, which come after the others.
        page: which page of a file is read, from 0 on; by default the first, and others are said to be lost.

    Raises:
        UserError: for a size below 1 or other words than these.
    """

    size: tuple[int, int] | None = None
    resize: Resize | Learnt = "crop"
    upscale: bool = False
    channels: int = 3
    side: Side = "whole"
    alpha: str = "white"
    range: ValueRange | None = None
    to_range: ValueRange | None = None
    to_channels: int | None = None
    page: Whole | None = None
    beside: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        checked_values(type(self), vars(self))
        if self.size is not None and min(self.size) < 1:
            raise UserError(f"size {said_size(self.size)}: expected at least 1 pixel a side")
        if self.size is not None and self.size[0] * self.size[1] > LIMITS.pixels:
            raise UserError(f"size {said_size(self.size)}: expected at most {LIMITS.pixels:,} pixels in all")
        choose("resize", self.resize, {*get_args(Resize), *get_args(Learnt)})
        _ = self.size and covered(self.size, self.size, self.resize)  # sees that buckets have a square
        choose("side", self.side, get_args(Side))
        for number in (self.channels, self.to_channels or 1):
            if not 1 <= number <= 1000:
                raise UserError(f"channels {number}: expected 3, 1, or as many as files have bands")
        if self.layers[0].channels < 1:
            raise UserError(f"channels {self.channels}: expected more than those of the folders beside")
        colour_of(self.alpha)
        for name in ("range", "to_range"):
            if (ends := getattr(self, name)) is not None:
                object.__setattr__(self, name, rule_of([*ends], name).ends)

    def read(self, file: Readable) -> Prepared:
        """A picture, prepared.

        Raises:
            UserError: the file is missing, broken, of a kind that is not read, or of an unfit size.
        """
        samples, size, lost = self.fitted(file)
        return Prepared(torch.from_numpy(to_float(samples)), size, lost)

    def fitted(self, file: Readable, frame: tuple[int, int] | None = None) -> Sample:
        """Samples of a file at this size, decoded again only if they are not kept: see `decoding_once`.

        Args:
            file: a picture.
            frame: (height, width) whose proportions the picture is cut to first, where `resize` is crop.

        Raises:
            UserError: as `read`.
        """
        kept, frame = KEPT.get(), frame if self.resize == "crop" else None
        if kept is None or (version := version_in(file)) is None:
            return self._decoded(file, frame)
        of = (*version, self.beside, self.resize, self.channels, self.side, self.alpha, self.range, self.page)
        found = kept.get((of, self.size, frame))
        if found is None or not (self.upscale or all(map(operator.ge, found.size, self.size or (0, 0)))):
            found = self._decoded(file, frame)
            if kept.held + found.samples.nbytes <= kept.most:
                kept.held += found.samples.nbytes
                own = found.samples.shape[1:] == found.size  # at its own size, and so under both names
                ways = [(self.size, frame), *([(None, None), (found.size, None)] if own else [])]
                kept |= {(of, *way): found for way in ways}
        return found

    def _decoded(self, file: Readable, frame: tuple[int, int] | None) -> Sample:
        samples, lost = self.samples(file)
        size = h, w = samples.shape[1], samples.shape[2]
        if frame is not None:
            scale = min(h / frame[0], w / frame[1])
            a, b = (max(1, round(side * scale)) for side in frame)
            samples = centre(samples, a, b)
        return Sample(self.fit(samples, file), size, lost)

    def samples(self, file: Readable) -> tuple[NDArray[Any], dict[str, str]]:
        """Samples (channels, H, W) of a file, of the side that is read, and what is lost; see `read_samples`.

        Raises:
            UserError: as `read`, but for the size.
        """
        if self.beside or isinstance(file, Joined):
            samples, lost = read_joined(file, self.layers, self.colour, self.page)
        else:
            samples, lost = read_samples(file, self.channels, self.colour, self.range, self.page)
        return half_of(samples, self.side, file), lost

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What each folder gives of a picture, the first folder first."""
        own = self.channels - sum(layer.channels for layer in self.beside)
        return Layer(own, self.range), *self.beside

    def values(self, file: Readable) -> NDArray[Any]:
        """Samples of a file as they are, of the side that is read, without alpha and pixels without data.

        Raises:
            UserError: as `read`; or they are not all numbers.
        """
        bands = bands_of(self.channels)
        samples, _ = read_file(file, ranged=True, bands=bands, page=self.page)
        samples = samples if bands else samples[..., : samples.shape[2] - (samples.shape[2] in (2, 4))]
        half = half_of(samples.transpose(2, 0, 1), self.side, file)
        if not isinstance(file, Unfiled) and (void := carried_of(file_in(file)).geo.get(NODATA)):
            with suppress(ValueError):
                half = half[half != float(void)]
        check_numbers({str(file): half})
        return half

    def opacity(self, file: str | Path) -> NDArray[Any] | None:
        """Alpha (1, h, w) of a file at this size, clear at -1 and opaque at 1; None if it has none.

        Raises:
            UserError: as `read`.
        """
        if bands_of(self.layers[0].channels):
            return None
        samples, _ = read_file(file, ranged=self.range is not None, page=self.page)
        if samples.shape[2] not in (2, 4):
            return None
        return self.fit(half_of(2 * opacity_of(samples).transpose(2, 0, 1) - 1, self.side, file), file)

    @property
    def in_bands(self) -> bool:
        """Whether pictures are of other bands than 1 or 3, and their partners of as many."""
        return bands_of(self.channels) is not None and self.to_channels in (None, self.channels)

    @property
    def colour(self) -> tuple[int, int, int]:
        """What transparent pictures are laid on, of 255."""
        return colour_of(self.alpha)

    def size_of(self, file: Readable) -> tuple[int, int]:
        """(height, width) of a file, or of its half, by its header: quick, before anything is read.

        Raises:
            UserError: the file is none that can be read.
        """
        header = header_of(file)
        h, w = header.height, header.width
        return h, w if self.side == "whole" else half_width(h, w, file)

    def fit(self, samples: NDArray[Any], name: Readable = "the picture") -> NDArray[Any]:
        """Samples (C, H, W) at this size, in their own depth.

        Raises:
            UserError: they are of an unfit size.
        """
        if self.size is None or samples.shape[1:] == self.size:
            return np.ascontiguousarray(samples)
        if self.resize == "pieces" and all(map(operator.ge, samples.shape[1:], self.size)):
            return np.ascontiguousarray(samples)
        how = "short" if self.resize == "pieces" else self.resize
        image = fit_image(to_float(samples), self.size, how, self.upscale, str(name))
        return to_samples(image, samples.dtype)

    def at(self, size: int | str | None = None, resize: Resize | None = None, whole: bool = True) -> Self:
        """The same at the size and by the way that are asked for.

        Args:
            size: short side, or WIDTHxHEIGHT.
            resize: how pictures get it.
            whole: take all of what training cut, and leave at its scale what training left there.
        """
        taken = {"pieces": "none"} | ({"crop": "short"} if whole else {"buckets": "crop"})
        how: Any = resize or taken.get(self.resize, self.resize)
        if size is None:
            own = how == "none" and (whole or resize is not None or self.resize == "pieces")
            return replace(self, size=None if own else self.size, resize=how)
        h, w = sides_of(size)
        if whole and resize is None and how != "stretch":
            how = "crop" if "x" in str(size) else "short"
        return replace(self, size=(h, w), resize=how)

    @property
    def other_side(self) -> Self:
        """The same for the partners of side by side pictures."""
        other: dict[Side, Side] = {"left": "right", "right": "left", "whole": "whole"}
        to = self.to_channels and self.channels
        there = replace(self, channels=self.to_channels or self.channels, to_channels=to, beside=())
        return replace(there, side=other[self.side], range=self.to_range, to_range=self.range)

    def to_json(self) -> dict[str, Any]:
        """Values that JSON has; `from_json` takes them back."""
        values = asdict(self) | {"size": self.size and list(self.size)} | ALWAYS
        values |= {"transparency": f"on {values.pop('alpha')}"}
        values["beside"] = [layer._asdict() for layer in self.beside] or None
        newer = {name: values.pop(name) for name in ("range", "to_range", "to_channels", "page", "beside")}
        return values | {name: one for name, one in newer.items() if one is not None}

    @classmethod
    def from_json(cls, saved: Any) -> Preparation:
        """A preparation from what `to_json` gave.

        Raises:
            UserError: it was damaged, or written by a newer version that prepares otherwise.
        """
        try:
            values = dict(saved)
            values["alpha"] = values["transparency"].removeprefix("on ")
            always = {key: values.pop(key) for key in ALWAYS} | {"transparency": "on white"}
            if always != ALWAYS or "channels" not in values:
                raise ValueError(f"it is prepared {always}")
            values["beside"] = [
                Layer(n["channels"], n["range"] and (*n["range"],)) for n in values.get("beside", ())
            ]
            values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**values)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            why = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise UserError(
                f"pictures were prepared in a way that is not known here ({why}); "
                f"the file is damaged, or was written by a newer sfumato"
            ) from None

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Preparation:
        """That of a model, by the `info` in its model.json; of format 1 it stands in several places."""
        if "preparation" in info:
            return cls.from_json(info["preparation"])
        data = info["data"] if isinstance(info.get("data"), Mapping) else {}
        settings = info["settings"] if isinstance(info.get("settings"), Mapping) else {}
        size = data.get("size") or info.get("size")
        size = [size, size] if isinstance(size, int) else size
        old = {
            "size": size, "resize": data.get("resize") or info.get("resize") or "crop",
            "upscale": bool(data.get("upscale")), "channels": data.get("channels") or 3,
            "side": "left" if settings.get("side_by_side") else "whole",
        }  # fmt: skip
        return cls.from_json(old | ALWAYS)

    def __str__(self) -> str:
        """Such as "cropped to 64x64, left halves, in gray"."""
        parts = [f"{SAID[self.resize]} {said_size(self.size)}" if self.size else "at their own size"]
        parts += [f"{self.side} halves"] * (self.side != "whole")
        parts += ["in gray"] * (self.channels == 1)
        parts += [f"{self.channels} bands"] * (self.channels not in (1, 3) and not self.beside)
        parts += [f"of {layers_said(self.layers)}"] * bool(self.beside)
        ends = [f"{ends[0]:g} to {ends[1]:g}" for layer in self.layers if (ends := layer.range)]
        parts += [f"values from {' and '.join(ends)}"] * bool(ends)
        parts += [f"transparency on {self.alpha}"] * (self.alpha != "white")
        return ", ".join(parts)
