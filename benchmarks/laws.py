"""Which training times a conditional denoiser learns best from: satellite to relief, at equal time.

    python benchmarks/laws.py LAW ... [--steps 10000] [--name laws]      LAW: wide, lognormal, 0.5,1.5 ...

One direction of `paired_sde`, 19 CPU minutes for each law on a quiet core: as long as pix2pix has in
docs/experiments/one-budget.md.  Two numbers are mean and deviation of log(sigma/alpha), which is normal.
320 held-out sources, FD-Lite0 to 640 other held-out tiles, of which the true ones have about 8.
"""

import argparse
import time
from pathlib import Path

import torch
from measure import images, write_result
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.terminal import say
from sfumato.data import WRITERS, tile, write_png
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.guidance import Conditioned
from sfumato.diffusion.integrate import sample
from sfumato.diffusion.noise import Noise
from sfumato.evaluation.features import Lite0
from sfumato.evaluation.intervals import bootstrap_frechet
from sfumato.evaluation.measures import relief_water
from sfumato.evaluation.metrics import label_parts, mean_iou
from sfumato.nets.sizes import make_net
from sfumato.training.fit import learning_rate

BATCH, LR, EMA = 16, 1e-3, 0.999
SOLVERS = ("dpm2m", 18), ("ancestral", 9), ("ancestral", 18), ("sde_dpm2m", 18)


def denoiser(law: str) -> Denoiser:
    """Untrained, of relief given a satellite picture."""
    torch.manual_seed(0)
    net = make_net("small", conditioning=3, channels=3)
    if "," not in law:
        return Denoiser(net=net, times=law)
    mean, std = map(float, law.split(","))
    return Denoiser(net=net, lognormal_mean=mean, lognormal_std=std)


def trained(law: str, steps: int) -> tuple[Denoiser, float]:
    """The denoiser with averaged weights, and the CPU minutes that it took; kept in out/laws."""
    file = Path(f"out/laws/{law.replace(',', '_')}_{steps}.safetensors")
    averaged = denoiser(law)
    if not file.exists():
        began, f, rng = time.process_time(), denoiser(law), torch.Generator().manual_seed(0)
        x, y = (images(f"data/earth/train/{side}")[0] for side in ("satellite", "relief"))
        optimiser = torch.optim.AdamW(f.parameters(), fused=True)
        for step in range(steps):
            rows = torch.randint(len(x), (BATCH,), generator=rng)
            t = f.draw_times(BATCH, rng)
            loss = f.loss(y[rows], t, torch.randn(y[rows].shape, generator=rng), image=x[rows])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(f.parameters(), 1.0)
            optimiser.param_groups[0]["lr"] = LR * learning_rate(step, steps, "cosine", 100)
            optimiser.step()
            decay = min(EMA, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_([*averaged.parameters()], [*f.parameters()], 1 - decay)
        file.parent.mkdir(parents=True, exist_ok=True)
        minutes = (time.process_time() - began) / 60
        save_file(averaged.state_dict(), file, {"minutes": f"{minutes:.1f}"})
    averaged.load_state_dict(load_file(file))
    with safe_open(file, "pt") as saved:
        return averaged.eval(), float(saved.metadata()["minutes"])


def fine(x: Tensor) -> float:
    """Root mean square of what a 3x3 mean takes away: speckle has more of it than the truth, blur less."""
    return (x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)).square().mean().sqrt().item()


@torch.no_grad()
def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("laws", nargs="+")
    p.add_argument("--steps", type=int, default=10_000)
    p.add_argument("--name", default="laws")
    given = p.parse_args()
    torch.set_num_threads(1)
    if not Path("data/earth").exists():
        WRITERS["earth"]("data/earth")
    x, truth = (images(f"data/earth/test/{side}")[0] for side in ("satellite", "relief"))
    order, see = torch.randperm(len(x), generator=torch.Generator().manual_seed(1)), Lite0().eval()
    x, truth, other = x[order[:320]], truth[order[:320]], truth[order[320:960]]
    seen = torch.cat([see(some) for some in other.split(64)])

    def row(law: str, solver: str, minutes: object, y: Tensor) -> dict[str, object]:
        made = torch.cat([see(some) for some in y.split(64)])
        found, parts = bootstrap_frechet(made, seen), label_parts(relief_water(y), relief_water(truth))
        return {
            "law": law, "solver, steps": solver, "CPU minutes": minutes,
            "FD-Lite0": found.value, "95 %": f"{found.low:.0f} - {found.high:.0f}",
            "land-water IoU": mean_iou(parts.sum(0)).item(),
            "RMSE in [0, 1]": (y - truth).square().mean().sqrt().item() / 2,
            "fine detail": fine(y) / fine(truth),
        }  # fmt: skip

    rows, shown = [row("the truth", "", "", truth)], [x[:10], truth[:10]]
    for law in given.laws:
        with torch.enable_grad():
            model, minutes = trained(law, given.steps)
        f = Conditioned(denoiser=model)
        for solver, n in SOLVERS:
            made = [
                sample(solver, f.on(some), some, Noise.of(some, 0), n, "karras", clean=True)
                for some in x.split(64)
            ]
            y = torch.cat(made).clamp(-1, 1)
            rows.append(row(law, f"{solver}, {n}", minutes, y))
            say(rows[-1])
            shown += [y[:10]] * (n == 18)
    write_png(Path("out") / f"{given.name}.png", tile(torch.cat(shown), 10))
    about = f"{given.steps:,} steps of {BATCH} pairs; intervals over the pictures, detail over the truth's."
    picture = f"out/{given.name}.png: sources, truth, then a row for each law and solver of 18 steps."
    write_result(given.name, "Laws of training times", about, rows, picture)


if __name__ == "__main__":
    main()
