"""The digits model that ships: one diffusion model of ten classes of coloured digits, 32x32.

    python recipes/digits.py          trains in runs/digits (resumes if it was stopped), then ships

About 30 minutes on one core. The images are scikit-learn's real handwritten digits.
"""

from pathlib import Path

from ship import ship
from stages import two_stages

from sfumato.data import WRITERS

if __name__ == "__main__":
    if not Path("data/digits").exists():
        WRITERS["digits"]("data/digits")
    train, test = (
        {d: f"data/digits/{split}/{d}" for d in "0123456789"} for split in ("train", "test")
    )
    two_stages(train, test, "runs/digits", first=10_000, second=4000, size=32)
    ship("runs/digits", "digits")
