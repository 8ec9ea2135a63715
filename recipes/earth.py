"""The earth model that ships: one diffusion model of satellite, relief and topographic tiles, 32x32.

    python recipes/earth.py           trains in runs/earth (resumes if it was stopped), then ships

About 40 minutes on one core. Pictures of the same places are never paired: the model sees domains only.
"""

from pathlib import Path

from ship import ship

from sfumato.data import WRITERS
from sfumato.training.train import train

DOMAINS = ("satellite", "relief", "topographic")

if __name__ == "__main__":
    if not Path("data/earth").exists():
        WRITERS["earth"]("data/earth")
    train(
        "diffusion", {name: f"data/earth/train/{name}" for name in DOMAINS}, "runs/earth",
        validation={name: f"data/earth/test/{name}" for name in DOMAINS},
        size=32, resize="none", steps=16_000, lr=1e-3, ema=0.999, seed=0, resume=True,
    )  # fmt: skip
    ship("runs/earth", "earth")
