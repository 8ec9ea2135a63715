"""A comparison as one self-contained page: pictures, table, plane, audit, protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sfumato.core.terminal import count, screen, verb
from sfumato.core.versions import version
from sfumato.data import base64_png
from sfumato.data.pictures import ImageSet
from sfumato.data.show import evenly, heat, page
from sfumato.evaluation.calibration import Calibration
from sfumato.evaluation.comparison import Comparison
from sfumato.evaluation.intervals import Interval
from sfumato.evaluation.measures import Measure, measures
from sfumato.evaluation.scores import Scores
from sfumato.explore.sensitivity import mean_and_spread

SHOWN, ROWS, SAMPLES = 48, 8, 5
"""Pictures that can be switched to, rows of the grid at first, and samples beside their spread."""
BYTES = 16 * 2**20
"""Of embedded pictures: large ones are fewer."""
LABEL, NUMBER = 24, 14
"""Characters of a printed row's name, and of each of its numbers."""
DECIDE = (
    "kid", "truth/perceptual", "truth/l2", "task", "domain", "source/perceptual", "source/l2", "fd",
)  # fmt: skip
"""What is printed first, where the terminal has no room for all."""


def render(c: Comparison) -> str:
    """The page as HTML."""
    known = measures(c.judge.features.kernel_name, c.judge.features.name)
    columns = {k: m for k, m in known.items() if any(k in row.numbers for row in c.rows)}
    pictured = [row for row in c.rows if row.results]
    shown = _shown(c, len(pictured) + 2)
    return page(
        "compare.html", columns=columns, rows=[_line(row, columns, c.rows) for row in c.rows],
        cost=[k for k in ("nfe", "seconds", "megabytes") if any(k in r.cost for r in c.rows)],
        grid=_grid(c, pictured, shown), notes=c.notes, extremes=_extremes(c, pictured),
        audits=[(row.label, row.audit, _copies(c, row)) for row in pictured if row.audit],
        plane=_plane(c.rows, columns), spreads=[_spread(c, r) for r in pictured if len(r.results) > 1],
        record=c.judge.record, protocol=c.judge.protocol, counts=len(c.judge.source),
        equal=_equal(c), protocol_json=json.dumps(c.protocol, indent=2), version=version("sfumato"),
    )  # fmt: skip


def _shown(c: Comparison, columns: int) -> list[int]:
    """Indices of the pictures on the page, evenly through the set."""
    n = len(c.judge.source)
    one = len(base64_png(c.judge.at_size["source"].get([n // 2])[0]))
    return evenly(n, max(1, min(SHOWN, BYTES // (one * columns))))


def _grid(c: Comparison, rows: Sequence[Scores], shown: Sequence[int]) -> dict[str, Any]:
    """Columns of base64 pictures: the source, every method, the truth."""
    judge, there = c.judge, c.judge.at_size
    sets: dict[str, ImageSet] = {"source": there["source"]}
    sets |= {row.label: row.results[0] for row in rows if row.label != "copy"}
    sets |= {"truth": there["truth"]} if judge.truth else {}
    columns = {label: _pngs(s, shown) for label, s in sets.items()}
    return {"names": [judge.source.names[i] for i in shown], "columns": columns, "rows": ROWS}


def _line(row: Scores, columns: dict[str, Measure], rows: Sequence[Scores]) -> dict[str, Any]:
    """A row of the table; `best` marks the methods' best value of a column."""
    cells: dict[str, dict[str, Any] | None] = {}
    for key, measure in columns.items():
        number = row.numbers.get(key)
        if number is None:
            cells[key] = None
            continue
        others = [r.numbers[key].value for r in rows if key in r.numbers and r.kind != "control"]
        best = max((measure.better * v for v in others), default=None)
        cells[key] = {
            "value": number.value, "text": text(number.value),
            "low": text(number.low), "high": text(number.high),
            "seeds": text(row.spread[key]) if key in row.spread else None,
            "best": row.kind != "control" and measure.better != 0 and measure.better * number.value == best,
        }  # fmt: skip
    cost = {k: {"value": v, "text": text(v)} for k, v in row.cost.items()}
    return {"label": row.label, "kind": row.kind, "seeds": row.seeds, "cells": cells, "cost": cost}


def text(x: float) -> str:
    """Three significant digits."""
    if not math.isfinite(x):
        return "–"
    x = 0.0 if abs(x) < 1e-9 else x
    digits = 2 - math.floor(math.log10(abs(x))) if x else 2
    return f"{x:.{max(0, digits)}f}" if digits < 6 else f"{x:.1e}"


def _plane(rows: Sequence[Scores], columns: dict[str, Measure]) -> str:
    """Points of the realism-faithfulness plane, as JSON for the page's script."""
    points = [
        {
            "label": row.label, "family": row.family, "kind": row.kind,
            "numbers": {k: v.to_json() for k, v in row.numbers.items()},
        }
        for row in rows
    ]  # fmt: skip
    axes = {k: {"label": m.label, "better": m.better} for k, m in columns.items()}
    faithful = next((k for k in ("source/perceptual", "source/l2") if k in axes), next(iter(axes)))
    if "truth/perceptual" in axes:
        faithful = "truth/perceptual"
    data = {"points": points, "axes": axes, "x": faithful, "y": "kid"}
    return json.dumps(data).replace("</", "<\\/")


def _equal(c: Comparison) -> dict[str, Any]:
    """Families that were swept, and the others' Frechet distances over theirs at equal L2."""
    curves = list(dict.fromkeys(name for row in c.rows for name in row.at_equal_l2))
    lines = [
        (row.label, [_cell(n, ", ") if (n := row.at_equal_l2.get(k)) else "" for k in curves])
        for row in c.rows if row.at_equal_l2
    ]  # fmt: skip
    return {"curves": curves, "lines": lines}


def _extremes(c: Comparison, rows: Sequence[Scores]) -> list[dict[str, Any]]:
    """The best and worst cases of every method by one measure."""
    order = ("truth/perceptual", "truth/l2", "source/perceptual", "source/l2")
    judge, out = c.judge, []
    columns = measures("", "")
    for row in rows:
        key = next((k for k in order if k in row.images), None)
        if key is None or row.kind == "control":
            continue
        rank = np.argsort(row.images[key], kind="stable")
        some = min(4, len(rank) // 2)
        sides = {"best": rank[:some], "worst": rank[::-1][:some]}
        cases = {}
        for side, indices in sides.items():
            chosen = [int(i) for i in indices]
            sets = [judge.at_size["source"], row.results[0]]
            sets += [judge.at_size["truth"]] if judge.truth else []
            pictures = zip(*(_pngs(s, chosen) for s in sets), strict=True)
            cases[side] = [
                {"name": judge.source.names[i], "value": text(row.images[key][i]), "pictures": p}
                for i, p in zip(chosen, pictures, strict=True)
            ]
        out.append({"label": row.label, "measure": columns[key].label, "cases": cases})
    return out


def _copies(c: Comparison, row: Scores) -> list[tuple[str, str, str]]:
    """The results nearest to one training picture: (result, that picture, its name)."""
    judge = c.judge
    if row.audit is None or judge.train is None:
        return []
    pairs = row.audit.closest(6)
    ours = _pngs(row.results[0], [i for i, _ in pairs])
    near = _pngs(judge.at_size["train"], [j for _, j in pairs])
    names = [judge.train.names[j] for _, j in pairs]
    return list(zip(ours, near, names, strict=True))


def _spread(c: Comparison, row: Scores) -> dict[str, Any]:
    """Some sources with samples of several seeds, their mean and their deviation."""
    chosen = evenly(len(c.judge.source), SAMPLES)
    samples = torch.stack([s.get(chosen) for s in row.results])
    mean, std = mean_and_spread(samples)
    top = std.max().clamp(min=1e-6)
    columns = {"source": c.judge.at_size["source"].get(chosen)}
    columns |= {f"seed {c.seed + k}": sample for k, sample in enumerate(samples[:SAMPLES])}
    columns |= {"mean": mean, "deviation": heat(std / top)}
    columns |= {"truth": c.judge.at_size["truth"].get(chosen)} if c.judge.truth else {}
    lines = [[base64_png(x[i]) for x in columns.values()] for i in range(len(chosen))]
    return {
        "label": row.label, "heads": [*columns], "lines": lines, "top": text(top.item()),
        "seeds": row.seeds, "calibration": row.calibration and _curve(row.calibration),
    }  # fmt: skip


def _curve(k: Calibration) -> dict[str, Any]:
    """A calibration curve in a square of 220 units, with its band."""
    up = [(220 * x, 220 - 220 * y) for x, y in zip(k.nominal, k.covered, strict=True)]
    band = [(220 * x, 220 - 220 * y) for x, y in zip(k.nominal, k.low, strict=True)]
    band += [(220 * x, 220 - 220 * y) for x, y in zip(k.nominal[::-1], k.high[::-1], strict=True)]

    def points(p: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in p)

    return {"line": points(up), "band": points(band), "dots": up, "ratio": _cell(k.ratio, ", ")}


def _pngs(images: ImageSet, indices: Sequence[int]) -> list[str]:
    return [base64_png(images.get([i])[0]) for i in indices]


def table(c: Comparison) -> None:
    """Prints a row a line: the measures that decide, as many as fit, each with half of its interval."""
    from rich.table import Table

    known = measures(c.judge.features.kernel_name, c.judge.features.name)
    there = [key for key in known if any(key in row.numbers for row in c.rows)]
    out, first = screen(), [key for key in DECIDE if key in there]
    room = max(1, (out.width - LABEL) // NUMBER)
    keys = [*first, *(key for key in there if key not in first)][:room]
    shown = Table(box=None, pad_edge=False)
    shown.add_column("", max_width=LABEL - 2, no_wrap=True, overflow="ellipsis")
    for key in (key for key in known if key in keys):
        better = {1: " (more)", -1: " (less)", 0: ""}[known[key].better]
        shown.add_column(known[key].label + better, justify="right", max_width=NUMBER - 1)
    for row in c.rows:
        numbers = [row.numbers.get(key) for key in known if key in keys]
        shown.add_row(row.label, *("" if n is None else _short(n) for n in numbers))
    out.print(shown)
    rest = len(there) - len(keys)
    out.print(f"± half of the 95 % interval; {count(rest, 'more measure')} {verb(rest, 'are')} on the page")
    for row in c.rows:
        for name, ratio in row.at_equal_l2.items():
            said = f"{_cell(ratio, ' (')}) of {name}'s Frechet distance at equal L2"
            out.print(f"{row.label}: {said}", highlight=False)
    for note in c.notes:
        out.print(note, style="yellow", highlight=False)
    audited = {row.label: row.audit for row in c.rows if row.audit is not None}
    for label, audit in audited.items():
        if audit.copied:
            out.print(f"{label}: {audit.text}", style="yellow", highlight=False)
    if honest := [label for label, audit in audited.items() if not audit.copied]:
        out.print(f"No sign of copied training pictures: {', '.join(honest)}", highlight=False)


def _short(n: Interval) -> str:
    """A value and half of its interval, in the value's digits."""
    value, half = text(n.value), (n.high - n.low) / 2
    if not math.isfinite(half):
        return value
    digits = len(value.partition(".")[2]) if "e" not in value else 0
    return f"{value} ±{half:.{digits}f}" if "e" not in value else f"{value} ±{half:.0e}"


def _cell(n: Interval, gap: str = "\n") -> str:
    return f"{text(n.value)}{gap}{text(n.low)} to {text(n.high)}"
