"""Rows of a comparison: the scores of several seeds in one line, and what they were taken from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sfumato.core.errors import UserError
from sfumato.data.folders import parse_json
from sfumato.data.image_folder import ImageFolder
from sfumato.data.pictures import ImageSet, chunks
from sfumato.evaluation import metrics
from sfumato.evaluation.calibration import Calibration, calibration
from sfumato.evaluation.entries import Entry
from sfumato.evaluation.intervals import Interval, bootstrap_mean
from sfumato.evaluation.judge import Judge
from sfumato.evaluation.measures import Scores, differences
from sfumato.evaluation.memorisation import Audit, audit
from sfumato.evaluation.prepared import run_of

FAR = 2
"""Times the KID of a copy: results beyond are of neither domain (noise: 9 to 26 times)."""


@dataclass
class Row:
    """A line of the table.

    Args:
        label: its name.
        family: rows of one family are joined by a curve.
        kind: method, control or elsewhere (scores without pictures).
        numbers: by the keys of `measures`.
        spread: standard deviation over seeds, by the same keys.
        seeds: how many; 1 for what does not depend on them.
        cost: nfe, seconds and megabytes for a picture, what is known of them.
        images: the numbers of single pictures, mean over seeds.
        results: the pictures, one set a seed.
        audit: nearest training pictures.
        calibration: of several seeds against the truth.
        at_equal_l2: its Frechet distance over that of other methods' curves at equal L2 to the source,
            by family, where it lies on them.
    """

    label: str
    family: str
    kind: str
    numbers: dict[str, Interval]
    spread: dict[str, float] = field(default_factory=dict)
    seeds: int = 1
    cost: dict[str, float] = field(default_factory=dict)
    images: dict[str, list[float]] = field(default_factory=dict)
    results: list[ImageSet] = field(default_factory=list)
    audit: Audit | None = None
    calibration: Calibration | None = None
    at_equal_l2: dict[str, Interval] = field(default_factory=dict)

    def fill(self, each: Sequence[Scores], results: list[ImageSet]) -> None:
        """Puts in several seeds' scores: means of their numbers, and their spread."""
        for key in each[0].numbers:
            if all(key in s.numbers for s in each):
                bounds = torch.tensor([s.numbers[key] for s in each], dtype=torch.float64)
                self.numbers[key] = Interval(*bounds.mean(0).tolist())
                if len(each) > 1:
                    self.spread[key] = bounds[:, 0].std().item()
            else:  # the round trip is made for the first seed alone
                self.numbers[key] = each[0].numbers[key]
        for key in each[0].images:
            values = [s.images[key] for s in each if key in s.images]
            self.images[key] = torch.tensor(values).mean(0).tolist()
        self.seeds, self.results = len(each), results

    def to_json(self) -> dict[str, Any]:
        return {
            "label": self.label, "family": self.family, "kind": self.kind, "seeds": self.seeds,
            "numbers": {k: v.to_json() for k, v in self.numbers.items()},
            "fd at equal l2": {k: v.to_json() for k, v in self.at_equal_l2.items()},
            "spread over seeds": self.spread, "cost": self.cost, "images": self.images,
        }  # fmt: skip


@dataclass
class Comparison:
    """Rows that were scored under one record, the pictures they are shown with, and the page's folder."""

    rows: list[Row]
    judge: Judge
    notes: list[str]
    seed: int
    folder: Path

    @property
    def protocol(self) -> dict[str, Any]:
        """protocol.json: the record, and of every row its seeds, options and weights, where known."""
        made = {row.label: known for row in self.rows if (known := _origin(row.results))}
        return self.judge.record | {"results": made}


def _origin(results: Sequence[ImageSet]) -> dict[str, Any]:
    """What the run.json of translated pictures says of them; how they were prepared is not known without."""
    folders = [s.folder for s in results if isinstance(s, ImageFolder)]
    runs = [run for f in folders if (run := run_of(f))]
    if not runs:
        return {"preparation": "not known"} if folders else {}
    return {"seeds": [run["seed"] for run in runs]} | {
        key: runs[0][key] for key in ("method", "options", "weights", "versions", "preparation")
    }


def add_extras(row: Row, judge: Judge) -> None:
    """Diversity, calibration and the audit, where there is something to take them from."""
    if len(row.results) > 1:
        each = [
            metrics.diversity(torch.stack([s.get(i) for s in row.results]))
            for i in chunks(len(judge.source))
        ]
        row.numbers["diversity"] = bootstrap_mean(torch.cat(each), judge.groups)
    if judge.truth is not None and len(row.results) > 3:
        truth = judge.truth.fitted(judge.size)
        row.calibration = calibration(row.results, truth, judge.groups)
    if judge.train is not None:
        train, held = judge.train.fitted(judge.size), judge.target.fitted(judge.size)
        row.audit = audit(
            row.results[0],
            train,
            held,
            lambda x: judge.embed(x, judge.eyes),
            groups=judge.groups,
            held_out_groups=judge.target_groups,
        )


def withhold(rows: Sequence[Row], own: bool) -> list[str]:
    """Takes away "target domain" where a probe cannot tell it, and says of which rows.

    The probe knows two kinds of pictures.  What is neither, such as noise, falls on some side of its
    plane, and grain may put it wholly on the target's.  Pictures are neither where all of KID's interval
    lies above FAR times that of a copy of the sources: two domains are not further apart than that.

    Args:
        rows: with the control "copy" among them.
        own: the share was taken by the user's own classifier: it stays, and it is said.
    """
    copy = next(row for row in rows if row.kind == "control" and row.label == "copy")
    limit = FAR * max(copy.numbers["kid"].high, 0)
    far = [r for r in rows if "domain" in r.numbers and r.numbers["kid"].low > limit]
    for row in far if not own else []:
        for taken in (row.numbers, row.spread, row.images):
            taken.pop("domain", None)
    named = ", ".join(row.label for row in far if row.kind != "control")
    does = "may mean nothing" if own else "is withheld"
    said = (
        f"{named}: KID is more than {FAR} times a copy's, so these pictures are of neither domain, and "
        f"target domain {does}: what tells two domains apart does not know a third kind."
    )
    return [said] if named else []


def elsewhere(e: Entry, record: dict[str, Any]) -> list[Row]:
    """The methods of another evaluation's scores.json.

    Raises:
        UserError: they were taken under another protocol, or on other pictures.
    """
    try:
        saved = parse_json(Path(str(e.scores)).read_text(encoding="utf-8"))
        other = dict(saved["protocol"])
        rows = [
            Row(
                r["label"], r["family"], "elsewhere",
                {k: Interval.from_json(v) for k, v in r["numbers"].items()},
                r["spread over seeds"], r["seeds"], r["cost"],
            )
            for r in saved["rows"] if r["kind"] != "control"
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{e.scores} holds no scores: expected an evaluation's scores.json"
        ) from None
    if record["preparation"] is not None:  # older evaluations cropped everything
        cropped = {"resize": "crop", "channels": 3, "side": "whole"}
        old = {role: how | cropped for role, how in record["preparation"].items()}
        other = {"preparation": old} | other
    if changed := differences(other, record):
        raise UserError(
            f"{e.scores} was scored under another protocol ({', '.join(sorted(changed))} differ): numbers "
            f"under different protocols do not share a column; score its pictures here, folder=RESULTS"
        )
    return rows
