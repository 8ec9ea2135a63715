"""What the benchmarks share: pictures, the classifier, errors, intervals, and writing results.

Images are float32 (B, C, H, W) in [-1, 1]; errors are in these units unless a name says otherwise.
"""

import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sfumato.data.images import find_images, read_image

HERE = Path(__file__).parent
CLASSIFIER = HERE / "digits_classifier.safetensors"


# ---- pictures -----------------------------------------------------------------------------------


def images(folder: str | Path, names: Iterable[str] | None = None) -> tuple[Tensor, list[str]]:
    """All pictures of a folder (or those of these names), and their names."""
    folder = Path(folder)
    files = find_images(folder) if names is None else [folder / name for name in names]
    return torch.stack([torch.from_numpy(read_image(f)) for f in files]), [f.name for f in files]


def some(n: int, count: int, seed: int = 0) -> np.ndarray:
    """`count` (or all) of the indices 0..n-1, seeded, in order."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:count])


def digit_sources(
    names: Sequence[str], table: str | Path = "data/digits/digits.csv", split: str = "test"
) -> list[str]:
    """The scikit-learn image that each file was drawn from: copies of one are not independent."""
    with Path(table).open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    source = {Path(row["name"]).name: row["source"] for row in rows}
    return [source[name] for name in names]


def neighbourhoods(names: Sequence[str], side: int = 64) -> list[str]:
    """The 64-pixel square of the world a tile begins in: overlapping tiles are not independent."""
    places = [name.split(".")[0].split("_") for name in names]
    return [f"{int(row) // side}_{int(col) // side}" for row, col in places]


def batched(f: Callable[..., Tensor], *inputs: Tensor, batch: int = 64) -> Tensor:
    """f over inputs in batches."""
    return torch.cat([f(*parts) for parts in zip(*(x.split(batch) for x in inputs), strict=True)])


# ---- the classifier of digits -------------------------------------------------------------------


class Classifier(nn.Module):
    """Images (B, 3, 32, 32) to logits (B, 10); `features` are the 64 inputs of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        return self.body(x.clamp(-1, 1))

    @torch.no_grad()
    def says(self, x: Tensor) -> Tensor:
        """The digits (B,) it sees."""
        return self(x.clamp(-1, 1)).argmax(1)


def load_classifier(file: str | Path = CLASSIFIER) -> Classifier:
    """The trained classifier (recipes/digits_classifier.py)."""
    classifier = Classifier()
    stored = {k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()}
    classifier.load_state_dict(stored)
    return classifier.eval()


# ---- errors, one number an image ----------------------------------------------------------------


def rmse(a: Tensor, b: Tensor) -> float:
    """Root of the mean squared difference over all images and pixels."""
    return (a - b).square().mean().sqrt().item()


def ink_colour(x: Tensor) -> Tensor:
    """Mean RGB (B, 3) in [0, 1] of the ink: pixels whose largest channel is above one half."""
    u = (x.clamp(-1, 1) + 1) / 2
    ink = (u.amax(1, keepdim=True) > 0.5).float()
    return (u * ink).sum((2, 3)) / ink.sum((2, 3)).clamp(min=1)


def colour_error(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(difference of hue in degrees, Euclidean RGB distance) of the ink colours, each (B,)."""
    ca, cb = ink_colour(a), ink_colour(b)

    def hue(c: Tensor) -> Tensor:  # angle in the plane across the gray axis
        return torch.atan2(3**0.5 * (c[:, 1] - c[:, 2]), 2 * c[:, 0] - c[:, 1] - c[:, 2])

    turn = (hue(ca) - hue(cb)).rad2deg()
    return ((turn + 180) % 360 - 180).abs(), (ca - cb).norm(dim=1)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM (B,) of images clamped to [0, 1], data range 1, 11-pixel Gaussian window."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    u, v = ((x.clamp(-1, 1) + 1) / 2 for x in (a, b))
    return structural_similarity_index_measure(u, v, data_range=1.0, reduction="none")


def water(relief: Tensor) -> Tensor:
    """The colour rule for water (B, H, W) on shaded relief: 2 B - R - G > 0.16, RGB in [0, 1]."""
    r, g, b = ((relief.clamp(-1, 1) + 1) / 2).unbind(1)
    return 2 * b - r - g > 0.16


def intersection_over_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels in intersection and union (2, B) of masks a, b (B, H, W): row 0 true, row 1 false."""
    both = torch.stack([a & b, ~a & ~b]).sum((2, 3))
    either = torch.stack([a | b, ~a | ~b]).sum((2, 3))
    return both, either


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to features a (N, D) and b (M, D)."""
    a, b = a.double(), b.double()
    ca, cb = a.T.cov(), b.T.cov()
    # trace of (ca cb)^(1/2) from the eigenvalues of the similar symmetric matrix
    values, vectors = torch.linalg.eigh(ca)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cb @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * cross).item()


def interval(
    statistic: Callable[[np.ndarray], float], groups: Sequence[str], draws: int = 1000
) -> tuple[float, float]:
    """95 % bootstrap interval of statistic(indices of images); whole groups are drawn."""
    names, group = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(group == k) for k in range(len(names))]
    rng = np.random.default_rng(0)
    values = []
    for _ in range(draws):
        drawn = rng.integers(len(members), size=len(members))
        values.append(statistic(np.concatenate([members[k] for k in drawn])))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


# ---- results ------------------------------------------------------------------------------------


def _portable(word: str) -> str:
    """A word of a command, without the path of this machine: others have their data elsewhere."""
    return os.path.relpath(word) if os.path.isabs(word) else word


def environment() -> dict[str, str | int]:
    """Where and with what a result was measured."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].split(":")[1].strip() if lines else cpu
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_portable, sys.argv[1:])]
    return {
        "command": " ".join(words),
        "commit": commit or "unknown", "python": platform.python_version(),
        "torch": torch.__version__, "cpu": cpu, "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def table(rows: Sequence[dict[str, object]]) -> str:
    """Rows as a Markdown table; floats with three significant digits, pairs as intervals."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
        if isinstance(value, tuple):
            return f"{cell(value[0])} - {cell(value[1])}"
        return "" if value is None else str(value)

    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell(row.get(c)) for c in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_result(name: str, title: str, *parts: str | Sequence[dict[str, object]]) -> None:
    """Writes results/NAME.md and NAME.json, and prints the former; parts are texts and tables."""
    here = environment()
    texts = [p if isinstance(p, str) else table(p) for p in parts]
    said = ", ".join(f"{k} {v}" for k, v in here.items() if k != "command")
    page = "\n\n".join([f"# {title}", *texts, f"`{here['command']}`\n{said}"]) + "\n"
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.md").write_text(page)
    tables = [p for p in parts if not isinstance(p, str)]
    content = {"title": title, "environment": here, "tables": tables}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    print(page)
