"""A look at the pictures before any training: what is wrong with them, what it costs, what to type.

Every file is decoded once (`inspection`), all pairs of pictures are compared (`duplicates`), the rest is
judged (`findings`, `advice`) and a few training steps are measured (`cost`). Nothing is changed. The
numbers that findings rest on are constants there, each with its reason.
"""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sfumato.checkup import findings as checks
from sfumato.checkup.advice import Plan, advise, options_at, trainable
from sfumato.checkup.cost import BUSY, training_cost
from sfumato.checkup.findings import Finding, counted, unique
from sfumato.checkup.inspection import Inspected, folders_of, inspect_folders, ways
from sfumato.checkup.pairs import Pairing, pairings
from sfumato.core.arguments import checked
from sfumato.core.ranges import Count, TrainingSide
from sfumato.core.terminal import count, escaped, verb
from sfumato.data.folders import for_new_file, no_picture, write_text
from sfumato.data.image_folder import CACHE_BYTES, ImageFolder
from sfumato.data.layout import Folders
from sfumato.data.value_range import Stated

SAID = {"error": "MEND", "warning": "LOOK", "note": "note"}
WIDTH = 110
"""Columns of the text; commands and files keep their line."""
NAMED = 5
"""Files named on screen for each finding; JSON names all."""


@dataclass
class Report:
    """What `doctor` found.

    Attributes:
        domains: {domain: {split: counts, sizes in pixels (min, median, max), formats, modes, bits}}.
        findings: the worst first.
        pairs: what speaks for and against pairs.
        plan: what to train, at which size, why, and the commands.
        estimates: of the methods that were measured, see `training_cost`.
    """

    domains: dict[str, dict[str, dict[str, Any]]]
    findings: list[Finding]
    pairs: list[Pairing]
    plan: Plan
    estimates: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Everything, as values that JSON has."""
        return asdict(self)

    def text(self) -> str:
        """Everything in plain language: pictures, findings, what to type, and what it takes."""
        return "\n".join([
            pictures_said(self.domains), findings_said(self.findings),
            plan_said(self.pairs, self.plan), *map(cost_said, self.estimates), "",
        ])  # fmt: skip


@checked
def doctor(
    a: str | Path,
    b: str | Path | None = None,
    *,
    test_a: str | Path | None = None,
    test_b: str | Path | None = None,
    size: TrainingSide | None = None,
    channels: Count | None = None,
    to_channels: Count | None = None,
    range: Stated | None = None,
    to_range: Stated | None = None,
    pages: Literal["first", "all"] = "first",
    measure: bool = True,
    all_methods: bool = False,
    write_list: str | Path | None = None,
    watch: Callable[[str], Any] = lambda _: None,
    progress: Callable[[str], Any] = lambda _: None,
) -> Report:
    """Looks at folders of pictures before any training, and changes nothing.

    Args:
        a: folder of the first domain; or, without b, the folder of all domains, which holds DOMAIN/,
            or train/DOMAIN/ and test/DOMAIN/, or trainA/ and trainB/. train/ and test/ in a domain's
            folder are its splits.
        b: folder of the second domain.
        test_a: test pictures of the first domain, none of which may be in the training.
        test_b: test pictures of the second domain.
        size: side in pixels at which you mean to train; by default one is recommended.
        channels: as `sfumato train --channels` is to be told: 3, 1, or as many as the files have bands.
        to_channels: the same of the second folder, for methods of pairs; by default as many.
        range: the values that become black and white, as of `sfumato train`: two ends such as -1000 3000;
            auto; or percentile 0.1 99.9. It comes after the folders.
        to_range: the same of the second folder; by default as range says, measured in that folder.
        pages: first, or all of stacks (TIFF, DICOM, NIfTI): every page is a picture.
        measure: run a few training steps, to say how long a training takes on this machine.
        all_methods: measure all methods that can be trained on these pictures, not only those that
            are recommended.
        write_list: a new text file that lists the copies and leaks which a training should leave out, one
            path a line, for `sfumato train --without`.
        watch: is given each part of the report's text as soon as it is known.
        progress: is told what takes long.

    Raises:
        UserError: a folder is missing, holds no images, or lies in another one; the list exists; or what
            is recommended cannot be trained at this size.
    """
    if write_list is not None:
        option = "--write-list"
        for_new_file(no_picture(write_list, "a text file", ".txt", option), option)
    folders = folders_of(a, b, test_a, test_b)
    how = ways(folders, channels, to_channels, range, to_range, pages)
    pictures, read = inspect_folders(folders, progress, how, pages)
    good = [one for one in pictures if not one.error]
    facts = {
        name: {split: _facts([x for x in pictures if (x.domain, x.split) == (name, split)])
               for split in splits}
        for name, splits in folders.items()
    }  # fmt: skip
    watch(pictures_said(facts))
    training = {k: [x for x in good if (x.domain, x.split) == (k, "train")] for k in folders}
    pairs = pairings(training, {(one.domain, one.stem) for one in pictures if one.error})
    given = [Path(folder) for folder in (a, b, test_a, test_b) if folder is not None]
    told = {"channels": channels, "to_channels": to_channels, "range": range, "to_range": to_range}
    told |= {"pages": pages} if pages != "first" else {}
    copies = list(checks.copies(good, _partners(pictures, pairs)))
    listed = unique(x for one in copies for x in one.without) if write_list is not None else []
    plan = advise(folders, good, pairs, size, given, write_list, told, listed)
    findings = _findings(folders, pictures, read, pairs, plan, copies)
    if write_list is not None:
        progress(_write(Path(write_list), listed))
    if findings and findings[0].severity == "error":
        plan.reason = f"First mend what is marked {SAID['error']} above. {plan.reason}"
    watch(findings_said(findings))
    watch(plan_said(pairs, plan))

    report = Report(facts, findings, pairs, plan, [])
    methods = plan.methods if measure else []
    methods = unique([*methods, *trainable(folders, pairs)]) if methods and all_methods else methods
    pixels = plan.size**2 * sum(map(len, training.values())) * (2 if plan.side_by_side else 1)
    for i, method in enumerate(methods):
        progress(f"measuring {method}, {i + 1} of {len(methods)}: a few steps of training")
        cost = training_cost(method, plan.size, len(folders), options_at(method, plan.size, told))
        cost["data_gb"] = min(3 * pixels, CACHE_BYTES) / 1e9
        report.estimates.append(cost)
        watch(cost_said(cost))
    return report


def _write(file: Path, names: Sequence[str]) -> str:
    """Writes the names as absolute paths, one a line; says how many, and which are no lines."""
    listed = [name for name in names if escaped(name) == name]
    write_text(file, "".join(f"{Path(name).absolute()}\n" for name in listed))
    odd = len(names) - len(listed)
    more = f"; {odd:,} {verb(odd, 'have')} a name that no line can hold: rename them"
    said = f"{file} lists what a training should do without: {len(listed):,} of the pictures"
    return said + more * (odd > 0)


def _findings(
    folders: Folders, pictures: Sequence[Inspected], read: Sequence[ImageFolder],
    pairs: Sequence[Pairing], plan: Plan, copies: Sequence[Finding],
) -> list[Finding]:  # fmt: skip
    """What is wrong, the worst first."""
    good = [one for one in pictures if not one.error]
    parts = {
        name: {split: [x for x in good if (x.domain, x.split) == (name, split)] for split in splits}
        for name, splits in folders.items()
    }
    findings = [*checks.unreadable(pictures, read), *copies]
    findings += checks.counts({name: splits["train"] for name, splits in parts.items()})
    findings += checks.unpartnered(pairs)
    for name, splits in parts.items():
        for split, part in splits.items():
            where = f"{name} ({split})" if len(splits) > 1 else name
            findings += [*checks.odd(where, part), *checks.sizes(where, part, plan)]
    if all(len(splits) == 1 for splits in folders.values()):
        findings.append(Finding(
            "note", "splits", "no test pictures are named, so leaks into them are not looked for",
            "name them by --test-a (and --test-b); training holds some out by itself (--held-out)",
        ))  # fmt: skip
    return sorted(findings, key=lambda one: list(SAID).index(one.severity))


def findings_said(findings: Sequence[Finding]) -> str:
    """Each finding with what to do about it and the first files that it names."""
    lines = []
    for one in findings:
        lines += [_wrapped(f"{SAID[one.severity]}  {one.text}", "      ")]
        lines += [f"        {escaped(name)}" for name in one.named[:NAMED]]
        if len(one.named) > NAMED:
            lines.append(f"        and {len(one.named) - NAMED:,} more, see --json")
        lines += [_wrapped(f"      {one.fix}", "      ")] if one.fix else []
    if all(one.severity == "note" for one in findings):
        lines.append("No fault found in these pictures.")
    return "\n".join([*lines, ""])


def pictures_said(domains: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """What the pictures of each folder are."""
    lines = [
        f"{escaped(name)} ({split}): {_facts_said(facts)}"
        for name, splits in domains.items() for split, facts in splits.items()
    ]  # fmt: skip
    return "\n".join([*lines, ""])


def plan_said(pairs: Sequence[Pairing], plan: Plan) -> str:
    """Whether there are pairs, and what to type."""
    lines = [_wrapped(text) for text in (*(one.text for one in pairs), plan.reason)]
    return "\n".join([*lines, *(f"  {command}" for command in plan.commands), ""])


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _partners(pictures: Sequence[Inspected], pairs: Sequence[Pairing]) -> Mapping[str, list[str]]:
    """For each file of a pair by name, its partners: they have to go with it."""
    paired = {frozenset(one.domains) for one in pairs if one.plausible and one.by == "name"}
    named: dict[tuple[str, str], list[Inspected]] = defaultdict(list)
    for one in pictures if paired else ():
        named[one.split, one.stem].append(one)
    return {
        str(x.path): [str(y.path) for y in same if frozenset((x.domain, y.domain)) in paired]
        for same in named.values()
        for x in same
    }


def _facts(part: Sequence[Inspected]) -> dict[str, Any]:
    """What the pictures of one folder are."""
    good = [one for one in part if not one.error]
    out: dict[str, Any] = {"count": len(good), "unreadable": len(part) - len(good)}
    for side in ("width", "height"):
        values = [getattr(one, side) for one in good]
        out[side] = [min(values), int(np.median(values)), max(values)] if values else None
    out["sizes"] = len({(one.width, one.height) for one in good})
    for key in ("format", "mode", "bits"):
        out[key] = dict(Counter(str(getattr(one, key)) for one in good))
    return out


def _facts_said(facts: Mapping[str, Any]) -> str:
    if not facts["count"]:
        return "no picture can be read"
    w, h = facts["width"], facts["height"]
    size = f"{w[1]}x{h[1]} pixels"
    if facts["sizes"] > 1:
        size = f"{w[0]} to {w[2]} wide (median {w[1]}), {h[0]} to {h[2]} high (median {h[1]})"
    kinds = ", ".join(facts["mode"]) + ", " + " and ".join(facts["bits"]) + " bits"
    return f"{count(facts['count'], 'picture')}, {size}; {counted(facts['format'])}; {kinds}"


def cost_said(cost: Mapping[str, Any]) -> str:
    """Time and memory of a method's training, in a sentence."""
    what = f"{cost['method']} at --size {cost['size']}"
    if "error" in cost:
        return f"{what} cannot be measured: {cost['error']}"
    memory = f"{cost['memory_gb'] + cost['data_gb']:.1f} GB of memory" if cost["memory_gb"] else ""
    if "hours" not in cost:
        return (
            f"{what} would take about {memory}, more than the {cost['limit_gb']:.1f} GB that may be "
            f"used to measure it: not measured; a smaller --batch or --size takes less."
        )
    busy = cost["cpu_share"] < BUSY
    alone = " if nothing else runs here" if busy else ""
    now = f"; as busy as this machine is now, {_time(cost['hours'])}" if busy else ""
    gpu = f", {cost['gpu_memory_gb']:.1f} GB on the GPU" if cost["gpu_memory_gb"] else ""
    part = (
        "" if cost["measured"] == cost["batch"] else
        f" (from steps of {count(cost['measured'], 'picture')})"
    )  # fmt: skip
    return (
        f"{what} takes about {_time(cost['hours_alone'] if busy else cost['hours'])}{alone} for its "
        f"{cost['steps']:,} steps of {count(cost['batch'], 'picture')} on {cost['device']}{part}{now}"
        f"{', ' * bool(memory)}{memory}{gpu}."
    )


def _time(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{count(max(1, round(60 * hours)), 'minute')}"
