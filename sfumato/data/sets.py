"""What training reads: named image folders, and batches that can be resumed at any number.

Batch number n is a pure function of (seed, n, rank, world). The items of a set are dealt out in
an endless row: one seeded permutation after the other, each a whole epoch. Batch n is the n-th
run of `size` places of that row, so a set smaller than a batch simply repeats. With several
processes (`world`) each takes an equal share of the same batch. In buckets every size has such a
row, and rounds of batches: see `sfumato.data.buckets`.
"""

import abc
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, Interval, NotNegative, Strength, Whole
from sfumato.core.terminal import count, verb
from sfumato.data.augment import jittered, mirrored
from sfumato.data.buckets import InBuckets
from sfumato.data.image_folder import ImageFolder
from sfumato.data.listing import file_of, natural, stem_of, told_apart
from sfumato.data.pieces import Cut
from sfumato.data.pieces import cuts as cuts_of
from sfumato.data.resize import alike, said_size
from sfumato.data.stacks import check_pages

Batch = tuple[Tensor, Tensor]
Indices = NDArray[np.int64]
Cuts = Sequence[Sequence[Cut]] | None


class Dataset(InBuckets):
    """One or more `ImageFolder` drawn together."""

    coins: tuple[int, ...]  # which coin flips the first and the second half of a batch

    @abc.abstractmethod
    def _take(self, places: Indices, seed: int | None, cuts: Cuts = None) -> Batch:
        """The batch at these places of the row; without a seed the row is in the order of names.

        Of a training on pieces `cuts` are those of the source and of the target.
        """

    @checked
    def batches(
        self,
        size: Count,
        *,
        seed: Whole,
        start: Whole = 0,
        rank: Whole = 0,
        world: Count = 1,
        flip: bool = False,
        jitter: NotNegative = 0.0,
        scale: Strength = 1.0,
    ) -> Iterator[Batch]:
        """Batches start, start + 1, ... without end; images are float32 in [-1,1].

        Args:
            size: Items in a batch over all processes together; a multiple of `world`.
            seed: of the order and of all that is random.
            start: Number of the first batch.
            rank: This process, 0 to world - 1; it gets size / world items of each batch.
            world: Number of processes.
            flip: Mirror half of the images at random, both halves of a pair alike.
            jitter: Enlarge images by this share and crop at random, pairs alike.
            scale: The least of pieces, at which they are cut at random, pairs alike.

        Raises:
            UserError: `size` cannot be shared equally by the processes.
        """
        if size % world:
            raise UserError(f"batch size {size}: expected a multiple of the {world} processes")
        share = slice(rank * size // world, (rank + 1) * size // world)
        for number in itertools.count(start):
            which, turn = self.buckets.turn(seed, number)
            cuts = [own[share] for own in cuts_of(seed, number, size, scale)] if self.of_pieces else None
            halves = list(self.groups[which]._take(turn * size + np.arange(size)[share], seed, cuts))
            coins = np.random.default_rng([seed, 1, 0, number]).random((2, size))[:, share]
            places = np.random.default_rng([seed, 2, 0, number]).random((2, 2, size))[..., share]
            for half, coin in enumerate(self.coins):
                if flip:
                    halves[half] = mirrored(halves[half], coins[coin])
                if jitter:
                    halves[half] = jittered(halves[half], jitter, places[coin])
            yield halves[0], halves[1]

    @property
    def of_pieces(self) -> bool:
        """Whether pieces of the pictures are learnt from."""
        return next(iter(self.parts.values())).preparation.resize == "pieces"

    def first(self, count: int) -> Batch:
        """The first items in the order of their names (of the domains in turn), for previews."""
        return self._take(np.arange(min(count, len(self))), None)

    @checked
    def split(self, fraction: Annotated[float, Interval(0, 1, "()")], seed: int = 0) -> tuple[Self, Self]:
        """Two sets of the same kind: (train, held out), of which the second is `fraction`.

        Equal names (without their suffix) go the same way in all parts, so that no picture of a
        place is in one set and its twin in the other; and so do all pages of a file, which look alike.

        Raises:
            UserError: `fraction` leaves a part of either set empty.
        """
        held = held_stems([[*map(stem_of, _files(part))] for part in self.parts.values()], fraction, seed)
        sides: list[dict[str, ImageFolder]] = [{}, {}]
        for name, part in self.parts.items():
            for side in (0, 1):
                stems = [stem_of(file_of(file)) for file in part.file_names]
                chosen = [i for i, stem in enumerate(stems) if (stem in held) == bool(side)]
                if not chosen:
                    files = len(_files(part))
                    pages = f" pages of {count(files, 'file')}, held out whole" * (files < len(part))
                    raise UserError(
                        f"a held-out fraction of {fraction} leaves no {('training', 'test')[side]} "
                        f"images of {name!r}, which has {len(part)}{pages}: use another fraction, or 0"
                    )
                sides[side][name] = part.subset(chosen)
        train, held_out = map(self.with_parts, sides)
        held_out.like = train
        return train, held_out

    def names(self) -> dict[str, list[str]]:
        """The file names of every part, relative to its folder: a split that can be written."""
        return {name: part.file_names for name, part in self.parts.items()}

    def describe(self, digests: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What the set is, for JSON: kind, counts, files skipped, size, resize and digests.

        Args:
            digests: that were saved of it; those that an earlier version wrote of the same pictures stay.
        """
        how, saved = next(iter(self.parts.values())).preparation, digests or {}
        return {
            "kind": self.kind,
            "size": list(how.size or ()), "channels": how.channels,
            "resize": how.resize, "upscale": how.upscale,
            "count": {name: len(part) for name, part in self.parts.items()},
            "skipped": {name: len(part.skipped) for name, part in self.parts.items()},
            "digest": {n: part.digest_as(saved.get(n)) for n, part in self.parts.items()},
        }  # fmt: skip

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))


class Domains(Dataset):
    """Named domains; a batch is (images (B,C,H,W), labels (B,) int64), the domains in turn."""

    kind, coins = "domains", (0,)

    def __init__(self, parts: Mapping[str, ImageFolder]) -> None:
        self.parts = dict(parts)
        hows = {name: part.preparation for name, part in parts.items()}
        shapes = {name: (how.channels, *(how.size or ())) for name, how in hows.items()}
        if not parts or len(set(shapes.values())) > 1:
            raise UserError(f"expected one or more domains of one size and channels, got {shapes}")

    def with_parts(self, parts: dict[str, ImageFolder]) -> Self:
        return type(self)(parts)

    def _take(self, places: Indices, seed: int | None, cuts: Cuts = None) -> Batch:
        count = len(self.parts)
        labels, places = places % count, places // count
        how = next(iter(self.parts.values())).preparation
        images: Float[Tensor, "b c h w"] = torch.empty(len(labels), how.channels, *(how.size or ()))
        for k, part in enumerate(self.parts.values()):
            if not len(rows := np.flatnonzero(labels == k)):
                continue  # of more domains than pictures in a batch
            own = None if cuts is None else [cuts[0][row] for row in rows.tolist()]
            images[torch.from_numpy(rows)] = _draw(part, k, places[rows], seed, own)
        return images, torch.from_numpy(labels)


class Unpaired(Dataset):
    """Two domains; a batch is (source, target), both (B,C,H,W), drawn independently."""

    kind, coins = "unpaired", (0, 1)

    def __init__(self, source: ImageFolder, target: ImageFolder) -> None:
        self.source, self.target = source, target
        self.parts = {"source": source, "target": target}

    def with_parts(self, parts: dict[str, ImageFolder]) -> Self:
        return type(self)(**parts)

    def _take(self, places: Indices, seed: int | None, cuts: Cuts = None) -> Batch:
        source, target = cuts or (None, None)
        return _draw(self.source, 0, places, seed, source), _draw(self.target, 1, places, seed, target)

    def __len__(self) -> int:
        return max(len(self.source), len(self.target))


class Pairs(Unpaired):
    """Pictures of equal name (without suffix); a batch is (source, target), both (B,C,H,W).

    The partners of broken files are left out.

    Raises:
        UserError: a name is missing on one side, or appears twice on one side; or partners have other
            proportions and would be cropped apart.
    """

    kind, coins = "pairs", (0, 0)

    def __init__(self, source: ImageFolder, target: ImageFolder) -> None:
        for side in (source, target):
            twice = [stem for stem, n in Counter(side.names).items() if n > 1]
            if twice:
                named = told_apart(*[f for f in side.file_names if stem_of(f) == twice[0]][:2])
                raise UserError(
                    f"{side.folder} has several files named {_some(twice)} ({named.rstrip(',')}): keep one"
                )
        check_pages(source, target)
        here, there = set(source.names), set(target.names)
        no_source = there - here - _broken(source, target)
        no_target = here - there - _broken(target, source)
        if no_source or no_target:
            raise UserError(
                f"pairs must have equal names: {source.folder} lacks {_some(no_source)}; "
                f"{target.folder} lacks {_some(no_target)}; rename or delete "
                f"these, or train without pairs: cut or cyclegan on two folders, or diffusion"
            )
        both = sorted(here & there, key=natural)
        if not both:
            raise UserError(f"no pair of {source.folder} and {target.folder} can be read")
        super().__init__(source.only(both), target.only(both))
        apart = [
            f"{name} ({said_size(a)}, {said_size(b)})"
            for name, a, b in zip(both, self.source.sizes(), self.target.sizes(), strict=True)
            if (a != b if self.of_pieces else not alike(a, b))
        ]
        if apart and self.of_pieces:
            raise UserError(
                f"{len(apart)} of {len(both)} pairs {verb(len(apart), 'have')} pictures of other sizes, "
                f"whose pieces show other "
                f"places: {', '.join(apart[:3])}: bring them to one size, or use --resize crop"
            )
        if apart and self.source.preparation.resize in ("crop", "buckets"):
            raise UserError(
                f"{len(apart)} of {len(both)} pairs {verb(len(apart), 'have')} pictures of other "
                f"proportions, which a crop would "
                f"cut apart: {', '.join(apart[:3])}: use --resize stretch"
            )

    def _take(self, places: Indices, seed: int | None, cuts: Cuts = None) -> Batch:
        own = None if cuts is None else cuts[0]
        return _draw(self.source, 0, places, seed, own), _draw(self.target, 0, places, seed, own)


def held_stems(parts: Iterable[Sequence[str]], fraction: float, seed: int = 0) -> set[str]:
    """Names of files that are held out: of those of each part so many, and the same in all others."""

    def place(stem: str) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{stem}")).digest()

    held: set[str] = set()
    for part in parts:
        stems = sorted(part, key=place)
        held.update(stems[: max(1, round(fraction * len(stems)))])
    return held


def _files(part: ImageFolder) -> list[str]:
    """The file names of a part; pages of one file have one."""
    return list(dict.fromkeys(map(file_of, part.file_names)))


def _broken(part: ImageFolder, other: ImageFolder) -> set[str]:
    """Names of the other part whose partners cannot be used, alone or with all pages of their files."""
    skipped, named = set(map(stem_of, part.skipped)), zip(other.names, other.file_names, strict=True)
    return {name for name, file in named if {name, stem_of(file_of(file))} & skipped}


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names, key=natural)
    more = f" and {len(ordered) - 5} more" if len(ordered) > 5 else ""
    return (", ".join(ordered[:5]) or "none") + more


def _draw(
    part: ImageFolder, stream: int, places: Indices, seed: int | None, cuts: Sequence[Cut] | None
) -> Tensor:
    """The images at these places of an endless row of permutations of `part`, or pieces of them."""
    count = len(part)
    if seed is None:
        return part.get(places % count)
    epochs = [_permutation(count, seed, stream, int(place) // count) for place in places]
    indices = [int(epoch[p % count]) for epoch, p in zip(epochs, places, strict=True)]
    return part.get(indices) if cuts is None else part.pieces(indices, cuts)


@lru_cache(maxsize=32)
def _permutation(count: int, seed: int, stream: int, epoch: int) -> Indices:
    return np.random.default_rng([seed, 0, stream, epoch]).permutation(count)
