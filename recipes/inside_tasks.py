"""What `recipes/inside.py` experiments on: pictures, how they become latents and pictures again, measures."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from inside_experiments import HALVES, SECTIONS, Section
from torch import Tensor

from sfumato import load
from sfumato.data.pictures import read_groups
from sfumato.diffusion.encode_decode import decode, encode
from sfumato.diffusion.guidance import Conditioned
from sfumato.evaluation.measures import land_water
from sfumato.evaluation.metrics import colour, hue, l2, label_parts

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from measure import images, load_classifier, neighbourhoods, some  # noqa: E402

BATCH, STEPS = 256, {"up": 14, "down": 10}
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


def digits(name: str, model: str, ends: tuple[str, str], judge: str, limit: int) -> Task:
    """Coloured digits, by the domains of a diffusion model."""
    a, b = (f"{model}:{end}" for end in ends)
    decoders = {
        f"by {end}": partial(coded, decode, f"{model}:{end}", "down") for end in reversed(ends)
    }
    title = f"{name}: {ends[0]} to {ends[1]}, DDIB with {a} and {b}"
    return digits_task(name, title, ends, judge, limit, partial(coded, encode, a, "up"), decoders)


def any_digit(model: str, ends: tuple[str, str], judge: str, limit: int) -> Task:
    """One model of all digits, as it denoises any domain; OTHER is a picture of the target."""
    own, b = f"{model}:*", f"{model}:{ends[1]}"
    decoders = {name: partial(coded, decode, f, "down")
                for name, f in ((f"by {ends[1]}", b), ("by the model of all digits", own))}  # fmt: skip
    title = f"digits: {ends[0]} to {ends[1]}, encoded by one model of all ten digits; OTHER is a {ends[1]}"
    up = partial(coded, encode, own, "up")
    return digits_task("digits", title, ends, judge, limit, up, decoders, target_other=True)


def unit(name: str, model: str, judge: str, limit: int) -> Task:
    """Digits by UNIT-DDPM; its latent is the pair of chains where the source is released, half way."""
    ends, steps, release = ("2", "3"), 40, 20
    part = load(model)
    chains: list[Any] = []

    def up(x: Tensor) -> Tensor:
        chains[:] = [part.chains(x, steps=steps, release_steps=release)]  # type: ignore[attr-defined]
        return chains[0].run(chains[0].start, chains[0].times[: release + 1])

    def down(z: Tensor) -> Tensor:
        chain, noise, out = chains[0], chains[0].noise.clone(), []
        for one in z.split(len(chain.source)):
            chain.noise = noise.clone()
            out.append(chain.run(one, chain.times[release:]).chunk(2, 1)[0])
        chain.noise = noise
        return torch.cat(out)

    title = f"{name}: 2 to 3, UNIT-DDPM of {model}, the pair half way down {steps} steps"
    task = digits_task(
        "digits", title, ends, judge, limit, up, {"by both chains": down}, train=False
    )
    own, other = task.named["OWN"], task.named["OTHER"]
    (b, a), (b2, a2) = own.chunk(2, 1), other.chunk(2, 1)
    task.named.update(RESULT=torch.cat([b2, a], 1), SOURCE=torch.cat([b, a2], 1))
    kept = [
        s
        for s in SECTIONS
        if "AWAY" not in s.settings[0].chain and "Blur the picture" not in s.title
    ]
    plain = [s._replace(settings=[c for c in s.settings if not c.first]) for s in kept]
    return task._replace(name=name, sections=[*plain, HALVES])


def digits_task(
    name: str, title: str, ends: tuple[str, str], judge: str, limit: int, up: Solve,
    decoders: dict[str, Solve], train: bool = True, target_other: bool = False,
) -> Task:  # fmt: skip
    a, b = ends
    x, names = images(f"data/{name}/test/{a}")
    x, names = x[some(len(x), limit)], [names[i] for i in some(len(names), limit)]
    says = judge_of(judge)
    real = images(f"data/{name}/test/{b}")[0]
    others = real if target_other else x
    angles = torch.stack([hue(x, one.expand_as(x)) for one in others])
    other = others[angles.argmax(0)]  # the picture of the most different colour
    z_other, z, ink = up(other), up(x), inked(x)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    mask = ink[:, None].expand_as(z) if z.shape == x.shape else ink[:, None]
    named = {"OWN": z, "OTHER": z_other, "NOISE": noise,
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
            "hue error": hue(y, x), "hue error to OTHER": hue(y, other),
            "hue from blue": hue(y, blue.expand_as(y)), "ink shared": shared(drawn, ink),
            "ink shared with OTHER": shared(drawn, inked(other)), "amount of ink": amount,
        }  # fmt: skip

    reference = (
        f"Judged by {judge}, which guides nobody: it calls {says(real).eq(int(b)).float().mean():.1%} of "
        f"{len(real)} real {b}s and {says(x).eq(int(b)).float().mean():.1%} of the {len(x)} sources a {b}."
    )
    table = f"data/{name}/digits.csv:source"
    paths = [Path(f"data/{name}/test/{a}/{n}") for n in names]
    groups = read_groups(table, names, paths=paths) if name == "digits" else names
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

    decoders = {
        f"by {end}": partial(coded, decode, f"sfumato/earth:{end}", "down") for end in (b, a)
    }
    title = f"earth: {a} to {b}, DDIB with sfumato/earth"
    copied = l2(x, truth).mean()
    reference = f"A plain copy has L2 {copied:.2f} to the truth; {len(x)} tiles, none trained on."
    sections = [s for s in SECTIONS if s.only in ("", "earth")]
    return Task(name, "earth", title, x, up[a], decoders, named, measure, neighbourhoods(names), reference,
                sections)  # fmt: skip


def coded(solve: Callable[..., Tensor], model: str, way: str, x: Tensor) -> Tensor:
    """Pictures to latents or back by a model's ODE; its domain * is any of them."""
    whole, _, domain = model.partition(":")
    f = Conditioned(denoiser=load(whole).denoiser) if domain == "*" else load(model)  # type: ignore[union-attr]
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
