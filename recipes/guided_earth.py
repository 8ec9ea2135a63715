"""Guidance from satellite to shaded relief: what the published energies do, and what chroma does.

    python recipes/guided_earth.py [--limit 96] [--seeds 2] [--sweep]

Needs `sfumato data earth data/earth`; a minute of training makes the classifier. No method sees a pair:
the truth only scores. Settings were chosen on training tiles (--sweep), the table is of test tiles.
"""

import argparse
from pathlib import Path

from sfumato import compare, train

TARGET = "target=sfumato/earth:relief spacing=time"
CLASSIFIER = Path("runs/guided_classifier_earth")
PUBLISHED = f"egsde label=published {TARGET} classifier={CLASSIFIER} factor=4"
CHROMA = f"egsde {TARGET} content=chroma"
OURS = f"{CHROMA} factor=2 strength=0.9"


def classifier(folder: Path = CLASSIFIER) -> None:
    if not (folder / "model.json").exists():
        domains = {name: f"data/earth/train/{name}" for name in ("satellite", "relief")}
        train(
            "domain_classifier", domains, out=folder, options={"net": "tiny"}, steps=1500,
            batch=64, lr=1e-3, weight_decay=0.05,
        )  # fmt: skip


def table(out: Path, limit: int, seeds: int) -> None:
    """Settings chosen on training tiles, on test tiles."""
    relief = "data/earth/test/relief"
    compare(
        "data/earth/test/satellite", out,
        [f"{OURS} label=chroma realism=0 faithful=0.35,1,2",
         f"sdedit {TARGET} strength=0.6,0.8,0.9",
         f"{PUBLISHED} strength=0.6 realism=0,1280",
         f"ilvr {TARGET}",
         "ddib source=sfumato/earth:satellite target=sfumato/earth:relief recentre_means=true"],
        target=relief, truth=relief, train="data/earth/train/relief", task="land_water",
        seeds=seeds, limit=limit,
    )  # fmt: skip


def sweep(out: Path, limit: int) -> None:
    """Strength and weights, on training tiles: the curve of FD against land-water agreement."""
    relief = "data/earth/train/relief"
    compare(
        "data/earth/train/satellite", out,
        [f"sdedit {TARGET} strength=0.4,0.6,0.7,0.8,0.9,1",
         f"{OURS} label=chroma realism=0 faithful=0.1,0.35,1,2,4",
         f"{CHROMA} label=chroma realism=0 faithful=1 factor=2 strength=0.7,0.8",
         f"{CHROMA} label=chroma realism=0 faithful=1 factor=1,4,8 strength=0.9",
         f"{OURS} 'label=chroma, realism' classifier={CLASSIFIER} faithful=1 realism=160",
         f"{OURS} 'label=chroma, on the mean' classifier={CLASSIFIER} faithful=1 realism=160 on=mean",
         f"{OURS} 'label=chroma, edges' realism=0 faithful=1 energy=edges energy_weight=0.05",
         f"{OURS} label=high-pass realism=0 faithful=0 energy=high_pass energy_weight=0.05,0.2",
         f"{PUBLISHED} strength=0.6,0.8 realism=1280 faithful=0.35,2"],
        target=relief, truth=relief, task="land_water", limit=limit,
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/guided_earth"))
    parser.add_argument("--limit", type=int, default=96, help="tiles")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--sweep", action="store_true", help="the sweep on training tiles instead")
    args = parser.parse_args()
    classifier()
    if args.sweep:
        sweep(args.out.with_name(f"{args.out.name}_sweep"), args.limit)
    else:
        table(args.out, args.limit, args.seeds)
