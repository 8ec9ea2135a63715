"""Which buckets a training has, which picture is in which, and of which a batch is; see `proportions`.

Batches are drawn of buckets in proportion to their pictures, in rounds that have each so often; inside of a
bucket pictures follow each other as in a set of their own.  So pictures of one folder, and pairs, are all
seen equally often.  Sources and targets of a batch, and pictures of several domains, have one bucket: where
folders have a bucket in other shares, its pictures are seen more often in one and less in another.  Where
that would be more than `OFTEN` times the mean, as where a folder lacks a bucket, the bucket is given up, and
its pictures go to the nearest of the others.
"""

import abc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sfumato.core.terminal import count
from sfumato.data.image_folder import ImageFolder
from sfumato.data.preparation import Preparation
from sfumato.data.proportions import Size, buckets, cut_off, far, nearest

OFTEN = 4
"""Times the mean that pictures of a bucket are drawn, at most."""


def shared(parts: Sequence[Sequence[Size]], among: Sequence[Size]) -> list[Size]:
    """Those of some buckets in which pictures of all these folders are, in shares that are alike.

    Args:
        parts: sizes of the pictures of each folder.
        among: buckets.
    """
    away = [np.array([[far(size, b) ** 2 for b in among] for size in sizes]) for sizes in parts]
    kept = list(range(len(among)))
    while True:
        drawn = [np.bincount(d[:, kept].argmin(1), minlength=len(kept)) / len(d) for d in away]
        mean, least = np.mean(drawn, 0), np.min(drawn, 0)
        uneven = [k for k, m, n in zip(kept, mean, least, strict=True) if m > OFTEN * n]
        if not uneven:
            return [among[k] for k, m in zip(kept, mean, strict=True) if m]

        def then(k: int) -> float:
            """How far pictures are from their buckets without this one: squares spare the farthest."""
            return sum(d[:, [j for j in kept if j != k]].min(1).mean() for d in away)

        kept.remove(min(uneven, key=then))


@dataclass(frozen=True)
class Buckets:
    """Where the pictures of a training are.

    Attributes:
        rows: {bucket: {part: places of its pictures}}, the bucket of most pictures first.
        sizes: (height, width) of all pictures, of each part.
        square: the bucket whose area all have.
    """

    rows: dict[Size, dict[str, list[int]]] = field(default_factory=dict)
    sizes: Mapping[str, Sequence[Size]] = field(default_factory=dict)
    square: Size = (0, 0)

    @classmethod
    def of(cls, sizes: Mapping[str, Sequence[Size]], square: Size, like: Self | None = None) -> Self:
        """Those of these pictures; if `like` is given, among its buckets."""
        kept = shared([*sizes.values()], [*like.rows] if like else buckets(square))
        rows: dict[Size, dict[str, list[int]]] = {b: {name: [] for name in sizes} for b in kept}
        for name, own in sizes.items():
            for i, size in enumerate(own):
                rows[nearest(size, kept)][name].append(i)
        kept.sort(key=lambda b: -sum(map(len, rows[b].values())))
        return cls({b: rows[b] for b in kept}, sizes, square)

    def turn(self, seed: int, number: int) -> tuple[int, int]:
        """Which bucket batch `number` (from 0) is of, and how many batches of this bucket come before."""
        if len(self.rows) < 2:
            return 0, number
        rounds, place = divmod(number, sum(self.counts))
        order = _order(self.counts, seed, rounds)
        which = int(order[place])
        return which, rounds * self.counts[which] + int((order[:place] == which).sum())

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Batches of each bucket in a round: of one part as many as it has pictures."""
        counts = np.array([[len(at) for at in each.values()] for each in self.rows.values()])
        shares = (counts / counts.sum(0)).mean(1)
        return tuple(max(1, round(n)) for n in (shares * counts.sum(0).max()).tolist())

    def said(self) -> list[str]:
        """A line for each part: how many of its pictures are in which bucket, and what is cut off of them."""
        lines = []
        for name, sizes in self.sizes.items():
            at = {i: bucket for bucket, each in self.rows.items() for i in each[name]}
            lost = [cut_off(sizes[i], bucket) for i, bucket in at.items()]
            own = {i: nearest(sizes[i], buckets(self.square)) for i in at}
            moved = Counter(own[i] for i, bucket in at.items() if own[i] != bucket)
            line = (
                f"{name}: {_counted(Counter(at.values()))} pixels; {sum(lost) / len(lost):.0%} of a picture "
                f"is cut off on average, {max(lost):.0%} at most"
            )
            if moved:
                line += (
                    f"; {count(moved.total(), 'picture')} ({_counted(moved)}) went to the nearest size that "
                    f"all folders have in like shares"
                )
            lines.append(line)
        return lines


def _counted(sizes: Mapping[Size, int]) -> str:
    """Such as "20 of 80x56, 12 of 64x64"."""
    return ", ".join(f"{n:,} of {w}x{h}" for (h, w), n in sizes.items())


class InBuckets(abc.ABC):
    """A set of pictures, and the sets of one size of which batches are."""

    kind: str
    parts: dict[str, ImageFolder]
    like: Self | None = None  # another set: its buckets alone are this one's

    @abc.abstractmethod
    def with_parts(self, parts: dict[str, ImageFolder]) -> Self:
        """The same kind of set over other parts."""

    @property
    def preparation(self) -> Preparation:
        """How the first part's images are made, which are sources."""
        return next(iter(self.parts.values())).preparation

    @cached_property
    def buckets(self) -> Buckets:
        """Which pictures are in which bucket: in none, unless it is a training in buckets."""
        if (how := self.preparation).resize != "buckets" or how.size is None:
            return Buckets()
        sizes = {name: part.sizes() for name, part in self.parts.items()}
        if self.kind == "pairs":  # both halves are in the source's
            sizes = dict.fromkeys(sizes, sizes["source"])
        return Buckets.of(sizes, how.size, self.like.buckets if self.like else None)

    @cached_property
    def groups(self) -> list[Self]:
        """Sets of pictures of one size, of which batches are: of each bucket, the largest first, or all."""
        return [
            self.with_parts({name: self.parts[name].in_bucket(at, size) for name, at in each.items()})
            for size, each in self.buckets.rows.items()
        ] or [self]

    def of_size(self, group: Self) -> Self:
        """The pictures of the size of those of a group, which is of this set or of one that is `like` it."""
        sizes = [one.preparation.size for one in self.groups]
        return self.groups[sizes.index(group.preparation.size)]


@lru_cache(maxsize=8)
def _order(counts: tuple[int, ...], seed: int, rounds: int) -> NDArray[np.int64]:
    row = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng([seed, 4, 0, rounds]).permutation(row)
