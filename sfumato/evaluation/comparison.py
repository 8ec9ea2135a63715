"""What a comparison found: rows of scores under one protocol, and the files it is written to."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sfumato.data.folders import regular, write_text
from sfumato.data.image_folder import ImageFolder
from sfumato.data.pictures import ImageSet, chunks
from sfumato.evaluation import metrics
from sfumato.evaluation.calibration import calibration
from sfumato.evaluation.inputs import run_of
from sfumato.evaluation.intervals import bootstrap_mean
from sfumato.evaluation.judge import Judge
from sfumato.evaluation.memorisation import audit
from sfumato.evaluation.scores import Scores

FAR = 2
"""Times the KID of a copy: results beyond are of neither domain (noise: 9 to 26 times)."""


@dataclass
class Comparison:
    """Rows that were scored under one record, the pictures they are shown with, and the page's folder."""

    rows: list[Scores]
    judge: Judge
    notes: list[str]
    seed: int
    folder: Path

    @property
    def protocol(self) -> dict[str, Any]:
        """protocol.json: the record, and of every row its seeds, options and weights, where known."""
        made = {row.label: known for row in self.rows if (known := _origin(row.results))}
        return self.judge.record | {"results": made}

    def write(self) -> str:
        """Writes protocol.json and scores.json; gives a line on the scores that these replace, or ""."""
        rows = [row.row() for row in self.rows]
        scores = {"protocol": self.judge.record, "notes": self.notes,
                  "names": self.judge.source.names, "rows": rows}  # fmt: skip
        said = _replaced(self.folder / "scores.json", scores)
        write_text(self.folder / "protocol.json", json.dumps(self.protocol, indent=2) + "\n")
        write_text(self.folder / "scores.json", json.dumps(scores, indent=1) + "\n")
        return said


def _origin(results: Sequence[ImageSet]) -> dict[str, Any]:
    """What the run.json of translated pictures says of them; how they were prepared is not known without."""
    folders = [s.folder for s in results if isinstance(s, ImageFolder)]
    runs = [run for f in folders if (run := run_of(f))]
    if not runs:
        return {"preparation": "not known"} if folders else {}
    return {"seeds": [run["seed"] for run in runs]} | {
        key: runs[0][key] for key in ("method", "options", "weights", "versions", "preparation")
    }


def _replaced(file: Path, now: Mapping[str, Any]) -> str:
    """In a line, which earlier scores go for these, and what is other; "" if none go.

    Args:
        file: scores.json as it was written before, if it was.
        now: what it is going to hold.
    """
    try:
        was = json.loads(regular(file).read_text(encoding="utf-8"))
        before, after = (_facts(scores) for scores in (was, json.loads(json.dumps(now))))
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(file.stat().st_mtime))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{file} is damaged, and replaced"
    other = [f"other {key}" for key in before if key in after and before[key] != after[key]]
    other += [key for key in before if key not in after]
    said = f"replaces the scores of {made} in {file.parent}, which had {', '.join(other)}"
    return said if other else ""


def _facts(scores: Mapping[str, Any]) -> dict[str, str]:
    """What scores were made with, and the numbers of their rows, by what they are called."""
    record = dict(scores["protocol"])
    facts = {"target" if role == "reference" else role: p["sha256"]
             for role, p in record.pop("pictures").items()}  # fmt: skip
    facts |= record | {f"numbers of {row['label']}": row["numbers"] for row in scores["rows"]}
    return {key: json.dumps(value, sort_keys=True) for key, value in facts.items()}


def add_extras(row: Scores, judge: Judge) -> None:
    """Diversity, calibration and the audit, where there is something to take them from."""
    if len(row.results) > 1:
        each = [
            metrics.diversity(torch.stack([s.get(i) for s in row.results])) for i in chunks(len(judge.source))
        ]
        row.numbers["diversity"] = bootstrap_mean(torch.cat(each), judge.groups)
    if judge.truth is not None and len(row.results) > 3:
        row.calibration = calibration(row.results, judge.at_size["truth"], judge.groups)
    if judge.train is not None:
        train, held_out = judge.at_size["train"], judge.at_size["target"]
        row.audit = audit(
            row.results[0], train, held_out, lambda x: judge.embed(x, judge.eyes), groups=judge.groups,
            held_out_groups=judge.target_groups, device=judge.device,
        )  # fmt: skip


def withhold(rows: Sequence[Scores], own: bool) -> list[str]:
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
