"""Coloured MNIST, 2 and 3: one diffusion model of two domains, 32x32.

    python recipes/mnist.py ../mnist      a folder with MNIST's idx files, of which one set is enough

About 20 minutes on one core.  It does not ship.
"""

import sys
from pathlib import Path

from stages import two_stages

from sfumato.data import WRITERS

if __name__ == "__main__":
    if not Path("data/mnist").exists():
        WRITERS["mnist"]("data/mnist", sys.argv[1])
    train, test = ({d: f"data/mnist/{split}/{d}" for d in "23"} for split in ("train", "test"))
    two_stages(train, test, "runs/mnist", first=5000, second=3000, size=32)
