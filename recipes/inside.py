"""What is in a latent: the founding slides' experiments, with two models and with one, measured.

    python recipes/inside.py [--out out/inside] [--tasks digits earth ...] [--limit 40]

Normalise, scale, add noise, blend, checkerboard, blur, rotate, translate and chains of them; what they lead
to: slerp, swapped frequencies, attribute directions.  Every latent is decoded by the target's model and, as
a control, by the model that encoded it.  Writes TASK.json for each task and inside.html of all; a task whose
file is there is not done again.  `recipes/inside_figures.py` draws the pictures of docs/inside.md from them.

digits and earth need the shipped weights alone (`sfumato data digits data/digits`, `sfumato data earth
data/earth`); mnist and unit need models of `recipes/mnist.py`, `recipes/domain_classifiers.py` and
`recipes/unpaired.py`, and are left out with a message where these are missing.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from inside_experiments import HALVES, SECTIONS, Section
from torch import Tensor

from sfumato import load
from sfumato.data import base64_png, tile
from sfumato.data.folders import write_text
from sfumato.evaluate.intervals import Interval, bootstrap_mean, bootstrap_sums
from sfumato.evaluate.measures import land_water
from sfumato.evaluate.metrics import colour, hue, l2, label_parts, mean_iou
from sfumato.evaluate.page import text
from sfumato.evaluate.pictures import read_groups
from sfumato.explore import apply, parse, report
from sfumato.explore.gaussianity import summary
from sfumato.solve.bridge import decode, encode

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from measure import images, load_classifier, neighbourhoods, some  # noqa: E402

BATCH, STEPS, SHOWN = 256, {"up": 14, "down": 10}, 4
Solve = Callable[[Tensor], Tensor]
Values = dict[str, Tensor]


class Task(NamedTuple):
    """A pair of domains: pictures, how they become latents and these pictures, and what is measured."""

    name: str
    kind: str
    title: str
    x: Tensor
    encode: Solve
    decoders: dict[str, Solve]
    named: dict[str, Tensor]
    measure: Callable[[Tensor], Values]
    groups: list[str]
    reference: str
    sections: Sequence[Section]


# ---- tasks --------------------------------------------------------------------------------------


def digits(name: str, model: str, ends: tuple[str, str], judge: str, limit: int) -> Task:
    """Coloured digits, by the domains of a diffusion model."""
    up, down = (f"{model}:{end}" for end in ends)
    return digits_task(name, f"{name}: {ends[0]} to {ends[1]}, DDIB with {up} and {down}", ends, judge,
                       limit, partial(coded, encode, up, "up"),
                       {f"by {end}": partial(coded, decode, f"{model}:{end}", "down")
                        for end in reversed(ends)})  # fmt: skip


def unit(name: str, model: str, judge: str, limit: int) -> Task:
    """Digits by UNIT-DDPM; its latent is the pair of chains where the source is released, half way."""
    ends, steps, release = ("2", "3"), 40, 20
    part = load(model)
    chains: list[Any] = []

    def up(x: Tensor) -> Tensor:
        chains[:] = [part.chains(x, steps=steps, release=release)]  # type: ignore[attr-defined]
        return chains[0].run(chains[0].start, chains[0].times[: release + 1])

    def down(z: Tensor) -> Tensor:
        chain, noise, out = chains[0], chains[0].noise.clone(), []
        for one in z.split(len(chain.source)):
            chain.noise = noise.clone()
            out.append(chain.run(one, chain.times[release:]).chunk(2, 1)[0])
        chain.noise = noise
        return torch.cat(out)

    title = f"{name}: 2 to 3, UNIT-DDPM of {model}, the pair half way down {steps} steps"
    task = digits_task("digits", title, ends, judge, limit, up, {"by both chains": down}, train=False)
    own, other = task.named["OWN"], task.named["OTHER"]
    (b, a), (b2, a2) = own.chunk(2, 1), other.chunk(2, 1)
    task.named.update(RESULT=torch.cat([b2, a], 1), SOURCE=torch.cat([b, a2], 1))
    kept = [s for s in SECTIONS if "AWAY" not in s.settings[0].chain and "Blur the picture" not in s.title]
    plain = [s._replace(settings=[c for c in s.settings if not c.first]) for s in kept]
    return task._replace(name=name, sections=[*plain, HALVES])


def digits_task(
    name: str, title: str, ends: tuple[str, str], judge: str, limit: int, up: Solve,
    decoders: dict[str, Solve], train: bool = True,
) -> Task:  # fmt: skip
    a, b = ends
    x, names = images(f"data/{name}/test/{a}")
    x, names = x[some(len(x), limit)], [names[i] for i in some(len(names), limit)]
    says = judge_of(judge)
    angles = torch.stack([hue(x, one.expand_as(x)) for one in x])
    other = angles.argmax(0)  # the picture of the most different colour
    z, ink = up(x), inked(x)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    mask = ink[:, None].expand_as(z) if z.shape == x.shape else ink[:, None]
    named = {"OWN": z, "OTHER": z[other], "NOISE": noise,
             "INK": torch.where(mask, z, noise), "GROUND": torch.where(mask, noise, z)}  # fmt: skip
    blue = torch.tensor([-1.0, -1, 1])[:, None, None]
    if train:
        some_x = images(f"data/{name}/train/{a}")[0]
        some_x = some_x[some(len(some_x), 300)]
        near, latents = hue(some_x, blue.expand_as(some_x)) < 40, up(some_x)
        named |= {"TOWARDS": latents[near], "AWAY": latents[~near]}

    def measure(y: Tensor) -> Values:
        said, drawn = says(y), inked(y)
        amount = drawn.sum((1, 2)) / ink.sum((1, 2)).clamp(min=1)
        return {
            f"share of {b}s": said == int(b), f"share of {a}s": said == int(a),
            "hue error": hue(y, x), "hue error to OTHER": hue(y, x[other]),
            "hue from blue": hue(y, blue.expand_as(y)), "ink shared": shared(drawn, ink),
            "ink shared with OTHER": shared(drawn, ink[other]), "amount of ink": amount,
        }  # fmt: skip

    real = images(f"data/{name}/test/{b}")[0]
    reference = (
        f"Judged by {judge}, which guides nobody: it calls {says(real).eq(int(b)).float().mean():.1%} of "
        f"{len(real)} real {b}s and {says(x).eq(int(b)).float().mean():.1%} of the {len(x)} sources a {b}."
    )
    table = f"data/{name}/digits.csv:source"
    groups = read_groups(table, names) if name == "digits" else names
    return Task(name, "digits", title, x, up, decoders, named, measure, groups, reference, SECTIONS)


def earth(name: str, ends: tuple[str, str], limit: int) -> Task:
    """Tiles of the Earth; the truth is known, and scores only."""
    a, b = ends
    every = sorted(p.name for p in Path(f"data/earth/test/{a}").iterdir())
    names = [every[i] for i in some(len(every), limit)]
    x, truth = (images(f"data/earth/test/{end}", names)[0] for end in ends)
    up = {end: partial(coded, encode, f"sfumato/earth:{end}", "up") for end in ends}
    z, other = up[a](x), torch.arange(len(x)).roll(len(x) // 2)
    groups = {}
    for end, key in ((a, "AWAY"), (b, "TOWARDS")):
        files = sorted(p.name for p in Path(f"data/earth/train/{end}").iterdir())
        tiles = [files[i] for i in some(len(files), 200, seed=len(end))]  # no pairs
        groups[key] = up[end](images(f"data/earth/train/{end}", tiles)[0])
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    named = {"OWN": z, "OTHER": z[other], "NOISE": noise, **groups}

    def measure(y: Tensor) -> Values:
        out = {"L2 to truth": l2(y, truth), "colour error to truth": colour(y, truth),
               "L2 to source": l2(y, x), "L2 to OTHER's truth": l2(y, truth[other])}  # fmt: skip
        if b == "relief":
            water = land_water(y)
            out |= {"land-water IoU": label_parts(water, land_water(truth)),
                    "land-water IoU to OTHER": label_parts(water, land_water(truth[other]))}  # fmt: skip
        return out

    decoders = {f"by {end}": partial(coded, decode, f"sfumato/earth:{end}", "down") for end in (b, a)}
    title = f"earth: {a} to {b}, DDIB with sfumato/earth"
    copied = l2(x, truth).mean()
    reference = f"A plain copy has L2 {copied:.2f} to the truth; {len(x)} tiles, none trained on."
    sections = [s for s in SECTIONS if s.only in ("", "earth")]
    return Task(name, "earth", title, x, up[a], decoders, named, measure, neighbourhoods(names), reference,
                sections)  # fmt: skip


def coded(solve: Callable[..., Tensor], model: str, way: str, x: Tensor) -> Tensor:
    """Pictures to latents or back by a model's ODE."""
    f = load(model)
    return torch.cat([solve(f, part, steps=STEPS[way]) for part in x.split(BATCH)])


def judge_of(name: str) -> Callable[[Tensor], Tensor]:
    """Pictures to the digits that a classifier sees."""
    if name.endswith(".safetensors"):
        return load_classifier(ROOT / name).says
    net = load(name).eval()
    digits = torch.tensor([int(d) for d in net.domains])  # type: ignore[union-attr, arg-type]
    return lambda y: digits[net(y.clamp(-1, 1), net.process.t_min).argmax(1)]


def inked(x: Tensor) -> Tensor:
    """Where (B, H, W) the largest channel is above one half of its range."""
    return x.amax(1) > 0


def shared(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of masks; 0 where both are empty."""
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)


# ---- running ------------------------------------------------------------------------------------


def run(task: Task) -> dict[str, Any]:
    """Every setting of a task: pictures and numbers, as JSON."""
    began, prepared = time.process_time(), []
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
        "heads": list(task.decoders), "steps": STEPS, "cpu minutes": (time.process_time() - began) / 60,
        "sections": [{"title": s.title, "text": s.text, "cells": out[s.title]} for s in sections],
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
    return environment.get_template("inside.html").render(tasks=tasks, text=text)


def main(args: argparse.Namespace) -> None:
    makes: dict[str, tuple[list[str], Callable[[], Task]]] = {
        "digits": (["data/digits"],
                   lambda: digits("digits", args.digits, ("5", "7"), args.judge, args.limit)),
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
            with torch.no_grad():
                write_text(file, json.dumps(run(make()), indent=1) + "\n")
        tasks[name] = json.loads(file.read_text())
        print(f"{name}: {tasks[name]['cpu minutes']:.1f} CPU minutes", flush=True)
    write_text(args.out / "inside.html", page(tasks))
    print(f"{args.out}/inside.html written after {(time.perf_counter() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("out/inside"))
    add("--tasks", nargs="+", default=["digits", "earth", "earth_back", "mnist", "unit"])
    add("--limit", type=int, default=40, help="pictures of each task")
    add("--digits", default="sfumato/digits", help="model of the digits 5 and 7")
    add("--judge", default="benchmarks/digits_classifier.safetensors")
    add("--mnist", default="runs/mnist", help="model of MNIST's 2 and 3")
    add("--mnist-judge", default="runs/judge_mnist")
    add("--unit", default="runs/unpaired/digits_unit_0", help="UNIT-DDPM of the digits 2 and 3")
    main(parser.parse_args())
