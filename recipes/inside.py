"""What is in a latent: the founding slides' experiments, with two models and with one, measured.

    python recipes/inside.py [--out out/inside] [--tasks digits earth ...] [--limit 40]

Normalise, scale, add noise, blend, checkerboard, blur, rotate, translate and chains of them; what they lead
to: slerp, swapped frequencies, attribute directions.  Every latent is decoded by the target's model and, as
a control, by the model that encoded it.  Writes TASK.json for each task and inside.html of all; a task whose
file is there is not done again.  `recipes/inside_figures.py` draws the pictures of
docs/experiments/inside.md from them.

digits and earth need the shipped weights alone (`sfumato data digits data/digits`, `sfumato data earth
data/earth`); mnist and unit need models of `recipes/mnist.py`, `recipes/domain_classifiers.py` and
`recipes/unpaired.py`, and are left out with a message where these are missing.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from inside_experiments import HALVES, SECTIONS
from inside_tasks import STEPS, Task, any_digit, digits, earth, unit
from torch import Tensor

from sfumato.data import base64_png, tile
from sfumato.data.folders import write_text
from sfumato.evaluation.intervals import Interval, bootstrap_mean, bootstrap_sums
from sfumato.evaluation.metrics import mean_iou
from sfumato.evaluation.page import text
from sfumato.explore import apply, parse, report
from sfumato.explore.normality import summary

SHOWN = 4


def run(task: Task) -> dict[str, Any]:
    """Every setting of a task: pictures and numbers, as JSON."""
    prepared = []
    sections = [s for s in task.sections if s.only in ("", task.kind)]
    for section in sections:
        for setting in section.settings:
            x, z = task.x, task.named["OWN"]
            if setting.first:
                x = apply(setting.first, x)[0]
                z = task.encode(x)
            over = x.repeat(1, z.shape[1] // x.shape[1], 1, 1)  # a pair of chains holds it twice
            if setting.chain:
                z = apply(bound(setting.chain, task.named), z, over)[0]
            prepared.append((section.title, setting, z))
    every = torch.cat([z for _, _, z in prepared])
    decoded = {head: f(every).nan_to_num().clamp(-1, 1) for head, f in task.decoders.items()}
    out: dict[str, list[dict[str, Any]]] = {s.title: [] for s in sections}
    at = [int((i + 0.5) * len(task.x) / SHOWN) for i in range(SHOWN)]
    sheet = lambda x: base64_png(tile(x[at, :3].clamp(-1, 1), 2))
    for i, (title, setting, z) in enumerate(prepared):
        rows = slice(i * len(task.x), (i + 1) * len(task.x))
        known, pictures = summary(z), {head: y[rows] for head, y in decoded.items()}
        out[title].append({
            **setting._asdict(), "latent": sheet(z / 2.5),
            "statistics": {k: known[k] for k in ("std", "kurtosis", "autocorrelation")}
            | {"may be N(0, I)": sum(report(one).accepts for one in z) / len(z)},
            "pictures": {head: sheet(y) for head, y in pictures.items()},
            "numbers": {h: {k: interval(v, task.groups).to_json() for k, v in task.measure(y).items()
                            if relevant(k, setting.chain)} for h, y in pictures.items()},
        })  # fmt: skip
    return {
        "title": task.title, "reference": task.reference, "count": len(task.x), "source": sheet(task.x),
        "heads": list(task.decoders), "steps": STEPS,
        "sections": [{"title": s.title, "cells": out[s.title]} for s in sections],
        "versions": {n: version(n) for n in ("sfumato", "torch")},
    }  # fmt: skip


def bound(chain: str, named: dict[str, Tensor]) -> list[Any]:
    """A chain's operations with latents for their names."""
    return [op._replace(parameters={k: named.get(v, v) if isinstance(v, str) else v
                                    for k, v in op.parameters.items()}) for op in parse(chain)]  # fmt: skip


def relevant(measure: str, chain: str) -> bool:
    """Whether a measure says something of this chain."""
    return ("OTHER" not in measure or any(w in chain for w in ("OTHER", "RESULT", "SOURCE"))) and (
        "blue" not in measure or "AWAY" in chain)  # fmt: skip


def interval(values: Tensor, groups: Sequence[str]) -> Interval:
    """Mean over pictures, or IoU of pooled parts, with its bootstrap."""
    if values.ndim == 3:
        return bootstrap_sums(values, mean_iou, groups)
    return bootstrap_mean(values.double(), groups)


def page(tasks: dict[str, Any]) -> str:
    """The page of all tasks."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    texts = {s.title: s.text for s in (*SECTIONS, HALVES)}
    return environment.get_template("inside.html").render(tasks=tasks, texts=texts, text=text)


def main(args: argparse.Namespace) -> None:
    makes: dict[str, tuple[list[str], Callable[[], Task]]] = {
        "digits": (["data/digits"],
                   lambda: digits("digits", args.digits, ("5", "7"), args.judge, args.limit)),
        "any": (["data/digits"], lambda: any_digit(args.digits, ("5", "7"), args.judge, args.limit)),
        "earth": (["data/earth"], lambda: earth("earth", ("satellite", "relief"), args.limit)),
        "earth_back": (["data/earth"], lambda: earth("earth_back", ("relief", "satellite"), args.limit)),
        "mnist": (["data/mnist", args.mnist, args.mnist_judge],
                  lambda: digits("mnist", args.mnist, ("2", "3"), args.mnist_judge, args.limit)),
        "unit": (["data/digits", args.unit],
                 lambda: unit("unit", args.unit, args.judge, args.limit)),
    }  # fmt: skip
    began, tasks = time.perf_counter(), {}
    for name in args.tasks:
        needs, make = makes[name]
        file = args.out / f"{name}.json"
        if not file.exists() and (missing := [n for n in needs if not Path(n).exists()]):
            print(f"{name}: left out, {' and '.join(missing)} is not there")
            continue
        if not file.exists():
            cpu = time.process_time()
            with torch.no_grad():
                found = run(make())
            found["cpu minutes"] = (time.process_time() - cpu) / 60
            write_text(file, json.dumps(found, indent=1) + "\n")
        tasks[name] = json.loads(file.read_text())
        print(f"{name}: {tasks[name]['cpu minutes']:.1f} CPU minutes", flush=True)
    write_text(args.out / "inside.html", page(tasks))
    print(f"{args.out}/inside.html written after {(time.perf_counter() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("out/inside"))
    add("--tasks", nargs="+", default=["digits", "any", "earth", "earth_back", "mnist", "unit"])
    add("--limit", type=int, default=40, help="pictures of each task")
    add("--digits", default="sfumato/digits", help="model of the digits 5 and 7")
    add("--judge", default="benchmarks/digits_classifier.safetensors")
    add("--mnist", default="runs/mnist", help="model of MNIST's 2 and 3")
    add("--mnist-judge", default="runs/judge_mnist")
    add("--unit", default="runs/unpaired/digits_unit_0", help="UNIT-DDPM of the digits 2 and 3")
    main(parser.parse_args())
