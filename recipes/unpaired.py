"""Translation learnt without pairs: each way of making pairs, UNIT-DDPM and DDIB, on one page.

    python recipes/unpaired.py digits|mnist [--seeds 0 1]
    python recipes/unpaired.py digits|mnist [--seeds 0 1] --table

Each seed trains the default `unpaired_sde`; its other ways of making pairs, all from one first coupling
for a few minutes each; UNIT-DDPM; and the thesis' setting with 10 and with 50 steps: about 55 minutes on
one core a seed, and what was stopped goes on. `--table` compares them with DDIB on held-out pictures; it
needs the judges of `recipes/domain_classifiers.py`, and for MNIST DDIB's model of `recipes/mnist.py`.
See also `unpaired_earth.py` and `unpaired_horse2zebra.py`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sfumato import compare, load, train
from sfumato.methods.registry import find

ENDS = "2", "3"
WAYS = (*ENDS, "source-to-target"), (*reversed(ENDS), "target-to-source")
DDIB = {"digits": "sfumato/digits", "mnist": "runs/mnist"}

THESIS: dict[str, Any] = {
    "pairing": "exact", "process": "vp", "prediction": "eps", "times": "uniform", "shared": False,
    "loop_solver": "euler_maruyama", "loop_spacing": "time", "warmup_batches": 0, "distil_batches": 0,
    "pseudo": "attached", "cycle": 10,
}  # fmt: skip
"""Algorithms 3 and 4 as printed, on the corrected grid; a network of 1 M parameters for each side."""

UNIT = {"process": "cosine", "prediction": "v", "times": "lognormal", "warmup_batches": 1200, "cycle": 1}
"""What suits few steps of a small network better than the paper's."""

PAIRINGS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "detached": (240, 16, {}),
    "one_step": (600, 16, {}),
    "auxiliary": (600, 16, {"distil_batches": 350}),
    "exact": (100, 4, {"cycle": 10, "pseudo": "attached"}),
}
"""Steps, batch and options of the other ways of making pairs, after the first coupling."""


def models(name: str, seed: int) -> None:
    """Trains every model of this seed; those that are complete are left as they are."""

    def fit(method: Any, label: str, steps: int, lr: float = 2e-3, **how: Any) -> Path:
        out = run(name, label, seed)
        train(
            method, [f"data/{name}/train/{d}" for d in ENDS], out, steps=steps, lr=lr, seed=seed,
            validation=[f"data/{name}/test/{d}" for d in ENDS], resume=True, **how,
        )  # fmt: skip
        return out

    fit("unpaired_sde", "default", 4500)
    first = fit("unpaired_sde", "first", 2200, options={"warmup_batches": 1500, "distil_batches": 700})
    for pairing, (steps, batch, options) in PAIRINGS.items():
        options = {"pairing": pairing, "warmup_batches": 0, "distil_batches": 0} | options
        method = find("unpaired_sde")(**options)
        method.load_state_dict(load(first).state_dict(), strict=False)  # translators are new
        torch.nn.init.zeros_(method.seen)
        fit(method, pairing, steps, 1e-3, batch=batch)
    fit("unit_ddpm", "unit", 1500, options=UNIT)
    for n in (10, 50):
        options = THESIS | {"loop_steps": n}
        fit("unpaired_sde", f"thesis_{n}", 2000 // n, 1e-3, batch=4, warmup=10, options=options)


def run(name: str, label: str, seed: int) -> Path:
    return Path(f"runs/unpaired/{name}_{label}_{seed}")


def table(name: str, seeds: Sequence[int]) -> None:
    """Both directions: all that was trained, DDIB, and the controls that `compare` adds."""
    for a, b, way in WAYS:
        entries = [
            f"label={label}-{seed} model={run(name, label, seed)} direction={way}"
            for label in ("default", "first", *PAIRINGS, "thesis_10", "thesis_50", "unit")
            for seed in seeds
        ]
        groups = {"groups": f"data/{name}/digits.csv:source"} if name == "digits" else {}
        compare(
            f"data/{name}/test/{a}", f"runs/compare_unpaired_{name}_{a}{b}",
            [*entries, f"ddib source={DDIB[name]}:{a} target={DDIB[name]}:{b}"],
            target=f"data/{name}/test/{b}", train=f"data/{name}/train/{b}",
            features=f"runs/judge_{name}", limit=80, **groups,
        )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(DDIB), metavar="digits|mnist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--table", action="store_true", help="compare what was trained")
    args = parser.parse_args()
    for name in args.names:
        for seed in () if args.table else args.seeds:
            models(name, seed)
        if args.table:
            table(name, args.seeds)
