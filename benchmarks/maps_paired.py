"""Satellite -> map at 64x64: SSIM on training and held-out pairs against solver steps.

    python benchmarks/maps_paired.py [--model runs/maps] [--data ../shared/data/maps/train] [--fast]

The thesis' sampler is Euler-Maruyama on the VP process, uniform in time. A network here knows only
log(sigma/alpha), so the trained denoiser is given the VP process and sampled as the thesis does,
from the largest noise it was trained on (t = 0.86 instead of 1, which favours few steps).
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import torch
from measure import batched, interval, rmse, some, ssim, write_result
from torch import Tensor

from sfumato.checkpoints.model_folder import load
from sfumato.data import open_side_by_side, tile, write_png
from sfumato.diffusion.process import VP
from sfumato.methods.paired_sde import PairedSDE

FEW = [("dpm2m", 10), ("dpm2m", 18), ("dpm2m", 50), ("ab3", 10), ("ab3", 18), ("ab3", 50)]
FEW += [("sde_dpm2m", 18), ("sde_dpm2m", 50), ("ancestral", 50)]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--model", default="runs/maps")
    p.add_argument("--data", default="../shared/data/maps/train")
    p.add_argument("--images", type=int, default=16, help="training images; held-out ones: all")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--fast", action="store_true", help="2 images, up to 10 steps: a rehearsal")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    if not Path(args.data).is_dir():
        sys.exit(f"skipped: {args.data} is not there")
    if not (Path(args.model) / "model.json").exists():
        sys.exit(f"skipped: there is no {args.model}; python recipes/maps.py trains it")
    model = load(args.model)
    assert isinstance(model, PairedSDE)
    pairs = open_side_by_side(args.data, 64)
    split = json.loads((Path(args.model) / "split.json").read_text())

    def chosen(part: str) -> tuple[Tensor, Tensor]:
        names = split[part]["source"]
        names = [names[i] for i in some(len(names), 2 if args.fast else args.images)]
        index = torch.tensor([pairs.source.names.index(name) for name in names])
        return pairs.source.get(index.numpy()), pairs.target.get(index.numpy())

    parts = {"training": chosen("training"), "held out": chosen("held_out")}

    def row(solver: str, steps: int, spacing: str, process: str) -> dict[str, object]:
        got: dict[str, object] = {
            "solver": solver, "steps": steps, "spacing": spacing, "process": process,
        }  # fmt: skip
        start, count = time.perf_counter(), 0
        for part, (x, y) in parts.items():
            how = {"solver": solver, "steps": steps, "spacing": spacing}
            out = batched(partial(model.translate, **how), x, batch=16)
            count += len(x)
            each = ssim(out, y)
            got[f"SSIM {part}"] = each.mean().item()
            got[f"{part} 95 %"] = interval(
                lambda i: each[i].mean().item(), [str(i) for i in range(len(x))]  # noqa: B023
            )  # fmt: skip
            got[f"RMSE {part}"] = rmse(out.clamp(-1, 1), y)
            shown[part, solver, steps] = out
        got["s/image"] = (time.perf_counter() - start) / count
        print(got, file=sys.stderr, flush=True)
        return got

    shown: dict[tuple[str, str, int], Tensor] = {}
    trained = model.denoisers["target"].process
    own, tried = type(trained).__name__, FEW[:: 9 if args.fast else 1]
    few = [row(solver, n, "karras", own) for solver, n in tried]
    highest = VP().time(trained.log_snr(torch.tensor(trained.t_max)))  # the most noise it knows
    model.denoisers["target"].process = VP(t_max=min(1.0, highest.item()))
    counts = (5, 10) if args.fast else (10, 50, 100, 250, 500, 1500)
    em = [row("euler_maruyama", n, "time", "VP") for n in counts]
    copy = {
        f"SSIM {part}": ssim(x, y).mean().item() for part, (x, y) in parts.items()
    }  # fmt: skip

    name = "rehearsal_maps_paired" if args.fast else "maps_paired"
    best = max(few, key=lambda r: r["SSIM held out"])
    x, y = parts["held out"]
    rows = [x, shown["held out", best["solver"], best["steps"]],
            *(shown["held out", "euler_maruyama", n] for n in counts if n in (50, 250, 1500)), y]  # fmt: skip
    write_png(
        Path("runs/maps_paired.png"),  # not beside the result: these pictures are not ours to ship
        tile(torch.cat([r[:8] for r in rows]).clamp(-1, 1), min(8, len(x))),
    )
    write_result(
        name,
        "Satellite -> map: SSIM against solver steps",
        f"{len(split['training']['source'])} pairs trained on, {len(split['held_out']['source'])} "
        f"held out; scored on {len(parts['training'][0])} and {len(x)} of them. SSIM on images clamped "
        f"to [0, 1], data range 1, 11-pixel Gaussian window; one sample an image. Intervals: bootstrap "
        f"over images. RMSE in [-1, 1]. A step is one evaluation. Copying the satellite picture has SSIM "
        f"{copy['SSIM training']:.3f} (training) and {copy['SSIM held out']:.3f} (held out).",
        f"Euler-Maruyama on VP, uniform in time from {highest.item():.2f} to 0.001:",
        em,
        "Few steps:",
        few,
        f"Best of these on held-out pairs: {best['solver']}, {best['steps']} steps "
        f"(the best of {len(few)} on the same pictures: its lead is flattered).",
        f"Pictures: runs/maps_paired.png; rows: source, {best['solver']} {best['steps']} steps, "
        f"Euler-Maruyama {', '.join(str(n) for n in counts if n in (50, 250, 1500))} steps, truth.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
