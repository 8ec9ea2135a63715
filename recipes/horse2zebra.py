"""Horses and zebras: one diffusion model of two domains, 64x64.

    python recipes/horse2zebra.py ../horse2zebra      a folder with trainA (horses) and trainB (zebras)

Every fifth picture is held out, in data/horse2zebra/test.  About 50 minutes on one core.  It does not
ship.
"""

import shutil
import sys
from pathlib import Path

from stages import two_stages

from sfumato.data import find_images

DOMAINS = {"trainA": "horse", "trainB": "zebra"}


def split(pictures: Path, out: Path) -> None:
    for folder, domain in DOMAINS.items():
        for i, file in enumerate(find_images(pictures / folder)):
            place = out / ("test" if i % 5 == 4 else "train") / domain
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)


if __name__ == "__main__":
    out = Path("data/horse2zebra")
    if not out.exists():
        split(Path(sys.argv[1]), out)
    train, test = ({d: str(out / s / d) for d in DOMAINS.values()} for s in ("train", "test"))
    two_stages(
        train, test, "runs/horse2zebra", first=9000, second=3000, size=64, batch=16, flip=True
    )
