"""Pictures that are the same, nearly the same, or two views of one thing.

Near copies: thumbnails of 16x16 colours, less the mean of each quarter and channel, are compared by
their correlation c.  The quarters' means go because they are what unrelated pictures share: a sky
above a field, an aerial picture beside its white map.  All pairs are looked at: with unit vectors
|u - v|^2 = 2 - 2 c, and a projection P to the leading principal components never lengthens a
distance, so |P u - P v|^2 > 2 - 2 NEAR rules a pair out, by one matrix product and without loss.

Correlation is blind to colour: the same hand in two skin tones reaches 0.999.  So the colours of the
32x32 thumbnails count as well.  A cell of one misses in the other what lies outside the range of the
3x3 cells around its place, which leaves room for a small shift; near copies miss little (`APART`).

Limits: copies that were cut by more than a few percent, or turned, are not seen.  Below 64 pixels
JPEG changes a picture as much as neighbouring tiles differ: of 32-pixel satellite tiles saved at
quality 90 half are found, of relief tiles nine in ten, of digits all; of photographs of 64 pixels
and more all are, at quality 75 and at another size, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfumato.checkup.inspection import THUMB, Inspected
from sfumato.data.read import file_in

NEAR = 0.985
"""Correlation of near copies. In 3,000 earth tiles each, 3,000 digits and 224 photographs no two
different pictures reached more than 0.98; JPEG of quality 60 kept all photographs above 0.98."""
SMALL, SURE = 64, 0.995
"""Pixels of the shorter side below which only this correlation makes a copy: of 10,000 digits 164 pairs
of strangers, simple strokes, pass `NEAR`, the nearest by 0.9947; JPEG of quality 50 keeps 0.9956."""
APART = 24
"""Levels of 255 that near copies may miss, in all but `FEW_CELLS`. 334 + 224 photographs, 128 maps, 100
facades and 143 emoji, saved as JPEG of quality 50 to 90, at half and twice their size, or cut by 1 % at
each side, missed 22 at most, at two thirds one emoji 27; skin tones of one emoji miss 25 and more."""
FEW_CELLS = 0.01
"""Share of the cells that may miss more: a hard edge that moved."""
DETAIL = 0.01
"""Standard deviation, of values in [0,1], below which a thumbnail has nothing to be known by."""
COMPONENTS = 64
"""Of 768: they rule out nearly all pairs."""
MAX_LINKS = 100_000
"""Near copies listed; a film cut into frames would fill the memory with its pairs."""
PAIRED = 0.7
"""Share of strangers that a picture's partner must beat; chance is 0.5, with a standard deviation
of 0.29 / sqrt(pictures). Aerial pictures and maps reach 0.80, halves of panoramas 0.56."""
JUDGED = 16
"""Fewest pairs to judge by: `PAIRED` is then nearly three standard deviations above chance."""


class Link(NamedTuple):
    """Two pictures, by index, that are the same: how ("same file", "same pixels", "nearly the
    same", "mirrored") and how far (correlation of their details).
    """

    first: int
    second: int
    how: str
    correlation: float

    def __str__(self) -> str:
        return self.how if self.correlation == 1 else f"{self.how}, {self.correlation:.3f}"


def exact_copies(pictures: Sequence[Inspected]) -> Iterator[Link]:
    """Pictures of equal pixels (or bytes) in several files: each linked to the first of every folder."""
    alike = defaultdict[str, list[int]](list)
    for i, one in enumerate(pictures):
        alike[one.pixels].append(i)
    for same in alike.values():
        firsts = dict[tuple[str, str], int]()
        for i in same:
            firsts.setdefault((pictures[i].domain, pictures[i].split), i)
        linked = {(min(i, k), max(i, k)) for i in same for k in firsts.values()}
        for k, i in sorted(linked):
            if file_in(pictures[k].path) != file_in(pictures[i].path):
                yield Link(k, i, "same file" if pictures[k].file == pictures[i].file else "same pixels", 1.0)


def near_copies(thumbs: NDArray[np.uint8], files: Sequence[Any]) -> list[Link]:
    """Pairs of nearly equal thumbnails (N,32,32,3), upright or mirrored, of several files; at most
    `MAX_LINKS`.  Neighbouring pages of one file are alike, and always on one side of a split.
    """
    upright, kept = _details(thumbs)
    if len(kept) < 2:
        return []
    mirrored, _ = _details(thumbs[kept][:, :, ::-1])
    upright = upright[kept]
    _, vectors = np.linalg.eigh(upright.T @ upright + mirrored.T @ mirrored)
    plane = vectors[:, -COMPONENTS:]
    p, q = upright @ plane, mirrored @ plane
    length = np.square(p).sum(1)  # the plane is its own mirror image: q has the same
    found, stacks = list[Link](), np.unique(list(map(str, files)), return_inverse=True)[1][kept]
    for start in range(0, len(p), 512):
        rows = slice(start, start + 512)
        for how, other, whole, side in (
            ("nearly the same", p, upright, 1), ("mirrored", q, mirrored, -1),
        ):  # fmt: skip
            bound = length[rows, None] + length[start:] - 2 * p[rows] @ other[start:].T
            i, j = np.nonzero(bound < 2 - 2 * NEAR)
            i, j = i[i < j] + start, j[i < j] + start
            i, j = i[stacks[i] != stacks[j]], j[stacks[i] != stacks[j]]
            for part in np.array_split(np.arange(len(i)), len(i) // 10_000 + 1):
                c = np.einsum("nd,nd->n", upright[i[part]], whole[j[part]])
                near = np.flatnonzero(c > NEAR)
                x, y = kept[i[part[near]]], kept[j[part[near]]]
                same = missed(thumbs[x], thumbs[y][:, :, ::side]) <= APART
                found += [Link(int(x[n]), int(y[n]), how, float(c[near[n]])) for n in np.flatnonzero(same)]
        if len(found) > MAX_LINKS:
            break
    upright_pairs = {link[:2] for link in found if link.how != "mirrored"}
    return [x for x in found if x.how != "mirrored" or x[:2] not in upright_pairs][:MAX_LINKS]


def _details(thumbs: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit vectors (N,768) of what each quarter and channel shows; those (indices) that show it."""
    n, k = len(thumbs), THUMB // 16
    x = thumbs.reshape(n, 16, k, 16, k, 3).mean((2, 4), dtype=np.float32) / 255
    quarters = x.reshape(n, 2, 8, 2, 8, 3)
    x = (quarters - quarters.mean((2, 4), keepdims=True)).reshape(n, -1)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    kept = np.flatnonzero(norm[:, 0] > DETAIL * x.shape[1] ** 0.5)
    return x / np.maximum(norm, 1e-6), kept


def missed(x: NDArray[np.uint8], y: NDArray[np.uint8]) -> NDArray[np.int16]:
    """By how many levels the colours of thumbnails (N,H,W,3) are apart; (N,), 0 to 255.

    The worst channel and direction of all cells but `FEW_CELLS`; those at the border do not count:
    what lies beyond it a cut may have taken away.
    """
    most = np.zeros((len(x), x.shape[1] - 2, x.shape[2] - 2), np.int16)
    for one, other in ((x, y), (y, x)):
        here = one[:, 1:-1, 1:-1].astype(np.int16)
        low, high = (_around(other.astype(np.int16), edge) for edge in (np.minimum, np.maximum))
        most = np.maximum(most, np.maximum(low - here, here - high).max(3))
    cells = np.sort(most.reshape(len(x), most.shape[1] * most.shape[2]), axis=1)
    return cells[:, -1 - int(FEW_CELLS * cells.shape[1])]


def _around(x: NDArray[np.int16], extreme: np.ufunc) -> NDArray[np.int16]:
    """The minimum or maximum of the 3x3 cells around each inner cell of (N,H,W,3)."""
    rows = extreme(extreme(x[:, :-2], x[:, 1:-1]), x[:, 2:])
    out: NDArray[np.int16] = extreme(extreme(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])
    return out


class Agreement(NamedTuple):
    """How much more partners have in common than strangers: their mean correlations, the share of
    strangers that a picture's own partner beats, and of what it is measured on how many pairs.
    """

    pairs: int
    matched: float
    shuffled: float
    wins: float
    measure: str

    @property
    def plausible(self) -> bool | None:
        """Whether they are pairs; None if there are too few to say."""
        return None if self.pairs < JUDGED else self.wins >= PAIRED

    def __str__(self) -> str:
        return (
            f"the {self.measure} of partners correlate by {self.matched:.2f}, of strangers by "
            f"{self.shuffled:.2f}; the partner wins in {100 * self.wins:.0f} % (chance: 50 %)"
        )


def agreement(source: Sequence[NDArray[Any]], target: Sequence[NDArray[Any]], most: int = 512) -> Agreement:
    """Do thumbnails (32,32,3) of equal place belong together? Judged on `most` of them, evenly."""
    rows = np.unique(np.linspace(0, len(source) - 1, most).astype(int))
    x, y = (np.stack([side[i] for i in rows]).astype(np.float32) for side in (source, target))
    best: Agreement | None = None
    for measure in ("edges", "brightness"):
        c = _structure(x, measure) @ _structure(y, measure).T
        c = np.abs(c) if measure == "brightness" else c  # dark may become bright
        own, n = np.diag(c), len(c)
        others = (c.sum() - own.sum()) / max(1, n * (n - 1))
        wins = (c < own[:, None]).sum() / max(1, n * (n - 1))
        now = Agreement(n, float(own.mean()), float(others), float(wins), measure)
        best = now if best is None or now.wins > best.wins else best
    assert best is not None
    return best


def _structure(x: NDArray[np.float32], measure: str) -> NDArray[np.float32]:
    """Unit vectors of edge strengths, or of brightness, less the means of rows and columns.

    Rows go because the two halves of a panorama share their horizon.
    """
    x = x @ np.array([0.299, 0.587, 0.114], np.float32)
    if measure == "edges":
        x = np.hypot(np.gradient(x, axis=1), np.gradient(x, axis=2))
    x = x - x.mean(1, keepdims=True)
    x = (x - x.mean(2, keepdims=True)).reshape(len(x), -1)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
