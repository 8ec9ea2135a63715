"""What is best trained on these pictures, and how: in commands to type."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sfumato.checkup.cost import new
from sfumato.checkup.few import are_few, instead_of_training
from sfumato.checkup.held_out import kept_aside, none_held_out, test_folders, validation
from sfumato.checkup.inspection import Inspected
from sfumato.checkup.pairs import Pairing
from sfumato.core.errors import UserError
from sfumato.core.terminal import an
from sfumato.data.layout import Folders
from sfumato.data.proportions import Size, buckets, nearest
from sfumato.methods.outline import names
from sfumato.methods.registry import find, info

SIZES = (8, 16, 32, 64, 128, 256)
"""Sizes that are recommended: the networks take multiples of 8."""
LARGEST = {"cpu": 64, "cuda": 256}
"""With every doubling a step takes three to four times as long; 64 is what a CPU does in hours."""
TINY = 0.5
"""A picture smaller than this share of the 5th percentile is an accident, and sets no size."""
LARGE = 4
"""Times the recommended size from which on pictures lose much when they are brought to it."""
SEVERAL = 0.1
"""Share of pictures of other proportions than the rest from which on they are mixed."""
RECOMMENDED = {
    "pairs": ("pix2pix", "paired_sde"),
    "unpaired": ("cyclegan", "cut", "unpaired_sde"),
    "domains": ("diffusion",),
}
"""The best first, by docs/experiments/one-budget.md: at equal time on a CPU pix2pix had FD 67 on Earth's
pairs and paired_sde 230; without pairs cyclegan and cut kept land and sea right (IoU .91, .92), unpaired_sde
looked most like the target (FD 127, 148 for cyclegan), ddib was no better than moving the moments."""
FREE = ("ddib", "sdedit")
SMALL = 64
"""Side up to which a method's file knows better settings for a CPU than the papers'."""


@dataclass
class Plan:
    """What to train: size in pixels (0: nothing can be), methods (the best first), why, commands."""

    size: int
    side_by_side: bool
    methods: list[str]
    reason: str
    commands: list[str]


def advise(
    folders: Folders,
    good: Sequence[Inspected],
    pairs: Sequence[Pairing],
    size: int | None = None,
    whole: Sequence[Path] = (),
    without: str | Path | None = None,
    told: Mapping[str, Any] | None = None,
    gone: Collection[str] = (),
) -> Plan:
    """The plan for the pictures that can be read.

    Args:
        folders: of every domain and split.
        good: pictures that can be read.
        pairs: what speaks for pairs.
        size: the user's, or None.
        whole: the folders that were given: nothing is written in them.
        without: a list of pictures for training to leave out.
        told: options of the training that are stated.
        gone: the pictures of that list.

    Raises:
        UserError: what is recommended does not take them.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    told = told or {}
    meant = "name" if told.get("to_channels") else ""  # of pairs alone: then equal names are enough
    pair = next((one for one in pairs if one.plausible or one.by == meant), None)
    halved = pair is not None and pair.by == "side"
    if empty := [name for name in folders if name not in {x.domain for x in good if x.split == "train"}]:
        return Plan(0, halved, [], f"Nothing can be trained: no picture of {empty[0]} can be read.", [])
    sides = sorted(one.short(halved) for one in good)
    usual = min(s for s in sides if s >= TINY * sides[len(sides) // 20])
    kind = "pairs" if pair else "unpaired" if len(folders) == 2 else "domains"
    first, count = RECOMMENDED[kind][0], len(folders)
    if meant and pair is None:
        raise UserError("--to-channels is for pairs, and no names in these folders are equal: leave it out")
    if size and (why_not := _refused(first, size, count, told)):
        raise UserError(
            f"--size {size} is refused by {first}, which is best trained on these pictures: {why_not}"
        )
    sizes = [s for s in SIZES if s <= min(usual, LARGEST[device]) and not _refused(first, s, count, told)]
    best = size or max(sizes, default=0)
    if not best:
        return Plan(0, halved, [], f"Pictures of {usual} pixels are too small to train on.", [])
    why = (
        f"Size {best} is yours." if size else
        f"Size {best} is the largest of {', '.join(map(str, SIZES))} that the pictures reach"
        + (f" and {an(device.upper())} trains in reasonable time." if usual >= 2 * best else ".")
    )  # fmt: skip
    chosen = pair.domains if pair else tuple(folders)[:2]
    place = _outside([*whole, *(f for splits in folders.values() for f in splits.values())])
    fewest = min(Counter(x.domain for x in good if x.split == "train").values())
    if not (pair or size or any(told.values())) and are_few(sides, [one.gray for one in good], fewest):
        parts = {name: folders[name]["train"] for name in chosen}
        flags = none_held_out([one for one in good if one.domain in parts], gone)
        return Plan(best, halved, [], *instead_of_training(parts, fewest, min(sides), place, _line, flags))
    if usual >= LARGE * best:
        why += (
            f" Whole pictures are brought to it, from {usual} pixels; if textures matter and not shapes, add "
            f"--resize pieces: it learns from pieces at full size, and results are as large as their sources."
        )
    shapes = "" if pair and pair.apart else mixed([one.shape(halved) for one in good])
    if shapes:
        why += f" Proportions are mixed ({shapes}): --resize buckets learns from whole pictures."
    fit = [one for one in good if one.short(halved) >= best]
    lacking = {(one.domain, one.split) for one in good} - {(one.domain, one.split) for one in fit}
    words = [f"--size {best}", *["--upscale"] * bool(lacking)]
    words += ["--channels 1"] * (told.get("channels") is None and all(one.gray for one in good))
    words += [_stated(name, value) for name, value in told.items() if value is not None]
    words += ["--resize stretch"] * bool(pair and pair.stretch) + ["--resize buckets"] * bool(shapes)
    words += [settings(first)] * (best <= SMALL)
    words += [_line("--without", Path(without))] if without else []
    if not test_folders([folders[name] for name in (chosen if kind != "domains" else folders)]):
        of = [one for one in (good if lacking else fit) if one.domain in chosen or kind == "domains"]
        flags = none_held_out(of, gone, paired=kind == "pairs")
        words += flags
        why += " Too few pictures to hold some out: --held-out 0." * bool(flags)
    make = {"pairs": _side_by_side if halved else _paired, "unpaired": _two, "domains": _domains}
    reason, commands = make[kind](folders, chosen, " ".join(filter(None, words)), place)
    return Plan(best, halved, list(RECOMMENDED[kind]), f"{reason} {why}", commands)


def mixed(sizes: Sequence[Size]) -> str:
    """How many pictures lie, stand and are square, if not nearly all have one proportion; else nothing."""
    found = Counter(nearest(size, buckets((LARGEST["cpu"],) * 2)) for size in sizes)
    if found.most_common(1)[0][1] > (1 - SEVERAL) * len(sizes):
        return ""
    ways = Counter[str]()
    for (h, w), n in found.items():
        ways["lying" if w > h else "upright" if h > w else "square"] += n
    return ", ".join(f"{n / len(sizes):.0%} {way}" for way, n in ways.most_common())


def _stated(name: str, value: Any) -> str:
    """An option as it is typed; ranges have two or three words."""
    words = value if isinstance(value, str | int) else " ".join(f"{w}" for w in value)
    return f"--{name.replace('_', '-')} {words}"


def _refused(method: str, size: int, domains: int, told: Mapping[str, Any]) -> str:
    """Why a method cannot be trained as it is recommended on pictures of so many pixels, if so."""
    from sfumato.core.devices import without_values

    try:
        with without_values():
            new(method, size, domains, options_at(method, size, told))
    except UserError as error:
        return str(error)
    return ""


def trainable(folders: Folders, pairs: Sequence[Pairing]) -> list[str]:
    """All methods that can be trained on these pictures."""
    kinds = ["pairs"] * any(one.plausible for one in pairs)
    kinds += ["domains", *["unpaired"] * (len(folders) > 1)]
    return [name for name in names() if info(name).trains_on in kinds]


def settings(method: str) -> str:
    """Flags that a method's file recommends for small pictures on a CPU."""
    text = sys.modules[find(method).__module__].__doc__ or ""
    known = re.search(r"^For 32 to 64 pixels on a CPU.*:\n(--.+)\.$", text, re.M)
    return known[1] if known else ""


def options_at(method: str, size: int, told: Mapping[str, Any]) -> dict[str, Any]:
    """The same for pictures of so many pixels, as {name: value}, and the channels that are stated."""
    channels = {k: told[k] for k in ("channels", "to_channels") if told.get(k)}
    return (options(settings(method)) if size <= SMALL else {}) | channels


def options(flags: str) -> dict[str, Any]:
    """Flags as {name: value}."""
    words, out = [*shlex.split(flags), "--"], dict[str, Any]()
    for word, following in pairwise(words):
        if word.startswith("--"):
            given = not following.startswith("--")
            out[word[2:].replace("-", "_")] = _value(following) if given else True
    return out


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _outside(data: Sequence[Path]) -> Path:
    """Where runs and results go: here, or the first folder above that lies in none of the data."""
    here, roots = Path.cwd(), {folder.resolve() for folder in data}
    for parent in {root.parent for root in roots}:  # a folder of nothing else is data, too
        inside = {p for p in parent.iterdir() if not p.name.startswith(".")}
        if len(inside) > 1 and inside <= roots:
            roots.add(parent)
    place = next((p for p in (here, *here.parents) if not any(map(p.is_relative_to, roots))), here)
    return Path(os.path.relpath(place))


def _paired(folders: Folders, chosen: Sequence[str], last: str, place: Path) -> tuple[str, list[str]]:
    x, y = (folders[name] for name in chosen)
    run = place / "runs" / "_to_".join(chosen)
    return (
        f"Train `pix2pix` on pairs: {chosen[0]} and {chosen[1]} show the same things under equal names, "
        f"and a model that has seen right answers need not guess what corresponds. {PAIRED}",
        [_line("sfumato train pix2pix", x["train"], y["train"], "--out", run, last, *validation([x, y])),
         _line("sfumato translate", kept_aside(x), "--out", place / "out" / chosen[1], "--model", run)],
    )  # fmt: skip


def _side_by_side(folders: Folders, chosen: Sequence[str], last: str, place: Path) -> tuple[str, list[str]]:
    splits = folders[chosen[0]]
    run = place / "runs" / chosen[0]
    return (
        f"Train `pix2pix` on pairs: each picture of {chosen[0]} holds one, and a model that has seen "
        f"right answers need not guess what corresponds. {PAIRED}",
        [_line("sfumato train pix2pix", splits["train"], "--side-by-side --out", run, last,
               *validation([splits])),
         _line("sfumato translate", kept_aside(splits), "--out", place / "out" / chosen[0], "--model", run)],
    )  # fmt: skip


PAIRED = (
    "In equal time on a CPU it came much nearer to the truth than `paired_sde`, which is for several "
    "results of one picture."
)


def _two(folders: Folders, chosen: Sequence[str], last: str, place: Path) -> tuple[str, list[str]]:
    x, y = (folders[name] for name in chosen)
    run = place / "runs" / "_to_".join(chosen)
    back = place / "out" / chosen[0]
    return (
        "Train `cyclegan`: nothing says which picture belongs to which, and in equal time on a CPU it "
        "kept best what is where, in both directions. `cut` learns one direction and sees a third more "
        "pictures a minute; `unpaired_sde` looks most like the target and is less faithful.",
        [_line("sfumato train cyclegan", x["train"], y["train"], "--out", run, last, *validation([x, y])),
         _line("sfumato translate", kept_aside(x), "--out", place / "out" / chosen[1], "--model", run),
         _line("sfumato translate", kept_aside(y), "--out", back, "--model", run,
               "--direction target-to-source")],
    )  # fmt: skip


def _domains(folders: Folders, chosen: Sequence[str], last: str, place: Path) -> tuple[str, list[str]]:
    run = place / "runs" / ("_".join(folders) if len(folders) < 4 else "domains")
    roots = {f["train"].parent for f in folders.values()}
    one_folder = len(folders) > 3 and len(roots) == 1 and all(
        f["train"].name == name for name, f in folders.items()
    ) and sum(p.is_dir() for p in next(iter(roots)).iterdir()) == len(folders)  # fmt: skip

    def spec(parts: Sequence[Path]) -> list[str | Path]:
        if one_folder and len({part.parent for part in parts}) == 1:
            return [parts[0].parent]
        return [f"{name}={part}" for name, part in zip(folders, parts, strict=True)]

    tests = test_folders([*folders.values()])
    held_out = [word for item in spec(tests) for word in ("--validation", item)] if tests else []
    training = spec([f["train"] for f in folders.values()])
    commands = [_line("sfumato train diffusion", *training, "--out", run, last, *held_out)]
    if len(folders) == 1:
        (name,) = folders
        reason = (
            f"Train a diffusion model of {name}, which `sdedit` then brings other pictures to; a "
            f"second folder would allow `cyclegan`, and `ddib` if trained together with it."
        )
        return reason, [*commands, _line("sfumato translate PICTURES --out", place / "out" / name,
                                         "--method sdedit --target", Path(f"{run}:{name}"))]  # fmt: skip
    x, y = chosen
    for method, how in ((FREE[0], ("--source", Path(f"{run}:{x}"))), (FREE[1], ("--strength 0.5",))):
        out = place / "out" / f"{y}_{method}"
        commands.append(_line("sfumato translate", kept_aside(folders[x]), "--out", out, "--method",
                              method, *how, "--target", Path(f"{run}:{y}")))  # fmt: skip
    return (
        "Train one diffusion model of all domains: it translates in every direction. Then `ddib` keeps "
        "structure and colours, `sdedit` gives them up with more --strength.",
        commands,
    )


def _line(*words: str | Path) -> str:
    """A command: flags stay as they are, paths and NAME=FOLDER are quoted where they need it."""
    quoted = [shlex.quote(str(w)) if isinstance(w, Path) or "=" in w else w for w in words]
    return " ".join(filter(None, quoted))
