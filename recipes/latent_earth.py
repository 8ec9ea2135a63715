"""Satellite tiles of 64x64 pixels to maps, in latents and on pixels, for minutes of training.

    OMP_NUM_THREADS=1 python recipes/latent_earth.py [--out runs/latent_earth]

A codec of factor 4 is trained on all pictures, then `diffusion` on pixels and in its latents; ddib and
sdedit translate held-out tiles with both.  On one core the codec trains for ten minutes, the model in latents
for four, that on pixels for six and a half.  What has been trained is kept: the same command goes on.
"""

import argparse
import time
from pathlib import Path

import torch
from torch.nn import functional as F

import sfumato
from sfumato.data import WRITERS, tile
from sfumato.data.images import picture
from sfumato.evaluation.comparison import Comparison
from sfumato.evaluation.features import Lite0
from sfumato.evaluation.metrics import psnr
from sfumato.evaluation.set_distances import frechet

EARTH = Path("data/earth64")
KINDS = "satellite", "relief", "topographic"
FACTOR, LATENTS = 4, 8
SHOWN = range(10, 192, 23)


def folders(split: str, names: tuple[str, ...]) -> dict[str, Path]:
    """Pictures of some domains."""
    return {name: EARTH / split / name for name in names}


def train(method: str, out: Path, names: tuple[str, ...], **how: object) -> None:
    """A training that goes on where it was."""
    data, held, began = folders("train", names), folders("test", names), time.process_time()
    sfumato.train(
        method, data, out, validation=held, size=64, resize="none", preview_every=0, resume=True, **how
    )
    print(f"{out}: {time.process_time() - began:.0f} CPU s")


def pictures(split: str, name: str, part: object) -> torch.Tensor:
    """All tiles (N, 3, 64, 64) of a domain."""
    return sfumato.read(sorted((EARTH / split / name).glob("*.png")), like=part)


def linear(train: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """Test pictures as the best linear code of as many numbers gives them back: components of patches."""
    patches = F.pixel_unshuffle(train[::4], FACTOR).movedim(1, -1).flatten(0, 2)
    mean = patches.mean(0)
    basis = torch.linalg.eigh(torch.cov(patches.T))[1]  # ascending
    kept = basis[:, -LATENTS:]
    x = F.pixel_unshuffle(test, FACTOR).movedim(1, -1) - mean
    return F.pixel_shuffle((x @ kept @ kept.T + mean).movedim(-1, 1), FACTOR)


def reconstruction(codec: Path) -> None:
    """What the codec and a linear code give back of held-out tiles: PSNR, and the FD of these copies."""
    part, features = sfumato.load(codec), Lite0()
    print("codec's copies           PSNR dB  linear code's  FD-Lite0  linear code's")
    for name in KINDS:
        x, seen = pictures("test", name, part), pictures("train", name, part)
        with torch.no_grad():
            y, z = torch.cat([part.translate(b) for b in x.split(32)]), linear(seen, x)
            f, *given = (torch.cat([features(b) for b in one.split(32)]) for one in (x, y, z))
        (p, q), (d, e) = (psnr(one, x).mean() for one in (y, z)), (frechet(one, f) for one in given)
        print(f"{name:24} {p:7.2f} {q:14.2f} {d:9.1f} {e:14.1f}")


def draw(found: Comparison, codec: Path, file: Path) -> None:
    """Sources, true maps, the codec's copies of these, and results, a row each."""
    part, rows = sfumato.load(codec), [found.judge.source, found.judge.truth]
    rows += [row.results[0] for row in found.rows if row.kind == "method"]
    seen = [one.get(list(SHOWN)) for one in rows]
    with torch.no_grad():
        seen.insert(2, part.translate(seen[1]))
    picture(tile(torch.cat(seen), len(SHOWN))).save(file, quality=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/latent_earth"))
    out = parser.parse_args().out
    if not EARTH.exists():
        WRITERS["earth"](EARTH, size=64, world=5400, stride=32)
    train(
        "autoencoder", out / "codec", KINDS, steps=3000, batch=8, lr=1.5e-3, flip=True,
        options={"factor": FACTOR, "latent_channels": LATENTS, "critic": 0.0, "linear": False},
    )  # fmt: skip
    reconstruction(out / "codec")
    ends = KINDS[0], KINDS[2]
    train("diffusion", out / "latents", ends, steps=1600, codec=out / "codec")
    train("diffusion", out / "pixels", ends, steps=400)
    source, target = (f"{{}}:{name}" for name in ends)
    made = sfumato.compare(
        EARTH / "test" / ends[0], out / "compare",
        [f"ddib 'label=ddib, {w}' source={source.format(out / w)} target={target.format(out / w)}"
         for w in ("pixels", "latents")]
        + [f"sdedit 'label=sdedit, {w}' target={target.format(out / w)} strength=0.6"
           for w in ("pixels", "latents")],
        target=EARTH / "test" / ends[1], truth=EARTH / "test" / ends[1],
        train=EARTH / "train" / ends[1], limit=192,
    )  # fmt: skip
    draw(made, out / "codec", out / "latent_earth.jpg")
