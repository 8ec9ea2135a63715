"""Does a model copy its training pictures?

Each output's distances to its k = 50 nearest training pictures give the ratio

    r(y) = d_1 / mean(d_1, ..., d_k),

near 0 where one training picture is far nearer than its neighbours, near 1 where y lies no nearer to one
than to many (Carlini et al. 2023, "Extracting Training Data from Diffusion Models", sec. 5.1, whose attack
thresholds it; Yoon et al. 2023, "Diffusion Probabilistic Models Generalize when They Fail to Memorize",
ask for d_1 / d_2 < 1/3).  No fixed threshold suits both faces and flat tiles of sea, so that real held-out
pictures of the target domain are the measure: an honest model's outputs are no nearer to the training
pictures than those are.  An output counts as near if its ratio is below that of 99 % of the held-out ones.
If outputs and held-out pictures come from one law, then any order of all of them is equally likely, and
the number of outputs below the r-th smallest of m held-out ratios is negative hypergeometric (the
precedence test): an exact p-value, for any law and any counts.  The model copies if

    p < 0.001 / (spaces looked at)  and  near outputs are at least FACTOR = 5 times as many as expected.

In pixels a near output must besides correlate by 0.9 with that training picture, the mean colours taken
away: a blur of the right colour lies near to the flattest training picture, but shows nothing of it.

Pixels find copies that are noisy or blurred, features those that are shifted or mirrored; Lite0 does not
find noisy ones.  Neither sees a training picture that is there more than 50 times (`sfumato doctor` does),
or copies when the held-out pictures are themselves copies of training pictures (it says so).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from sfumato.core.devices import device_of
from sfumato.core.errors import UserError, check_numbers
from sfumato.core.terminal import count, verb
from sfumato.data.pictures import ImageSet
from sfumato.diffusion.denoiser import answered
from sfumato.evaluation.nearest import Nearest, Vectors, nearest

LEVEL, QUANTILE, FACTOR, LIKENESS = 0.001, 0.01, 5, 0.9
SIDE = 64
"""Pixels are compared at no more than this side."""


@dataclass(frozen=True)
class SpaceAudit:
    """Outputs against held-out pictures in one space, "pixels" or "features".

    Attributes:
        space: where distances are taken: RMSE of pixels in [0,1], or L2 of features.
        results: of the outputs.
        held_out: of the real pictures.
        threshold: the ratio below which an output counts as near.
        near: how many outputs do, of those `counted` (one of each group).
        expected: the share of near outputs of an honest model.
        p: probability that an honest model has as many near outputs, or more.
        copied: the verdict in this space.
        blind: so few pictures that no result could have made it so.
    """

    space: str
    results: Nearest
    held_out: Nearest
    threshold: float
    near: int
    counted: int
    expected: float
    p: float
    copied: bool
    blind: bool

    @property
    def share(self) -> float:
        """Share of near outputs."""
        return self.near / self.counted


@dataclass(frozen=True)
class Audit:
    """What `audit` found.

    Attributes:
        names: names of the outputs.
        train_names: names of the training pictures, which `Nearest.index` counts.
        spaces: the comparison in pixels, and that in features if there is one.
        leaks: held-out pictures that equal a training picture to half a gray level.
    """

    names: list[str]
    train_names: list[str]
    spaces: list[SpaceAudit]
    leaks: int

    @property
    def copied(self) -> bool:
        """The verdict: it copies in some space."""
        return any(c.copied for c in self.spaces)

    def closest(self, count: int = 10) -> list[tuple[int, int]]:
        """(output, its nearest training picture in pixels) of the lowest ratios, lowest first."""
        pixels = self.spaces[0].results
        return [(int(i), int(pixels.index[i])) for i in np.argsort(pixels.ratio)[:count]]

    @property
    def text(self) -> str:
        """The verdict and its reason in plain words."""
        said = ["No sign that this model copies training pictures."]
        if self.copied:
            said = ["This model copies training pictures."]
        elif all(c.blind for c in self.spaces):
            said = ["Too few pictures to tell whether this model copies: audit more results."]
        for c in self.spaces:
            ours, real = (np.median(x.ratio) for x in (c.results, c.held_out))
            said.append(
                f"In {c.space}, {c.near} of {c.counted} results ({c.share:.1%}) {verb(c.near, 'lie')} "
                f"as near to a single "
                f"training picture as only {c.expected:.1%} of real held-out pictures do (p = {c.p:.2g}); "
                f"nearest to near distances are {ours:.2f} (median), of held-out pictures {real:.2f}."
            )
        if self.leaks:
            said.append(
                f"{count(self.leaks, 'held-out picture')} found in training, too, which makes this audit "
                f"weak: `sfumato doctor` lists them."
            )
        return " ".join(said)

    def describe(self) -> dict[str, Any]:
        """The verdict and the numbers behind it, for JSON; per image in the order of `names`."""
        counts = ("near", "counted", "share", "expected", "threshold", "p", "copied")
        spaces = {
            c.space: {key: getattr(c, key) for key in counts}
            | {
                "nearest": [self.train_names[i] for i in c.results.index],
                "distance": c.results.distance.tolist(),
                "ratio": c.results.ratio.tolist(),
            }
            for c in self.spaces
        }
        rule = {"level": LEVEL, "quantile": QUANTILE, "factor": FACTOR, "likeness": LIKENESS}
        return {
            "copied": self.copied, "text": self.text, "held_out_leaks": self.leaks, "rule": rule,
            "names": self.names, "spaces": spaces,
        }  # fmt: skip


def audit(
    results: ImageSet,
    train: ImageSet,
    held_out: ImageSet,
    features: Callable[[ImageSet], Tensor] | None = None,
    *,
    groups: Sequence[Hashable] | None = None,
    held_out_groups: Sequence[Hashable] | None = None,
    k: int = 50,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> Audit:
    """Compares outputs and held-out pictures in how near they lie to training pictures.

    Args:
        results: the model's outputs.
        train: the target domain's training pictures, at least 2.
        held_out: real pictures of the target domain that training did not see.
        features: from a set of N images to their features (N,D), to compare in these as well, such
            as `partial(extract, Lite0())`; None compares pixels only.
        groups: labels of the outputs; one of each enters the test (copies are not independent).
        held_out_groups: the same of the held-out pictures.
        k: neighbours in the ratio, fewer where there are fewer training pictures.
        seed: seed of the choice within groups.
        device: where distances are computed: auto, cpu, cuda or cuda:N.

    Raises:
        UserError: no pictures, sizes that differ, or values that are not numbers.
    """
    if len(train) < 2 or not len(results) or not len(held_out):
        raise UserError(
            f"{count(len(results), 'result')}, {len(train)} training and "
            f"{count(len(held_out), 'held-out picture')}: the audit needs at least 1, 2 and 1"
        )
    rng = np.random.default_rng(seed)
    where = device_of(device)
    chosen, others = _one_each(groups, results, rng), _one_each(held_out_groups, held_out, rng)

    def compare(
        space: str, level: float, near: Callable[[ImageSet], Nearest], alike: bool = False
    ) -> SpaceAudit:
        ours, real = near(results), near(held_out)
        m, n = len(others), len(chosen)
        rank = max(1, int(QUANTILE * m))
        threshold = float(np.sort(real.ratio[others])[rank - 1])
        suspects = chosen[ours.ratio[chosen] < threshold]
        if alike:
            suspects = suspects[_likeness(results, train, suspects, ours.index) > LIKENESS]
        count = len(suspects)
        p, expected = _p(count, n, m, rank), rank / (m + 1)
        copied = p < level and count >= FACTOR * expected * n
        blind = FACTOR * expected > 1 or _p(n, n, m, rank) >= level
        return SpaceAudit(space, ours, real, threshold, count, n, expected, p, copied, blind)

    level = LEVEL if features is None else LEVEL / 2
    spaces = [compare("pixels", level, lambda x: nearest(_pixels(x), _pixels(train), k, where), alike=True)]
    if features is not None:
        known = _features(features, train)
        spaces.append(compare("features", level, lambda x: nearest(_features(features, x), known, k, where)))
    leaks = int((spaces[0].held_out.distance < 0.5 / 255).sum())
    return Audit(results.names, train.names, spaces, leaks)


def _pixels(images: ImageSet) -> Vectors:
    """Pixels in [0,1] at no more than SIDE a side, scaled so that L2 is the RMSE."""

    def get(rows: Sequence[int]) -> Tensor:
        x = images.get(rows)
        check_numbers({f"one of pictures {rows[0]} to {rows[-1]}": x})
        if max(x.shape[-2:]) > SIDE:
            x = interpolate(x, [min(side, SIDE) for side in x.shape[-2:]], mode="area")
        flat = (x.flatten(1) + 1) / 2
        return flat / flat.shape[1] ** 0.5

    return Vectors(len(images), get)


def _likeness(
    results: ImageSet, train: ImageSet, rows: NDArray[np.int64], index: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Correlation of results and their nearest training pictures, the mean colours taken away."""
    out = []
    for i in rows.tolist():
        a, b = (s.get([j])[0].double() for s, j in ((results, i), (train, int(index[i]))))
        a, b = a - a.mean((1, 2), keepdim=True), b - b.mean((1, 2), keepdim=True)
        out.append(((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12)).item())
    return np.array(out)


def _features(features: Callable[[ImageSet], Tensor], images: ImageSet) -> Vectors:
    found = answered(features(images), (len(images), None), "features=")
    return Vectors(len(found), lambda rows: found[torch.as_tensor(rows)])


def _one_each(
    groups: Sequence[Hashable] | None, images: ImageSet, rng: np.random.Generator
) -> NDArray[np.int64]:
    """One index of each group, drawn at random; all without groups."""
    if groups is None:
        return np.arange(len(images))
    if len(groups) != len(images):
        raise UserError(
            f"{count(len(groups), 'group')} for {count(len(images), 'picture')}: expected one for each"
        )
    order = rng.permutation(len(groups))
    return np.sort(np.array(list({groups[i]: i for i in order}.values())))


def _p(near: int, n: int, m: int, rank: int) -> float:
    """P(at least `near` of n fall below the rank-th smallest of m), all in random order."""
    from scipy.stats import nhypergeom

    return float(nhypergeom.pmf(range(near, n + 1), n + m, n, rank).sum())
