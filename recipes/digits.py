"""The digits model that ships: one diffusion model of ten classes of coloured digits, 32x32.

    python recipes/digits.py          trains in runs/digits (resumes if it was stopped), then ships

About 25 minutes on one core. The images are scikit-learn's real handwritten digits.
"""

from pathlib import Path

from ship import ship

from sfumato.checkpoints.model_folder import load
from sfumato.data import WRITERS
from sfumato.methods.registry import find
from sfumato.training.train import train

if __name__ == "__main__":
    if not Path("data/digits").exists():
        WRITERS["digits"]("data/digits")
    train(
        "diffusion", "data/digits/train", "runs/digits",
        validation="data/digits/test",
        size=32, steps=10_000, lr=1e-3, ema=0.999, seed=0, resume=True,
    )  # fmt: skip
    # A second, shorter run at times uniform in angle: lognormal times give the largest noise levels,
    # where DDIB's latents live, too little training.
    wide = find("diffusion")(domains=tuple("0123456789"), times="uniform")
    wide.load_state_dict(load("runs/digits").state_dict())
    train(
        wide, "data/digits/train", "runs/digits_wide", validation="data/digits/test",
        size=32, steps=3000, lr=3e-4, ema=0.999, seed=1, resume=True,
    )  # fmt: skip
    ship("runs/digits_wide", "digits")
