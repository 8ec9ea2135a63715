"""Are there pairs: pictures of two domains, or halves of one picture, that show the same?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from sfumato.checkup.duplicates import agreement
from sfumato.checkup.inspection import Inspected
from sfumato.data.resize import alike

SHARED = 0.5
"""Share of the smaller domain's names found in the other from which names are no coincidence."""


@dataclass
class Pairing:
    """Two domains (or the halves of one), and what speaks for and against pairs.

    `plausible` is None if there are too few pictures to say; `missing` are names without a partner,
    `apart` pairs of two proportions, and `stretch` says whether they fit better stretched than cut:
    `compared`, in words.
    """

    domains: tuple[str, str]
    by: str
    matched: int
    plausible: bool | None
    text: str
    numbers: dict[str, Any]
    missing: dict[str, list[str]]
    apart: list[str] = field(default_factory=list)
    stretch: bool = False
    compared: str = ""


def pairings(
    training: Mapping[str, Sequence[Inspected]], broken: Collection[tuple[str, str]] = ()
) -> list[Pairing]:
    """Domains whose names agree, and a single one of pictures that hold two side by side.

    Args:
        training: pictures of each domain.
        broken: (domain, name) of files that cannot be read: their partners are not missed.
    """
    out = []
    for x, y in combinations(training, 2):
        here, there = ({one.stem: one for one in training[k]} for k in (x, y))
        both = [stem for stem in here if stem in there]
        if not both or len(both) < SHARED * min(len(here), len(there)):
            continue
        got = cut = whole = agreement([here[k].square for k in both], [there[k].square for k in both])
        apart = [k for k in both if not alike(here[k].size, there[k].size)]
        if apart:
            whole = agreement([here[k].thumb for k in both], [there[k].thumb for k in both])
        stretch = bool(apart) and (whole.wins, whole.matched) >= (cut.wins, cut.matched)
        got = whole if stretch else cut
        verdict = {True: "pairs", False: "no pairs, in spite of their names", None: "too few to judge"}
        text = (
            f"{x} and {y}: {len(both):,} of {len(here):,} and {len(there):,} names are equal; "
            f"{got}: {verdict[got.plausible]}."
        )
        missing = {
            k: sorted(stem for stem in more.keys() - less.keys() if (k, stem) not in broken)
            for k, more, less in ((x, there, here), (y, here, there))
        }
        named = [
            f"{k} ({here[k].width}x{here[k].height} and {there[k].width}x{there[k].height})" for k in apart
        ]
        compared = f"they correlate by {cut.matched:.2f}, stretched by {whole.matched:.2f}"
        out.append(Pairing(
            (x, y), "name", len(both), got.plausible, text, dict(got._asdict()), missing, named,
            stretch, compared,
        ))  # fmt: skip
    for x, part in training.items() if len(training) == 1 else ():
        halves = [one.halves for one in part if one.halves is not None]
        if halves and len(halves) == len(part):
            got = agreement([h[0] for h in halves], [h[1] for h in halves])
            verdict = {True: "a pair side by side in each", False: "no pairs", None: "too few to judge"}
            text = f"{x}: all pictures are twice as wide as high; as halves, {got}: {verdict[got.plausible]}."
            out.append(Pairing((x, x), "side", len(part), got.plausible, text, dict(got._asdict()), {}))
    return out
