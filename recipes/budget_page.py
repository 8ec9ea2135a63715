"""The table in Markdown and the picture of `budget.py --table`."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sfumato.data import tile, write_png
from sfumato.data.pictures import ImageSet
from sfumato.data.show import enlarged
from sfumato.evaluation.comparison import Comparison
from sfumato.evaluation.scores import Scores

COLUMNS = {
    "domain": ("share of the target", "{:.2f} ({:.2f} - {:.2f})"),
    "fd": ("FD", "{} ({} - {})"),
    "kid": ("KID", "{} ({} - {})"),
    "task": ("land-water IoU", "{:.3f} ({:.3f} - {:.3f})"),
    "source/hue": ("hue error", "{:.0f} ({:.0f} - {:.0f})"),
    "truth/l2": ("L2 to the truth", "{:.1f}"),
    "source/l2": ("L2 to the source", "{:.1f}"),
    "diversity": ("two seeds differ by", "{:.2f}"),
}


def markdown(
    comparison: Comparison, columns: Sequence[str], spent_of: Callable[[str], Path | None]
) -> str:
    """A line for each row: what it cost to train, these columns, milliseconds a picture to translate."""
    heads = ["method", "minutes", "pictures", *(COLUMNS[c][0] for c in columns), "ms per picture"]
    lines = [heads, ["---"] * len(heads)]
    for row in comparison.rows:
        file = spent_of(row.label)
        spent: Mapping[str, float] = json.loads(file.read_text()) if file else {}
        seconds = row.cost.get("seconds")
        lines.append([
            row.label,
            f"{spent['cpu minutes']:.0f}" if spent else "",
            f"{spent['pictures']:,}" if spent else "",
            *(_number(row, c) for c in columns),
            _short(1000 * seconds) if seconds else "",
        ])  # fmt: skip
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(row: Scores, column: str) -> str:
    there = row.numbers.get(column)
    if there is None:
        return ""
    values = there.value, there.low, there.high
    if column in ("fd", "kid"):
        return COLUMNS[column][1].format(*map(_short, values))
    return COLUMNS[column][1].format(*values)


def _short(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.2g}"


def picture(
    file: Path,
    comparison: Comparison,
    real: Sequence[ImageSet],
    labels: Sequence[str],
    columns: int = 12,
) -> None:
    """Rows of pictures: the source, the truth if there is one, then these methods."""
    by_label = {row.label: row.results[0] for row in comparison.rows if row.results}
    sets = [*real, *(by_label[label] for label in labels if label in by_label)]
    n = min(map(len, sets))
    shown = [int((i + 0.5) * n / columns) for i in range(columns)]
    rows: list[Tensor] = [s.get(shown) for s in sets]
    sheet = tile(torch.cat(rows), columns)
    write_png(file, enlarged(sheet, 2 * max(sheet.shape[1:])))
