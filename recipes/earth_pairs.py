"""The paired model that ships: satellite <-> shaded relief by score-SDE, both directions, 32x32.

    python recipes/earth_pairs.py     trains in runs/earth_pairs (resumes if it was stopped), then ships

About 50 minutes on one core.
"""

from pathlib import Path

from ship import ship

from sfumato.data import WRITERS
from sfumato.training.train import train

if __name__ == "__main__":
    if not Path("data/earth").exists():
        WRITERS["earth"]("data/earth")
    train(
        "paired_sde", ["data/earth/train/satellite", "data/earth/train/relief"], "runs/earth_pairs",
        validation=["data/earth/test/satellite", "data/earth/test/relief"],
        size=32, resize="none", steps=10_000, batch=16, lr=1e-3, ema=0.999, seed=0, resume=True,
    )  # fmt: skip
    ship("runs/earth_pairs", "earth_pairs")
