"""DDIB between classes of ImageNet, from the published weights: the pairs of its authors' code, 256 pixels.

    python recipes/ddib_imagenet.py CHECKPOINTS IMAGENET [--out runs/ddib_imagenet] [--limit 4] [--steps 250]

CHECKPOINTS holds 256x256_diffusion.pt and 256x256_classifier.pt of guided-diffusion, as their authors publish
them; IMAGENET has a folder of pictures for each class, by its name (n02112137) or number (260).  As in their
code the way to the latent is the source class's, without guidance; the way back the target class's, with
E[x | x_t] clipped and the classifier's gradient times 1 (https://arxiv.org/abs/2203.08382, section 4.3).
Theirs takes all 1000 steps of the chain each way; an evaluation of this network takes most of a minute a
picture on one core of a CPU.  Results are OUT/260-261/NAME.png; those that are there are kept.  There is no
published number.
"""

import argparse
from pathlib import Path

import torch

from sfumato import load, read, save, write
from sfumato.checkpoints.published import read_published
from sfumato.core.errors import UserError, existing
from sfumato.data import find_images
from sfumato.diffusion.energies import domain_surprise
from sfumato.diffusion.guidance import Clipped, Guided
from sfumato.methods.ddib import DDIB

FILES = {"diffusion": "256x256_diffusion.pt", "classifier": "256x256_classifier.pt"}
PAIRS = [(260, 261), (261, 262), (282, 283), (283, 284)]
CLASSES = {
    260: ("chow", "n02112137"), 261: ("keeshond", "n02112350"), 262: ("Brabancon griffon", "n02112706"),
    282: ("tiger cat", "n02123159"), 283: ("Persian cat", "n02123394"), 284: ("Siamese cat", "n02123597"),
}  # fmt: skip


def models(checkpoints: Path, out: Path, size: int) -> dict[str, Path]:
    """The model folders of the published files, made if they are not there."""
    folders = {name: out / name for name in FILES}
    for name, folder in folders.items():
        if not (folder / "model.json").exists():
            there = existing(checkpoints / FILES[name], "the file of that name that its authors publish")
            made = read_published(there, size=size)
            print(f"{folder} holds {made.said}")
            save(made.part, folder, info=made.info)
    return folders


def bridge(folders: dict[str, Path], source: int, target: int, scale: float) -> DDIB:
    """From one class to another, guided on the way back."""
    classifier = load(folders["classifier"])
    energy = domain_surprise(classifier, classifier.domains.index(str(target)))
    clipped = Clipped(load(f"{folders['diffusion']}:{target}"))
    back = Guided(clipped, scale * energy, name="classifier") if scale else clipped
    return DDIB(source=load(f"{folders['diffusion']}:{source}"), target=back)


def pictures(imagenet: Path, label: int) -> list[Path]:
    """Those of a class."""
    for name in (CLASSES[label][1], str(label)):
        if (imagenet / name).is_dir():
            return find_images(imagenet / name)
    raise UserError(f"{imagenet} has no folder {CLASSES[label][1]} or {label}, of {CLASSES[label][0]}s")


def main(words: list[str] | None = None) -> list[Path]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("imagenet", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/ddib_imagenet"))
    parser.add_argument("--limit", type=int, default=4, help="pictures of a class")
    parser.add_argument("--steps", type=int, default=250, help="each way; theirs are 1000")
    parser.add_argument("--scale", type=float, default=1.0, help="of the classifier's gradient")
    parser.add_argument("--size", type=int, default=256, help="of other weights")
    args = parser.parse_args(words)
    folders, written = models(args.checkpoints, args.out, args.size), []
    how = {"steps": min(args.steps, 998), "solver": "ddim", "spacing": "chain"}
    for source, target in PAIRS:
        missing = []
        for file in pictures(args.imagenet, source)[: args.limit]:
            written.append(args.out / f"{source}-{target}" / f"{file.stem}.png")
            if not written[-1].exists():
                missing.append((file, written[-1]))
        part = bridge(folders, source, target, args.scale) if missing else None
        for file, result in missing:
            result.parent.mkdir(parents=True, exist_ok=True)
            x = read([file], size=args.size)
            write(part.decode(part.encode(x, **how), **how)[0].clamp(-1, 1), result)
            print(f"{file} ({CLASSES[source][0]}) -> {result} ({CLASSES[target][0]})")
    return written


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
