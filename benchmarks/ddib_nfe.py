"""DDIB between two digits: solvers, grids and their cost against DDIM on the reference's grid.

    python benchmarks/ddib_nfe.py [--model sfumato/models/digits] [--from 2 --to 3] [--fast]

The baseline is DDIM as DDIB's authors run it: the discrete DDPM chain (T = 1000, linear betas)
respaced evenly, with the clean image as its own level 0 and the same levels both ways. Our network
knows only log(sigma/alpha), so it serves that chain by equal log-SNR. The chain is cut where the
model's noise ends and all its steps fall inside, which favours it.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import torch
from measure import (
    batched,
    colour_error,
    digit_sources,
    frechet,
    images,
    interval,
    load_classifier,
    rmse,
    some,
    write_result,
)
from torch import Tensor

from sfumato.checkpoints.model_folder import load
from sfumato.diffusion.integrate import integrate
from sfumato.diffusion.time_grids import grid
from sfumato.methods.ddib import DDIB
from sfumato.methods.sdedit import SDEdit

OURS = [
    *(("ab3", n, "karras") for n in (4, 6, 8, 11, 17, 24, 49)),
    *(("ab3", n, "log_snr") for n in (4, 6, 8, 11, 17, 24, 49)),
    *(("ab2", n, "karras") for n in (6, 12, 25, 50)),
    *(("dpm2m", n, "karras") for n in (6, 12, 25, 50)),
    *(("heun", n, "karras") for n in (4, 6, 12, 25)),
    *(("ddim", n, "karras") for n in (6, 12, 25, 50)),
]


def solve(f, x: Tensor, solver: str, times: Tensor, counter: list[int]) -> Tensor:
    """Carries images up (rising times) or latents down, along u = x/alpha at the ends."""
    (a0, _), (a1, _) = f.process.at(times[0], x), f.process.at(times[-1], x)
    up = bool(times[-1] > times[0])

    def watch(t, x, mean, extras):
        counter[0] += extras["nfe"]

    x = integrate(solver, f, a0 * x if up else x, times, watch=watch)
    return x if up else x / a1


def bridge(source, target, x: Tensor, solver: str, times: Tensor) -> tuple[Tensor, int]:
    """Source images to target images, and the evaluations counted."""
    counter = [0]
    with torch.no_grad():
        latent = solve(source, x, solver, times.flip(0), counter)
        return solve(target, latent, solver, times, counter), counter[0]


def reference_grid(process, steps: int) -> Tensor:
    """The DDPM chain: `steps` of its levels and then level 0, so `steps` steps each way."""
    return torch.cat([grid(process, steps - 1, "chain"), torch.zeros(1, dtype=torch.float64)])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--model", default="sfumato/models/digits")
    p.add_argument("--data", default="data/digits")
    p.add_argument("--from", dest="a", default="2")
    p.add_argument("--to", dest="b", default="3")
    p.add_argument("--limit", type=int, default=150, help="images at most")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--fast", action="store_true", help="4 images, few rows: a rehearsal")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    source, target = load(f"{args.model}:{args.a}"), load(f"{args.model}:{args.b}")
    process, judge = source.process, load_classifier()
    x, names = images(f"{args.data}/test/{args.a}")
    chosen = some(len(x), 4 if args.fast else args.limit)
    x, groups = x[chosen], digit_sources([names[i] for i in chosen])
    real = judge.features(images(f"{args.data}/train/{args.b}")[0])
    floor = frechet(judge.features(images(f"{args.data}/test/{args.b}")[0]), real)
    right = int(args.b)

    # the converged solution, by two solvers and two resolutions
    n = 40 if args.fast else 200
    truth, nfe = bridge(source, target, x, "ab3", grid(process, n, "karras"))
    chain = reference_grid(process, 250)
    others = {
        f"ab3, {n // 2} steps, karras": ("ab3", grid(process, n // 2, "karras")),
        f"heun, {n // 2} steps, log_snr": ("heun", grid(process, n // 2, "log_snr")),
        f"ab3, {n} steps between the chain's ends, levels 1 and up":
            ("ab3", grid(process, n, start=chain[0].item(), stop=chain[-2].item())),
    }  # fmt: skip
    checks = []
    for name, (solver, times) in others.items():
        y, _ = bridge(source, target, x, solver, times)
        checks.append({"check": name, "RMSE to the converged solution": rmse(y, truth)})

    def score(
        name: str,
        y: Tensor,
        nfe: int | None,
        seconds: float | None,
        there_back: Tensor | None = None,
    ) -> dict[str, object]:
        correct = (judge.says(y) == right).float()
        hue, rgb = colour_error(x, y)
        error = (y - truth).square().mean((1, 2, 3))
        own = y is truth
        return {
            "solver": name, "NFE": nfe,
            "RMSE": None if own or nfe is None else error.mean().sqrt().item(),
            "95 %": None if own or nfe is None
            else interval(lambda i: error[i].mean().sqrt().item(), groups),
            "round trip": None if there_back is None else rmse(there_back, x),
            "accuracy": correct.mean().item(),
            "accuracy 95 %": interval(lambda i: correct[i].mean().item(), groups),
            "hue error": hue.median().item(), "RGB error": rgb.mean().item(),
            "FD": frechet(judge.features(y), real), "s/image": seconds,
        }  # fmt: skip

    def run(name: str, solver: str, times: Tensor) -> dict:
        start = time.perf_counter()
        y, nfe = bridge(source, target, x, solver, times)
        seconds = (time.perf_counter() - start) / len(x)
        back, _ = bridge(target, source, y, solver, times)
        print(f"{name}  {nfe}  {rmse(y, truth):.4f}", file=sys.stderr, flush=True)
        return score(name, y, nfe, seconds, back)

    back, _ = bridge(target, source, truth, "ab3", grid(process, n, "karras"))
    rows = [
        score("copy of the source", x, None, None),
        score(f"converged: ab3, {n} steps", truth, nfe, None, back),
    ]
    for k in (10, 250) if args.fast else (50, 100, 250):
        steps = f"DDIM, {k} + {k}, reference's grid"
        rows.append(run(steps, "ddim", reference_grid(process, k)))
    for solver, k, spacing in OURS[:: 8 if args.fast else 1]:
        rows.append(run(f"{solver}, {k} steps, {spacing}", solver, grid(process, k, spacing)))

    # the method as users call it
    ddib = DDIB(source=source, target=target)
    counter: list[int] = []
    start = time.perf_counter()
    y = ddib.translate(x, as_is=True, watch=lambda t, x, mean, extras: counter.append(extras["nfe"]))
    seconds = (time.perf_counter() - start) / len(x)
    back = ddib.round_trip(x, as_is=True)
    default = score("**DDIB.translate, its defaults**", y, sum(counter), seconds, back)
    rows.append(default)

    edits = []
    for strength in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        y = SDEdit(target=target).translate(x, as_is=True, strength=strength)
        row = score(f"SDEdit, strength {strength}", y, 20, None)
        edits.append({k: v for k, v in row.items() if k not in ("RMSE", "95 %", "round trip")})

    # every test digit to one other digit, chosen by chance
    totals = [0, 0]
    rng = torch.Generator().manual_seed(0)
    for a in range(10):
        pictures, _ = images(f"{args.data}/test/{a}")
        pictures = pictures[:1] if args.fast else pictures
        other = (a + torch.randint(1, 10, (len(pictures),), generator=rng)) % 10
        for b in other.unique().tolist():
            pair = DDIB(source=load(f"{args.model}:{a}"), target=load(f"{args.model}:{b}"))
            said = judge.says(batched(partial(pair.translate), pictures[other == b]))
            totals[0] += int((said == b).sum())
            totals[1] += len(said)

    # directions on whose test pictures no default was chosen
    elsewhere = []
    for a, b in (("3", "2"), ("1", "7"), ("9", "4"), ("0", "6"), ("5", "8")):
        pair = load(f"{args.model}:{a}"), load(f"{args.model}:{b}")
        pictures, files = images(f"{args.data}/test/{a}")
        some_of = some(len(pictures), 2 if args.fast else 40)
        pictures, theirs = pictures[some_of], digit_sources([files[i] for i in some_of])
        converged, _ = bridge(*pair, pictures, "ab3", grid(process, n, "karras"))
        ours = DDIB(source=pair[0], target=pair[1]).translate(pictures, as_is=True)
        chained, _ = bridge(*pair, pictures, "ddim", reference_grid(process, 250))
        e, f = ((y - converged).square().mean((1, 2, 3)) for y in (ours, chained))
        elsewhere.append({
            "direction": f"{a} -> {b}", "pictures": len(pictures),
            "RMSE, default": e.mean().sqrt().item(),
            "RMSE, DDIM 250 + 250": f.mean().sqrt().item(),
            "ratio 95 %": interval(
                lambda i: (e[i].mean() / f[i].mean()).sqrt().item(), theirs  # noqa: B023
            ),
        })  # fmt: skip

    base = next(r for r in rows if "250 + 250" in str(r["solver"]))
    verdict = (
        f"The default takes {default['NFE']} evaluations in all and has RMSE {default['RMSE']:.4f} "
        f"to the converged solution; DDIM 250 + 250 takes {base['NFE']} and has {base['RMSE']:.4f}: "
        f"{base['NFE'] / default['NFE']:.1f} times fewer evaluations at "
        f"{default['RMSE'] / base['RMSE']:.2f} times its error."
    )
    write_result(
        "ddib_nfe" if not args.fast else "rehearsal_ddib_nfe",
        f"DDIB {args.a} -> {args.b}: evaluations and error",
        verdict,
        f"{len(x)} held-out pictures of {len(set(groups))} handwritten digits, model "
        f"`{Path(args.model).name}`. NFE: network evaluations an image, both directions, counted. "
        f"RMSE: to the converged solution of the same model, in [-1, 1]; round trip: {args.a} -> "
        f"{args.b} -> {args.a} against the source. Accuracy: of a separately trained classifier "
        "(recipes/digits_classifier.py). Intervals: bootstrap over handwritten digits. Colour: mean "
        "RGB of the pixels whose largest channel exceeds 1/2, source against result: hue error is "
        "the median difference of hue angle in degrees, RGB error the mean distance with channels in "
        "[0, 1]. FD: Frechet distance in the classifier's 64 features to the real training "
        f"{args.b}s (real test {args.b}s: {floor:.3g}); at so few images only large differences mean "
        "anything.",
        rows,
        "How far the converged solution is converged, and what the ends of the chain change:",
        checks,
        "Other directions, the default (24 evaluations) against DDIM 250 + 250 (500):",
        elsewhere,
        "SDEdit, 20 steps, for comparison (noise from the seed, strength is the time noised to):",
        edits,
        f"All test digits, each to one other digit chosen by chance, DDIB's defaults: accuracy "
        f"{totals[0] / totals[1]:.3f} ({totals[0]} of {totals[1]}).",
    )  # fmt: skip


if __name__ == "__main__":
    main()
