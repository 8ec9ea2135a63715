"""The options of scores and comparisons, each with its help, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.core.arguments import Checked
from sfumato.core.ranges import Count, Several
from sfumato.data.joined import Beside
from sfumato.data.preparation import Side
from sfumato.data.resize import ToOneSize
from sfumato.evaluation.entries import Entry
from sfumato.evaluation.measures import Task
from sfumato.evaluation.protocol import Protocol, named_protocol


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreOptions(Checked):
    """How results are scored.

    Args:
        target: folder of real pictures of the target domain on which no method was trained.
        truth: folder of the right answers, named like the sources.
        train: folder of the target pictures that the methods were trained on, to look for copies.
        protocol: standard, egsde, egsde_m2f, cyclediffusion, or a JSON file of your own.
        features: lite0, inception, or the folder of a domain classifier that guides none of the
            methods; in place of the protocol's features.
        inception: file of the FID network's weights, pt_inception-2015-12-05-6726825d.pth.
        groups: FILE.csv:COLUMN; pictures of one group do not count as independent evidence.
        task: labels that are compared with the truth's: land_water or relief_water.
        classifier: images (B, 3, H, W) -> (B,) 1 for the target domain; a linear probe by default.
        resize: how sources get the results' size, crop or stretch; by default as in the models'
            training, or as the run.json of a folder of results says; pictures from elsewhere are cropped.
        side: which half of a source is read: left, right, or whole; the default is found in the same way.
        beside: a folder, or several, whose channels come after those of the sources of equal names and sizes,
            as in the models' training.
        device: auto, cpu, cuda or cuda:N.
    """

    target: str | Path
    truth: str | Path | None = None
    train: str | Path | None = None
    protocol: Protocol | str = "standard"
    features: str | None = None
    inception: str | Path | None = None
    groups: str | None = None
    task: Task | str | None = None
    classifier: Callable[[Tensor], Tensor] | None = None
    resize: ToOneSize | None = None
    side: Side | None = None
    beside: Beside = None
    device: str = "auto"

    @property
    def rules(self) -> Protocol:
        """The protocol that is meant."""
        return named_protocol(self.protocol, self.features)

    def scoring(self) -> dict[str, Any]:
        """These alone, without those of a comparison or an evaluation."""
        return {f.name: getattr(self, f.name) for f in fields(ScoreOptions)}


@dataclass(frozen=True, eq=False)
class CompareOptions(ScoreOptions):
    """What `compare` is told.

    Args:
        source: folder of held-out pictures of the source domain.
        out: folder for the page, the scores and the results; the same command goes on there.
        entries: what to compare: "METHOD source=... target=... option=value,value", "model=FOLDER",
            "label=NAME folder=RESULTS" or "scores=FILE"; several values of an option are swept.
        seed: first seed of the noise.
        seeds: how many seeds; 4 or more show how sure a method is.
        limit: translate only this many of the sources, spread evenly through the folder.
        size: side of the pictures in pixels; by default that of the models' training.
        batch: pictures translated at a time.
        round_trip: translate back, too, where a method has both source and target.
    """

    source: str | Path
    out: str | Path
    entries: Sequence[str | Entry]
    _: KW_ONLY
    seed: int = 0
    seeds: Count = 1
    limit: Several | None = None
    size: Count | None = None
    batch: Count | None = None
    round_trip: bool = False


@dataclass(frozen=True, eq=False)
class EvaluateOptions(ScoreOptions):
    """What `evaluate` is told.

    Args:
        results: folder of translated pictures, named like their sources.
        source: folder of the pictures that they were made of.
        out: folder for the page and the scores; by default beside the results.
    """

    results: str | Path
    source: str | Path
    _: KW_ONLY
    out: str | Path | None = None
