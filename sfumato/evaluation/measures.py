"""What is measured: the columns of a comparison, and label maps to score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from sfumato.core.terminal import count, verb
from sfumato.evaluation.features import Features
from sfumato.evaluation.metrics import METRICS

ENOUGH = 2048
"""Pictures; below, FD's bias of about features / pictures hides what methods differ by."""
Task = Callable[[Tensor], Tensor]


class Measure(NamedTuple):
    """A column: what it is called, which direction is better (1 up, -1 down, 0 neither), what it is."""

    label: str
    better: int
    about: str


def measures(kernel: str, frechet: str) -> dict[str, Measure]:
    """Every column in the order of the page: realism, task, truth, faithfulness, the rest."""
    out = {
        "kid": Measure(kernel, -1, "unbiased MMD^2 of features to the reference, cubic kernel"),
        "fd": Measure(frechet, -1, "Frechet distance of features to the reference"),
        "domain": Measure(
            "target domain", 1,
            "share of results that a linear probe on Lite0 features (with --features FOLDER: that "
            "classifier) takes for the target domain",
        ),
        "task": Measure("task IoU", 1, "intersection over union of the task's labels with the truth's"),
    }  # fmt: skip
    for other, spoken in (("truth", "to truth"), ("source", "to source")):
        for name, m in METRICS.items():
            label, about = f"{m.label} {spoken}", f"against the {other}: {m.about}"
            out[f"{other}/{name}"] = Measure(label, m.better, about)
    there_and_back = "Frobenius norm of the source less its translation there and back, images in [0, 1]"
    apart = "mean RMSE between results of two seeds, images in [0, 1]"
    out["cycle"] = Measure("round trip L2", -1, there_and_back)
    return out | {"diversity": Measure("diversity", 0, apart)}


def caveats(n: int, m: int, features: Features, flat: Sequence[str]) -> list[str]:
    """What a reader of n results' scores against m reference pictures must know."""
    notes, what = [], f"{count(n, 'result')} and {count(m, 'reference picture')} are"
    if min(n, m) <= features.dim:
        notes.append(
            f"{what} not more than the features' {features.dim} dimensions: the covariance is singular and "
            f"{features.name} means little. KID is unbiased and leads."
        )
    elif min(n, m) < ENOUGH:
        notes.append(
            f"{what} fewer than {ENOUGH}: the Frechet distance is biased upwards there, by an amount "
            f"that depends on the counts. KID is unbiased and leads."
        )
    if flat:
        notes.append(
            f"{len(flat)} of {n} results {verb(len(flat), 'are')} one flat colour: {', '.join(flat[:3])}"
        )
    return notes


def land_water(relief: Tensor) -> Tensor:
    """1 for water, 0 for land on Natural Earth's shaded relief: 2 B - R - G > 0.16, RGB in [0, 1]."""
    r, g, b = ((relief.clamp(-1, 1) + 1) / 2).unbind(1)
    return (2 * b - r - g > 0.16).long()


def relief_water(relief: Tensor) -> Tensor:
    """1 for the relief's pale water: B - 0.6 R > 0.42, RGB in [0, 1].

    Fitted to the land mask of Natural Earth on Earth's training tiles, and right on 97 % of their pixels,
    98.6 % of those held out (`land_water`: 96 and 98.3 %).  Dark water of a satellite is none, so that
    copies score low.
    """
    r, _, b = ((relief.clamp(-1, 1) + 1) / 2).unbind(1)
    return (b - 0.6 * r > 0.42).long()


TASKS: dict[str, Task] = {"land_water": land_water, "relief_water": relief_water}
