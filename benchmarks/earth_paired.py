"""Paired translation satellite -> shaded relief on a region held out, against four baselines.

    python benchmarks/earth_paired.py [--model sfumato/models/earth_pairs] [--tiles 400] [--fast]

A sample of a right posterior has sqrt(2) times the error of the posterior's mean, so RMSE judges
the mean of 16 samples; single samples are judged by how their textures are distributed and by where
they put water.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from measure import (
    batched,
    frechet,
    images,
    intersection_over_union,
    interval,
    neighbourhoods,
    rmse,
    some,
    water,
    write_result,
)
from torch import Tensor
from torch.nn import functional as F

from sfumato.checkpoints.model_folder import load
from sfumato.data import tile, write_png
from sfumato.methods.paired_sde import PairedSDE

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))
SOLVERS = [
    *(("dpm2m", n, "karras") for n in (10, 18, 50)),
    *(("ab3", n, "karras") for n in (10, 18, 50)),
    *(("sde_dpm2m", n, "karras") for n in (18, 50)),
    *(("ancestral", n, "karras") for n in (18, 50, 100)),
    *(("euler_maruyama", n, "time") for n in (18, 50, 100)),
]


class Linear:
    """Least squares of target pixels on the side x side neighbourhood of source pixels, and 1."""

    def __init__(self, source: Tensor, target: Tensor, side: int) -> None:
        self.side, gram, right = side, 0.0, 0.0
        for x, y in zip(source.split(256), target.split(256), strict=True):
            design = self.design(x)
            gram = gram + design.T @ design
            right = right + design.T @ y.permute(0, 2, 3, 1).reshape(-1, 3).double()
        self.matrix = torch.linalg.solve(gram, right)

    def design(self, x: Tensor) -> Tensor:
        r = self.side // 2
        near = F.unfold(F.pad(x, (r, r, r, r), mode="replicate"), self.side).mT.flatten(0, 1)
        return torch.cat([near, torch.ones(len(near), 1)], 1).double()

    def __call__(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        y = (self.design(x) @ self.matrix).float()
        return y.reshape(b, h, w, 3).permute(0, 3, 1, 2)


def features(x: Tensor) -> Tensor:
    """20 numbers an image on [0, 1]: see FEATURES."""
    u = (x.clamp(-1, 1) + 1) / 2
    flat = u.flatten(2)
    centred = flat - flat.mean(2, keepdim=True)
    cov = centred @ centred.mT / flat.shape[2]
    moments = [flat.mean(2), cov.diagonal(dim1=1, dim2=2).sqrt()]
    moments += [torch.stack([cov[:, 0, 1], cov[:, 0, 2], cov[:, 1, 2]], 1)]
    bands, fine = [], u
    for _ in range(3):
        coarse = F.avg_pool2d(fine, 2)
        rest = fine - F.interpolate(coarse, scale_factor=2, mode="bilinear")
        bands.append((rest.square().mean((2, 3)) + 1e-5).log())
        fine = coarse
    gray = u.mean(1)
    slope = (gray.diff(dim=1)[:, :, 1:].square() + gray.diff(dim=2)[:, 1:].square()).sqrt()
    slope = slope.flatten(1)
    slopes = [torch.stack([slope.mean(1), slope.quantile(0.9, dim=1)], 1)]
    return torch.cat([*moments, *bands, *slopes], 1)


FEATURES = (
    "each channel's mean and standard deviation, the three covariances between channels, each "
    "channel's log energy in three octaves (differences of 2x2 averages), mean and 90th percentile of "
    "the gray gradient"
)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--model", default="sfumato/models/earth_pairs")
    p.add_argument("--regressor", default="runs/earth_regressor")
    p.add_argument("--data", default="data/earth")
    p.add_argument("--tiles", type=int, default=400)
    p.add_argument("--samples", type=int, default=16)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--fast", action="store_true", help="12 tiles, 2 samples: a rehearsal")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    if args.fast:
        args.tiles, args.samples = 12, 2
    model = load(args.model)
    assert isinstance(model, PairedSDE)
    names = images(f"{args.data}/test/relief")[1]
    names = [names[i] for i in some(len(names), args.tiles)]
    groups = neighbourhoods(names)

    def domain(split: str, which: str) -> Tensor:
        return images(f"{args.data}/{split}/{which}", names if split == "test" else None)[0]

    train = {which: domain("train", which) for which in ("satellite", "relief")}
    test = {which: domain("test", which) for which in ("satellite", "relief")}
    land = images(f"{args.data}/land/test", names)[0][:, 0] > 0

    def sample(direction: str, x: Tensor, seed: int, **how: object) -> Tensor:
        return batched(lambda b: model.translate(b, as_is=True, direction=direction, seed=seed, **how), x)

    def compare(direction: str, extra: dict[str, object]) -> tuple[list[dict], dict[str, Tensor]]:
        a, b = ("satellite", "relief")[:: 1 if direction == "source-to-target" else -1]
        x, y = test[a], test[b]
        start = time.perf_counter()
        samples = torch.stack([sample(direction, x, seed) for seed in range(args.samples)])
        seconds = (time.perf_counter() - start) / len(x) / args.samples
        print(f"{direction}: {seconds:.3f} s a sample", file=sys.stderr, flush=True)
        results = {
            "truth": y,
            "one sample": samples[0],
            f"mean of {args.samples} samples": samples.mean(0),
            "copy of the source": x,
            "training mean colour": train[b].mean((0, 2, 3), keepdim=True).expand_as(y),
            "linear regression, 1x1": Linear(train[a], train[b], 1)(x),
            "linear regression, 5x5": Linear(train[a], train[b], 5)(x),
        }
        if extra.get("regressor") is not None:
            results["same network as regressor"] = batched(extra["regressor"].translate, x)
        real = features(train[b])
        scale, truth = real.std(0), features(y)
        halves = [torch.from_numpy(some(len(y), len(y) // 2, seed)) for seed in range(20)]
        rest = [torch.tensor(sorted(set(range(len(y))) - set(h.tolist()))) for h in halves]
        rows = []
        for name, got in results.items():
            error = (got - y).square().mean((1, 2, 3))
            mine = features(got)
            row: dict[str, object] = {"result": name}
            if name != "truth":
                row["RMSE"] = error.mean().sqrt().item()
                root = lambda i: error[i].mean().sqrt().item()  # noqa: B023
                row["RMSE 95 %"] = interval(root, groups)
            each = [
                frechet(mine[h] / scale, truth[r] / scale)
                for h, r in zip(halves, rest, strict=True)
            ]
            row["FD of halves"] = torch.tensor(each).median().item()
            if name != "truth":
                row["FD"] = frechet(mine / scale, truth / scale)
                row["FD 95 %"] = interval(
                    lambda i: frechet(mine[i] / scale, truth[i] / scale), groups, 200  # noqa: B023
                )  # fmt: skip
            if b == "relief":
                wet = water(got)
                both, either = intersection_over_union(wet, water(y))
                iou = lambda i: (both[:, i].sum(1) / either[:, i].sum(1)).mean().item()  # noqa: B023
                row["IoU"] = iou(slice(None))
                row["IoU 95 %"] = interval(iou, groups)
            rows.append(row)
        return rows, results

    regressor = None
    if Path(args.regressor).is_dir():
        regressor = load(args.regressor, allow=("sfumato", "earth_regressor"))
    forth, results = compare("source-to-target", {"regressor": regressor})
    back, _ = compare("target-to-source", {})

    x, y = test["satellite"], test["relief"]
    mean = results[f"mean of {args.samples} samples"]
    squares = {name: (r - y).square().mean((1, 2, 3)) for name, r in results.items()}

    def ratio(name: str, other: str) -> str:
        a, b = squares[name], squares[other]
        low, high = interval(lambda i: (a[i].mean() / b[i].mean()).sqrt().item(), groups)
        return f"{(a.mean() / b.mean()).sqrt():.3f} ({low:.3f} - {high:.3f})"

    ours, k = f"mean of {args.samples} samples", args.samples
    said = [f"{ratio(ours, 'linear regression, 1x1')} of the per-pixel linear regression's"]
    if regressor is not None:
        said.append(f"{ratio(ours, 'same network as regressor')} of the regressor's")
    single = (squares["one sample"].mean() / squares[ours].mean()).item()
    agreement = (~water(y) == land).float().mean().item()
    both, either = intersection_over_union(~water(y), land)
    truth_iou = (both.sum(1) / either.sum(1)).mean().item()

    choices = []
    for solver, steps, spacing in SOLVERS[:: 6 if args.fast else 1]:
        start = time.perf_counter()
        got = sample("source-to-target", x, 0, solver=solver, steps=steps, spacing=spacing)
        seconds = (time.perf_counter() - start) / len(x)
        scale = features(train["relief"]).std(0)
        both, either = intersection_over_union(water(got), water(y))
        choices.append({
            "solver": solver, "steps": steps, "spacing": spacing, "RMSE": rmse(got, y),
            "FD": frechet(features(got) / scale, features(y) / scale),
            "IoU": (both.sum(1) / either.sum(1)).mean().item(), "s/image": seconds,
        })  # fmt: skip
        print(choices[-1], file=sys.stderr, flush=True)

    name = "rehearsal_earth_paired" if args.fast else "earth_paired"
    rows = [x, y, *(r for n, r in results.items() if n not in ("truth", "copy of the source"))]
    shown = some(len(x), 12, 1)
    sheet = tile(torch.cat([r[shown] for r in rows]).clamp(-1, 1), len(shown))
    write_png(Path(__file__).parent / "results" / f"{name}.png", sheet)
    order = ", ".join(["satellite", "truth", *(
        n for n in results if n not in ("truth", "copy of the source"))])  # fmt: skip
    write_result(
        name,
        "Satellite -> shaded relief: a paired model against four baselines",
        f"RMSE of the {ours}, as a share: {'; '.join(said)}. One sample's squared error is "
        f"{single:.2f} times that of the mean of {k}; of a right posterior it would be "
        f"{2 / (1 + 1 / k):.2f} times.",
        f"{len(x)} of the tiles of 110-150 E, which no training tile touches, model "
        f"`{Path(args.model).name}`, solver defaults (18 evaluations a sample). RMSE in [-1, 1]. "
        f"FD: Frechet distance to real tiles in 20 features divided by their spread in training: "
        f"{FEATURES}. FD compares results with the real tiles of the same places; FD of halves, "
        f"results on one half with the real tiles of the other (median of 20 random halvings), so "
        f"that its row 'truth' is a floor. IoU: mean of land's and water's intersection over union "
        f"with the truth by the colour rule 2 B - R - G > 0.16 is water (RGB in [0, 1]), chosen on "
        f"training tiles; on these tiles the rule agrees with the coastline data on "
        f"{100 * agreement:.1f} % of the pixels (IoU {truth_iou:.3f}). Intervals: bootstrap over "
        f"squares of 64 pixels of the world ({len(set(groups))} of them), because tiles overlap.",
        forth,
        f"![{order}]({name}.png)\n\nRows: {order}.",
        "Back, shaded relief -> satellite:",
        back,
        "Solvers, one sample of each tile; FD here of all results against all real tiles:",
        choices,
    )  # fmt: skip
    if not mean.isfinite().all():
        raise SystemExit("samples are not finite")


if __name__ == "__main__":
    main()
