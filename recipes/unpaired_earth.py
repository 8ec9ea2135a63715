"""Satellite <-> shaded relief with the pairs hidden: satellite of one half of the world, relief of the other.

    python recipes/unpaired_earth.py [--steps 6000]

The world is cut into bands of 15 degrees of longitude; satellite tiles come from the even bands, relief
from the odd ones, and no tile that crosses a border is used. Held-out tiles (110 to 150 degrees east)
have their truth, which only scores.
"""

import argparse
import csv
import shutil
from pathlib import Path

from sfumato import compare, train
from sfumato.data import WRITERS

OPTIONS = {
    "normalise": True, "content": "chroma", "coarse_cells": 8, "coarse_noise": 0.25,
    "warmup_batches": 1400, "distil_batches": 1000,
}  # fmt: skip
"""Water is bluer than land on both, but dark on one and light on the other: chroma, on one scale."""

BAND, TILE = 15.0, 32 * 360 / 2700  # degrees


def hide_pairs(out: Path) -> None:
    """Copies the tiles of either domain that lie within its bands."""
    if not Path("data/earth").exists():
        WRITERS["earth"]("data/earth")
    with open("data/earth/tiles.csv") as file:
        tiles = [row for row in csv.DictReader(file) if row["split"] == "train"]
    for domain in ("satellite", "relief"):
        (out / domain).mkdir(parents=True)
    for tile in tiles:
        west, east = (float(tile["lon"]) + 180 + side * TILE / 2 for side in (-1, 1))
        if west // BAND == east // BAND:
            domain = ("satellite", "relief")[int(west // BAND % 2)]
            shutil.copy(f"data/earth/train/{domain}/{tile['name']}", out / domain)


def table(model: str) -> None:
    """Held-out tiles, both directions; pairs were seen by `earth_pairs` alone, as the upper bound."""
    ends = ("satellite", "relief")
    for (a, b), way in zip(
        (ends, ends[::-1]), ("source-to-target", "target-to-source"), strict=True
    ):
        test = "data/earth/test"
        compare(
            f"{test}/{a}", f"{model}_{a}",
            [f"label=unpaired_sde model={model} direction={way}",
             f"ddib source=sfumato/earth:{a} target=sfumato/earth:{b}",
             f"ddib 'label=ddib, recentred' source=sfumato/earth:{a} "
             f"target=sfumato/earth:{b} recentre_means=true",
             f"'label=paired_sde, with pairs' model=sfumato/earth_pairs direction={way}"],
            target=f"{test}/{b}", truth=f"{test}/{b}", train=f"data/earth_hidden/{b}",
            limit=96, seeds=2, **({"task": "land_water"} if b == "relief" else {}),
        )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/unpaired_earth")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    hidden, test = Path("data/earth_hidden"), Path("data/earth/test")
    if not hidden.exists():
        hide_pairs(hidden)
    train(
        "unpaired_sde", [hidden / "satellite", hidden / "relief"], args.out,
        validation=[test / "satellite", test / "relief"], options=OPTIONS, steps=args.steps,
        seed=args.seed, resume=True,
    )  # fmt: skip
    table(args.out)
