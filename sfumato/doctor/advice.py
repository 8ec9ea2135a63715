"""Are there pairs, and what is best trained on these pictures? In commands to type."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from sfumato.method import find, names

from .duplicates import agreement
from .looks import Folders, Look

SIZES = (8, 16, 32, 64, 128, 256)
"""Sizes that are recommended: the networks take multiples of 8."""
LARGEST = {"cpu": 64, "cuda": 256}
"""With every doubling a step takes three to four times as long; 64 is what a CPU does in hours."""
TINY = 0.5
"""A picture smaller than this share of the 5th percentile is an accident, and sets no size."""
SHARED = 0.5
"""Share of the smaller domain's names found in the other from which names are no coincidence."""
PAIRS, DOMAINS, FREE = "paired_sde", "diffusion", ("ddib", "sdedit")


@dataclass
class Plan:
    """What to train: size in pixels (0: nothing can be), methods (the best first), why, commands."""

    size: int
    side_by_side: bool
    methods: list[str]
    reason: str
    commands: list[str]


@dataclass
class Pairing:
    """Two domains (or the halves of one), and what speaks for and against pairs.

    `plausible` is None if there are too few pictures to say; `missing` are names without a partner.
    """

    domains: tuple[str, str]
    by: str
    matched: int
    plausible: bool | None
    text: str
    numbers: dict[str, Any]
    missing: dict[str, list[str]]


def pairings(
    training: Mapping[str, Sequence[Look]], broken: Collection[tuple[str, str]] = ()
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
        got = agreement([here[k].thumb for k in both], [there[k].thumb for k in both])
        verdict = {
            True: "pairs",
            False: "no pairs, in spite of their names",
            None: "too few to judge",
        }
        text = (
            f"{x} and {y}: {len(both):,} of {len(here):,} and {len(there):,} names are equal; "
            f"{got}: {verdict[got.plausible]}."
        )
        missing = {
            k: sorted(stem for stem in more.keys() - less.keys() if (k, stem) not in broken)
            for k, more, less in ((x, there, here), (y, here, there))
        }
        out.append(
            Pairing((x, y), "name", len(both), got.plausible, text, dict(got._asdict()), missing)
        )
    for x, part in training.items() if len(training) == 1 else ():
        halves = [one.halves for one in part if one.halves is not None]
        if halves and len(halves) == len(part):
            got = agreement([h[0] for h in halves], [h[1] for h in halves])
            verdict = {
                True: "a pair side by side in each",
                False: "no pairs",
                None: "too few to judge",
            }
            text = f"{x}: all pictures are twice as wide as high; as halves, {got}: {verdict[got.plausible]}."
            out.append(
                Pairing((x, x), "side", len(part), got.plausible, text, dict(got._asdict()), {})
            )
    return out


def advise(
    folders: Folders, good: Sequence[Look], pairs: Sequence[Pairing], size: int | None
) -> Plan:
    """The plan for the pictures that can be read; `size` is the user's, or None."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pair = next((one for one in pairs if one.plausible), None)
    halved = pair is not None and pair.by == "side"
    if {one.domain for one in good if one.split == "train"} != set(folders):
        return Plan(0, halved, [], "Nothing can be trained: a domain has no pictures.", [])
    sides = sorted(one.short(halved) for one in good)
    usual = min(s for s in sides if s >= TINY * sides[len(sides) // 20])
    best = size or max([s for s in SIZES if s <= min(usual, LARGEST[device])], default=0)
    if not best:
        return Plan(0, halved, [], f"Pictures of {usual} pixels are too small to train on.", [])
    kinds = [*["pairs"] * bool(pair), "domains", *["unpaired"] * (len(folders) > 1)]
    classes: dict[str, Any] = {name: find(name) for name in names()}
    trainable = {name: c.data for name, c in classes.items() if hasattr(c, "objectives")}
    methods = [n for kind in kinds for n, is_ in trainable.items() if is_ == kind]
    why = (
        f"Size {best} is yours." if size else
        f"Size {best} is the largest of {', '.join(map(str, SIZES))} that the pictures reach"
        + (f" and a {device.upper()} trains in reasonable time." if usual >= 2 * best else ".")
    )  # fmt: skip
    gray = all(one.gray for one in good)
    last = f"--size {best}{' --channels 1' if gray else ''}"
    make = _side_by_side if halved else _paired if pair else _unpaired
    reason, commands = make(folders, pair.domains if pair else tuple(folders)[:2], last)
    return Plan(best, halved, methods, f"{reason} {why}", commands)


def _paired(folders: Folders, chosen: Sequence[str], last: str) -> tuple[str, list[str]]:
    x, y = (folders[name] for name in chosen)
    run = Path("runs", "_to_".join(chosen))
    return (
        f"Train on pairs: {chosen[0]} and {chosen[1]} show the same things under equal names, and a "
        f"model that has seen right answers need not guess what corresponds.",
        [_line("sfumato train", PAIRS, x["train"], y["train"], "--out", run, last, _tests([x, y])),
         _line("sfumato translate", x.get("test", x["train"]), "--out", Path("out", chosen[1]),
               "--model", run)],
    )  # fmt: skip


def _side_by_side(folders: Folders, chosen: Sequence[str], last: str) -> tuple[str, list[str]]:
    splits = folders[chosen[0]]
    run = Path("runs", chosen[0])
    return (
        f"Train on pairs: each picture of {chosen[0]} holds one, and a model that has seen right "
        f"answers need not guess what corresponds.",
        [_line("sfumato train", PAIRS, splits["train"], "--side-by-side --out", run, last,
               _tests([splits])),
         _line("sfumato translate LEFT_HALVES --out out/right --model", run)],
    )  # fmt: skip


def _unpaired(folders: Folders, chosen: Sequence[str], last: str) -> tuple[str, list[str]]:
    run = Path("runs", "_".join(folders) if len(folders) < 4 else "domains")
    roots = {f["train"].parent for f in folders.values()}
    whole = len(folders) > 1 and len(roots) == 1 and all(
        f["train"].name == name for name, f in folders.items()
    ) and sum(p.is_dir() for p in next(iter(roots)).iterdir()) == len(folders)  # fmt: skip

    def spec(split: str) -> list[str | Path]:
        if any(split not in f for f in folders.values()):
            return []
        if whole:
            return [next(iter(folders.values()))[split].parent]
        return [f"{name}={f[split]}" for name, f in folders.items()]

    held_out = [word for item in spec("test") for word in ("--validation", item)]
    commands = [_line("sfumato train", DOMAINS, *spec("train"), "--out", run, last, *held_out)]
    if len(folders) == 1:
        (name,) = folders
        reason = (
            f"Train a diffusion model of {name}, which `sdedit` then brings other pictures to; a "
            f"second folder, trained together with it, would allow `ddib`."
        )
        return reason, [*commands, _line("sfumato translate PICTURES --out", Path("out", name),
                                         "--method sdedit --target", Path(f"{run}:{name}"))]  # fmt: skip
    x, y = chosen
    start = folders[x].get("test", folders[x]["train"])
    for method, how in (
        (FREE[0], ("--source", Path(f"{run}:{x}"))),
        (FREE[1], ("--strength 0.5",)),
    ):
        out = Path("out", f"{y}_{method}")
        commands.append(_line("sfumato translate", start, "--out", out, "--method", method, *how,
                              "--target", Path(f"{run}:{y}")))  # fmt: skip
    return (
        "Train one diffusion model of all domains: nothing says which picture belongs to which. "
        "Then `ddib` keeps structure and colours, `sdedit` gives them up with more --strength.",
        commands,
    )


def _tests(parts: Sequence[Mapping[str, Path]]) -> str:
    """Flags that score the training on the test splits, if all have one."""
    if any("test" not in part for part in parts):
        return ""
    return shlex.join(word for part in parts for word in ("--validation", str(part["test"])))


def _line(*words: str | Path) -> str:
    """A command: flags stay as they are, paths and NAME=FOLDER are quoted where they need it."""
    quoted = [shlex.quote(str(w)) if isinstance(w, Path) or "=" in w else w for w in words]
    return " ".join(filter(None, quoted))
