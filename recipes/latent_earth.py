"""Satellite tiles of 64x64 pixels to maps, in latents and on pixels, for the same time of training.

    python recipes/latent_earth.py [--out runs/latent_earth]

A codec of factor 4 is trained on all pictures, then `diffusion` on pixels and in its latents; ddib and sdedit
translate held-out tiles with both.  Steps are chosen so that both models of diffusion train for six and a
half minutes on one core, beside five for the codec.  What has been trained is kept: the same command goes on.
"""

import argparse
from pathlib import Path

import torch

import sfumato
from sfumato.data import WRITERS
from sfumato.evaluation.features import Lite0
from sfumato.evaluation.metrics import psnr
from sfumato.evaluation.set_distances import frechet

EARTH = Path("data/earth64")
KINDS = "satellite", "relief", "topographic"


def folders(split: str, names: tuple[str, ...]) -> dict[str, Path]:
    """Pictures of some domains."""
    return {name: EARTH / split / name for name in names}


def train(method: str, out: Path, names: tuple[str, ...], **how: object) -> None:
    """A training that goes on where it was."""
    data, held = folders("train", names), folders("test", names)
    sfumato.train(
        method, data, out, validation=held, size=64, resize="none", preview_every=0, resume=True, **how
    )


def reconstruction(codec: Path) -> None:
    """What the codec gives back of held-out maps: PSNR, and the FD that its models begin with."""
    part, features = sfumato.load(codec), Lite0()
    x = sfumato.read(sorted((EARTH / "test/topographic").glob("*.png")), like=part)
    with torch.no_grad():
        y = torch.cat([part.translate(b) for b in x.split(32)])
        seen, given = (torch.cat([features(b) for b in z.split(32)]) for z in (x, y))
    print(f"codec: PSNR {psnr(y, x).mean():.2f} dB, FD-Lite0 {frechet(given, seen):.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/latent_earth"))
    out = parser.parse_args().out
    if not EARTH.exists():
        WRITERS["earth"](EARTH, size=64, world=5400, stride=32)
    train(
        "autoencoder", out / "codec", KINDS, options={"factor": 4, "critic_after": 1000}, steps=1500,
        batch=8, lr=1.5e-3, flip=True,
    )  # fmt: skip
    ends = KINDS[0], KINDS[2]
    train("diffusion", out / "pixels", ends, steps=400)
    train("diffusion", out / "latents", ends, steps=3200, codec=out / "codec")
    reconstruction(out / "codec")
    source, target = (f"{{}}:{name}" for name in ends)
    sfumato.compare(
        EARTH / "test" / ends[0], out / "compare",
        [f"ddib 'label=ddib, {w}' source={source.format(out / w)} target={target.format(out / w)}"
         for w in ("pixels", "latents")]
        + [f"sdedit 'label=sdedit, {w}' target={target.format(out / w)} strength=0.6"
           for w in ("pixels", "latents")],
        target=EARTH / "test" / ends[1], truth=EARTH / "test" / ends[1],
        train=EARTH / "train" / ends[1], limit=192,
    )  # fmt: skip
