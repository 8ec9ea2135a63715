"""Scores: the numbers of one set of results, or of several seeds' sets in one row of the table."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from sfumato.core.errors import UserError
from sfumato.data.folders import parse_json, read_text
from sfumato.data.pictures import ImageSet
from sfumato.evaluation.calibration import Calibration
from sfumato.evaluation.intervals import Interval
from sfumato.evaluation.memorisation import Audit


@dataclass
class Scores:
    """Numbers by the keys of `measures`, and what they were taken from.

    Args:
        label: name of the row.
        family: rows of one family are joined by a curve.
        kind: method, control or elsewhere (scores without pictures).
        numbers: by the keys of `measures`; of several seeds their means.
        images: the numbers of single pictures, likewise.
        names: of the single pictures.
        record: the protocol they were taken under, see `Judge.record`.
        notes: what a reader must know.
        spread: standard deviation over seeds, by the keys of `numbers`.
        seeds: how many; 1 for what does not depend on them.
        cost: nfe, seconds and megabytes for a picture, what is known of them.
        results: the pictures, one set a seed.
        back: the first set's translation back to the source domain.
        audit: nearest training pictures.
        calibration: of several seeds against the truth.
        at_equal_l2: its Frechet distance over that of other methods' curves at equal L2 to the source,
            by family, where it lies on them.
    """

    label: str = ""
    family: str = ""
    kind: str = "method"
    numbers: dict[str, Interval] = field(default_factory=dict)
    images: dict[str, list[float]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    spread: dict[str, float] = field(default_factory=dict)
    seeds: int = 1
    cost: dict[str, float] = field(default_factory=dict)
    results: list[ImageSet] = field(default_factory=list)
    back: ImageSet | None = None
    audit: Audit | None = None
    calibration: Calibration | None = None
    at_equal_l2: dict[str, Interval] = field(default_factory=dict)

    def average(self, each: Sequence[Scores]) -> None:
        """Takes in the scores of every seed: the means of their numbers, and their spread."""
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
        self.seeds, self.notes = len(each), each[0].notes

    def to_json(self) -> dict[str, Any]:
        """The file of one set; `read` takes it back."""
        numbers = {key: value.to_json() for key, value in self.numbers.items()}
        return {"numbers": numbers, "notes": self.notes, "names": self.names,
                "images": self.images, "protocol": self.record}  # fmt: skip

    def row(self) -> dict[str, Any]:
        """A row of a comparison's scores.json."""
        return {
            "label": self.label, "family": self.family, "kind": self.kind, "seeds": self.seeds,
            "numbers": {k: v.to_json() for k, v in self.numbers.items()},
            "fd at equal l2": {k: v.to_json() for k, v in self.at_equal_l2.items()},
            "spread over seeds": self.spread, "cost": self.cost, "images": self.images,
        }  # fmt: skip

    @classmethod
    def read(cls, file: str | Path) -> Self:
        """The scores of one set.

        Raises:
            UserError: the file holds none.
        """
        with _reading(file) as s:
            return cls(numbers=_numbers(s), images=s["images"], names=s["names"],
                       record=s["protocol"], notes=s["notes"])  # fmt: skip

    @classmethod
    def elsewhere(cls, file: str | Path, record: Mapping[str, Any]) -> list[Self]:
        """The methods of another evaluation's scores.json.

        Args:
            file: scores.json.
            record: the protocol that they must have been taken under.

        Raises:
            UserError: the file holds none, or they were taken under another protocol, or on other pictures.
        """
        with _reading(file) as saved:
            other = dict(saved["protocol"])
            rows = [
                cls(r["label"], r["family"], "elsewhere", _numbers(r), spread=r["spread over seeds"],
                    seeds=r["seeds"], cost=r["cost"])
                for r in saved["rows"] if r["kind"] != "control"
            ]  # fmt: skip
        if record["preparation"] is not None:  # in the time of format 1 all was cropped
            cropped = {"resize": "crop", "channels": 3, "side": "whole"}
            old = {role: how | cropped for role, how in record["preparation"].items()}
            other = {"preparation": old} | other
        if changed := differences(other, record):
            raise UserError(
                f"{file} was scored under another protocol (it differs in "
                f"{', '.join(sorted(changed))}): numbers "
                f"under different protocols do not share a column; score its pictures here, folder=RESULTS"
            )
        if not rows or not all(row.numbers for row in rows):
            raise UserError(NONE.format(file))
        return rows


NONE = "{} holds no scores: expected an evaluation's scores.json"


@contextlib.contextmanager
def _reading(file: str | Path) -> Iterator[Any]:
    try:
        yield parse_json(read_text(file) if Path(file).is_file() else "")
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(NONE.format(file)) from None


def _numbers(saved: Mapping[str, Any]) -> dict[str, Interval]:
    return {key: Interval.from_json(value) for key, value in saved["numbers"].items()}


def differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """The entries of two records that differ; numbers may share a column only if there are none."""
    return [key for key in one.keys() | two.keys() if one.get(key) != two.get(key)]


def grouping(groups: Sequence[str] | None) -> dict[str, Any] | None:
    """How many groups there are, and which pictures are of one, whatever the groups are called."""
    if not groups:
        return None
    first = dict(zip(reversed(groups), reversed(range(len(groups))), strict=True))
    numbers = [first[group] for group in groups]
    return {"count": len(first), "sha256": hashlib.sha256(json.dumps(numbers).encode()).hexdigest()}
