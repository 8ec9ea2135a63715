"""Classifiers of noisy pictures: those that guide, and others that judge what was guided.

    python recipes/domain_classifiers.py digits|mnist|horse2zebra

`runs/guide_NAME` guides; `runs/judge_NAME`, of another network and another seed, gives `sfumato compare
--features runs/judge_NAME` its Frechet distance and its share of the target domain.  The guide of the
digits ships.  About 10 minutes on one core for 32 pixels.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ship import ship

from sfumato.data import WRITERS
from sfumato.train import train

DIGITS = "0123456789"
SHARED = {"batch": 64, "weight_decay": 0.05, "preview_every": 0, "resume": True}


def classifiers(
    name: str, guided: Sequence[str], judged: Sequence[str], steps: tuple[int, int] = (4000, 1500),
    dropout: float = 0.0, **how: object,
) -> None:  # fmt: skip
    """The guide and the judge of domains in data/NAME/train, measured on data/NAME/test."""
    for role, domains, net, count, seed in (
        ("guide", guided, "tiny", steps[0], 0),
        ("judge", judged, "small", steps[1], 7),
    ):
        data, test = ({d: f"data/{name}/{s}/{d}" for d in domains} for s in ("train", "test"))
        train(
            "domain_classifier", data, f"runs/{role}_{name}", validation=test, steps=count, seed=seed,
            options={"net": net, "dropout": dropout}, **(SHARED | how),
        )  # fmt: skip


def digits() -> None:
    if not Path("data/digits").exists():
        WRITERS["digits"]("data/digits")
    classifiers("digits", DIGITS, DIGITS, size=32)
    ship("runs/guide_digits", "digits_classifier")


def mnist() -> None:
    """Guides between 2 and 3; the judge knows all ten: a bad 3 may look like another digit."""
    classifiers("mnist", "23", DIGITS, size=32)


def horse2zebra() -> None:
    """The split of `recipes/horse2zebra.py`; of 90 pictures a class more steps learn by heart."""
    animals = ("horse", "zebra")
    classifiers(
        "horse2zebra", animals, animals, (800, 500), dropout=0.3, size=64, flip=True, batch=32,
        weight_decay=0.2,
    )  # fmt: skip


if __name__ == "__main__":
    known = {f.__name__: f for f in (digits, mnist, horse2zebra)}
    for name in sys.argv[1:] or known:
        known[name]()
