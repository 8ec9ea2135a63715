"""Satellite <-> map at 64x64 by paired score-SDE: the pix2pix maps, pairs side by side.

    python recipes/maps.py [FOLDER]       trains in runs/maps; resumes if it was stopped

About half an hour on one core for 128 pairs, of which 16 are held out (runs/maps/split.json says which).
"""

import sys
from pathlib import Path

from sfumato.training.train import train

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/maps/train")
    if not folder.is_dir():
        sys.exit(f"{folder} is not there: give the folder of side-by-side pairs (pix2pix 'maps')")
    train(
        "paired_sde", folder, "runs/maps",
        side_by_side=True, held_out=0.125, flip=True,
        size=64, steps=3000, batch=16, lr=1e-3, ema=0.999, seed=0, resume=True,
    )  # fmt: skip
