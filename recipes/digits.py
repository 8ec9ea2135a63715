"""The digits model that ships: one diffusion model of ten classes of coloured digits, 32x32.

    python recipes/digits.py          trains in runs/digits (resumes if it was stopped), then ships

About 20 minutes on one core. The images are scikit-learn's real handwritten digits.
"""

from pathlib import Path

from ship import ship

from sfumato.data import WRITERS
from sfumato.train import train

if __name__ == "__main__":
    if not Path("data/digits").exists():
        WRITERS["digits"]("data/digits")
    train(
        "diffusion", "data/digits/train", "runs/digits",
        validation="data/digits/test",
        size=32, steps=10_000, lr=1e-3, ema=0.999, seed=0, resume=True,
    )  # fmt: skip
    ship("runs/digits", "digits")
