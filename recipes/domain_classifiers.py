"""Classifiers of noisy pictures: those that guide, and others that judge what was guided.

    python recipes/domain_classifiers.py digits|mnist|horse2zebra

`runs/guide_NAME` guides; `runs/judge_NAME`, of another network and another seed, gives `sfumato compare
--features runs/judge_NAME` its Frechet distance and its share of the target domain.  The guide of the
digits ships.  About 10 minutes on one core for 32 pixels.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ship import ship

from sfumato.data import WRITERS
from sfumato.training.train import train

DIGITS = "0123456789"
SHARED = {"batch": 64, "weight_decay": 0.05, "preview_every": 0, "resume": True, "size": 32}


def classifier(
    run: str, name: str, domains: Sequence[str], net: str, seed: int, **how: Any
) -> None:
    """One of the domains in data/NAME/train, measured on data/NAME/test."""
    data, test = ({d: f"data/{name}/{split}/{d}" for d in domains} for split in ("train", "test"))
    options = {"net": net, "dropout": how.pop("dropout", 0.0)}
    train(
        "domain_classifier", data, f"runs/{run}_{name}", validation=test, options=options, seed=seed,
        **(SHARED | how),
    )  # fmt: skip


def digits() -> None:
    if not Path("data/digits").exists():
        WRITERS["digits"]("data/digits")
    classifier("guide", "digits", DIGITS, "tiny", 0, steps=4000)
    classifier("judge", "digits", DIGITS, "small", 7, steps=1500)
    ship("runs/guide_digits", "digits_classifier")


def mnist() -> None:
    """Guides between 2 and 3; the judge knows all ten: a bad 3 may look like another digit."""
    classifier("guide", "mnist", "23", "tiny", 0, steps=4000)
    classifier("judge", "mnist", DIGITS, "small", 7, steps=1500)


def horse2zebra() -> None:
    """Of 90 pictures a class more steps learn by heart; too few for a judge, ImageNet's features are."""
    animals = ("horse", "zebra")
    classifier(
        "guide", "horse2zebra", animals, "tiny", 0, steps=800, size=64, flip=True, batch=32,
        weight_decay=0.2, dropout=0.3,
    )  # fmt: skip


if __name__ == "__main__":
    known = {f.__name__: f for f in (digits, mnist, horse2zebra)}
    for name in sys.argv[1:] or known:
        known[name]()
