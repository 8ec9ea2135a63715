"""The options of a training: their defaults, their ranges, their help, and what a resumed run keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from sfumato.core.arguments import Checked, check_value, checked_values, hints_of
from sfumato.core.ranges import (
    BelowOne,
    Count,
    Interval,
    NotNegative,
    Positive,
    Share,
    Strength,
    TrainingSide,
    Whole,
)
from sfumato.data.joined import Beside, listed
from sfumato.data.own import check_data
from sfumato.data.resize import Learnt, sides_of
from sfumato.data.value_range import Stated
from sfumato.methods.registry import info
from sfumato.module import Part

Folders = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
Data = Folders | Any
"""Folders, or pictures that are held in Python, see `sfumato.data.own`."""


def option(default: Any = None, **said: Any) -> Any:
    """A field, and what is said of it.

    most: by default it is as the method has it in its `settings`, and this if the method says nothing.
    fixed: True if a resumed run keeps it; others may change.
    recorded: False if it says nothing about what is learnt, and is none of run.json's settings.
    """
    return field(default=default, metadata=said)


@dataclass(frozen=True, kw_only=True, eq=False)
class LoopOptions(Checked):
    """What the training loop is told, see `fit`.

    Args:
        steps: optimiser steps in all; 5000 if neither steps nor minutes are given.
        lr: highest learning rate.
        schedule: how the learning rate goes on after the warm-up: cosine or linear to 0, or constant.
        hold: share of the steps after the warm-up, before the learning rate falls.
        warmup: steps over which the learning rate rises from 0.
        clip: largest norm of a player's gradient; 0 does not clip.
        ema: decay of the weights' moving average in a step.
        accumulate: batches in a step, to train with many images a step in little memory.
        seed: seed of the initial weights and of everything random in training.
    """

    steps: Count = option(most=5000)
    lr: Annotated[float, Interval(0, 1_000_000, "(]")] = option(most=1e-3)
    schedule: Literal["cosine", "linear", "constant"] = option(most="cosine")
    hold: BelowOne = option(most=0.0)
    warmup: Whole = option(most=100)
    clip: NotNegative = option(most=1.0)
    ema: BelowOne = option(most=0.999)
    accumulate: Annotated[int, Interval(1, 10**6)] = option(1, fixed=True)
    seed: Whole = option(0, fixed=True)

    def __post_init__(self) -> None:
        said = {f.name: getattr(self, f.name) for f in fields(self)}
        said = {k: v for k, v in said.items() if v is not None or k not in DEFAULTS}
        said = checked_values(type(self), said)
        for name, value in (self.unsaid() | said).items():
            object.__setattr__(self, name, value)

    def unsaid(self) -> dict[str, Any]:
        """What is meant by options of the method's own that are not said."""
        return {f.name: DEFAULTS[f.name] for f in fields(self) if f.name in DEFAULTS}

    def loop(self) -> dict[str, Any]:
        """Those of the loop."""
        return {f.name: getattr(self, f.name) for f in fields(LoopOptions)}


@dataclass(frozen=True, eq=False)
class TrainOptions(LoopOptions):
    """What `train` is told.

    Args:
        method: a method's name, or a method.
        data: for models of domains {name: folder}, or one folder with a folder for each domain; for
            methods of pairs and of unpaired pictures two folders, or one with side_by_side.  In the place
            of a folder may stand pictures of Pillow, arrays or tensors: a list, an array, a torch Dataset,
            a Hugging Face dataset, a generator that ends; of domains also one with labels, of pairs one of
            (source, target).
        out: the run folder.
        options: the method's own fields; none if `method` is an instance.
        start: a model folder, sfumato/NAME or hf://OWNER/NAME, with whose weights it begins. The network is
            the model's, domains are matched by name, and the default of lr is a tenth of the method's.
        codec: folder of a model of `train autoencoder`, or of an imported autoencoder, in whose latents it
            learns; the model's folder then holds it, too. Sizes and channels are still those of images.
        size: side of the images in pixels, or WIDTHxHEIGHT, as in 96x64.
        resize: how images get that size: crop (scale the short side, cut out the middle), buckets (whole
            images, upright, square and lying, of about the area of the size, a batch of one shape), stretch,
            none (refuse other sizes), or pieces (cut at random out of larger images at their own scale, so
            that results can be as large as their sources).
        scale: least scale of pieces; they are drawn between it and 1, the images' own.
        upscale: enlarge images that are smaller than size, instead of leaving them out.
        alpha: the colour that transparent images are laid on, such as white, black or #ff8800.
        range: the values that become black and white: two ends such as -1000 3000; auto, the least and the
            largest of the images; or percentile 0.1 99.9 of them. Needed for signed and float samples, and
            good for 10, 12 and 14 bits. It comes after the folders.
        to_range: the same of the target images; by default as range says, measured in the targets.
        pages: first, or all of stacks (TIFF, DICOM, NIfTI): every page is an image, and of pairs pages are
            paired by their numbers.
        beside: a folder, or several, whose channels come after those of the sources of equal names and
            sizes, such as infrared after colours. By default channels are those of all together.
        side_by_side: each image holds a pair: the source in its left half, the target in its right half.
        strict: refuse folders with images that cannot be read, or only in part, instead of saying so; what
            phones add to a photo, and values beyond a stated range, are no reason.
        held_out: share of the images that is kept out of training to score it; 0.05, or 0 with validation.
            Of stacks it is that of the files.
        validation: other folders to score the training on, given like data, in place of held_out.
        without: a text file of pictures to leave out, one name or path a line; of a pair both are left
            out.
        flip: mirror images at random, both pictures of a pair alike.
        jitter: enlarge images by this share, and crop at random, both pictures of a pair alike.
        minutes: how long to train, in place of steps. A few steps are measured and thrown away; then as
            many are made as fit, and run.json records their number.
        batch: images in a step, over all processes together (pairs, for methods of two folders). The
            default of this option, and of others that say none, is the method's own.
        optimiser: adamw or adam.
        beta1: decay of the optimiser's mean of the gradient; GANs use 0.5.
        weight_decay: weight decay of the optimiser.
        precision: no (fp32, fastest on CPUs) or bf16.
        device: auto (a GPU if there is one) or cpu.
        save_every: steps between saves.
        save_minutes: minutes after which it saves at the latest; 0 waits for save_every.
        keep: how many models of the last saves are kept, in checkpoints/, and the one of the lowest
            held-out loss, in best/; 0 keeps none beside the last.
        preview_every: steps between previews; 0 makes none.
        resume: go on with the run in `out`.
        quiet: say nothing.
        watch: called with each line of log.jsonl, a dict: step, loss, lr and so on.  What it raises ends the
            training, which is saved first.
    """

    said: ClassVar[frozenset[str]] = frozenset()
    """Names of the options that are not left out."""

    method: str | Part = field(metadata={"recorded": False})
    data: Data = field(metadata={"recorded": False})
    out: str | Path = field(metadata={"recorded": False})
    _: KW_ONLY
    options: Mapping[str, Any] | None = option(recorded=False)
    start: str | Path | None = option(recorded=False)
    codec: str | Path | None = option(recorded=False)
    size: str | TrainingSide = 32
    resize: Learnt = "crop"
    scale: Strength = option(1.0, fixed=True)
    upscale: bool = False
    alpha: str = option(most="white", fixed=True)
    range: Stated | None = option(None, fixed=True)
    to_range: Stated | None = option(None, fixed=True)
    pages: Literal["first", "all"] = option(most="first", fixed=True)
    beside: Beside = option(recorded=False)
    side_by_side: bool = False
    strict: bool = False
    held_out: BelowOne = option(most=0.05, fixed=True)
    validation: Data | None = option(recorded=False)
    without: str | Path | None = None
    flip: bool = option(False, fixed=True)
    jitter: Share = option(0.0, fixed=True)
    minutes: Positive | None = option(recorded=False)
    batch: Annotated[int, Interval(1, 10**6)] = option(most=32, fixed=True)
    optimiser: Literal["adamw", "adam"] = option(most="adamw", fixed=True)
    beta1: BelowOne = option(most=0.9)
    weight_decay: NotNegative = 0.0
    precision: Literal["no", "bf16"] = "no"
    device: Literal["auto", "cpu"] = option("auto", recorded=False)
    save_every: Count = 250
    save_minutes: NotNegative = 10.0
    keep: Whole = 0
    preview_every: Whole = 1000
    resume: bool = option(False, recorded=False)
    quiet: bool = option(False, recorded=False)
    watch: Callable[[dict[str, Any]], Any] | None = option(recorded=False)

    def __post_init__(self) -> None:
        check_data("data", self.data)
        if self.validation is not None:
            check_data("validation", self.validation)
        super().__post_init__()
        h, w = self.sides
        for side in (h, w):
            check_value("size", side, TrainingSide)
        object.__setattr__(self, "size", h if h == w else f"{w}x{h}")

    def unsaid(self) -> dict[str, Any]:
        given = defaults(self.method)
        if self.start is not None:
            given |= {"lr": given["lr"] / GENTLER, "alpha": None}  # the model's
        if self.validation is not None:
            given["held_out"] = 0.0
        return given if self.minutes is None else {**given, "steps": None}  # they will be measured

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return sides_of(self.size)

    @property
    def stated_channels(self) -> int | None:
        """Channels of the pictures, if they are stated."""
        return getattr(self.method, "channels", (self.options or {}).get("channels"))

    @property
    def channels(self) -> int:
        """Channels of the pictures."""
        return self.stated_channels or 3

    @property
    def further(self) -> list[str | Path]:
        """The folders beside that of the sources."""
        return listed(self.beside)

    @property
    def to_channels(self) -> int | None:
        """Channels of the targets, if these have others."""
        return getattr(self.method, "to_channels", (self.options or {}).get("to_channels")) or None

    def settings(self) -> dict[str, Any]:
        """What run.json records as the settings."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name in SETTINGS}
        return known | {"without": self.without and str(Path(self.without).absolute())}


DEFAULTS = {f.name: f.metadata["most"] for f in fields(TrainOptions) if "most" in f.metadata}
"""How methods are trained that do not say otherwise by their `settings`."""
SETTINGS = [f.name for f in fields(TrainOptions) if f.metadata.get("recorded", True)]
"""The options that run.json records as settings."""
GENTLER = 10
"""By so much a learning rate is lower where weights have learnt already."""
FIXED = [f.name for f in fields(TrainOptions) if f.metadata.get("fixed")]
"""Settings that a resumed run keeps; the others may change."""


def defaults(method: str | Part | type[Part]) -> dict[str, Any]:
    """The method's own batch, learning rate and so on: what `train` does if it is not told."""
    return DEFAULTS | dict(info(method).settings)


def check(settings: Mapping[str, Any]) -> None:
    """Every option is of its type and lies where it may.

    Raises:
        UserError: for the first that does not, NaN and infinity among them.
    """
    hints = hints_of(TrainOptions)
    for name in settings.keys() & hints.keys():
        check_value(name, settings[name], hints[name])
