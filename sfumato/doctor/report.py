"""A look at the pictures before any training: what is wrong with them, what it costs, what to type.

Every file is decoded once (`looks`), all pairs of pictures are compared (`duplicates`), the rest is
judged (`findings`, `advice`) and a few training steps are measured (`cost`). Nothing is changed. The
numbers that findings rest on are constants there, each with its reason.
"""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.cached import CACHE_BYTES
from sfumato.errors import UserError

from . import findings as checks
from .advice import Pairing, Plan, advise, pairings
from .cost import BUSY, training_cost
from .findings import Finding, counted, unique
from .looks import Look, layout, look

SAID = {"error": "MEND", "warning": "LOOK", "note": "note"}
NAMED = 5
"""Files named on screen for each finding; JSON names all."""


@dataclass
class Report:
    """What `doctor` found.

    Attributes:
        domains: {domain: {split: counts, sizes in pixels (min, median, max), formats, modes, bits}}.
        findings: the worst first.
        pairs: what speaks for and against pairs.
        estimates: of the trainable methods, see `training_cost`.
        plan: what to train, at which size, why, and the commands.
    """

    domains: dict[str, dict[str, dict[str, Any]]]
    findings: list[Finding]
    pairs: list[Pairing]
    estimates: list[dict[str, Any]]
    plan: Plan

    def to_json(self) -> dict[str, Any]:
        """Everything, as values that JSON has."""
        return asdict(self)

    def text(self) -> str:
        """Everything in plain language: findings, pictures, estimates, and what to type."""
        lines = []
        for one in self.findings:
            lines.append(f"{SAID[one.severity]}  {one.text}")
            lines += [f"        {name}" for name in one.named[:NAMED]]
            if len(one.named) > NAMED:
                lines.append(f"        and {len(one.named) - NAMED:,} more, see --json")
            lines += [f"      {one.fix}"] if one.fix else []
            if one.delete:
                more = ["..."] if len(one.delete) > NAMED else []
                lines.append(" ".join(["      rm", shlex.join(one.delete[:NAMED]), *more]))
        if all(one.severity == "note" for one in self.findings):
            lines.append("No fault found in these pictures.")
        lines.append("")
        for name, splits in self.domains.items():
            for split, facts in splits.items():
                lines.append(f"{name} ({split}): {_facts_said(facts)}")
        said = [*(one.text for one in self.pairs), *map(_cost_said, self.estimates)]
        lines += ["", *said, *[""] * bool(said), self.plan.reason]
        lines += [f"  {command}" for command in self.plan.commands]
        return "\n".join(lines).strip() + "\n"


def doctor(
    a: str | Path,
    b: str | Path | None = None,
    *,
    test_a: str | Path | None = None,
    test_b: str | Path | None = None,
    size: int | None = None,
    measure: bool = True,
) -> Report:
    """Looks at folders of pictures before any training, and changes nothing.

    Args:
        a: folder of the first domain; or, alone, of all: with DOMAIN/, with train/DOMAIN/ and
            test/DOMAIN/, or with trainA/ and trainB/ in it. train/ and test/ in a domain's folder
            are its splits.
        b: folder of the second domain.
        test_a: the first domain's pictures to test on, of which none may be in training.
        test_b: the second domain's.
        size: side in pixels that you mean to train at; by default one is recommended.
        measure: run a few training steps, to say what a training takes on this machine.

    Raises:
        UserError: a folder is missing, holds no images, or lies in another one.
    """
    if size is not None and size < 1:
        raise UserError(f"size {size}: expected pixels, such as --size 64")
    folders = layout(a, b, test_a, test_b)
    looks, unread = look(folders)
    good = [one for one in looks if not one.error]
    parts: dict[str, dict[str, list[Look]]] = {
        name: {split: [] for split in splits} for name, splits in folders.items()
    }
    for one in good:
        parts[one.domain][one.split].append(one)
    training = {name: splits["train"] for name, splits in parts.items()}
    pairs = pairings(training, {(one.domain, one.stem) for one in looks if one.error})
    plan = advise(folders, good, pairs, size)

    findings = [*checks.unreadable(looks, unread), *checks.copies(good)]
    findings += [*checks.counts(training), *checks.unpartnered(pairs)]
    for name, splits in parts.items():
        for split, part in splits.items():
            where = f"{name} ({split})" if len(splits) > 1 else name
            findings += [*checks.odd(where, part), *checks.sizes(where, part, plan)]
    if all(len(splits) == 1 for splits in folders.values()):
        findings.append(Finding(
            "note", "splits", "no test pictures are named, so leaks into them are not looked for",
            "name them by --test-a (and --test-b); training holds some out by itself (--held-out)",
        ))  # fmt: skip
    partners = _partners(looks, pairs)
    for found in findings:
        found.delete = unique(p for x in found.delete for p in (x, *partners.get(x, ())))
    findings.sort(key=lambda one: list(SAID).index(one.severity))
    if findings and findings[0].severity == "error":
        plan.reason = f"First mend what is marked {SAID['error']} above. {plan.reason}"

    estimates = [training_cost(m, plan.size, len(folders)) for m in plan.methods if measure]
    pixels = plan.size**2 * sum(map(len, training.values())) * (2 if plan.side_by_side else 1)
    for cost in estimates:
        cost["data_gb"] = min(3 * pixels, CACHE_BYTES) / 1e9
    facts = {
        name: {
            split: _facts([x for x in looks if (x.domain, x.split) == (name, split)]) for split in s
        }
        for name, s in parts.items()
    }
    return Report(facts, findings, pairs, estimates, plan)


def _partners(looks: Sequence[Look], pairs: Sequence[Pairing]) -> Mapping[str, list[str]]:
    """For each file of a pair by name, its partners: they have to go with it."""
    paired = {frozenset(one.domains) for one in pairs if one.plausible and one.by == "name"}
    named: dict[tuple[str, str], list[Look]] = defaultdict(list)
    for one in looks if paired else ():
        named[one.split, one.stem].append(one)
    return {
        str(x.path): [str(y.path) for y in same if frozenset((x.domain, y.domain)) in paired]
        for same in named.values()
        for x in same
    }


def _facts(part: Sequence[Look]) -> dict[str, Any]:
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
    return f"{facts['count']:,} pictures, {size}; {counted(facts['format'])}; {kinds}"


def _cost_said(cost: Mapping[str, Any]) -> str:
    what = f"{cost['method']} at --size {cost['size']}"
    if "error" in cost:
        return f"{what} cannot be measured: {cost['error']}"
    each, hours = cost["seconds_per_step"], cost["hours"]
    time = f"{hours:.1f} hours" if hours >= 1 else f"{max(1, round(60 * hours))} minutes"
    memory = (
        f", {cost['memory_gb'] + cost['data_gb']:.1f} GB of memory" if cost["memory_gb"] else ""
    )
    gpu = f", {cost['gpu_memory_gb']:.1f} GB on the GPU" if cost["gpu_memory_gb"] else ""
    busy = (
        "; other programs are busy here now, so it may be much less"
        if cost["cpu_share"] < BUSY
        else ""
    )
    return (
        f"{what} takes about {time} for its {cost['steps']:,} steps of {cost['batch']} pictures "
        f"({each:.2g} s each on {cost['device']}){memory}{gpu}{busy}."
    )
