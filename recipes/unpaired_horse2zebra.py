"""Horses <-> zebras at 64 pixels without pairs, beside DDIB.

    python recipes/unpaired_horse2zebra.py      after recipes/horse2zebra.py, which trains DDIB's model

Of 112 pictures of each, 12 are held out, which DDIB's model has not seen either (nor 10 more).  On a CPU
a network of 1 M parameters, about 40 minutes on one core; on a GPU the thesis' 58 M.  The same command
goes on with what was stopped.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

from sfumato import compare, train
from sfumato.data import find_images

ENDS = "horse", "zebra"
OPTIONS = {
    "coarse_cells": 16, "coarse_noise": 0.25, "warmup_batches": 1800, "distil_batches": 900, "buffer": 512,
}  # fmt: skip
SMALL: dict[str, Any] = {"steps": 3600, "batch": 8, "lr": 1e-3, "options": OPTIONS}
FULL: dict[str, Any] = {
    "steps": 60_000, "batch": 32, "lr": 2e-4, "precision": "bf16",
    "options": OPTIONS
    | {"net": "thesis", "shared": False, "warmup_batches": 20_000, "distil_batches": 20_000},
}  # fmt: skip


def hold_out(n: int, out: Path) -> None:
    """The pictures of recipes/horse2zebra.py; of those that it holds out, the first n are here, too."""
    for end in ENDS:
        pictures = {s: find_images(f"data/horse2zebra/{s}/{end}") for s in ("train", "test")}
        for part, files in {
            "train": pictures["train"] + pictures["test"][n:], "test": pictures["test"][:n],
        }.items():  # fmt: skip
            (out / part / end).mkdir(parents=True)
            for file in files:
                shutil.copy(file, out / part / end)


if __name__ == "__main__":
    data, out = Path("data/horse2zebra12"), "runs/unpaired_horse2zebra"
    if not data.exists():
        hold_out(12, data)
    train(
        "unpaired_sde", [data / "train" / end for end in ENDS], out, size=64, flip=True, seed=0,
        validation=[data / "test" / end for end in ENDS], preview_every=500, resume=True,
        **(FULL if torch.cuda.is_available() else SMALL),
    )  # fmt: skip
    ways = (*ENDS, "source-to-target"), (*ENDS[::-1], "target-to-source")
    for a, b, way in ways:
        for part, sources in (("held_out", "test"), ("trained", "train")):
            compare(
                data / sources / a, f"{out}_{a}_{part}",
                [f"label=unpaired_sde model={out} direction={way}",
                 f"ddib source=runs/horse2zebra:{a} target=runs/horse2zebra:{b}"],
                target=data / sources / b, seeds=2, size=64,
            )  # fmt: skip
