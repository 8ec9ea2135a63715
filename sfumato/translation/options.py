"""The options of a translation, each with its help, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

from sfumato.checkpoints.model_folder import ModelFolder
from sfumato.core.arguments import Checked
from sfumato.core.ranges import Count
from sfumato.data.joined import Beside, listed
from sfumato.data.preparation import Side
from sfumato.data.resize import Resize
from sfumato.data.value_range import Stated
from sfumato.data.write import Format
from sfumato.diffusion.watch import Watch
from sfumato.translation.results import Depth

Paths = str | Path | Sequence[str | Path]
Scale = Literal["native"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelOptions(Checked):
    """By which models pictures are translated, and how they are brought to them.

    Args:
        method: the method to translate by, see `sfumato methods`; not needed with model.
        model: folder of a trained translator.
        source: model of the source domain, FOLDER:DOMAIN.
        target: model of the target domain, FOLDER:DOMAIN.
        classifier: folder of a domain classifier, for methods that are guided by one.
        seed: seed of the noise; a picture's result depends on the seed and the picture alone.
        batch: pictures translated at a time; by default as many as should fit into memory.
        size: short side of the pictures in pixels, or WIDTHxHEIGHT, as in 96x64; by default as in the
            model's training, which also decides the next three.
        resize: how pictures get that size: short (scale the short side, keep the whole picture), buckets
            (the same to the area, as a training in buckets), crop (cut out its middle), stretch, or none
            (pictures have it already).
        upscale: enlarge pictures that are smaller than size, which are not translated otherwise.
        side: which half of a picture is read: left, right, or whole (it is one picture).
        windows: whether networks see overlapping windows of the training's size, see `sfumato.windowed`; by
            default where a picture is more than twice as large.
        device: auto (a GPU if there is one), cpu, cuda, cuda:N or mps.
        options: the method's own options.
        watch: called for each step of each batch, see `integrate`; what it raises ends the run.
    """

    method: str | None = None
    model: str | Path | None = None
    source: str | Path | None = None
    target: str | Path | None = None
    classifier: str | Path | None = None
    seed: int = 0
    batch: Count | None = None
    size: str | Count | None = None
    resize: Resize | None = None
    upscale: bool = False
    side: Side | None = None
    windows: bool | None = None
    device: str = "auto"
    options: Mapping[str, Any] | None = None
    watch: Watch | None = None

    @property
    def roles(self) -> dict[str, Any]:
        """What `assembled` is told."""
        return {name: getattr(self, name) for name in ("method", "model", "source", "target", "classifier")}


@dataclass(frozen=True, eq=False)
class TranslateOptions(ModelOptions):
    """What `translate` is told.

    Args:
        paths: pictures, or folders whose trees and names are kept.
        out: folder for the results; after a stop, the same command goes on. Or, of one picture, the name of
            its result, such as result.png.
        scale: native takes every picture at its own size, also where training had made them smaller.
        resize_back: bring results to the sources' size.
        format: of the results: png, tiff, webp (these lose nothing), or jpeg; by default tiff if the
            results have a range, other channels than 1 or 3, or pages, and else png.
        depth: bits of a sample of the results, 32 of floats; by default each has its source's type.
        alpha: keep (results take over the sources' transparency), or the colour that transparent pictures
            are laid on, such as black or #ff8800; by default the training's, which is white.
        range: the values that become black and white: two ends such as -1000 3000; auto, the least and the
            largest of the pictures; or percentile 0.1 99.9 of them; by default the training's.
        to_range: two ends of the results' values; by default the training's, or as range.
        pages: first, or all of stacks (TIFF, DICOM, NIfTI), whose results have as many.
        beside: a folder, or several, whose channels come after those of the pictures of equal names and
            sizes, as in the model's training.
        strict: refuse to begin if the folders hold anything that cannot be read, or only in part; what phones
            add to a photo, and values beyond a stated range, are no reason.
        expect: refuse to begin unless run.json's "run" is this one, which may say beside it "made_of" and
            "models" of its "from"; used by `repeat`.
        loaded: models that are read already, see `assembled`.
        one_of_each: skip pictures whose name another has, and do not refuse all; used by `watch_folder`.
    """

    paths: Paths
    out: str | Path
    _: KW_ONLY
    scale: Scale | None = None
    resize_back: bool = False
    format: Format | None = None
    depth: Depth | None = None
    alpha: str | None = None
    range: Stated | None = None
    to_range: Stated | None = None
    pages: Literal["first", "all"] = "first"
    beside: Beside = None
    strict: bool = False
    expect: Mapping[str, Any] | None = None
    loaded: dict[Path, ModelFolder] | None = None
    one_of_each: bool = False

    @property
    def given(self) -> Sequence[str | Path]:
        """The paths as a list."""
        return [self.paths] if isinstance(self.paths, (str, Path)) else self.paths

    @property
    def further(self) -> list[str | Path]:
        """The folders beside these."""
        return listed(self.beside)


@dataclass(frozen=True, eq=False)
class StreamOptions(ModelOptions):
    """What `stream` is told.

    Args:
        pictures: of Pillow, arrays or tensors: a list, an array, a torch Dataset, a generator; an item may
            be a tuple that begins with its picture, or a dict that holds one.
        alpha: the colour that transparent pictures are laid on; by default the training's, which is white.
        range: the two values that become -1 and 1, and which results have; needed of floats beyond [-1, 1],
            and of those in it if the first pictures may be bright all over; by default the training's.
    """

    pictures: Any
    _: KW_ONLY
    alpha: str | None = None
    range: Stated | None = None
