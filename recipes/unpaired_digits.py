"""Coloured digits 2 <-> 3 without pairs: the unpaired score-SDE by back-translation, beside DDIB.

    python recipes/unpaired_digits.py [--seed 0] [--steps 8000] [OPTION=VALUE ...]

Trains in runs/unpaired_digits (resumes if it was stopped), then compares on held-out digits. About 25
minutes on one core. OPTION is a field of `unpaired_sde`, as in `first=unconditional` or `pairing=exact`.
"""

import argparse
import ast
import contextlib
from pathlib import Path

from sfumato import compare
from sfumato.data import WRITERS
from sfumato.train import train

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("options", nargs="*")
    parser.add_argument("--out", default="runs/unpaired_digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=8000)
    args = parser.parse_args()
    options = {"alone": args.steps // 3, "distil": args.steps // 3, "pool": 1024, "refresh": 16}
    for name, value in (option.split("=") for option in args.options):
        options[name] = value
        with contextlib.suppress(ValueError):  # words stay words
            options[name] = ast.literal_eval(value)
    if not Path("data/digits").exists():
        WRITERS["digits"]("data/digits")
    train(
        "unpaired_sde", ["data/digits/train/2", "data/digits/train/3"], args.out,
        validation=["data/digits/test/2", "data/digits/test/3"], options=options, size=32,
        batch=16, steps=args.steps, lr=2e-3, seed=args.seed, preview_every=400, resume=True,
    )  # fmt: skip
    for a, b, way in (("2", "3", "source-to-target"), ("3", "2", "target-to-source")):
        compare(
            f"data/digits/test/{a}", f"{args.out}_{a}{b}",
            [f"label=unpaired_sde model={args.out} direction={way}",
             f"ddib source=sfumato/digits:{a} target=sfumato/digits:{b}"],
            target=f"data/digits/test/{b}", train=f"data/digits/train/{b}",
            groups="data/digits/digits.csv:source", seeds=4, features="runs/judge_digits",
        )  # fmt: skip
