"""Every trained method on one budget: the same time, and the same number of pictures.

    python recipes/budget.py digits|earth|earth_pairs|horse2zebra [--methods cut ddib]
    python recipes/budget.py digits|earth|earth_pairs|horse2zebra --table

Two models a method: one trained on as many pictures of each domain as every other (28,000 of 32 pixels,
10,400 of 64), and one that goes on from there until it has had as long on one core as every other (about
20 minutes, and 30; half of both for digits and horses).  The steps are fixed below, so that a run can be
repeated; what they took is measured and written beside the model (`spent.json`).  `--table` compares all
on held-out pictures with the controls.  What was stopped goes on with the same command.
"""

import argparse
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from unpaired import UNIT
from unpaired_earth import OPTIONS as CHROMA
from unpaired_earth import hide_pairs
from unpaired_horse2zebra import hold_out

from sfumato import compare, train

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
RUNS = Path("runs/budget")
PICTURES = {32: 28_000, 64: 10_400}


@dataclass
class Data:
    """Two domains, where they are, and for how long methods learn from them."""

    ends: tuple[str, str]
    train: str
    test: str
    how: dict[str, Any] = field(default_factory=dict)
    compare: dict[str, Any] = field(default_factory=dict)
    ddib: dict[str, str] = field(default_factory=dict)
    norm: str = "batch"
    """Of CycleGAN and CUT; the papers' instance norm paints over pictures of one colour."""
    cut: dict[str, Any] = field(default_factory=dict)
    sde: dict[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ("fd", "task", "truth/l2", "diversity")
    share: float = 1.0
    """Of the budget."""


DATA = {
    "digits": Data(
        ("2", "3"), "data/digits/train", "data/digits/test",
        compare={"features": "runs/judge_digits", "groups": "data/digits/digits.csv:source"}, share=0.5,
        columns=("domain", "fd", "source/hue", "diversity"),
    ),
    "earth": Data(
        ("satellite", "relief"), "data/earth_hidden", "data/earth/test",
        compare={"truth": "data/earth/test/relief", "task": "relief_water"},
        ddib={"recentre_means": "true"}, sde=CHROMA, cut={"lambda_nce": 0.5},
    ),
    "earth_pairs": Data(
        ("satellite", "relief"), "data/earth/train", "data/earth/test",
        compare={"truth": "data/earth/test/relief", "task": "relief_water"},
    ),
    "horse2zebra": Data(
        ("horse", "zebra"), "data/horse2zebra12/train", "data/horse2zebra12/test",
        how={"size": 64, "flip": True}, compare={"size": 64}, share=0.5,
        columns=("fd", "kid", "source/l2", "diversity"), norm="instance",
        sde={"coarse_cells": 16, "coarse_noise": 0.25, "buffer": 512},
    ),
}  # fmt: skip


@dataclass
class Method:
    """How a method is trained; `steps` are those of the equal time, at 32 and at 64 pixels."""

    name: str
    steps: dict[int, int]
    batch: dict[int, int]
    options: Callable[[int, Data], dict[str, Any]] = lambda steps, data: {}
    how: dict[str, Any] = field(default_factory=dict)


def patches(steps: int, data: Data) -> dict[str, Any]:
    return {"num_patches": 64, "norm": data.norm}


def cut(steps: int, data: Data) -> dict[str, Any]:
    return patches(steps, data) | data.cut


GAN: dict[str, Any] = {"lr": 1e-3, "ema": 0.99}
"""More than the papers' 2e-4, and averaged weights: for ten thousand steps instead of a million."""

OT: dict[str, Any] = {"lr": 5e-4, "beta1": 0.5, "ema": 0.999, "schedule": "linear"}
"""Averaged for longer: map and potential circle each other."""
NEAR = {"k_t": 2}
"""With the potential's slope limited (`reach`), it need not wait long for the map."""

METHODS = {
    "cyclegan": Method(
        "cyclegan", {32: 11000, 64: 4400}, {32: 4, 64: 4},
        # without the blur a grid shows
        lambda steps, data: {"antialias": True, "norm": data.norm}, GAN,
    ),
    "cut": Method("cut", {32: 14000, 64: 7600}, {32: 4, 64: 4}, cut, GAN),
    "fastcut": Method("fastcut", {32: 18000, 64: 11000}, {32: 4, 64: 4}, patches, GAN),
    "neural_ot": Method(
        "neural_ot", {32: 9000, 64: 4800}, {32: 16, 64: 8}, lambda steps, data: NEAR, OT,
    ),
    "neural_ot, weak": Method(
        "neural_ot", {32: 1900, 64: 1000}, {32: 16, 64: 8},
        lambda steps, data: NEAR | {"cost": "weak", "z_size": 4, "gamma_warmup": steps // 24},
        OT,
    ),
    "entropic_ot": Method(
        "entropic_ot", {32: 5000, 64: 3600}, {32: 16, 64: 8},
        # every step through the SDE costs three networks; of more noise more remains after so few steps
        lambda steps, data: NEAR | {"n_steps": 2, "epsilon": 0.002, "epsilon_warmup": steps // 30},
        OT | {"lr": 1e-3},
    ),
    "unpaired_sde": Method(
        "unpaired_sde", {32: 6500, 64: 6000}, {32: 16, 64: 8},
        lambda steps, data: data.sde | {"warmup_batches": steps // 3, "distil_batches": steps // 3},
    ),
    "unit_ddpm": Method(
        "unit_ddpm", {32: 4000, 64: 2000}, {32: 16, 64: 8},
        lambda steps, data: UNIT | {"warmup_batches": 4 * steps // 5},
    ),
    "ddib": Method("diffusion", {32: 10000, 64: 4600}, {32: 32, 64: 16}),
    "pix2pix": Method(
        "pix2pix", {32: 14000}, {32: 16}, how={"lr": 5e-4, "ema": 0.999, "jitter": 0.12},
    ),
    "paired_sde": Method("paired_sde", {32: 10000}, {32: 16}),
}  # fmt: skip


ASKED = {
    "schroedinger_bridge": Method(
        "schroedinger_bridge", {32: 3800}, {32: 16}, lambda steps, data: {"warmup_batches": 1333},
    ),
    "flow_matching": Method("flow_matching", {32: 7000}, {32: 16}),
}  # fmt: skip
"""Trained and compared only where `--methods` names them, as those below."""


def by_law(method: Method, law: str) -> Method:
    """The same method with another law of training times."""
    return replace(method, options=lambda steps, data: method.options(steps, data) | {"times": law})


LAWS = {
    f"{name}, {law}": by_law(METHODS[name], law)
    for name in ("ddib", "unpaired_sde", "unit_ddpm") for law in ("lognormal", "wide", "uniform")
}  # fmt: skip


def methods(data: str) -> list[str]:
    pairs = ["pix2pix", "paired_sde"]
    if data == "earth_pairs":
        return pairs
    out = [*pairs, *([] if data == "digits" else ["neural_ot, weak"])]
    return [m for m in METHODS if m not in out + ([] if data == "digits" else ["unit_ddpm"])]


def run(data: str, method: str, budget: str) -> Path:
    return RUNS / f"{data}_{method.replace(', ', '_')}_{budget}"


def fit(name: str, method: str, budget: str) -> None:
    """Trains one model and notes what it took; one that has its steps stays as it is."""
    data, how, out = DATA[name], (METHODS | ASKED | LAWS)[method], run(name, method, budget)
    side = data.how.get("size", 32)
    batch, most = how.batch[side], int(how.steps[side] * data.share)
    steps = most if budget == "time" else int(PICTURES[side] * data.share) // batch
    note = out / "spent.json"
    spent = json.loads(note.read_text()) if note.exists() else {"cpu minutes": 0.0, "steps": 0}
    if spent["steps"] >= steps:
        return
    if budget == "time" and not note.exists():  # goes on with the model of equal pictures
        fit(name, method, "pictures")
        before = run(name, method, "pictures")
        spent = json.loads((before / "spent.json").read_text())
        if not out.exists():
            shutil.copytree(before, out, ignore=shutil.ignore_patterns("spent.json"))
    start = time.process_time()
    train(
        how.name, [f"{data.train}/{end}" for end in data.ends], out, steps=steps, batch=batch,
        options=how.options(most, data), held_out=0, seed=0, resume=True, preview_every=most // 4,
        **data.how, **how.how,
    )  # fmt: skip
    spent |= {"steps": steps, "batch": batch, "pictures": steps * batch}
    spent["cpu minutes"] += (time.process_time() - start) / 60
    note.write_text(json.dumps(spent) + "\n")


def entry(name: str, method: str, budget: str) -> str:
    """The line of `compare` for a trained model."""
    data, out = DATA[name], run(name, method, budget)
    label = shlex.quote(f"label={method}, equal {budget}")
    if not method.startswith("ddib"):
        return f"{label} model={out}"
    a, b = data.ends
    more = " ".join(f"{k}={v}" for k, v in data.ddib.items())
    return f"ddib {label} source={out}:{a} target={out}:{b} {more}"


def linear(data: Data) -> Path:
    """Linear regression of each pixel's colour, as a folder of results."""
    from earth_paired import Linear
    from measure import images

    from sfumato.data import write_png

    out = RUNS / "linear"
    if not out.exists():
        a, b = (images(f"{data.train}/{end}")[0] for end in data.ends)
        x, names = images(f"{data.test}/{data.ends[0]}")
        out.mkdir(parents=True)
        for name, y in zip(names, Linear(a, b, 1)(x).clamp(-1, 1), strict=True):
            write_png(out / name, y)
    return out


def table(name: str, only: list[str], picture_file: str | None) -> None:
    """Compares what was trained, with the controls, and prints what docs/experiments/one-budget.md shows."""
    from budget_page import markdown, picture

    data = DATA[name]
    a, b = data.ends
    entries = {
        f"{m}, equal {budget}": entry(name, m, budget)
        for budget in ("time", "pictures") for m in only if (run(name, m, budget) / "spent.json").exists()
    }  # fmt: skip
    more = [f"'label=linear regression' folder={linear(data)}"] if name == "earth_pairs" else []
    sources = {"": data.test} | ({"_trained": data.train} if name == "horse2zebra" else {})
    for label, folder in sources.items():
        found = compare(
            f"{folder}/{a}", f"{RUNS}/compare_{name}{label}", [*entries.values(), *more],
            target=f"{folder}/{b}", seeds=2,
            **({} if label else {"train": f"{data.train}/{b}"}), **data.compare,
        )  # fmt: skip
        print(markdown(found, data.columns, lambda row: spent_of(name, row)))
        if picture_file and not label:
            real = [
                s.fitted(found.judge.size) for s in (found.judge.source, found.judge.truth) if s
            ]
            picture(
                Path(picture_file), found, real, [e for e in entries if e.endswith("equal time")]
            )


def spent_of(name: str, label: str) -> Path | None:
    """Where it stands what the model of this row took; None for what was not trained here."""
    method, _, budget = label.rpartition(", equal ")
    return run(name, method, budget) / "spent.json" if method else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=list(DATA))
    parser.add_argument("--methods", nargs="*", default=[])
    parser.add_argument("--budgets", nargs="*", default=["time", "pictures"])
    parser.add_argument("--share", type=float, help="of the budget, instead of the usual")
    parser.add_argument("--table", action="store_true", help="compare what was trained")
    parser.add_argument("--picture", help="with --table: write rows of results here, as PNG")
    args = parser.parse_args()
    only = args.methods or methods(args.data)
    torch.set_num_threads(1)
    if args.share:
        DATA[args.data].share = args.share
    if args.data == "earth" and not Path("data/earth_hidden").exists():
        hide_pairs(Path("data/earth_hidden"))
    if args.data == "horse2zebra" and not Path("data/horse2zebra12").exists():
        hold_out(12, Path("data/horse2zebra12"))
    for budget in () if args.table else args.budgets:
        for method in only:
            fit(args.data, method, budget)
    if args.table:
        table(args.data, only, args.picture)
