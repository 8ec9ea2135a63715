"""What can be wrong with pictures, each as a finding in plain words with what to do about it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from sfumato.checkup.advice import Plan
from sfumato.checkup.duplicates import MAX_LINKS, SMALL, SURE, Link, exact_copies, near_copies
from sfumato.checkup.inspection import Inspected
from sfumato.checkup.pairs import Pairing
from sfumato.core.terminal import count, verb
from sfumato.data.image_folder import ImageFolder
from sfumato.data.listing import UNREAD
from sfumato.data.read import file_in

TOO_FEW, FEW = 16, 300
"""Training pictures a domain. Below the first a model can only memorise them; below the second
look for copies among its results. The digits model that ships had 1,000 of each."""
IMBALANCE = 3
"""Domains are drawn in equal shares: pictures of the small one are seen so much more often."""
CROPPED = 1.5
"""Aspect ratio from which the square crop leaves out a third of a picture."""

LISTED = "train without them: --write-list FILE lists them for `sfumato train ... --without FILE`"

NEEDED = {
    "--range": "say which values are black and white, here and to `sfumato train`: --range auto, or its two "
    "ends as in --range 0 4095",
    "--channels": "say how many bands are to be read, here and to `sfumato train`: --channels {0}; and "
    "--to-channels, if a second folder has others",
}
"""Options without which sound files are not read, which say so, and what to do."""

Severity = Literal["error", "warning", "note"]


@dataclass
class Finding:
    """What was found.

    Attributes:
        severity: error: results would be wrong, or training refuse; warning: look at it; note.
        kind: one word for programs.
        text: in words.
        fix: what to do, in words.
        named: what it was found in: files, with what is special about each.
        without: pictures that a training should do without, if that is the fix.
    """

    severity: Severity
    kind: str
    text: str
    fix: str = ""
    named: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)


def unreadable(pictures: Sequence[Inspected], folders: Sequence[ImageFolder]) -> Iterator[Finding]:
    """Broken files, and what was left out: pictures of kinds that are not read, say."""
    for option, fix in NEEDED.items():
        if sound := [one for one in pictures if option in one.error]:
            numbers = set(re.findall(r"--channels (\d+)", " ".join(one.error for one in sound)))
            yield Finding(
                "error", "option", f"{len(sound)} of {len(pictures):,} files cannot be read as they are",
                fix.format(" or ".join(sorted(numbers)) or "N"), [one.error for one in sound],
            )  # fmt: skip
    bad = [one for one in pictures if one.error and not any(option in one.error for option in NEEDED)]
    if bad:
        yield Finding(
            "warning", "unreadable", f"{len(bad)} of {len(pictures):,} files cannot be read",
            "training leaves them out; copy them again from where they came", [one.error for one in bad],
        )  # fmt: skip
    for one in folders:
        for text in one.said(others=False):
            fix = "convert them to PNG or JPEG" if UNREAD in one.left_out[one.folder] else ""
            yield Finding("warning", "format", text, fix)


def copies(good: Sequence[Inspected], partners: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Exact and near copies by where they are: in two splits, in two domains, in one.

    Args:
        good: pictures that can be read.
        partners: for each file of a pair those that go with it.
    """
    exact = list(exact_copies(good))
    again = {link.second for link in exact}
    kept = [i for i, one in enumerate(good) if i not in again and not one.flat]
    files = [file_in(good[i].path) for i in kept]
    near = near_copies(np.stack([good[i].thumb for i in kept]), files) if kept else []
    found: dict[str, list[tuple[int, int, Link]]] = defaultdict(list)
    kinds: dict[tuple[int, int], str] = {}
    for link in [*exact, *(Link(kept[x.first], kept[x.second], *x[2:]) for x in near)]:
        x, y = good[link.first], good[link.second]
        where = "leak" if x.split != y.split else "across" if x.domain != y.domain else "copies"
        if link.correlation < SURE and max(x.short(), y.short()) < SMALL:
            where = "alike"
        elif (where, link.how) == ("copies", "mirrored"):
            where = "mirrored"
        found[where].append((link.first, link.second, link))
        kinds[link.first, link.second] = where
    texts: dict[str, tuple[Severity, str, str]] = {
        "leak": ("error", "in two splits: scores would be too good", LISTED),
        "across": ("error", "in two domains: the model cannot learn what parts these",
                   "look whether a picture is in the wrong folder: --write-list lists none of these"),
        "copies": ("warning", "repeating others: such are memorised sooner, and one copy may be "
                   "held out while another is trained on", LISTED),
        "alike": ("warning", "looking much like others: copies of low quality, or just as simple",
                  "look at some of them"),
        "mirrored": ("note", "mirroring others, which --flip makes anyway", ""),
    }  # fmt: skip
    gone = _gone(good, kinds, {link[:2] for link in exact}, partners)
    for kind, links in found.items():
        severity, text, fix = texts[kind]
        twice = {i if kind == "leak" else j for i, j, _ in links}
        named = [f"{good[j].path} = {good[i].path} ({link})" for i, j, link in links]
        listed = unique(p for i in sorted(twice & gone) for p in _with_partners(good[i], partners))
        without = listed if fix == LISTED else []
        text = f"{count(len(twice), 'picture')} {text}"
        yield Finding(severity, kind, text, fix if without or fix != LISTED else "", named, without)
    if len(near) >= MAX_LINKS:
        yield Finding("note", "copies", f"only the first {MAX_LINKS:,} near copies are listed")


def _gone(
    good: Sequence[Inspected], kinds: Mapping[tuple[int, int], str], exact: Collection[tuple[int, int]],
    partners: Mapping[str, Sequence[str]],
) -> set[int]:  # fmt: skip
    """The copies that a training does without; of what repeats only itself one stays, with its partner."""
    at = {str(one.path): i for i, one in enumerate(good)}
    gone: set[int] = set()

    def go(i: int) -> None:
        gone.update(at[p] for p in _with_partners(good[i], partners) if p in at)

    for kind in ("leak", "copies"):
        leaks = set(gone)
        for i, j in sorted(pair for pair, where in kinds.items() if where == kind):
            first, second = good[i], good[j]
            if kind == "leak" and first.split == "train":
                go(i)
            elif kind == "copies" and second.split == "train":
                if not {i, j} & gone or (i in leaks and (i, j) in exact):
                    go(j)
    return gone


def _with_partners(one: Inspected, partners: Mapping[str, Sequence[str]]) -> list[str]:
    return [str(one.path), *partners.get(str(one.path), ())]


def odd(where: str, part: Sequence[Inspected]) -> Iterator[Finding]:
    """Pictures unlike the others of their folder: of one colour, gray, deep; and how they are read."""
    flat = [one for one in part if one.flat]
    if flat:
        yield Finding(
            "warning", "flat", f"{where}: {of(flat, part)} with one colour only",
            "look whether that is a mistake", paths(flat),
        )  # fmt: skip
    seen = [one for one in part if not one.flat]
    gray = [one for one in seen if one.gray]
    few = gray if 2 * len(gray) <= len(seen) else [one for one in seen if not one.gray]
    if few:
        kinds = ("gray, the others in colour", "in colour, the others gray")[not few[0].gray]
        yield Finding(
            "warning", "gray", f"{where}: {of(few, part)} {kinds}",
            "some results will be so, too", paths(few),
        )  # fmt: skip
    deep = [one for one in part if one.deep]
    if 0 < len(deep) < len(part):
        yield Finding(
            "warning", "depth", f"{where}: {of(deep, part)} of 16 bits, the others of 8",
            "65535 is read as white: look whether they are as bright as the others", paths(deep),
        )  # fmt: skip
    dark = [one for one in deep if one.full < 65535]
    if dark:
        top, full = max(one.top for one in dark), dark[0].full
        yield Finding(
            "warning", "range", f"{where}: {of(dark, part)} in 16-bit files that use values up to "
            f"{top:,}: about {full.bit_length()} bits; 65,535 is read as white, so they come out dark, "
            f"with {top // 257 + 1} of 256 levels",
            f"multiply their samples by {65535 // full} first", paths(dark),
        )  # fmt: skip
    for kind, chosen, text in (
        ("rotated", [x for x in part if x.turned], "turned upright as their EXIF data says"),
        ("transparent", [x for x in part if x.transparent], "that may be transparent: laid on white"),
        ("cmyk", [x for x in part if x.mode == "CMYK"], "in CMYK; their colours are converted"),
    ):  # fmt: skip
        if chosen:
            text = f"{where}: {of(chosen, part)} {text}"
            yield Finding("note", kind, text, named=paths(chosen))


def sizes(where: str, part: Sequence[Inspected], plan: Plan) -> Iterator[Finding]:
    """Pictures too small for the size, and what the square crop leaves out."""
    halved = plan.side_by_side
    small = [one for one in part if one.short(halved) < plan.size]
    if small:
        least = min(one.short(halved) for one in small) // 8 * 8 or 8  # networks take these
        named = [f"{one.path} ({one.width}x{one.height})" for one in small]
        yield Finding(
            "error", "small", f"{where}: {of(small, part)} smaller than --size {plan.size}, so "
            f"training refuses them", f"use --upscale, or --size {least}, or move them elsewhere", named,
        )  # fmt: skip
    if part:
        ratio = float(np.median([one.width / one.height for one in part])) / (2 if halved else 1)
        if max(ratio, 1 / ratio) >= CROPPED:
            yield Finding(
                "note", "aspect", f"{where}: width / height is {ratio:.2f} (median): the square of "
                f"--resize crop leaves out {100 * (1 - min(ratio, 1 / ratio)):.0f} % of a picture",
                "--resize buckets keeps nearly all, and no proportions are lost",
            )  # fmt: skip


def counts(training: Mapping[str, Sequence[Inspected]]) -> Iterator[Finding]:
    """Too few pictures, and domains of very different numbers."""
    for name, part in training.items():
        if not part:
            yield Finding("error", "count", f"{name} has no picture that can be read")
        elif len(part) < FEW:
            bad = len(part) < TOO_FEW
            yield Finding(
                "error" if bad else "warning", "count",
                f"{name} has {count(len(part), 'picture')} to train on; "
                + (f"with less than {TOO_FEW} a model only memorises them" if bad else
                   f"with less than some {FEW} expect a model to copy details of them"),
                "get more, use --flip if mirrored ones look right, and train a smaller --net, or begin with "
                "a model of like pictures by --from",
            )  # fmt: skip
    sizes = {name: len(part) for name, part in training.items() if part}
    if sizes and max(sizes.values()) > IMBALANCE * min(sizes.values()):
        few, many = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        yield Finding(
            "warning", "imbalance",
            f"{few} has {count(sizes[few], 'picture')}, {many} {sizes[many]:,}: both "
            f"are trained on equally often, so those of {few} are memorised first",
            f"get more of {few}, and look for copies of its pictures among the results",
        )  # fmt: skip


def unpartnered(pairs: Sequence[Pairing]) -> Iterator[Finding]:
    """Names without a partner, and names that promise pairs where there are none."""
    for one in pairs:
        lacking = [f"{name} lacks {k}" for name, stems in one.missing.items() for k in stems]
        if one.plausible and lacking:
            yield Finding(
                "error", "partner",
                f"pairs need equal names: {len(lacking):,} {verb(len(lacking), 'have')} no partner",
                "rename these or move them elsewhere, or training refuses them", lacking,
            )  # fmt: skip
        if one.plausible is not False and one.apart:
            x, y = one.domains
            yield Finding(
                "error", "proportions", f"{x} and {y}: {len(one.apart):,} of "
                f"{one.matched:,} pairs {verb(len(one.apart), 'have')} two proportions; as squares cut "
                f"from the middle "
                f"{one.compared}",
                "train with --resize stretch" if one.stretch else
                "cut both pictures of a pair to one proportion first: training refuses them as they are",
                one.apart,
            )  # fmt: skip
        if one.plausible is False and one.by == "name":
            what = " and ".join(one.domains) + " have equal names, but their pictures are no pairs"
            yield Finding("note", "names", what, "do not train on pairs unless you know better")


def paths(pictures: Iterable[Inspected]) -> list[str]:
    """Their files."""
    return [str(one.path) for one in pictures]


def of(chosen: Sequence[Inspected], part: Sequence[Inspected]) -> str:
    """How many of how many."""
    return f"{len(chosen):,} of {len(part):,} pictures"


def unique(texts: Iterable[str]) -> list[str]:
    """Each once, in order."""
    return list(dict.fromkeys(texts))


def counted(values: Mapping[str, int]) -> str:
    """As in "3 PNG, 1 JPEG"."""
    return ", ".join(f"{n:,} {k}" for k, n in sorted(values.items(), key=lambda item: -item[1]))
